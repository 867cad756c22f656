#include <algorithm>
#include <functional>

#include "common/check.h"
#include "common/virtual_array.h"
#include "evict/policy.h"

namespace kvcore {
namespace {

// Least frequently used, with dynamic ageing, prefix-aware. Arlitt, Cherkasova, Dilley, Friedrich
// and Jin, "Evaluating Content Management Techniques for Web Proxy Caches" (2000), LFU-DA: a use
// gives a block the key L + F, where F are its uses since it came and L is the highest key that has
// left. The lowest key leaves, of equal ones the least recently used.
//
// F stops at 255, so that what was in great demand ages in bounded time. libCacheSim's LFUDA adds L
// to the key at each use instead, so old demand outlives it by far, and the two differ. On chains
// of one block this is the paper's. On longer ones two rules make it prefix-aware:
//   1. A request is one use of a block, however often it touches it; but each touch brings the key
//      up to date. So no block has a lower key than those below it, but one that was given up.
//   2. The leaf of the lowest key that nothing holds leaves.
//
// Keys only rise, so a touch writes spans and leaves the heap of leaves as it is: there, a leaf
// stands by a key that it once had, and is put right when it comes to the top. The next leaf is
// found in O(log n) amortised, 16 bytes a leaf.
class LfuPolicy final : public EvictionPolicy {
 public:
  LfuPolicy(BlockTable& table, uint32_t num_blocks) : table_(table), heap_(num_blocks) {}

  void enter(SpanId id, std::optional<uint32_t>) noexcept override { table_[id].list = 0; }
  void touch(std::span<const SpanId> path, const Use& use) noexcept override;
  void split(SpanId head_id, SpanId tail_id) noexcept override;
  Victim oldest() noexcept override;
  void evict(SpanId id, uint32_t blocks) noexcept override;
  void withdraw(SpanId, uint32_t) noexcept override {}  // in flight, so not in the heap
  void released(SpanId id) noexcept override;
  size_t bytes() const noexcept override { return heap_.bytes(); }
  void check_invariants() const override;

 private:
  // Span::list is F, Span::stamp is the key and, below it, the time of the last touch.
  static constexpr uint8_t kMaxUses = 255;
  static constexpr int kTimeBits = 40;

  struct Leaf {
    uint64_t stamp;
    SpanId id;
    bool operator>(const Leaf& other) const noexcept { return stamp > other.stamp; }
  };
  void push(SpanId id) noexcept;
  void pop() noexcept;

  BlockTable& table_;
  VirtualArray<Leaf> heap_;  // Place::kListed: every leaf, and what has got holds since
  size_t size_ = 0;
  uint64_t age_ = 0;  // L
  uint64_t now_ = 0;
};

void LfuPolicy::touch(std::span<const SpanId> path, const Use& use) noexcept {
  ++now_;
  for (SpanId id : path) {
    Span& span = table_[id];
    bool counts = span.list == 0 || span.last_request != use.request.serial;
    if (counts && span.list < kMaxUses) ++span.list;
    span.stamp = (age_ + span.list) << kTimeBits | now_;
    span.last_request = use.request.serial;
  }
}

void LfuPolicy::split(SpanId head_id, SpanId tail_id) noexcept {
  Span& head = table_[head_id];
  const Span& tail = table_[tail_id];
  head.stamp = tail.stamp;
  head.last_request = tail.last_request;
  head.list = tail.list;
}

EvictionPolicy::Victim LfuPolicy::oldest() noexcept {
  while (size_ > 0) {
    auto [stamp, id] = heap_[0];
    Span& span = table_[id];
    if (span.holds == 0 && span.stamp == stamp) return {id, span.length};
    pop();
    if (span.holds == 0) push(id);
  }
  return {};
}

void LfuPolicy::evict(SpanId id, uint32_t blocks) noexcept {
  KV_DCHECK(heap_[0].id == id);
  const Span& span = table_[id];
  age_ = std::max(age_, span.stamp >> kTimeBits);
  if (blocks == span.length) pop();
}

void LfuPolicy::released(SpanId id) noexcept {
  if (table_[id].place != Place::kListed) push(id);
}

void LfuPolicy::push(SpanId id) noexcept {
  heap_.grow(++size_);
  heap_[size_ - 1] = {table_[id].stamp, id};
  std::push_heap(heap_.data(), heap_.data() + size_, std::greater());
  table_[id].place = Place::kListed;
}

void LfuPolicy::pop() noexcept {
  table_[heap_[0].id].place = Place::kInside;
  std::pop_heap(heap_.data(), heap_.data() + size_, std::greater());
  --size_;
}

void LfuPolicy::check_invariants() const {
  std::vector<bool> seen(table_.record_limit());
  for (size_t i = 0; i < size_; ++i) {
    const auto& [stamp, id] = heap_[i];
    KV_INVARIANT(table_[id].place == Place::kListed && !seen[index_of(id)]);
    KV_INVARIANT(stamp <= table_[id].stamp && heap_[(i - (i > 0)) / 2].stamp <= stamp);
    seen[index_of(id)] = true;
  }
  table_.for_each([&](SpanId id) {
    const Span& span = table_[id];
    KV_INVARIANT((span.place == Place::kListed) == seen[index_of(id)]);
    KV_INVARIANT(span.holds != 0 || span.place == Place::kListed);
    KV_INVARIANT(span.vacant || span.list != 0);
  });
}

}  // namespace

std::unique_ptr<EvictionPolicy> make_lfu(BlockTable& table, uint32_t num_blocks) {
  return std::make_unique<LfuPolicy>(table, num_blocks);
}

}  // namespace kvcore
