#include <array>

#include "common/check.h"
#include "evict/policy.h"
#include "evict/recency_order.h"

namespace kvcore {
namespace {

// Segmented LRU, prefix-aware. Karedla, Love and Wherry, "Caching Strategies to Improve Disk System
// Performance" (IEEE Computer, 1994): blocks come into the probationary segment, those used again
// go to the protected one, of 80 % of the cache, and what does not fit there any more goes back as
// the newest of the probationary, from which blocks leave.
//
// The paper has two segments; libCacheSim's SLRU has four, and fills all of them with new blocks
// before anything has left, so the two differ. On chains of one block this is the paper's SLRU. On
// longer ones four rules make it prefix-aware:
//   1. A request uses a block once, however often it touches it.
//   2. The protected segment is closed upwards: a block is in it only if the block before it is.
//      A vacant span was asked for before: when it gets blocks again, they count as used again.
//   3. What one request was the last to use goes back from the protected segment together, so that
//      no span has to be parted; but what was used just now stays, though it does not fit alone.
//   4. Where no probationary block may leave, protected ones go back until one may.
//
// A touch writes each span of the path once and moves at most two links; a span goes back at most
// once a touch.
class SlruPolicy final : public EvictionPolicy {
 public:
  SlruPolicy(BlockTable& table, uint32_t num_blocks)
      : table_(table),
        protected_limit_(uint64_t{num_blocks} * 4 / 5),
        orders_{RecencyOrder(table), RecencyOrder(table)} {}

  void enter(SpanId id, std::optional<uint32_t> position) noexcept override {
    table_[id].list = position ? kNew : kKnown;
  }
  void touch(std::span<const SpanId> path, const Use& use) noexcept override;
  void split(SpanId head_id, SpanId tail_id) noexcept override;
  Victim oldest() noexcept override;
  void evict(SpanId id, uint32_t blocks) noexcept override;
  void withdraw(SpanId id, uint32_t blocks) noexcept override { evict(id, blocks); }
  void released(SpanId id) noexcept override { orders_[table_[id].list].released(id); }
  size_t bytes() const noexcept override {
    return orders_[kProbationary].bytes() + orders_[kProtected].bytes();
  }
  void check_invariants() const override;

 private:
  enum List : uint8_t { kProbationary, kProtected, kNew, kKnown };  // the last two: not yet touched

  void put_back(SpanId deepest) noexcept;

  BlockTable& table_;
  const uint64_t protected_limit_;
  std::array<RecencyOrder, 2> orders_;  // of the protected only the front is asked for
  std::array<uint64_t, 2> blocks_{};
  uint64_t now_ = 0;
};

void SlruPolicy::touch(std::span<const SpanId> path, const Use& use) noexcept {
  const uint64_t now = ++now_;
  std::array<SpanId, 2> deepest{kRootSpan, kRootSpan};
  bool above_protected = true;
  for (SpanId id : path) {
    Span& span = table_[id];
    bool stood = span.list == kProbationary || span.list == kProtected;
    bool used_again = stood ? span.last_request != use.request.serial : span.list == kKnown;
    if (stood) {
      orders_[span.list].take_out(id);
      blocks_[span.list] -= span.length;
    }
    above_protected = above_protected && (used_again || span.list == kProtected);
    span.list = above_protected ? kProtected : kProbationary;
    blocks_[span.list] += span.length;
    span.stamp = now;
    span.last_request = use.request.serial;
    deepest[span.list] = id;
  }
  for (List list : {kProbationary, kProtected}) {
    if (deepest[list] != kRootSpan) orders_[list].push(deepest[list]);
  }
  while (blocks_[kProtected] > protected_limit_) {
    SpanId oldest = orders_[kProtected].front();
    if (table_[oldest].stamp == now) break;
    put_back(oldest);
  }
}

// A group of the protected segment becomes the newest of the probationary.
void SlruPolicy::put_back(SpanId deepest) noexcept {
  RecencyOrder& protect = orders_[kProtected];
  ++now_;
  for (SpanId id = deepest, above; id != kRootSpan; id = above) {
    above = protect.above_in_group(id);
    protect.take_out(id);
    Span& span = table_[id];
    span.list = kProbationary;
    span.stamp = now_;
    blocks_[kProtected] -= span.length;
    blocks_[kProbationary] += span.length;
  }
  orders_[kProbationary].push(deepest);
}

void SlruPolicy::split(SpanId head_id, SpanId tail_id) noexcept {
  Span& head = table_[head_id];
  const Span& tail = table_[tail_id];
  head.stamp = tail.stamp;
  head.last_request = tail.last_request;
  head.list = tail.list;
}

EvictionPolicy::Victim SlruPolicy::oldest() noexcept {
  for (;;) {
    SpanId id = orders_[kProbationary].oldest();
    if (id != kRootSpan) return {id, table_[id].length};
    id = orders_[kProtected].front();
    if (id == kRootSpan) return {};
    put_back(id);
  }
}

void SlruPolicy::evict(SpanId id, uint32_t blocks) noexcept {
  const Span& span = table_[id];
  blocks_[span.list] -= blocks;
  if (blocks == span.length) orders_[span.list].remove(id);
}

void SlruPolicy::check_invariants() const {
  std::array<uint64_t, 2> blocks{};
  for (List list : {kProbationary, kProtected}) orders_[list].check_invariants(list);
  table_.for_each([&](SpanId id) {
    const Span& span = table_[id];
    if (span.vacant) return;
    KV_INVARIANT(span.list == kProbationary || span.list == kProtected);
    KV_INVARIANT(span.list == kProbationary || span.place <= Place::kListed);
    const Span& above = table_[span.parent];
    bool is_first = span.parent == kRootSpan || above.vacant;
    KV_INVARIANT(!table_.shows_all() || is_first || span.list == kProbationary ||
                 above.list == kProtected);
    blocks[span.list] += span.length;
  });
  KV_INVARIANT(blocks == blocks_);
}

}  // namespace

std::unique_ptr<EvictionPolicy> make_slru(BlockTable& table, uint32_t num_blocks) {
  return std::make_unique<SlruPolicy>(table, num_blocks);
}

}  // namespace kvcore
