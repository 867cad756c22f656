#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

#include "common/check.h"

namespace kvcore {

// A binary min-heap of items that know their place in it, so that any of them can be moved or
// taken out. `Items` says what an item is: `Id`, `precedes(a, b)`, `place(id)`, and
// `set_place(id, place)`. Does not own the items. O(log n) a call, top() O(1); memory stays
// at its peak, 4 bytes an item. Not thread safe.
template <typename Items>
class IndexedHeap {
 public:
  using Id = typename Items::Id;

  explicit IndexedHeap(Items items) : items_(items) {}

  bool empty() const noexcept { return heap_.empty(); }
  size_t size() const noexcept { return heap_.size(); }
  Id top() const noexcept { return heap_.front(); }
  Id operator[](size_t at) const noexcept { return heap_[at]; }
  size_t bytes() const noexcept { return heap_.capacity() * sizeof(Id); }

  void push(Id id) noexcept {
    heap_.push_back(id);
    sift_up(heap_.size() - 1);
  }

  void erase(Id id) noexcept {
    size_t at = items_.place(id);
    Id last = heap_.back();
    heap_.pop_back();
    if (last == id) return;
    put(at, last);
    moved(last);
  }

  // The order of `id` among the others has changed.
  void moved(Id id) noexcept {
    sift_up(items_.place(id));
    sift_down(items_.place(id));
  }

  // `heir`, which stands where `id` does in the order, takes its place.
  void replace(Id id, Id heir) noexcept { put(items_.place(id), heir); }

  // Throws std::logic_error.
  void check_invariants() const {
    for (size_t at = 0; at < heap_.size(); ++at) {
      KV_INVARIANT(items_.place(heap_[at]) == at);
      KV_INVARIANT(!items_.precedes(heap_[at], heap_[(at - (at > 0)) / 2]));
    }
  }

 private:
  void put(size_t at, Id id) noexcept {
    heap_[at] = id;
    items_.set_place(id, static_cast<uint32_t>(at));
  }

  void sift_up(size_t at) noexcept {
    Id id = heap_[at];
    for (; at > 0 && items_.precedes(id, heap_[(at - 1) / 2]); at = (at - 1) / 2) {
      put(at, heap_[(at - 1) / 2]);
    }
    put(at, id);
  }

  void sift_down(size_t at) noexcept {
    Id id = heap_[at];
    for (size_t child; (child = at * 2 + 1) < heap_.size(); at = child) {
      if (child + 1 < heap_.size() && items_.precedes(heap_[child + 1], heap_[child])) ++child;
      if (!items_.precedes(heap_[child], id)) break;
      put(at, heap_[child]);
    }
    put(at, id);
  }

  Items items_;
  std::vector<Id> heap_;
};

}  // namespace kvcore
