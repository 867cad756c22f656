#include "sim/policy_rung.h"

#include <algorithm>
#include <cmath>

namespace kvcore {
namespace {

uint32_t scaled(uint32_t capacity, double rate) noexcept {
  return static_cast<uint32_t>(std::max(1.0, std::round(capacity * rate)));
}

}  // namespace

void ChainSample::take(std::span<const BlockHash> chain) {
  hashes_.assign(chain.begin(), chain.end());
  places_.clear();
  for (uint32_t i = 0; i < chain.size(); ++i) places_.push_back({digest_(chain[i]), i});
}

void ChainSample::narrow(double rate) noexcept {
  const uint64_t threshold = threshold_of(rate);
  size_t kept = 0;
  for (size_t i = 0; i < places_.size(); ++i) {
    if (places_[i].digest > threshold) continue;
    hashes_[kept] = hashes_[i];
    places_[kept++] = places_[i];
  }
  hashes_.resize(kept);
  places_.resize(kept);
}

PolicyRung::PolicyRung(std::string_view policy, uint32_t capacity, double rate)
    : capacity_(capacity), rate_(rate), cache_(policy, scaled(capacity, rate)) {
  if (rate < 1) lru_ = std::make_unique<ShadowCache>("lru", scaled(capacity, rate));
}

void PolicyRung::update(const ChainSample& sample, const Use& use) noexcept {
  // A whole sample shows even requests without blocks: they tell a policy that time passes.
  if (sample.hashes().empty() && rate_ < 1) return;
  const Use sampled{use.request, use.now_us, static_cast<uint32_t>(std::lround(1 / rate_))};
  found_ += found(cache_, sample, sampled);
  if (lru_ != nullptr) lru_found_ += found(*lru_, sample, sampled);
}

// Unbiased: before the deepest sampled hit stand `position` blocks, and how many hits follow it is
// geometric.
double PolicyRung::found(ShadowCache& cache, const ChainSample& sample,
                         const Use& use) const noexcept {
  const uint32_t hits = cache.serve(sample.hashes(), use);
  return hits == 0 ? 0 : sample.position(hits - 1) + 1 / rate_;
}

void PolicyRung::finish(const Use& use, uint64_t output_tokens) noexcept {
  cache_.finish(use, output_tokens);
}

void PolicyRung::check_invariants() const {
  cache_.check_invariants();
  if (lru_ != nullptr) lru_->check_invariants();
}

}  // namespace kvcore
