#pragma once

#include <cstdint>
#include <deque>
#include <mutex>
#include <span>
#include <string>
#include <vector>

#include "evict/request_clock.h"
#include "sim/lru_curve.h"
#include "sim/policy_rung.h"

namespace kvcore {

struct CurveOptions {
  double sample_ratio = 0.01;  // that the rate may fall to
  uint64_t min_sample_blocks = 8192;
  uint64_t seed = 0;
  std::string policy = "lru";
  std::vector<uint32_t> capacities;  // blocks, rising; empty for LRU, which has all
};

// The hit ratio of a policy against capacity, estimated online from a sample of the blocks: for
// LRU at every capacity (lru_curve.h), for others at the capacities asked for (policy_rung.h) and
// linear between them. A rung's rate is min_sample_blocks over its capacity, but at least
// sample_ratio and at most 1, where it is exact.
//
// Owns LRU's curve and the rungs. Memory is bounded by the options. Thread safe: one lock.
class MissRatioCurve {
 public:
  static constexpr uint32_t kMaxSampleBlocks = uint32_t{1} << 20;
  static constexpr size_t kMaxCapacities = 64;

  // Throws std::invalid_argument naming what is wrong.
  explicit MissRatioCurve(const CurveOptions& options);

  size_t num_capacities() const noexcept { return rungs_.size(); }

  // One request: the whole chain of its blocks.
  void update(std::span<const BlockHash> hashes, const RequestInfo& request);
  void finish(const RequestInfo& request, uint64_t output_tokens);

  // Blocks that the policy with room for `num_blocks` finds over blocks asked for, 0 to 1; 0
  // before the first.
  double hit_ratio(uint64_t num_blocks) const;

  // True while another call is at work; the answer may be old when it arrives.
  bool is_busy() const noexcept;

  struct Stats {
    uint64_t blocks = 0;          // asked for
    uint64_t sampled_blocks = 0;  // in LRU's sample, or in the rungs
    double rate = 1;              // of LRU's sample, or the lowest of the rungs
    uint64_t memory_bytes = 0;
  };
  Stats stats() const;
  void check_invariants() const;  // throws std::logic_error

 private:
  double rung_ratio(const PolicyRung& rung) const noexcept;

  mutable std::mutex mutex_;
  LruCurve lru_;
  std::deque<PolicyRung> rungs_;  // by capacity; empty: LRU
  ChainSample sample_;            // of the request at hand
  RequestClock clock_;
  uint64_t blocks_ = 0;
};

}  // namespace kvcore
