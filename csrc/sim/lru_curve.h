#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "common/types.h"
#include "sim/fenwick_tree.h"
#include "sim/hit_histogram.h"
#include "sim/sample_digest.h"
#include "sim/sample_table.h"

namespace kvcore {

// LRU's hits at every capacity, estimated online from a sample of the blocks.
//
// A block is sampled if a digest of its hash is below a threshold, as in SHARDS (Waldspurger et
// al., FAST 2015), so whether it is does not depend on its chain. Three things differ from SHARDS,
// because chains are asked for from the root and not block by block:
//
// - Hits are a prefix, so the deepest sampled block that hits, at position p, tells nearly all.
//   With rate R the first p + 1/R blocks are taken as hits: the number of unsampled hits below p is
//   geometric, so this is unbiased for every chain and capacity, and its error stays that of one
//   gap, while that of weights 1/R a block grows with the chain and with every turn that repeats
//   it. The blocks that one request takes over from another are estimated the same way, which gives
//   the stack distances.
// - Blocks near hot roots are followed whatever their digest: one block a request is added below
//   the hot part of its chain, uses are counted, and halved when there are too many. Up to the last
//   of these, hits are exact. They are chosen without regard to the sample, so nothing is biased.
// - The rate starts at 1 and is halved whenever 9/4 * min_sample_blocks are in the sample, so that
//   at least min_sample_blocks stay; never below sample_ratio. Then the oldest eighth is forgotten
//   instead: a reuse farther than about 2 * min_sample_blocks / sample_ratio blocks is a miss.
//
// Memory is bounded by min_sample_blocks: about 250 bytes each. An update costs a digest a block, a
// look-up a sampled or hot block, and O(log min_sample_blocks) for each piece of the chain that was
// last touched together. Not thread safe: MissRatioCurve has the lock.
class LruCurve {
 public:
  // sample_ratio above 0 and at most 1, min_sample_blocks from 1.
  LruCurve(double sample_ratio, size_t min_sample_blocks, uint64_t seed);

  // One request: the whole chain of its blocks.
  void update(std::span<const BlockHash> hashes);

  // Blocks that LRU with room for `num_blocks` has found, estimated. Never falls as it grows.
  double hits(uint64_t num_blocks) const noexcept { return hits_.sum_to(num_blocks); }

  uint64_t sampled_blocks() const noexcept { return sampled_blocks_; }
  uint64_t root_blocks() const noexcept { return root_blocks_; }  // followed because they are hot
  double rate() const noexcept { return rate_; }
  uint64_t bytes() const noexcept {
    return table_.bytes() + last_used_.capacity() * sizeof(double) + last_used_sums_.bytes() +
           hits_.bytes();
  }

 private:
  using Block = SampleTable::Block;
  class Walk;

  bool is_sampled(uint64_t key) const noexcept { return key <= threshold_; }
  void track(Block& place, const BlockHash& hash, uint64_t key) noexcept;
  void add_root(const BlockHash& hash);
  void trim_roots();
  void trim_sample();
  template <typename Keep>
  void retain(Keep&& keep);
  void renumber();

  const double sample_ratio_;
  const size_t max_sample_blocks_;
  const size_t max_root_blocks_;
  const SampleDigest key_of_;

  double rate_ = 1;
  uint64_t threshold_ = threshold_of(1);
  SampleTable table_;
  size_t sampled_blocks_ = 0;
  size_t root_blocks_ = 0;
  uint32_t now_ = 0;  // number of the request at hand, from 1; renumbered when they run out
  std::vector<double> last_used_;  // blocks that each request was the last to use, estimated
  FenwickTree<double> last_used_sums_;
  HitHistogram hits_;
};

}  // namespace kvcore
