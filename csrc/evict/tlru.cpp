#include <algorithm>

#include "common/check.h"
#include "evict/block_history.h"
#include "evict/policy.h"
#include "evict/recency_order.h"

namespace kvcore {
namespace {

// The mean of about the last thousand values, in 1/2^16.
class RunningMean {
 public:
  void add(uint64_t value) noexcept {
    auto scaled = static_cast<int64_t>(value << 16);
    mean_ = is_empty_ ? scaled : mean_ + ((scaled - mean_) >> 10);
    is_empty_ = false;
  }
  int64_t scaled() const noexcept { return mean_; }

 private:
  int64_t mean_ = 0;
  bool is_empty_ = true;
};

// Tail-optimised LRU. Zhang, Li, Moallemi and Peng, "Tail-Optimized Caching for LLM Inference"
// (arXiv 2510.15152, 2025): the next turn of a conversation of L tokens brings Q more and is slow
// only as far as more than a threshold of them all is not cached. So the last (threshold - Q)
// tokens of a conversation can be spared without making any turn slow: they leave first, the
// longest unused first, and then the rest by LRU.
//
// Our reading, online and in blocks: the threshold is a quarter of the mean prompt; Q is the mean
// of the blocks never seen before (neither here nor among the ghosts) in requests that know at
// least half of theirs, the next turns. Both means are of about the last thousand requests. So
// LRU's hits are traded for fewer long waits; with Q above the threshold, as on chains of one
// block, it is LRU.
//
// Prefix-aware like LRU: leaves leave, deepest first. A span knows how many of its last blocks can
// be spared; spans that can and those of the same touch that cannot stand in two orders, and one
// that has lost what it could spare goes from one to the other, O(log n).
//
// Ghosts: 4 a block of the cache. A touch writes each span of the path once and moves two links.
class TailLruPolicy final : public EvictionPolicy {
 public:
  TailLruPolicy(BlockTable& table, uint32_t num_blocks)
      : table_(table), needed_(table), spare_(table), history_(num_blocks, kGhostsPerBlock) {}

  std::span<const uint32_t> remember(std::span<const SpanId>, std::span<const BlockHash> missing,
                                     const Use&) noexcept override {
    history_.recall(missing);
    fresh_ = missing.size() - history_.count_of(kSeen);
    return {};
  }
  void enter(SpanId id, std::optional<uint32_t> position) noexcept override {
    if (position) history_.entered(table_[id].length);
  }
  void touch(std::span<const SpanId> path, const Use& use) noexcept override;
  void split(SpanId head_id, SpanId tail_id) noexcept override;
  Victim oldest() noexcept override;
  void evict(SpanId id, uint32_t blocks) noexcept override {
    history_.evicted(table_.hashes(id).last(blocks), kSeen);
    withdraw(id, blocks);
  }
  void withdraw(SpanId id, uint32_t blocks) noexcept override;
  void released(SpanId id) noexcept override { order_of(table_[id]).released(id); }
  size_t bytes() const noexcept override {
    return history_.bytes() + needed_.bytes() + spare_.bytes();
  }
  void check_invariants() const override;

 private:
  enum List : uint8_t { kNeeded, kSpare };
  static constexpr uint64_t kSeen = 1;
  static constexpr uint32_t kGhostsPerBlock = 4;

  RecencyOrder& order_of(const Span& span) noexcept {
    return span.list == kNeeded ? needed_ : spare_;
  }
  // Of its last blocks. The field is free: who touched a span does not matter here.
  static uint32_t& spare_blocks(Span& span) noexcept { return span.last_request; }
  void join_needed(SpanId id) noexcept;

  BlockTable& table_;
  RecencyOrder needed_, spare_;
  BlockHistory history_;
  RunningMean prompt_blocks_;
  RunningMean next_turn_blocks_;
  uint64_t fresh_ = 0;  // of the missing blocks
  uint64_t now_ = 0;
};

void TailLruPolicy::touch(std::span<const SpanId> path, const Use&) noexcept {
  ++now_;
  uint64_t blocks = 0;
  for (SpanId id : path) blocks += table_[id].length;
  if (!history_.is_settled()) {
    uint64_t prompt = blocks + history_.bypassed();
    prompt_blocks_.add(prompt);
    if (fresh_ * 2 <= prompt) next_turn_blocks_.add(fresh_);
  }
  history_.settle([](uint64_t) { return kSeen; });
  int64_t spare = (prompt_blocks_.scaled() / 4 - next_turn_blocks_.scaled()) >> 16;
  auto left = static_cast<uint32_t>(std::max<int64_t>(spare, 0));
  for (size_t i = path.size(); i-- > 0;) {
    Span& span = table_[path[i]];
    order_of(span).take_out(path[i]);
    uint8_t below = i + 1 < path.size() ? table_[path[i + 1]].list : kSpare + 1;
    spare_blocks(span) = std::min<uint32_t>(left, span.length);
    left -= spare_blocks(span);
    span.list = spare_blocks(span) > 0 ? kSpare : kNeeded;
    span.stamp = now_;
    if (span.list != below) order_of(span).push(path[i]);
  }
}

void TailLruPolicy::split(SpanId head_id, SpanId tail_id) noexcept {
  Span& head = table_[head_id];
  Span& tail = table_[tail_id];
  head.stamp = tail.stamp;
  spare_blocks(head) = spare_blocks(tail) - std::min<uint32_t>(spare_blocks(tail), tail.length);
  spare_blocks(tail) -= spare_blocks(head);
  head.list = spare_blocks(head) > 0 ? kSpare : kNeeded;
  if (head.list != tail.list && !tail.vacant) join_needed(head_id);
}

// The span is from now on the deepest of those of its touch that are needed.
void TailLruPolicy::join_needed(SpanId id) noexcept {
  if (SpanId up = needed_.above_in_group(id); up != kRootSpan) needed_.take_out(up);
  needed_.insert(id);
}

EvictionPolicy::Victim TailLruPolicy::oldest() noexcept {
  SpanId id = spare_.oldest();
  if (id != kRootSpan) return {id, spare_blocks(table_[id])};
  id = needed_.oldest();
  return {id, table_[id].length};
}

void TailLruPolicy::withdraw(SpanId id, uint32_t blocks) noexcept {
  Span& span = table_[id];
  if (blocks == span.length) return order_of(span).remove(id);
  if (span.list == kNeeded) return;
  spare_blocks(span) -= std::min(spare_blocks(span), blocks);
  if (spare_blocks(span) > 0) return;
  spare_.take_out(id);
  span.list = kNeeded;
  join_needed(id);
}

void TailLruPolicy::check_invariants() const {
  history_.check_invariants();
  needed_.check_invariants(kNeeded);
  spare_.check_invariants(kSpare);
  table_.for_each([&](SpanId id) {
    const Span& span = table_[id];
    if (span.vacant) return;
    KV_INVARIANT(span.last_request <= span.length);
    KV_INVARIANT((span.last_request > 0) == (span.list == kSpare));
  });
}

}  // namespace

std::unique_ptr<EvictionPolicy> make_tlru(BlockTable& table, uint32_t num_blocks) {
  return std::make_unique<TailLruPolicy>(table, num_blocks);
}

}  // namespace kvcore
