#include <algorithm>
#include <limits>

#include "common/check.h"
#include "evict/block_history.h"
#include "evict/policy.h"
#include "evict/recency_order.h"

namespace kvcore {
namespace {

// LRU-2, prefix-aware. O'Neil, O'Neil and Weikum, "The LRU-K Page Replacement Algorithm for
// Database Disk Buffering" (SIGMOD 1993): the block leaves whose last use but one is longest ago;
// first those that were used only once, the longest unused first. The last use of blocks that have
// left is remembered (the retained information), so that one that returns has two.
//
// On chains of one block this is the paper's LRU-2. On longer ones four rules make it
// prefix-aware:
//   1. A request uses a block once, however often it touches it (the paper's correlated
//      references).
//   2. A block's last use but one is no later than that of the block before it; where its ghost
//      says otherwise, the history of the block before was lost, and it counts as used once.
//   3. Blocks touched together are ordered deepest first, and only what nothing holds leaves.
//   4. A block comes only if it ranks no lower than the block that leaves for it, but for the first
//      of a request. (In the paper as well, the blocks of a scan only push out each other.) What
//      finds no place has been used all the same: its time is remembered.
//
// Ghosts: 4 a block of the cache. A touch writes each span of the path once; each group of them
// with one time costs O(1), or O(log n) when it was used before.
class Lru2Policy final : public EvictionPolicy {
 public:
  Lru2Policy(BlockTable& table, uint32_t num_blocks)
      : table_(table),
        num_blocks_(num_blocks),
        once_(table),
        again_(table),
        history_(num_blocks, kGhostsPerBlock) {}

  std::span<const uint32_t> remember(std::span<const SpanId>, std::span<const BlockHash> missing,
                                     const Use&) noexcept override {
    return history_.recall(missing);
  }
  void enter(SpanId id, std::optional<uint32_t> position) noexcept override;
  void touch(std::span<const SpanId> path, const Use& use) noexcept override;
  void split(SpanId head_id, SpanId tail_id) noexcept override;
  void resize(uint32_t num_blocks) noexcept override { num_blocks_ = num_blocks; }
  Victim oldest() noexcept override;
  void evict(SpanId id, uint32_t blocks) noexcept override;
  void withdraw(SpanId id, uint32_t blocks) noexcept override;
  void released(SpanId id) noexcept override { order_of(table_[id]).released(id); }
  size_t bytes() const noexcept override {
    return history_.bytes() + once_.bytes() + again_.bytes();
  }
  void check_invariants() const override;

 private:
  // What a span's `stamp` holds, in touches. kOnce: its last use. kAgain: its last use but one,
  // and in the lowest kGapBits how much later its last use was; so spans are equal that were used
  // together, and ordered as the rules say.
  enum List : uint8_t { kOnce, kAgain };
  static constexpr uint32_t kGapBits = 24;
  static constexpr uint64_t kMaxGap = (uint64_t{1} << kGapBits) - 1;  // longer ones count as this
  static constexpr uint32_t kGhostsPerBlock = 4;

  RecencyOrder& order_of(const Span& span) noexcept { return span.list == kOnce ? once_ : again_; }
  static uint64_t last_use(const Span& span) noexcept {
    return last_but_one(span) + (span.list == kOnce ? span.stamp : span.stamp & kMaxGap);
  }
  static uint64_t last_but_one(const Span& span) noexcept {  // 0: none
    return span.list == kOnce ? 0 : span.stamp >> kGapBits;
  }

  BlockTable& table_;
  uint32_t num_blocks_;
  RecencyOrder once_, again_;
  BlockHistory history_;
  uint32_t resident_blocks_ = 0;
  uint64_t now_ = 0;
};

void Lru2Policy::enter(SpanId id, std::optional<uint32_t> position) noexcept {
  Span& span = table_[id];
  resident_blocks_ += span.length;
  if (!position) return;  // what was vacant has kept its history
  span.list = kOnce;
  span.stamp = history_.value_at(*position);
  history_.entered(span.length);
}

void Lru2Policy::touch(std::span<const SpanId> path, const Use& use) noexcept {
  ++now_;
  history_.settle([this](uint64_t) { return now_; });
  const uint32_t request = use.request.serial;
  uint64_t above = std::numeric_limits<uint64_t>::max();
  for (size_t i = 0; i < path.size(); ++i) {
    Span& span = table_[path[i]];
    uint64_t before = span.last_request != request ? last_use(span) : last_but_one(span);
    if (before > above) before = 0;
    if (before != 0 && now_ - before > kMaxGap) before = now_ - kMaxGap;
    order_of(span).take_out(path[i]);
    // A group of the path is complete when the next one begins.
    if (before != above && i > 0) again_.insert(path[i - 1]);
    span.list = before == 0 ? kOnce : kAgain;
    span.stamp = before == 0 ? now_ : before << kGapBits | (now_ - before);
    span.last_request = request;
    above = before;
  }
  if (path.empty()) return;
  if (above == 0) {
    once_.push(path.back());
  } else {
    again_.insert(path.back());
  }
}

void Lru2Policy::split(SpanId head_id, SpanId tail_id) noexcept {
  Span& head = table_[head_id];
  const Span& tail = table_[tail_id];
  head.stamp = tail.stamp;
  head.last_request = tail.last_request;
  head.list = tail.list;
}

EvictionPolicy::Victim Lru2Policy::oldest() noexcept {
  SpanId id = once_.oldest();
  if (id != kRootSpan) return {id, table_[id].length};
  id = again_.oldest();
  if (id == kRootSpan || history_.is_settled()) return {id, table_[id].length};
  const uint32_t with_room = num_blocks_ - resident_blocks_;
  uint32_t worth_more = std::max(history_.count_of(last_but_one(table_[id])), 1u);
  if (worth_more <= with_room) return kBypassRest;
  return {id, std::min<uint32_t>(table_[id].length, worth_more - with_room)};
}

void Lru2Policy::evict(SpanId id, uint32_t blocks) noexcept {
  history_.evicted(table_.hashes(id).last(blocks), last_use(table_[id]));
  withdraw(id, blocks);
}

void Lru2Policy::withdraw(SpanId id, uint32_t blocks) noexcept {
  resident_blocks_ -= blocks;
  if (blocks == table_[id].length) order_of(table_[id]).remove(id);
}

void Lru2Policy::check_invariants() const {
  history_.check_invariants();
  once_.check_invariants(kOnce);
  again_.check_invariants(kAgain);
  uint32_t resident = 0;
  table_.for_each([&](SpanId id) {
    const Span& span = table_[id];
    if (span.vacant) return;
    resident += span.length;
    KV_INVARIANT(last_use(span) <= now_ && last_use(span) > 0);
    const Span& above = table_[span.parent];
    if (!table_.shows_all() || span.parent == kRootSpan || above.vacant) return;
    KV_INVARIANT(last_use(above) >= last_use(span));
    KV_INVARIANT(above.list == kAgain || span.list == kOnce);
  });
  KV_INVARIANT(resident == resident_blocks_);
}

}  // namespace

std::unique_ptr<EvictionPolicy> make_lru2(BlockTable& table, uint32_t num_blocks) {
  return std::make_unique<Lru2Policy>(table, num_blocks);
}

}  // namespace kvcore
