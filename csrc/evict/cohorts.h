#pragma once

#include <algorithm>
#include <array>
#include <cstdint>

#include "common/virtual_array.h"
#include "evict/hazard_model.h"
#include "table/span.h"
#include "table/span_index.h"

namespace kvcore {

enum class CohortId : uint32_t {};
inline constexpr CohortId kNoCohort{0};

// A request, and the blocks that it was the last to use: an unbroken piece of its chain, of which
// the upper part is resident and the rest are ghosts.
struct Cohort {
  int64_t time_us;                                        // of the use
  uint32_t request;                                       // serial; 0: the record is free
  uint32_t length;                                        // blocks that it asked for
  std::array<uint32_t, HazardModel::kUseClasses> blocks;  // resident and ghosts, by uses
  // Hazard that the leaf's kind of block has gone through; of all uses of the session before,
  // faded, the same and the number of reuses.
  float hazard, session_hazard, session_reuses;
  HazardModel::Ranks ranks;  // of the leaf, at the start and the end of the bucket
  float rank;                // now; the order of the heap
  uint32_t place;            // in the heap
  CohortId prev, next;       // in its bucket
  SpanId leaf;               // the deepest resident span; kRootSpan: none
  Traits traits;
  uint8_t bucket;  // of its age
  bool listed;     // in the heap

  bool is_empty() const noexcept {
    uint32_t any = 0;
    for (uint32_t count : blocks) any |= count;
    return any == 0;
  }
};

// Records of cohorts, the latest of each request, and who has reached which age: for each bucket a
// queue, the oldest first. O(1) a call; memory stays at its peak, 112 bytes a record, beside 11 to
// 32 of index a cohort. Not thread safe.
class Cohorts {
 public:
  explicit Cohorts(size_t max_cohorts) : records_(max_cohorts + 1) {
    records_.grow(1);
    due_us_.fill(kNever);
  }

  Cohort& operator[](CohortId id) noexcept { return records_[index(id)]; }
  const Cohort& operator[](CohortId id) const noexcept { return records_[index(id)]; }

  // The latest of a request, as long as any of its blocks is known, or kNoCohort.
  CohortId of(uint32_t request) const noexcept {
    auto is_same = [&](SpanId id) { return (*this)[cohort(id)].request == request; };
    return cohort(latest_.find(latest_.tag_of(request), is_same));
  }

  // A new one in the first bucket. Times never go back.
  CohortId make(int64_t time_us, uint32_t request) noexcept {
    CohortId id = free_;
    if (id != kNoCohort) {
      free_ = (*this)[id].next;
    } else {
      id = CohortId{static_cast<uint32_t>(records_.size())};
      records_.grow(records_.size() + 1);
    }
    const uint32_t tag = latest_.tag_of(request);
    if (CohortId before = of(request); before != kNoCohort) {
      latest_.replace(tag, entry(before), entry(id));
    } else {
      latest_.insert(tag, entry(id));
    }
    (*this)[id] = Cohort{};
    (*this)[id].time_us = time_us;
    (*this)[id].request = request;
    push_back(0, id);
    return id;
  }
  void free(CohortId id) noexcept {
    unlink(id);
    const uint32_t request = (*this)[id].request;
    if (of(request) == id) latest_.erase(latest_.tag_of(request), entry(id));
    (*this)[id] = Cohort{};
    (*this)[id].next = free_;
    free_ = id;
  }

  // The oldest in a bucket that has reached the bucket's end, or kNoCohort.
  CohortId due(int bucket, int64_t now_us) const noexcept {
    return due_us_[static_cast<size_t>(bucket)] <= now_us
               ? queues_[static_cast<size_t>(bucket)].front
               : kNoCohort;
  }
  // It has reached the end of its bucket.
  void advance(CohortId id) noexcept {
    unlink(id);
    push_back(++(*this)[id].bucket, id);
  }

  size_t size() const noexcept { return records_.size(); }  // free ones as well
  size_t bytes() const noexcept { return records_.bytes() + latest_.bytes(); }

 private:
  static constexpr int64_t kNever = INT64_MAX;
  struct Queue {
    CohortId front = kNoCohort, back = kNoCohort;
  };

  static SpanId entry(CohortId id) noexcept { return SpanId{static_cast<uint32_t>(id)}; }
  static CohortId cohort(SpanId id) noexcept { return CohortId{index_of(id)}; }
  static size_t index(CohortId id) noexcept { return static_cast<size_t>(id); }

  void push_back(size_t bucket, CohortId id) noexcept {
    Queue& queue = queues_[bucket];
    Cohort& cohort = (*this)[id];
    cohort.prev = queue.back;
    cohort.next = kNoCohort;
    (queue.back == kNoCohort ? queue.front : (*this)[queue.back].next) = id;
    queue.back = id;
    set_due(bucket);
  }
  void unlink(CohortId id) noexcept {
    const Cohort& cohort = (*this)[id];
    Queue& queue = queues_[cohort.bucket];
    (cohort.prev == kNoCohort ? queue.front : (*this)[cohort.prev].next) = cohort.next;
    (cohort.next == kNoCohort ? queue.back : (*this)[cohort.next].prev) = cohort.prev;
    set_due(cohort.bucket);
  }
  void set_due(size_t bucket) noexcept {
    CohortId front = queues_[bucket].front;
    bool ends = front != kNoCohort && bucket + 1 < HazardModel::kBuckets;
    int64_t edge = HazardModel::edge_us(static_cast<int>(bucket) + 1);
    due_us_[bucket] =
        ends ? (*this)[front].time_us + std::min(edge, kNever - (*this)[front].time_us) : kNever;
  }

  VirtualArray<Cohort> records_;
  SpanIndex latest_;  // by request; of cohorts instead of spans
  CohortId free_ = kNoCohort;
  std::array<Queue, HazardModel::kBuckets> queues_;
  std::array<int64_t, HazardModel::kBuckets> due_us_;
};

}  // namespace kvcore
