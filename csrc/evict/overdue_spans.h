#pragma once

#include "common/check.h"
#include "evict/span_heap.h"

namespace kvcore {

// The spans of a queue whose turn to leave came while something held them. They wait outside the
// queue, and leave before all that stands in it, as soon as nothing holds them; of several, the one
// whose turn came first.
//
// A span waits as Place::kParked until its last hold has gone, then as Place::kReturned in a heap.
// `stamp` is the turn of its last block; the block above it has the next one, so a split keeps the
// order. A span is parked once a turn and comes back by a release: O(log n) of as many as came
// back.
//
// Does not own the spans. Not thread safe.
class OverdueSpans {
 public:
  explicit OverdueSpans(BlockTable& table) : table_(table), returned_(StampedSpans(table)) {}

  void push(SpanId id) noexcept {
    Span& span = table_[id];
    span.stamp = turns_;
    turns_ += span.length;
    span.place = Place::kParked;
  }

  bool contains(SpanId id) const noexcept {
    return table_[id].place == Place::kParked || table_[id].place == Place::kReturned;
  }

  void erase(SpanId id) noexcept {
    if (table_[id].place == Place::kReturned) returned_.erase(id);
    table_[id].place = Place::kInside;
  }

  // `head` was split off `tail`, which is one of these.
  void split(SpanId head, SpanId tail) noexcept {
    table_[head].stamp = table_[tail].stamp + table_[tail].length;
    table_[head].place = Place::kParked;
  }

  // The last hold on a span has gone.
  void released(SpanId id) noexcept {
    if (table_[id].place != Place::kParked) return;
    returned_.push(id);
    table_[id].place = Place::kReturned;
  }

  // The first that nothing holds, or kRootSpan.
  SpanId first() noexcept {
    while (!returned_.empty()) {
      SpanId id = returned_.top();
      if (table_[id].holds == 0) return id;
      returned_.erase(id);
      table_[id].place = Place::kParked;
    }
    return kRootSpan;
  }

  size_t bytes() const noexcept { return returned_.bytes(); }

  // Throws std::logic_error.
  void check_invariants() const { returned_.check_invariants(); }

 private:
  BlockTable& table_;
  SpanHeap returned_;
  uint64_t turns_ = 0;
};

}  // namespace kvcore
