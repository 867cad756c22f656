#include "store/remote/value_parts.h"

#include <algorithm>
#include <memory>
#include <utility>

#include "common/check.h"
#include "store/remote/wire.h"

namespace kvcore {
namespace {

using Pieces = std::vector<std::span<std::byte>>;

// The pieces of each part, of which there are none where there is no value.
std::vector<Pieces> cut(const Pieces& pieces) {
  std::vector<Pieces> parts;
  uint64_t room = 0;
  for (std::span<std::byte> piece : pieces) {
    while (!piece.empty()) {
      if (room == 0) {
        parts.emplace_back();
        room = wire::kMaxValueBytes;
      }
      const auto here = piece.first(std::min<uint64_t>(room, piece.size()));
      parts.back().push_back(here);
      piece = piece.subspan(here.size());
      room -= here.size();
    }
  }
  return parts;
}

struct Answers {
  std::function<void(const Reply&)> finish;
  Reply reply;
  std::vector<Checksum> checksums;  // of the parts
  size_t num_left;
};

}  // namespace

std::vector<std::string> value_keys(const Fingerprint& scope, const BlockHash& hash, uint64_t nonce,
                                    uint64_t value_bytes) {
  const std::string key = names::value_key(scope, hash, nonce);
  const uint64_t count = (value_bytes + wire::kMaxValueBytes - 1) / wire::kMaxValueBytes;
  if (count <= 1) return {key};
  std::vector<std::string> keys;
  for (uint64_t part = 0; part < count; ++part) keys.push_back(key + "/" + std::to_string(part));
  return keys;
}

void submit_parts(Request whole, const std::function<void(Request)>& submit) {
  if (whole.keys.size() == 1) return submit(std::move(whole));
  const std::vector<Pieces> parts = cut(whole.pieces);
  KV_CHECK(parts.empty() || parts.size() == whole.keys.size());
  auto answers =
      std::make_shared<Answers>(Answers{.finish = std::move(whole.finish),
                                        .reply = {.answer = Answer::kDone, .number = ~uint32_t{0}},
                                        .checksums = std::vector<Checksum>(whole.keys.size()),
                                        .num_left = whole.keys.size()});
  for (size_t i = 0; i < whole.keys.size(); ++i) {
    Request part{.kind = whole.kind,
                 .keys = {whole.keys[i]},
                 .pieces = parts.empty() ? Pieces() : parts[i],
                 .deadline = whole.deadline,
                 .is_wanted = whole.is_wanted};
    part.finish = [answers, i](const Reply& reply) {
      Reply& all = answers->reply;
      all.answer = std::max(all.answer, reply.answer);
      all.number = std::min(all.number, reply.number);
      answers->checksums[i] = reply.checksum;
      if (--answers->num_left > 0) return;
      all.checksum = checksum_of(std::as_bytes(std::span(answers->checksums)));
      answers->finish(all);
    };
    submit(std::move(part));
  }
}

bool looks_like_request(const Pieces& pieces) {
  const auto parts = cut(pieces);
  return std::ranges::any_of(
      parts, [](const Pieces& part) { return wire::looks_like_request(part.front()); });
}

}  // namespace kvcore
