#pragma once

#include "evict/indexed_heap.h"
#include "table/block_table.h"

namespace kvcore {

// What SpanHeap orders: spans by `stamp`; a span knows its place through its own `prev`.
class StampedSpans {
 public:
  using Id = SpanId;

  explicit StampedSpans(BlockTable& table) : table_(&table) {}

  bool precedes(SpanId a, SpanId b) const noexcept {
    return (*table_)[a].stamp < (*table_)[b].stamp;
  }
  uint32_t place(SpanId id) const noexcept { return index_of((*table_)[id].prev); }
  void set_place(SpanId id, uint32_t place) const noexcept { (*table_)[id].prev = SpanId{place}; }

 private:
  BlockTable* table_;
};

// A min-heap of spans by `stamp`.
using SpanHeap = IndexedHeap<StampedSpans>;

}  // namespace kvcore
