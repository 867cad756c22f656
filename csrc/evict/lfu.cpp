#include <algorithm>

#include "common/check.h"
#include "evict/indexed_heap.h"
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
  explicit LfuPolicy(BlockTable& table) : table_(table), heap_(Leaves(table)) {}

  void enter(SpanId id, std::optional<uint32_t>) noexcept override { table_[id].list = 0; }
  void touch(std::span<const SpanId> path, const Use& use) noexcept override;
  void split(SpanId head_id, SpanId tail_id) noexcept override;
  Victim oldest() noexcept override;
  void evict(SpanId id, uint32_t blocks) noexcept override;
  void withdraw(SpanId id, uint32_t blocks) noexcept override {
    if (blocks == table_[id].length && table_[id].place == Place::kListed) take_out(id);
  }
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
    bool operator==(const Leaf& other) const noexcept { return id == other.id; }
  };
  // Leaves by the stamp that they stand by; a span knows its place through its own `prev`.
  class Leaves {
   public:
    using Id = Leaf;
    explicit Leaves(BlockTable& table) : table_(&table) {}
    bool precedes(Leaf a, Leaf b) const noexcept { return a.stamp < b.stamp; }
    uint32_t place(Leaf leaf) const noexcept { return index_of((*table_)[leaf.id].prev); }
    void set_place(Leaf leaf, uint32_t place) const noexcept {
      (*table_)[leaf.id].prev = SpanId{place};
    }

   private:
    BlockTable* table_;
  };
  void push(SpanId id) noexcept;
  void take_out(SpanId id) noexcept;

  BlockTable& table_;
  IndexedHeap<Leaves> heap_;  // Place::kListed: every leaf, and what has got holds since
  uint64_t age_ = 0;          // L
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
  if (!path.empty() && table_[path.back()].holds == 0) released(path.back());
}

void LfuPolicy::split(SpanId head_id, SpanId tail_id) noexcept {
  Span& head = table_[head_id];
  const Span& tail = table_[tail_id];
  head.stamp = tail.stamp;
  head.last_request = tail.last_request;
  head.list = tail.list;
}

EvictionPolicy::Victim LfuPolicy::oldest() noexcept {
  while (!heap_.empty()) {
    auto [stamp, id] = heap_.top();
    Span& span = table_[id];
    if (span.holds == 0 && span.stamp == stamp) return {id, span.length};
    take_out(id);
    if (span.holds == 0) push(id);
  }
  return {};
}

void LfuPolicy::evict(SpanId id, uint32_t blocks) noexcept {
  age_ = std::max(age_, table_[id].stamp >> kTimeBits);
  withdraw(id, blocks);
}

void LfuPolicy::released(SpanId id) noexcept {
  if (table_[id].place != Place::kListed) push(id);
}

void LfuPolicy::push(SpanId id) noexcept {
  heap_.push({table_[id].stamp, id});
  table_[id].place = Place::kListed;
}

void LfuPolicy::take_out(SpanId id) noexcept {
  heap_.erase({0, id});
  table_[id].place = Place::kInside;
}

void LfuPolicy::check_invariants() const {
  std::vector<bool> seen(table_.record_limit());
  heap_.check_invariants();
  for (size_t i = 0; i < heap_.size(); ++i) {
    const auto [stamp, id] = heap_[i];
    KV_INVARIANT(table_[id].place == Place::kListed && !seen[index_of(id)]);
    KV_INVARIANT(stamp <= table_[id].stamp);
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

std::unique_ptr<EvictionPolicy> make_lfu(BlockTable& table, uint32_t) {
  return std::make_unique<LfuPolicy>(table);
}

}  // namespace kvcore
