#include <algorithm>
#include <cmath>

#include "common/check.h"
#include "evict/ghost_lists.h"
#include "evict/policy.h"
#include "evict/recency_order.h"

namespace kvcore {
namespace {

// Adaptive replacement, prefix-aware. Megiddo and Modha, "ARC: A Self-Tuning, Low Overhead
// Replacement Cache" (FAST 2003): T1 holds blocks used once, T2 blocks used again, B1 and B2 the
// hashes that left them, and p, the size that T1 should have, follows hits in B1 and B2.
//
// On chains of one block this is the paper's ARC. On longer ones four rules make it prefix-aware:
//   1. A request uses a block once, however often it touches it.
//   2. T2 is closed upwards: a block is in T2 only if the block before it is, so a hit in B1 or B2
//      enters T2 only where its parent is there; its history counts as far as it is unbroken.
//      A vacant span was asked for before: when it gets blocks again, they count as known.
//   3. A list loses its oldest leaf that nothing holds; when it has none, the other one does.
//   4. p moves for every block that is found in B1 or B2, the shallowest first; both lists are
//      trimmed after the request's blocks are in.
//
// Ghosts are about as many as the cache has blocks, at most twice that. A touch writes each span of
// the path once and moves at most two links; a block that comes costs one search in the ghosts'
// index.
class ArcPolicy final : public EvictionPolicy {
 public:
  ArcPolicy(BlockTable& table, uint32_t num_blocks)
      : table_(table),
        capacity_(num_blocks),
        t1_(table),
        t2_(table),
        ghosts_(size_t{num_blocks} * 3 +
                kMaxSpanBlocks) {  // 2c, and c more before they are trimmed
    table_[kRootSpan].list = kT2;
  }

  std::span<const uint32_t> remember(std::span<const SpanId> path,
                                     std::span<const BlockHash> missing,
                                     const Use& use) noexcept override;
  void enter(SpanId id, std::optional<uint32_t> position) noexcept override {
    table_[id].list = !position || *position < unbroken_ ? kKnown : kNew;
  }
  void touch(std::span<const SpanId> path, const Use& use) noexcept override;
  void split(SpanId head_id, SpanId tail_id) noexcept override;
  Victim oldest() noexcept override;
  void evict(SpanId id, uint32_t blocks) noexcept override;
  void withdraw(SpanId id, uint32_t blocks) noexcept override;
  void released(SpanId id) noexcept override { order_of(table_[id]).released(id); }
  size_t bytes() const noexcept override { return ghosts_.bytes() + t1_.bytes() + t2_.bytes(); }
  void check_invariants() const override;

 private:
  enum List : uint8_t { kT1, kT2, kNew, kKnown };  // the last two: entered, not yet touched
  static constexpr auto kB1 = GhostLists::kFirst;
  static constexpr auto kB2 = GhostLists::kSecond;

  RecencyOrder& order_of(const Span& span) noexcept { return span.list == kT1 ? t1_ : t2_; }
  uint32_t& blocks_of(const Span& span) noexcept {
    return span.list == kT1 ? t1_blocks_ : t2_blocks_;
  }
  void trim_ghosts() noexcept;

