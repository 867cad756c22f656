#pragma once

#include <algorithm>
#include <cstdint>
#include <utility>

#include "evict/cohorts.h"
#include "evict/hazard_model.h"
#include "evict/indexed_heap.h"
#include "table/block_table.h"

namespace kvcore {

// The cohorts whose leaves may leave, by rank; of equal ones the older goes first. A rank is exact
// when a cohort is listed or reranked, and follows its age in between only where asked to: between
// the ends of a bucket it is linear. Owns the heap and refers to the rest. Not thread safe.
class RankedCohorts {
 public:
  RankedCohorts(const BlockTable& table, Cohorts& cohorts, const HazardModel& model)
      : table_(table), cohorts_(cohorts), model_(model), heap_(Items(cohorts)) {}

  bool empty() const noexcept { return heap_.empty(); }
  size_t size() const noexcept { return heap_.size(); }
  CohortId top() const noexcept { return heap_.top(); }

  void list(CohortId id) noexcept {
    rerank(id);
    cohorts_[id].listed = true;
    heap_.push(id);
  }
  void unlist(CohortId id) noexcept {
    if (std::exchange(cohorts_[id].listed, false)) heap_.erase(id);
  }

  // What the model says now; 300 ns.
  void rerank(CohortId id) noexcept {
    Cohort& cohort = cohorts_[id];
    const size_t uses = HazardModel::use_class(table_[cohort.leaf].list);
    cohort.ranks = model_.ranks(cohort.traits, uses, cohort.bucket);
    cohort.rank = rank_at(cohort);
    if (cohort.listed) heap_.moved(id);
  }

  // Ages a listed one.
  void follow(CohortId id) noexcept {
    cohorts_[id].rank = rank_at(cohorts_[id]);
    heap_.moved(id);
  }

  void set_time(int64_t now_us) noexcept { now_us_ = now_us; }

  // Some are ranked anew and some are aged, in turn.
  void refresh_some() noexcept {
    if (empty()) return;
    for (int i = 0; i < kRankedARequest; ++i) rerank(heap_[next_ranked_++ % heap_.size()]);
    for (int i = 0; i < kAgedARequest; ++i) follow(heap_[next_aged_++ % heap_.size()]);
  }

  size_t bytes() const noexcept { return heap_.bytes(); }
  void check_invariants() const { heap_.check_invariants(); }

 private:
  static constexpr int kRankedARequest = 2;
  static constexpr int kAgedARequest = 8;

  // What the heap orders.
  class Items {
   public:
    using Id = CohortId;

    explicit Items(Cohorts& cohorts) : cohorts_(&cohorts) {}

    bool precedes(CohortId a, CohortId b) const noexcept {
      const Cohort &first = (*cohorts_)[a], &second = (*cohorts_)[b];
      if (first.rank != second.rank) return first.rank < second.rank;
      return first.request < second.request;
    }
    uint32_t place(CohortId id) const noexcept { return (*cohorts_)[id].place; }
    void set_place(CohortId id, uint32_t place) const noexcept { (*cohorts_)[id].place = place; }

   private:
    Cohorts* cohorts_;
  };

  float rank_at(const Cohort& cohort) const noexcept {
    const int64_t start = HazardModel::edge_us(cohort.bucket);
    const int64_t end = HazardModel::edge_us(cohort.bucket + 1);
    auto part =
        static_cast<float>(now_us_ - cohort.time_us - start) / static_cast<float>(end - start);
    part = std::clamp(part, 0.0F, 1.0F);
    return cohort.ranks.start + (cohort.ranks.end - cohort.ranks.start) * part;
  }

  const BlockTable& table_;
  Cohorts& cohorts_;
  const HazardModel& model_;
  IndexedHeap<Items> heap_;
  int64_t now_us_ = 0;
  size_t next_ranked_ = 0, next_aged_ = 0;
};

}  // namespace kvcore
