#include "evict/hazard_model.h"

#include <algorithm>
#include <bit>
#include <cmath>

namespace kvcore {
namespace {

constexpr double kGrowth = 1.6;
constexpr float kRate = 0.05F;
constexpr float kMemory = 0.9999F;      // of squared gradients, a step
constexpr float kFirstGradient = 0.1F;  // as if so much had been seen
constexpr float kOutputRate = 0.02F;
constexpr float kPriorHazard = 0.13F;  // 1 - 1.6^-0.3: of n blocks n / age^0.3 are left
constexpr float kFirstPrior = 0.25F;   // the first bucket is longer than the second

// exp() to 2e-7 by additions and multiplications alone, so that every machine gets the same and a
// loop over it is vectorised.
float exp_of(float x) noexcept {
  float y = std::clamp(x, -30.0F, 30.0F) * 1.44269504F;
  float whole = std::floor(y);
  float part = (y - whole) * 0.693147181F;
  float power =
      1.0F +
      part * (1.0F +
              part * (0.5F + part * (0.166666667F +
                                     part * (0.0416666667F +
                                             part * (0.00833333333F + part * 0.00138888889F)))));
  return power * std::bit_cast<float>((static_cast<int32_t>(whole) + 127) << 23);
}

float logistic(float x) noexcept { return 1.0F / (1.0F + exp_of(-x)); }

std::array<int64_t, HazardModel::kBuckets + 1> make_edges() {
  std::array<int64_t, HazardModel::kBuckets + 1> edges{};
  double edge = 1e6;
  for (size_t i = 1; i < edges.size(); ++i, edge *= kGrowth) edges[i] = std::llround(edge);
  return edges;
}

}  // namespace

const std::array<int64_t, HazardModel::kBuckets + 1> HazardModel::kEdges = make_edges();

HazardModel::HazardModel() : weights_(std::make_unique<Weights>()) {
  auto logit = [](float hazard) { return std::log(hazard / (1 - hazard)); };
  weights_->base.sum.fill(logit(kPriorHazard));
  weights_->base.sum[0] = logit(kFirstPrior);
}

size_t HazardModel::use_class(uint32_t uses) noexcept {
  if (uses <= 3) return std::max(uses, 1U) - 1;
  return uses <= 6 ? 3 : uses <= 15 ? 4 : 5;
}

int HazardModel::bucket_of(int64_t age_us) noexcept {
  auto above = std::upper_bound(kEdges.begin() + 1, kEdges.end() - 1, age_us);
  return static_cast<int>(above - kEdges.begin()) - 1;
}

std::array<HazardModel::Weight*, HazardModel::kTerms> HazardModel::terms(
    const Traits& t, size_t uses) const noexcept {
  Weights& w = *weights_;
  return {&w.base,
          &w.uses_turn[uses][t.turn],
          &w.uses[uses],
          &w.fresh[t.fresh],
          &w.length[t.length],
          &w.pace[t.pace],
          &w.output[t.output],
          &w.kind_output[t.kind][t.output]};
}

float HazardModel::learn(const Traits& traits, size_t use_class, int bucket, bool reused,
                         uint32_t blocks) noexcept {
  auto of = terms(traits, use_class);
  auto at = static_cast<size_t>(bucket);
  float logit = 0;
  for (const Weight* weight : of) logit += weight->sum[at];
  const float hazard = logistic(logit);
  // Blocks of one request come and go together, so they tell less than as many of others.
  const float gradient = (hazard - (reused ? 1.0F : 0.0F)) * std::sqrt(std::sqrt(float(blocks)));
  const size_t group = at / kGroup, begin = group * kGroup;
  const size_t end = std::min<size_t>(begin + kGroup, kBuckets);
  auto step = [gradient](float& squares) {
    squares = squares * kMemory + gradient * gradient;
    return kRate * gradient / std::sqrt(squares + kFirstGradient);
  };
  for (Weight* weight : of) {
    const float of_all = step(weight->of_all), of_group = step(weight->of_group[group]);
    for (float& sum : weight->sum) sum -= of_all;
    for (size_t b = begin; b < end; ++b) weight->sum[b] -= of_group;
    weight->sum[at] -= step(weight->of_bucket[at]);
  }
  return hazard;
}

void HazardModel::learn_output(const Traits& traits) noexcept {
  auto follow = [](Row& average, const Row& value) {
    for (size_t b = 0; b < kBuckets; ++b) average[b] += kOutputRate * (value[b] - average[b]);
  };
  follow(weights_->output[0].sum, weights_->output[traits.output].sum);
  auto& of_kind = weights_->kind_output[traits.kind];
  follow(of_kind[0].sum, of_kind[traits.output].sum);
}

HazardModel::Ranks HazardModel::ranks(const Traits& traits, size_t use_class,
                                      int bucket) const noexcept {
  Row hazards{};
  for (const Weight* weight : terms(traits, use_class)) {
    for (size_t b = 0; b < kBuckets; ++b) hazards[b] += weight->sum[b];
  }
  for (float& hazard : hazards) hazard = logistic(hazard);
  auto index = [&](size_t from) {
    float left = 1, time = 0, best = 0;
    for (size_t b = from; b < kBuckets; ++b) {
      auto seconds = static_cast<float>(kEdges[b + 1] - kEdges[b]) * 1e-6F;
      time += left * seconds * (1 - hazards[b] / 2);
      left *= 1 - hazards[b];
      best = std::max(best, (1 - left) / time);
    }
    return best;
  };
  auto from = static_cast<size_t>(bucket);
  return {index(from), index(std::min<size_t>(from + 1, kBuckets - 1))};
}

}  // namespace kvcore
