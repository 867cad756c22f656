#include <ranges>

#include "common/check.h"
#include "evict/overdue_spans.h"
#include "evict/policy.h"
#include "evict/span_list.h"

namespace kvcore {
namespace {

// SIEVE, prefix-aware. Zhang, Yang, Yue, Vigfusson and Rashmi, "SIEVE is Simpler than LRU" (NSDI
// 2024): a queue by arrival in which nothing moves; use marks a block. A hand goes from the oldest
// to the newest and around, takes marks away, and what has none leaves.
//
// On chains of one block this is the paper's SIEVE. On longer ones four rules make it
// prefix-aware:
//   1. The request that brought a block does not mark it, and marks again only by another request.
//   2. The hand takes the mark of a block that cannot leave as well, so a chain ages as a whole.
//   3. A block without a mark that cannot leave is overdue (OverdueSpans) and leaves before the
//      hand goes on; but if it is used first, it stands in the queue again, marked, just behind
//      the hand.
//   4. The blocks that come stand behind the newest, the deepest first. When the hand gets there
//      while room is made for them, they are next, so the rest is bypassed.
//
// A touch writes each span of the path and moves only what is overdue; the hand takes a mark or
// parks a span at each step, so the next leaf is found in O(1) amortised.
class SievePolicy final : public EvictionPolicy {
 public:
  explicit SievePolicy(BlockTable& table) : table_(table), queue_(table), overdue_(table) {}

  std::span<const uint32_t> remember(std::span<const SpanId>, std::span<const BlockHash> missing,
                                     const Use&) noexcept override {
    blocks_come_ = !missing.empty();
    room_made_ = false;
    return {};
  }
  void enter(SpanId, std::optional<uint32_t>) noexcept override {}
  void touch(std::span<const SpanId> path, const Use& use) noexcept override;
  void split(SpanId head_id, SpanId tail_id) noexcept override;
  Victim oldest() noexcept override;
  void evict(SpanId id, uint32_t blocks) noexcept override {
    room_made_ = true;
    withdraw(id, blocks);
  }
  void withdraw(SpanId id, uint32_t blocks) noexcept override;
  void released(SpanId id) noexcept override { overdue_.released(id); }
  size_t bytes() const noexcept override { return overdue_.bytes(); }
  void check_invariants() const override;

 private:
  enum Mark : uint8_t { kPlain, kMarked };  // Span::list

  void put(SpanId id, SpanId before, Mark mark) noexcept {
    queue_.insert_before(before, id);
    table_[id].place = Place::kListed;
    table_[id].list = mark;
  }
  void take_out(SpanId id) noexcept {
    if (id == hand_) hand_ = queue_.after(id);
    queue_.erase(id);
    table_[id].place = Place::kInside;
  }

  BlockTable& table_;
  SpanList queue_;  // oldest first
  OverdueSpans overdue_;
  SpanId hand_ = kRootSpan;  // kRootSpan: behind the newest, so the oldest is next
  // Of the request at hand:
  bool blocks_come_ = false;
  bool room_made_ = false;
};

void SievePolicy::touch(std::span<const SpanId> path, const Use& use) noexcept {
  for (SpanId id : path | std::views::reverse) {
    Span& span = table_[id];
    if (span.place == Place::kInside) {
      put(id, kRootSpan, kPlain);
    } else if (span.last_request != use.request.serial) {
      span.list = kMarked;
      if (overdue_.contains(id)) {
        overdue_.erase(id);
        put(id, hand_, kMarked);
      }
    }
    span.last_request = use.request.serial;
  }
  blocks_come_ = false;
}

void SievePolicy::split(SpanId head_id, SpanId tail_id) noexcept {
  const Span& tail = table_[tail_id];
  table_[head_id].last_request = tail.last_request;
  if (overdue_.contains(tail_id)) return overdue_.split(head_id, tail_id);
  if (tail.place == Place::kListed) put(head_id, queue_.after(tail_id), Mark{tail.list});
}

EvictionPolicy::Victim SievePolicy::oldest() noexcept {
  if (SpanId id = overdue_.first(); id != kRootSpan) return {id, table_[id].length};
  for (;;) {
    if (hand_ == kRootSpan) {
      if (blocks_come_ && room_made_) return kBypassRest;
      hand_ = queue_.front();
    }
    SpanId id = hand_;
    Span& span = table_[id];
    if (id == kRootSpan || (span.list == kPlain && span.holds == 0)) return {id, span.length};
    if (span.list == kMarked) {
      span.list = kPlain;
      hand_ = queue_.after(id);
    } else {
      take_out(id);
      overdue_.push(id);
    }
  }
}

void SievePolicy::withdraw(SpanId id, uint32_t blocks) noexcept {
  if (blocks != table_[id].length) return;
  if (overdue_.contains(id)) return overdue_.erase(id);
  take_out(id);
}

void SievePolicy::check_invariants() const {
  overdue_.check_invariants();
  size_t listed = 0;
  bool hand_found = hand_ == kRootSpan;
  for (SpanId id = queue_.front(); id != kRootSpan; id = queue_.after(id), ++listed) {
    hand_found |= id == hand_;
  }
  KV_INVARIANT(hand_found);
  table_.for_each([&](SpanId id) {
    const Span& span = table_[id];
    listed -= span.place == Place::kListed;
    KV_INVARIANT(span.vacant == (span.place == Place::kInside));
    KV_INVARIANT(!overdue_.contains(id) || span.list == kPlain);
    KV_INVARIANT(span.place != Place::kParked || span.holds != 0);
  });
  KV_INVARIANT(listed == 0);
}

}  // namespace

std::unique_ptr<EvictionPolicy> make_sieve(BlockTable& table, uint32_t) {
  return std::make_unique<SievePolicy>(table);
}

}  // namespace kvcore
