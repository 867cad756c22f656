#pragma once

#include <cstddef>

#include "evict/span_heap.h"
#include "evict/span_list.h"

namespace kvcore {

// Spans by the time of their last touch, oldest first; leaves come before what they hang from.
//
// Whoever touches a span touches all spans above it, so the spans that one touch was the last to
// reach form one unbroken piece of a chain: a group (equal `stamp`, `list` and policy). Only its
// deepest span stands in the list, for all of them (Place::kListed; the others are kInside). When
// it leaves, the span above takes its place. So touching a chain of any number of spans moves one
// link, and the order is exactly that of a list of blocks touched deepest first.
//
// The oldest listed span is a leaf, since its children were touched no later, unless a lease, a
// writer or another order's span holds it or something below. oldest() takes such a span out
// (kParked); released() brings it back, into a small heap beside the list (kReturned). So each
// touch parks a span at most once, the next leaf is found in O(1) amortised, and only what was in
// the way and came back costs O(log n) of as many.
//
// Does not own the spans. Not thread safe.
class RecencyOrder {
 public:
  explicit RecencyOrder(BlockTable& table)
      : table_(table), list_(table), returned_(StampedSpans(table)) {}

  // A group has been touched: `deepest` stands for it, as the newest.
  void push(SpanId deepest) noexcept {
    list_.push_back(deepest);
    table_[deepest].place = Place::kListed;
  }

  // The same for a group that is not the newest; O(log n).
  void insert(SpanId deepest) noexcept {
    returned_.push(deepest);
    table_[deepest].place = Place::kReturned;
  }

  // A span is about to be touched again.
  void take_out(SpanId id) noexcept {
    Span& span = table_[id];
    if (span.place == Place::kListed) list_.erase(id);
    if (span.place == Place::kReturned) returned_.erase(id);
    span.place = Place::kInside;
  }

  // A span's blocks have gone.
  void remove(SpanId id) noexcept;

  // The last hold on a span has gone.
  void released(SpanId id) noexcept;

  // The oldest span that nothing holds, or kRootSpan.
  SpanId oldest() noexcept;

  // The deepest span of the oldest group, whatever holds it, or kRootSpan; for orders that are not
  // asked for their oldest().
  SpanId front() const noexcept { return list_.front(); }

  // The next span upwards of the same group, or kRootSpan.
  SpanId above_in_group(SpanId id) const noexcept;

  size_t bytes() const noexcept { return returned_.bytes(); }

  // Throws std::logic_error. `list` is the value of Span::list of the spans in this order.
  void check_invariants(uint8_t list) const;

 private:
  BlockTable& table_;
  SpanList list_;
  SpanHeap returned_;
};

}  // namespace kvcore
