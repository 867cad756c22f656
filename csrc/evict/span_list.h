#pragma once

#include "table/block_table.h"

namespace kvcore {

// A doubly linked list of spans through their own `prev` and `next`; a span is in at most one.
// Does not own them. Every call is O(1). Not thread safe.
class SpanList {
 public:
  explicit SpanList(BlockTable& table) : table_(table) {}

  SpanId front() const noexcept { return front_; }  // kRootSpan: empty
  SpanId after(SpanId id) const noexcept { return table_[id].next; }

  void push_back(SpanId id) noexcept { insert(back_, id, kRootSpan); }
  void insert_before(SpanId next, SpanId id) noexcept {
    insert(next == kRootSpan ? back_ : table_[next].prev, id, next);
  }
  void erase(SpanId id) noexcept {
    const Span& span = table_[id];
    (span.prev == kRootSpan ? front_ : table_[span.prev].next) = span.next;
    (span.next == kRootSpan ? back_ : table_[span.next].prev) = span.prev;
  }
  // `heir` takes the place of `id`.
  void replace(SpanId id, SpanId heir) noexcept {
    SpanId prev = table_[id].prev, next = table_[id].next;
    erase(id);
    insert(prev, heir, next);
  }

 private:
  void insert(SpanId prev, SpanId id, SpanId next) noexcept {
    table_[id].prev = prev;
    table_[id].next = next;
    (prev == kRootSpan ? front_ : table_[prev].next) = id;
    (next == kRootSpan ? back_ : table_[next].prev) = id;
  }

  BlockTable& table_;
  SpanId front_ = kRootSpan;
  SpanId back_ = kRootSpan;
};

}  // namespace kvcore
