#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "evict/policy.h"
#include "evict/shadow_cache.h"
#include "table/block_table.h"

namespace kvcore {

// Tells which of several policies would find most. One, the champion, runs the cache; the others
// serve a sample of the blocks in small caches of their own. (C. Waldspurger et al., "Cache
// Modeling and Optimization using Miniature Simulations", USENIX ATC 2017.)
//
// Blocks at every 2^k-th place of a chain are looked at and sampled by a digest of their hashes, so
// the sample of a chain is a chain. The rate is chosen from the first requests, and anew when their
// length changes much: one request in about twenty has a sampled block; or more, so that the small
// caches have 64 blocks, as long as that costs little beside the requests themselves.
//
// Who leads is told from the differences of hits, which fade over some 2,000 sampled requests: one
// that finds half a percent more of the sampled blocks than the champion, by more than three
// standard errors, takes over, and the comparison starts anew. Requests of one time are alike, and
// so is by how much a small sample is off, so the errors are those of batches of 64: nobody takes
// over before nine. Two that are equally good never change places.
//
// Owns the small caches. Deterministic. Not thread safe.
class Contest {
 public:
  // Names that make_policy knows; the first is the champion.
  Contest(std::span<const std::string> policies, uint32_t num_blocks);

  // A request for the blocks of these spans and for the missing ones below them.
  void observe(const BlockTable& table, std::span<const SpanId> path,
               std::span<const BlockHash> missing, const Use& use);
  void finish(const Use& use, uint64_t output_tokens) noexcept;
  // The champion has room for so many, at most what the contest was made for.
  void resize(uint32_t num_blocks) noexcept;

  size_t champion() const noexcept { return champion_; }
  uint32_t sampled() const noexcept { return sampled_; }  // one block in so many; 0: none yet
  size_t bytes() const noexcept;
  void check_invariants() const;

 private:
  struct Contender {
    std::string policy;
    std::unique_ptr<ShadowCache> cache;  // none: the champion
    double batch = 0;                    // lead over the champion since the last full batch
    double lead = 0, lead_squares = 0;   // of batches, faded sums
    uint32_t hits = 0;                   // of the request at hand
  };

  void measure(size_t length);
  void choose_rate(double mean_length);
  void start_caches();
  uint32_t shadow_blocks(uint32_t num_blocks) const noexcept;
  // Answers how many sampled blocks are there.
  uint32_t take_sample(const BlockTable& table, std::span<const SpanId> path,
                       std::span<const BlockHash> missing);
  void compare();

  const uint32_t made_for_;
  uint32_t num_blocks_;
  std::vector<Contender> contenders_;
  size_t champion_ = 0;
  uint32_t requests_ = 0;  // of the batch
  double blocks_ = 0;      // sampled since the champion took over, a faded sum

  uint64_t measured_requests_ = 0, measured_blocks_ = 0;
  double mean_length_ = 0;  // that the rate was chosen for; 0: not yet
  uint32_t rated_blocks_ = 0;
  double rate_ = 0;
  uint32_t sampled_ = 0;
  uint32_t stride_ = 1;
  uint64_t threshold_ = 0;
  std::vector<BlockHash> sample_;
};

}  // namespace kvcore
