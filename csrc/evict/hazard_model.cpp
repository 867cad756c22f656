#include "evict/hazard_model.h"

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstring>
#include <iterator>
#include <tuple>

namespace kvcore {
namespace {

constexpr double kGrowth = 1.6;
constexpr float kRate = 0.05F;
constexpr float kMemory = 0.9999F;   // of squared gradients, a step
constexpr float kFirstGradient = 1;  // as if so much had been seen
constexpr float kOutputRate = 0.02F;
constexpr float kPriorHazard = 0.13F;  // 1 - 1.6^-0.3: of n blocks n / age^0.3 are left
constexpr float kFirstPrior = 0.25F;   // the first bucket is longer than the second

// Four numbers in a vector register, as gcc and clang have it.
using Float4 = float __attribute__((vector_size(16)));
using Int4 = int32_t __attribute__((vector_size(16)));

Float4 load(const float* values) noexcept {
  Float4 vector;
  std::memcpy(&vector, values, sizeof(vector));
  return vector;
}

void store(float* values, Float4 vector) noexcept { std::memcpy(values, &vector, sizeof(vector)); }

// 1 / (1 + exp(-x)), to 3e-7, by arithmetic alone, so that every machine gets the same.
Float4 logistic(Float4 x) noexcept {
  constexpr float kRound = 12582912;  // 1.5 * 2^23: what is added to it loses its fraction
  const Float4 zero{};
  Float4 y = x < zero - 30 ? zero - 30 : x;
  y = (y > zero + 30 ? zero + 30 : y) * -1.44269504F;
  const Float4 whole = (y + kRound) - kRound;
  const Float4 part = (y - whole) * 0.693147181F;
  Float4 power = zero + 0.00138888889F;
  for (float term : {0.00833333333F, 0.0416666667F, 0.166666667F, 0.5F, 1.0F, 1.0F}) {
    power = power * part + term;
  }
  const Int4 exponent = (__builtin_convertvector(whole, Int4) + 127) << 23;
  return 1 / (1 + power * std::bit_cast<Float4>(exponent));
}

std::array<int64_t, HazardModel::kBuckets + 1> make_edges() {
  std::array<int64_t, HazardModel::kBuckets + 1> edges{};
  double edge = 1e6;
  for (size_t i = 1; i < edges.size(); ++i, edge *= kGrowth) edges[i] = std::llround(edge);
  return edges;
}

std::array<float, HazardModel::kBuckets> make_seconds() {
  std::array<float, HazardModel::kBuckets> seconds{};
  for (int b = 0; b < HazardModel::kBuckets; ++b) {
    const int64_t length_us = HazardModel::edge_us(b + 1) - HazardModel::edge_us(b);
    seconds[static_cast<size_t>(b)] = static_cast<float>(length_us) * 1e-6F;
  }
  return seconds;
}

}  // namespace

const std::array<int64_t, HazardModel::kBuckets + 1> HazardModel::kEdges = make_edges();
const std::array<float, HazardModel::kBuckets> HazardModel::kSeconds = make_seconds();

HazardModel::HazardModel() : weights_(std::make_unique<Weights>()) {
  auto logit = [](float hazard) { return std::log(hazard / (1 - hazard)); };
  weights_->base.value[kOfAll] = logit(kPriorHazard);
  weights_->base.value[0] = logit(kFirstPrior) - logit(kPriorHazard);
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
  const auto of = terms(traits, use_class);
  const auto at = static_cast<size_t>(bucket);
  const std::array<size_t, 3> places{at, kOfGroup + at / kGroup, kOfAll};
  std::array<float, kTerms * places.size()> values, squares;
  for (size_t i = 0; i < values.size(); ++i) {
    values[i] = of[i / places.size()]->value[places[i % places.size()]];
    squares[i] = of[i / places.size()]->squares[places[i % places.size()]];
  }
  float logit = 0;
  for (float value : values) logit += value;
  const float hazard = logistic(Float4{logit})[0];
  // Blocks of one request come and go together, so they tell less than as many of others.
  const float weight = std::sqrt(std::sqrt(static_cast<float>(blocks)));
  const float gradient = (hazard - (reused ? 1.0F : 0.0F)) * weight;
  for (size_t i = 0; i < values.size(); ++i) {
    squares[i] = squares[i] * kMemory + gradient * gradient;
    values[i] -= kRate * gradient / std::sqrt(squares[i] + kFirstGradient);
  }
  for (size_t i = 0; i < values.size(); ++i) {
    of[i / places.size()]->value[places[i % places.size()]] = values[i];
    of[i / places.size()]->squares[places[i % places.size()]] = squares[i];
  }
  return hazard;
}

void HazardModel::learn_output(const Traits& traits) noexcept {
  auto follow = [](Row& average, const Row& value) {
    for (size_t i = 0; i < value.size(); ++i) average[i] += kOutputRate * (value[i] - average[i]);
  };
  follow(weights_->output[0].value, weights_->output[traits.output].value);
  auto& of_kind = weights_->kind_output[traits.kind];
  follow(of_kind[0].value, of_kind[traits.output].value);
}

HazardModel::Ranks HazardModel::ranks(const Traits& traits, size_t use_class,
                                      int bucket) const noexcept {
  Float4 vectors[std::tuple_size_v<Row> / 4]{};
  for (const Weight* weight : terms(traits, use_class)) {
    for (size_t i = 0; i < std::size(vectors); ++i) vectors[i] += load(&weight->value[4 * i]);
  }
  Row hazards;
  for (size_t i = 0; i < std::size(vectors); ++i) store(&hazards[4 * i], vectors[i]);
  for (size_t b = 0; b < kBuckets; ++b) {
    hazards[b] += hazards[kOfGroup + b / kGroup] + hazards[kOfAll];
  }
  for (size_t i = 0; i < kBuckets; i += 4) store(&hazards[i], logistic(load(&hazards[i])));
  auto index = [&](size_t from) {
    float left = 1, time = 0, best_chance = 0, best_time = 1;
    for (size_t b = from; b < kBuckets; ++b) {
      time += left * kSeconds[b] * (1 - hazards[b] / 2);
      left *= 1 - hazards[b];
      if ((1 - left) * best_time > best_chance * time) {
        best_chance = 1 - left;
        best_time = time;
      }
    }
    return best_chance / best_time;
  };
  const auto from = static_cast<size_t>(bucket);
  return {index(from), index(std::min<size_t>(from + 1, kBuckets - 1))};
}

}  // namespace kvcore
