#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <string_view>
#include <vector>

#include "evict/shadow_cache.h"
#include "sim/sample_digest.h"

namespace kvcore {

// The sampled blocks of one chain: again a chain, since whether a block is sampled does not depend
// on the others. Not thread safe.
class ChainSample {
 public:
  explicit ChainSample(uint64_t seed) noexcept : digest_(seed) {}

  // Samples a chain whole; `narrow` leaves what a lower rate samples.
  void take(std::span<const BlockHash> chain);
  void narrow(double rate) noexcept;

  std::span<const BlockHash> hashes() const noexcept { return hashes_; }
  uint32_t position(size_t i) const noexcept { return places_[i].position; }  // in the chain

 private:
  struct Place {
    uint64_t digest;
    uint32_t position;
  };

  const SampleDigest digest_;
  std::vector<BlockHash> hashes_;
  std::vector<Place> places_;  // of hashes_
};

// What a policy finds with one capacity, estimated online: a small cache serves a sample of the
// blocks (C. Waldspurger et al., "Cache Modeling and Optimization using Miniature Simulations",
// USENIX ATC 2017). The deepest sampled block that hits tells how many do, as in LruCurve.
//
// Which blocks near hot roots are sampled decides for all requests below them, so the error of a
// small cache by itself is large, but that of another policy's on the same sample is nearly the
// same. So at rates below 1 LRU serves the sample as well, and what counts is the difference: it
// adds to what LruCurve says of LRU, which counts hot roots exactly. At rate 1 the small cache is
// the cache, and exact.
//
// Owns the small caches. A sampled block costs what it does in them. Not thread safe.
class PolicyRung {
 public:
  // A policy that make_policy knows; a rate above 0 and at most 1.
  PolicyRung(std::string_view policy, uint32_t capacity, double rate);

  uint32_t capacity() const noexcept { return capacity_; }
  double rate() const noexcept { return rate_; }

  void update(const ChainSample& sample, const Use& use) noexcept;
  void finish(const Use& use, uint64_t output_tokens) noexcept;

  // Blocks found, where LRU has found so many with this capacity.
  double hits(double lru_hits) const noexcept {
    return lru_ == nullptr ? found_ : lru_hits + found_ - lru_found_;
  }

  uint64_t sampled_blocks() const noexcept { return cache_.used_blocks(); }
  uint64_t bytes() const noexcept { return cache_.bytes() + (lru_ ? lru_->bytes() : 0); }
  void check_invariants() const;

 private:
  double found(ShadowCache& cache, const ChainSample& sample, const Use& use) const noexcept;

  const uint32_t capacity_;
  const double rate_;
  ShadowCache cache_;
  std::unique_ptr<ShadowCache> lru_;  // null: rate 1
  double found_ = 0, lru_found_ = 0;  // blocks, estimated from the sample alone
};

}  // namespace kvcore
