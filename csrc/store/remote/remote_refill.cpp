#include "store/remote/remote_refill.h"

#include <memory>
#include <utility>

#include "store/remote/remote_save.h"

namespace kvcore {
namespace {

constexpr std::chrono::seconds kTimeout{5};
constexpr uint32_t kMostUnderWay = 2;  // beside what somebody waits for
constexpr size_t kMostWaiting = 1 << 16;

void go_on(RemoteContext& context);

void refill(RemoteContext& context, const RemoteContext::Refill& refill) {
  auto bytes =
      std::make_shared<std::vector<std::byte>>(context.chunk_bytes(refill.chunk.num_blocks));
  Request request{.kind = Request::Kind::kGet,
                  .keys = context.keys_of(refill.name, refill.chunk.nonce, refill.chunk.num_blocks),
                  .pieces = {std::span(*bytes)},
                  .deadline = Clock::now() + kTimeout};
  request.finish = [&context, refill, bytes](const Reply& reply) {
    --context.refills_under_way;
    if (reply.answer == Answer::kDone && reply.checksum == refill.chunk.checksum) {
      repair_servers(context, std::span(&refill.to, 1), refill.name, refill.chunk.num_blocks,
                     std::move(*bytes));
    }
    go_on(context);
  };
  ++context.refills_under_way;
  submit_parts(std::move(request), [&](Request part) {
    context.transport->submit(refill.chunk.server, std::move(part));
  });
}

void go_on(RemoteContext& context) {
  if (context.is_closing) context.refills.clear();
  while (context.refills_under_way < kMostUnderWay && !context.refills.empty()) {
    const RemoteContext::Refill next = context.refills.front();
    context.refills.pop_front();
    refill(context, next);
  }
}

}  // namespace

void refill_servers(RemoteContext& context, const BlockHash& name, const KnownChunk& chunk,
                    std::span<const ServerId> others) {
  for (const ServerId server : others) {
    Request question{.kind = Request::Kind::kContains,
                     .keys = {names::record_key(context.options.scope, name)},
                     .deadline = Clock::now() + kTimeout};
    question.finish = [&context, name, chunk, server](const Reply& reply) {
      const bool is_missing = reply.answer == Answer::kDone && reply.number == 0;
      if (!is_missing || context.refills.size() >= kMostWaiting) return;
      context.refills.push_back({name, chunk, server});
      go_on(context);
    };
    context.transport->submit(server, std::move(question));
  }
}

}  // namespace kvcore