  BlockTable& table_;
  const uint32_t capacity_;
  RecencyOrder t1_, t2_;
  GhostLists ghosts_;
  uint32_t t1_blocks_ = 0;
  uint32_t t2_blocks_ = 0;
  double p_ = 0;
  uint32_t unbroken_ = 0;  // blocks of those that come, from the first on, that were in B1 or B2
  bool from_b2_ = false;   // one of them was in B2
  uint64_t now_ = 0;
};

std::span<const uint32_t> ArcPolicy::remember(std::span<const SpanId>,
                                              std::span<const BlockHash> missing,
                                              const Use&) noexcept {
  unbroken_ = 0;
  from_b2_ = false;
  for (uint32_t i = 0; i < missing.size();) {
    double b1 = ghosts_.size(kB1), b2 = ghosts_.size(kB2);
    auto [blocks, which, _] = ghosts_.take(missing.subspan(i));
    if (blocks == 0) {
      ++i;
      continue;
    }
    for (uint32_t hit = 0; hit < blocks; ++hit) {
      if (which == kB1) {
        p_ = std::min<double>(p_ + std::max(1.0, b2 / b1--), capacity_);
      } else {
        p_ = std::max(p_ - std::max(1.0, b1 / b2--), 0.0);
      }
    }
    from_b2_ |= which == kB2;
    if (unbroken_ == i) unbroken_ += blocks;
    i += blocks;
  }
  return {&unbroken_, 1};
}

void ArcPolicy::touch(std::span<const SpanId> path, const Use& use) noexcept {
  ++now_;
  const uint32_t request = use.request.serial;
  SpanId deepest_t1 = kRootSpan, deepest_t2 = kRootSpan;
  bool above_in_t2 = true;
  for (SpanId id : path) {
    Span& span = table_[id];
    bool entered = span.list == kNew || span.list == kKnown;
    bool used_again = span.list == kKnown || (span.list == kT1 && span.last_request != request);
    if (!entered) {
      order_of(span).take_out(id);
      blocks_of(span) -= span.length;
    }
    span.list = span.list == kT2 || (used_again && above_in_t2) ? kT2 : kT1;
    blocks_of(span) += span.length;
    span.stamp = now_;
    span.last_request = request;
    above_in_t2 = span.list == kT2;
    (above_in_t2 ? deepest_t2 : deepest_t1) = id;
  }
  if (deepest_t1 != kRootSpan) t1_.push(deepest_t1);
  if (deepest_t2 != kRootSpan) t2_.push(deepest_t2);
  trim_ghosts();
}

// The paper's case IV keeps |T1| + |B1| <= c and the sum of all four <= 2c.
void ArcPolicy::trim_ghosts() noexcept {
  auto trim = [this](GhostLists::Which which, uint64_t blocks, uint64_t limit) {
    uint64_t excess = blocks > limit ? blocks - limit : 0;
    ghosts_.drop_oldest(which, std::min<uint64_t>(excess, ghosts_.size(which)));
  };
  uint64_t first = uint64_t{t1_blocks_} + ghosts_.size(kB1);
  trim(kB1, first, capacity_);
  uint64_t all = uint64_t{t1_blocks_} + t2_blocks_ + ghosts_.size(kB1) + ghosts_.size(kB2);
  trim(kB2, all, uint64_t{capacity_} * 2);
}

void ArcPolicy::split(SpanId head_id, SpanId tail_id) noexcept {
  Span& head = table_[head_id];
  const Span& tail = table_[tail_id];
  head.stamp = tail.stamp;
  head.last_request = tail.last_request;
  head.list = tail.list;
}

EvictionPolicy::Victim ArcPolicy::oldest() noexcept {
  bool tie = t1_blocks_ == p_ && from_b2_;
  bool from_t1 = (t1_blocks_ > 0 && (t1_blocks_ > p_ || tie)) || t2_blocks_ == 0;
  SpanId id = (from_t1 ? t1_ : t2_).oldest();
  if (id == kRootSpan) id = (from_t1 ? t2_ : t1_).oldest();
  uint32_t length = table_[id].length;
  if (!from_t1 || table_[id].list != kT1 || t2_blocks_ == 0) return {id, length};
  // T1 loses blocks until it is down to p; at p itself one more, if the tie is its to lose.
  double until_p = std::ceil(t1_blocks_ - p_) + (from_b2_ && std::floor(p_) == p_ ? 1 : 0);
  return {id, std::min(length, static_cast<uint32_t>(until_p))};
}

void ArcPolicy::evict(SpanId id, uint32_t blocks) noexcept {
  ghosts_.add(table_[id].list == kT1 ? kB1 : kB2, table_.hashes(id).last(blocks));
  withdraw(id, blocks);
}

void ArcPolicy::withdraw(SpanId id, uint32_t blocks) noexcept {
  const Span& span = table_[id];
  blocks_of(span) -= blocks;
  if (blocks == span.length) order_of(span).remove(id);
}

void ArcPolicy::check_invariants() const {
  ghosts_.check_invariants();
  t1_.check_invariants(kT1);
  t2_.check_invariants(kT2);
  uint32_t t1 = 0, t2 = 0;
  table_.for_each([&](SpanId id) {
    const Span& span = table_[id];
    if (span.vacant) return;
    KV_INVARIANT(span.list == kT1 || span.list == kT2);
    const Span& above = table_[span.parent];
    bool is_closed = span.list == kT1 || above.list == kT2 || above.vacant;
    KV_INVARIANT(is_closed || !table_.shows_all());
    (span.list == kT1 ? t1 : t2) += span.length;
  });
  KV_INVARIANT(t1 == t1_blocks_ && t2 == t2_blocks_);
  KV_INVARIANT(p_ >= 0 && p_ <= capacity_);
  KV_INVARIANT(ghosts_.size(kB1) + ghosts_.size(kB2) <= 2 * uint64_t{capacity_});
}

}  // namespace

std::unique_ptr<EvictionPolicy> make_arc(BlockTable& table, uint32_t num_blocks) {
  return std::make_unique<ArcPolicy>(table, num_blocks);
}

}  // namespace kvcore
