#include "evict/contest.h"

#include <algorithm>
#include <bit>
#include <cmath>
#include <utility>

namespace kvcore {
namespace {

constexpr uint64_t kFirstRequests = 64;    // before the first rate is chosen
constexpr uint64_t kRequestsARate = 4096;  // before it is looked at again
constexpr double kSampledARequest = 0.05;
constexpr double kMinBlocks = 64;
constexpr double kMaxSampledARequest = 0.5, kMaxSampledABlock = 1.0 / 400;  // for small caches
constexpr double kPlacesARequest = 8;
constexpr uint32_t kBatch = 64;  // sampled requests that are compared together
constexpr double kFade = 1 - 1.0 / 32;
constexpr double kMargin = 0.005;
constexpr double kStandardErrors = 3;

uint32_t digest_of(const BlockHash& hash) noexcept {
  uint64_t mixed = (hash.low() ^ std::rotl(hash.high(), 32)) * 0x9E3779B97F4A7C15;
  return static_cast<uint32_t>((mixed ^ (mixed >> 29)) * 0xBF58476D1CE4E5B9 >> 32);
}

}  // namespace

Contest::Contest(std::span<const std::string> policies, uint32_t num_blocks)
    : made_for_(num_blocks), num_blocks_(num_blocks) {
  for (const std::string& policy : policies) contenders_.push_back({policy, nullptr});
}

void Contest::observe(const BlockTable& table, std::span<const SpanId> path,
                      std::span<const BlockHash> missing, const Use& use) {
  size_t length = missing.size();
  for (SpanId id : path) length += table[id].length;
  measure(length);
  if (sampled_ == 0) return;
  const uint32_t found = take_sample(table, path, missing);
  if (sample_.empty()) return;
  const Use sampled_use{use.request, use.now_us, sampled_};
  for (Contender& contender : contenders_) {
    contender.hits =
        contender.cache == nullptr ? found : contender.cache->serve(sample_, sampled_use);
  }
  compare();
}

void Contest::finish(const Use& use, uint64_t output_tokens) noexcept {
  if (sampled_ == 0) return;
  for (Contender& contender : contenders_) {
    if (contender.cache != nullptr) contender.cache->finish(use, output_tokens);
  }
}

void Contest::resize(uint32_t num_blocks) noexcept {
  if (std::exchange(num_blocks_, num_blocks) == num_blocks) return;
  for (Contender& contender : contenders_) {
    if (contender.cache != nullptr) contender.cache->resize(shadow_blocks(num_blocks));
  }
}

// Counts how long requests are, and chooses the rate by that.
void Contest::measure(size_t length) {
  measured_blocks_ += length;
  if (++measured_requests_ < (mean_length_ == 0 ? kFirstRequests : kRequestsARate)) return;
  const double mean = std::max(
      1.0, static_cast<double>(measured_blocks_) / static_cast<double>(measured_requests_));
  measured_requests_ = measured_blocks_ = 0;
  auto differs = [](double now, double then) { return now > 2 * then || now < then / 2; };
  if (differs(mean, mean_length_) || differs(num_blocks_, rated_blocks_)) choose_rate(mean);
}

void Contest::choose_rate(double mean_length) {
  mean_length_ = mean_length;
  rated_blocks_ = num_blocks_;
  const double enough =
      std::min(kMinBlocks / num_blocks_, kMaxSampledARequest / mean_length + kMaxSampledABlock);
  rate_ = std::min(1.0, std::max(kSampledARequest / mean_length, enough));
  sampled_ = static_cast<uint32_t>(std::lround(1 / rate_));
  const double places = std::min(mean_length / kPlacesARequest, 0.5 / rate_);
  stride_ = std::bit_floor(static_cast<uint32_t>(std::max(1.0, places)));
  threshold_ = static_cast<uint64_t>(std::min(1.0, rate_ * stride_) * 0x1p32);
  start_caches();
}

uint32_t Contest::shadow_blocks(uint32_t num_blocks) const noexcept {
  return static_cast<uint32_t>(std::max(1.0, std::round(rate_ * num_blocks)));
}

// Everybody but the champion gets a cache, and what has been found so far is forgotten.
void Contest::start_caches() {
  requests_ = 0;
  blocks_ = 0;
  for (Contender& contender : contenders_) {
    contender.batch = contender.lead = contender.lead_squares = 0;
    contender.cache.reset();
    if (&contender == &contenders_[champion_]) continue;
    contender.cache = std::make_unique<ShadowCache>(contender.policy, shadow_blocks(made_for_));
    contender.cache->resize(shadow_blocks(num_blocks_));
  }
}

uint32_t Contest::take_sample(const BlockTable& table, std::span<const SpanId> path,
                              std::span<const BlockHash> missing) {
  sample_.clear();
  uint32_t depth = 0;
  auto look_at = [&](std::span<const BlockHash> hashes) {
    for (size_t i = (stride_ - 1 - depth) & (stride_ - 1); i < hashes.size(); i += stride_) {
      if (digest_of(hashes[i]) < threshold_) sample_.push_back(hashes[i]);
    }
    depth += static_cast<uint32_t>(hashes.size());
  };
  size_t found = 0;
  bool is_there = true;
  for (SpanId id : path) {
    look_at(table.hashes(id));
    is_there = is_there && !table[id].vacant;
    if (is_there) found = sample_.size();
  }
  look_at(missing);
  return static_cast<uint32_t>(found);
}

void Contest::compare() {
  blocks_ += static_cast<double>(sample_.size());
  for (Contender& contender : contenders_) {
    contender.batch += static_cast<double>(contender.hits) - contenders_[champion_].hits;
  }
  if (++requests_ < kBatch) return;
  requests_ = 0;
  size_t best = champion_;
  for (size_t i = 0; i < contenders_.size(); ++i) {
    Contender& contender = contenders_[i];
    const double lead = std::exchange(contender.batch, 0);
    contender.lead = contender.lead * kFade + lead;
    contender.lead_squares = contender.lead_squares * kFade + lead * lead;
    if (contender.lead > contenders_[best].lead) best = i;
  }
  const double blocks = std::exchange(blocks_, blocks_ * kFade);
  const Contender& leader = contenders_[best];
  if (best == champion_ || leader.lead < kMargin * blocks) return;
  if (leader.lead < kStandardErrors * std::sqrt(leader.lead_squares)) return;
  champion_ = best;
  start_caches();
}

size_t Contest::bytes() const noexcept {
  size_t bytes = 0;
  for (const Contender& contender : contenders_) {
    if (contender.cache != nullptr) bytes += contender.cache->bytes();
  }
  return bytes;
}

void Contest::check_invariants() const {
  for (const Contender& contender : contenders_) {
    if (contender.cache != nullptr) contender.cache->check_invariants();
  }
}

}  // namespace kvcore
