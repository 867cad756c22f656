#include "sim/miss_ratio_curve.h"

#include <algorithm>
#include <cmath>
#include <stdexcept>

namespace kvcore {
namespace {

void check(bool allowed, const std::string& message) {
  if (!allowed) throw std::invalid_argument(message);
}

const CurveOptions& checked(const CurveOptions& options) {
  const auto& [sample_ratio, min_sample_blocks, seed, policy, capacities] = options;
  check(sample_ratio > 0 && sample_ratio <= 1,
        "sample_ratio must be above 0 and at most 1, got " + std::to_string(sample_ratio));
  check(min_sample_blocks >= 1 && min_sample_blocks <= MissRatioCurve::kMaxSampleBlocks,
        "min_sample_blocks must be 1 to " + std::to_string(MissRatioCurve::kMaxSampleBlocks) +
            ", got " + std::to_string(min_sample_blocks));
  check_policy(policy);
  if (policy == "lru") {
    check(capacities.empty(), "capacities must be None for policy \"lru\", which has them all");
    return options;
  }
  check(!capacities.empty() && capacities.size() <= MissRatioCurve::kMaxCapacities,
        "capacities must be 1 to " + std::to_string(MissRatioCurve::kMaxCapacities) +
            " numbers of blocks for policy \"" + policy + "\", got " +
            std::to_string(capacities.size()));
  uint32_t before = 0;
  for (uint32_t capacity : capacities) {
    check(capacity > before, "capacities must rise strictly from 1, got " +
                                 std::to_string(capacity) + " after " + std::to_string(before));
    before = capacity;
  }
  check(before * sample_ratio <= MissRatioCurve::kMaxSampleBlocks,
        "capacities times sample_ratio must be at most " +
            std::to_string(MissRatioCurve::kMaxSampleBlocks) + ", got " + std::to_string(before) +
            " times " + std::to_string(sample_ratio));
  return options;
}

// LRU's sample has to see as far as the largest rung.
size_t lru_sample(const CurveOptions& options) {
  const double largest = options.capacities.empty() ? 0 : options.capacities.back();
  return std::max(static_cast<size_t>(options.min_sample_blocks),
                  static_cast<size_t>(std::ceil(largest * options.sample_ratio)));
}

}  // namespace

MissRatioCurve::MissRatioCurve(const CurveOptions& options)
    : lru_(checked(options).sample_ratio, lru_sample(options), options.seed),
      sample_(options.seed) {
  for (uint32_t capacity : options.capacities) {
    const double rate = static_cast<double>(options.min_sample_blocks) / capacity;
    rungs_.emplace_back(options.policy, capacity, std::clamp(rate, options.sample_ratio, 1.0));
  }
}

void MissRatioCurve::update(std::span<const BlockHash> hashes, const RequestInfo& request) {
  const std::lock_guard lock(mutex_);
  blocks_ += hashes.size();
  lru_.update(hashes);
  if (rungs_.empty()) return;
  const Use use = clock_.use_of(request);
  sample_.take(hashes);
  for (PolicyRung& rung : rungs_) {  // their rates fall
    if (rung.rate() < 1) sample_.narrow(rung.rate());
    rung.update(sample_, use);
  }
}

void MissRatioCurve::finish(const RequestInfo& request, uint64_t output_tokens) {
  const std::lock_guard lock(mutex_);
  const Use use = clock_.use_of(request);
  for (PolicyRung& rung : rungs_) rung.finish(use, output_tokens);
}

double MissRatioCurve::hit_ratio(uint64_t num_blocks) const {
  const std::lock_guard lock(mutex_);
  if (blocks_ == 0) return 0;
  if (rungs_.empty()) {
    return std::clamp(lru_.hits(num_blocks) / static_cast<double>(blocks_), 0.0, 1.0);
  }
  auto above = std::ranges::lower_bound(rungs_, num_blocks, {}, &PolicyRung::capacity);
  if (above == rungs_.end()) return rung_ratio(rungs_.back());
  const bool first = above == rungs_.begin();
  const double low = first ? 0 : rung_ratio(above[-1]);
  const uint32_t begin = first ? 0 : above[-1].capacity();
  const double part = static_cast<double>(num_blocks - begin) / (above->capacity() - begin);
  return std::lerp(low, rung_ratio(*above), part);
}

double MissRatioCurve::rung_ratio(const PolicyRung& rung) const noexcept {
  return std::clamp(rung.hits(lru_.hits(rung.capacity())) / static_cast<double>(blocks_), 0.0, 1.0);
}

bool MissRatioCurve::is_busy() const noexcept {
  const std::unique_lock lock(mutex_, std::try_to_lock);
  return !lock.owns_lock();
}

MissRatioCurve::Stats MissRatioCurve::stats() const {
  const std::lock_guard lock(mutex_);
  if (rungs_.empty()) return {blocks_, lru_.sampled_blocks(), lru_.rate(), lru_.bytes()};
  Stats stats{blocks_, 0, rungs_.back().rate(), lru_.bytes()};
  for (const PolicyRung& rung : rungs_) {
    stats.sampled_blocks += rung.sampled_blocks();
    stats.memory_bytes += rung.bytes();
  }
  return stats;
}

void MissRatioCurve::check_invariants() const {
  const std::lock_guard lock(mutex_);
  for (const PolicyRung& rung : rungs_) rung.check_invariants();
}

}  // namespace kvcore
