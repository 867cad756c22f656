#pragma once

#include <algorithm>
#include <bit>
#include <cstdint>
#include <vector>

namespace kvcore {

// Weights by stack distance. Distances below 256 are kept apart, larger ones in 128 buckets for
// each doubling, so within 0.8 %. Not thread safe.
class HitHistogram {
 public:
  void add(uint64_t distance, double weight) {
    const size_t bucket = bucket_of(distance);
    if (bucket >= weights_.size()) weights_.resize(bucket + 1);
    weights_[bucket] += weight;
  }
  // The weight of all distances up to `limit`; a bucket's is spread evenly over it.
  double sum_to(uint64_t limit) const noexcept {
    const size_t last = bucket_of(limit);
    double sum = 0;
    for (size_t i = 0; i < std::min(last, weights_.size()); ++i) sum += weights_[i];
    if (last >= weights_.size()) return sum;
    const uint64_t low = limit >> shift_of(limit) << shift_of(limit);
    const double share =
        static_cast<double>(limit - low + 1) / static_cast<double>(uint64_t{1} << shift_of(limit));
    return sum + weights_[last] * share;
  }
  size_t bytes() const noexcept { return weights_.capacity() * sizeof(double); }

 private:
  static constexpr int kBits = 8;

  static int shift_of(uint64_t distance) noexcept {
    return std::max(0, static_cast<int>(std::bit_width(distance)) - kBits);
  }
  static size_t bucket_of(uint64_t distance) noexcept {
    const int shift = shift_of(distance);
    return (static_cast<size_t>(shift) << (kBits - 1)) + static_cast<size_t>(distance >> shift);
  }

  std::vector<double> weights_;
};

}  // namespace kvcore
