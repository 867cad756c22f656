#include "store/remote/wire.h"

#include <algorithm>
#include <cstring>

#include "common/check.h"

namespace kvcore::wire {
namespace {

constexpr uint32_t kMagic = 0xdeadbeef;

enum Code : int32_t {
  kOk = 200,
  kBadRequest = 400,
  kNotFound = 404,
  kUnavailable = 503,
  kNoRoom = 507
};

char operation_of(Request::Kind kind) {
  switch (kind) {
    case Request::Kind::kGet:
    case Request::Kind::kPut:
      return 'L';
    case Request::Kind::kContains:
      return 'C';
    case Request::Kind::kMatch:
      return 'M';
    case Request::Kind::kRemove:
      return 'X';
  }
  KV_CHECK(false);
}

template <typename Number>
void append(std::string& out, Number number) {
  out.append(reinterpret_cast<const char*>(&number), sizeof(number));
}

template <typename Number>
void write_at(std::string& out, size_t at, Number number) {
  std::memcpy(out.data() + at, &number, sizeof(number));
}

void align(std::string& out) { out.resize((out.size() + 3) / 4 * 4); }

// Flatbuffers: a table begins with how far back its vtable is; the vtable has its own size, the
// table's, and where each field is in the table. Strings and vectors are found by how far they are
// from where that is written.
void append_string(std::string& out, std::string_view text) {
  append(out, static_cast<uint32_t>(text.size()));
  out.append(text);
  out.push_back('\0');
  align(out);
}

// table TCPPayloadRequest { key: string; value_length: int; op: byte; }
std::string payload_body(const Request& request) {
  std::string out;
  append<uint32_t>(out, 16);  // the table
  for (uint16_t entry : {10, 16, 4, 8, 12}) append(out, entry);
  align(out);
  append<int32_t>(out, 12);   // back to the vtable
  append<uint32_t>(out, 12);  // on to the key
  append(out, static_cast<int32_t>(request.is_write() ? request.value_bytes() : 0));
  append<uint32_t>(out, request.is_write() ? 'P' : 'G');
  append_string(out, request.keys.front());
  return out;
}

// table GetMatchLastIndexRequest, DeleteKeysRequest { keys: [string]; }
std::string keys_body(std::span<const std::string> keys) {
  std::string out;
  append<uint32_t>(out, 12);
  for (uint16_t entry : {6, 8, 4}) append(out, entry);
  align(out);
  append<int32_t>(out, 8);
  append<uint32_t>(out, 4);
  append(out, static_cast<uint32_t>(keys.size()));
  const size_t offsets = out.size();
  out.resize(offsets + 4 * keys.size());
  for (size_t i = 0; i < keys.size(); ++i) {
    const size_t at = offsets + 4 * i;
    write_at(out, at, static_cast<uint32_t>(out.size() - at));
    append_string(out, keys[i]);
  }
  return out;
}

}  // namespace

bool is_key(std::string_view key) noexcept {
  return !key.empty() && key.size() <= kMaxKeyBytes &&
         std::ranges::all_of(key, [](char c) { return c > ' ' && c < 127; });
}

bool is_sendable(const Request& request) noexcept {
  const bool has_many =
      request.kind == Request::Kind::kMatch || request.kind == Request::Kind::kRemove;
  const bool has_value = request.kind == Request::Kind::kGet || request.kind == Request::Kind::kPut;
  const uint64_t bytes = request.value_bytes();
  return !request.keys.empty() && request.keys.size() <= (has_many ? kMaxKeys : 1) &&
         std::ranges::all_of(request.keys, is_key) &&
         (has_value ? bytes > 0 && bytes <= kMaxValueBytes : bytes == 0);
}

bool looks_like_request(std::span<const std::byte> value) noexcept {
  uint32_t begin = 0;
  std::memcpy(&begin, value.data(), std::min(value.size(), sizeof(begin)));
  return begin == kMagic;
}

std::string encode(const Request& request) {
  KV_CHECK(is_sendable(request));
  std::string body;
  switch (request.kind) {
    case Request::Kind::kGet:
    case Request::Kind::kPut:
      body = payload_body(request);
      break;
    case Request::Kind::kContains:
      body = request.keys.front();
      break;
    case Request::Kind::kMatch:
    case Request::Kind::kRemove:
      body = keys_body(request.keys);
      break;
  }
  std::string out;
  append(out, kMagic);
  out.push_back(operation_of(request.kind));
  append(out, static_cast<uint32_t>(body.size()));
  return out + body;
}

bool is_done(const Head& head) noexcept { return head.code == kOk; }

size_t head_bytes(Request::Kind kind, const Head& head, size_t received) noexcept {
  if (received < kCodeBytes) return kCodeBytes;
  return head.code == kOk && kind != Request::Kind::kPut ? kHeadBytes : kCodeBytes;
}

bool is_answer(Request::Kind kind, const Head& head) noexcept {
  if (kind == Request::Kind::kGet && is_done(head)) return head.number <= kMaxAnswerBytes;
  return is_done(head) || (kind == Request::Kind::kGet && head.code == kNotFound) ||
         (kind == Request::Kind::kPut && head.code == kNoRoom);
}

std::optional<Reply> reply_of(const Request& request, const Head& head) noexcept {
  using Kind = Request::Kind;
  const Reply done{.answer = Answer::kDone, .number = head.number};
  switch (head.code) {
    case kOk:
      break;
    case kNotFound:
      if (request.kind != Kind::kGet) return std::nullopt;
      return Reply{.answer = Answer::kMiss};
    case kNoRoom:
      if (request.kind != Kind::kPut) return std::nullopt;
      return Reply{.answer = Answer::kFull};
    default:
      return std::nullopt;
  }
  switch (request.kind) {
    case Kind::kPut:
      return Reply{.answer = Answer::kDone};
    case Kind::kGet:
      if (head.number != request.value_bytes()) return std::nullopt;
      return done;
    case Kind::kContains:  // the server has 0 for a key that is there, and 1 for none
      if (head.number > 1) return std::nullopt;
      return Reply{.answer = Answer::kDone, .number = 1 - head.number};
    case Kind::kMatch: {  // an index, -1 for none
      const uint32_t count = head.number + 1;
      if (count > request.keys.size()) return std::nullopt;
      return Reply{.answer = Answer::kDone, .number = count};
    }
    case Kind::kRemove:
      if (head.number > request.keys.size()) return std::nullopt;
      return done;
  }
  return std::nullopt;
}

}  // namespace kvcore::wire
