#pragma once

#include <utility>
#include <vector>

#include "common/check.h"
#include "table/block_table.h"

namespace kvcore {

// A binary min-heap of spans by `stamp`; a span knows its place through its own `prev`. Does not
// own them. O(log n) a call, top() O(1); memory stays at its peak, 4 bytes a span. Not thread safe.
class SpanHeap {
 public:
  explicit SpanHeap(BlockTable& table) : table_(table) {}

  SpanId top() const noexcept { return heap_.empty() ? kRootSpan : heap_.front(); }

  void push(SpanId id) noexcept {
    heap_.push_back(id);
    sift_up(heap_.size() - 1);
  }

  void erase(SpanId id) noexcept {
    size_t at = place_of(id);
    SpanId last = heap_.back();
    heap_.pop_back();
    if (last == id) return;
    heap_[at] = last;
    sift_up(at);
    sift_down(place_of(last));
  }

  // `heir`, of equal stamp, takes the place of `id`.
  void replace(SpanId id, SpanId heir) noexcept { put(place_of(id), heir); }

  size_t bytes() const noexcept { return heap_.capacity() * sizeof(SpanId); }

  // Throws std::logic_error.
  void check_invariants() const {
    for (size_t at = 0; at < heap_.size(); ++at) {
      KV_INVARIANT(place_of(heap_[at]) == at);
      KV_INVARIANT(stamp(heap_[(at - (at > 0)) / 2]) <= stamp(heap_[at]));
    }
  }

 private:
  uint64_t stamp(SpanId id) const noexcept { return table_[id].stamp; }
  size_t place_of(SpanId id) const noexcept { return index_of(table_[id].prev); }
  void put(size_t at, SpanId id) noexcept {
    heap_[at] = id;
    table_[id].prev = SpanId{static_cast<uint32_t>(at)};
  }

  void sift_up(size_t at) noexcept {
    SpanId id = heap_[at];
    for (; at > 0 && stamp(id) < stamp(heap_[(at - 1) / 2]); at = (at - 1) / 2) {
      put(at, heap_[(at - 1) / 2]);
    }
    put(at, id);
  }

  void sift_down(size_t at) noexcept {
    SpanId id = heap_[at];
    for (size_t child; (child = at * 2 + 1) < heap_.size(); at = child) {
      if (child + 1 < heap_.size() && stamp(heap_[child + 1]) < stamp(heap_[child])) ++child;
      if (stamp(id) <= stamp(heap_[child])) break;
      put(at, heap_[child]);
    }
    put(at, id);
  }

  BlockTable& table_;
  std::vector<SpanId> heap_;
};

}  // namespace kvcore
