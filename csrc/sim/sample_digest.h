#pragma once

#include <cmath>
#include <cstdint>
#include <limits>

#include "common/types.h"

namespace kvcore {

// A digest that tells whether a block is in a sample: of the blocks whose digest is at most
// threshold_of(rate), there are so many, and a lower rate takes some of them. Immutable.
class SampleDigest {
 public:
  explicit SampleDigest(uint64_t seed) noexcept : seed_(mixed(seed + 0x9E3779B97F4A7C15u)) {}

  uint64_t operator()(const BlockHash& hash) const noexcept { return mixed(hash.low() ^ seed_); }

 private:
  // The finaliser of MurmurHash3.
  static constexpr uint64_t mixed(uint64_t value) noexcept {
    value = (value ^ value >> 33) * 0xFF51AFD7ED558CCDu;
    value = (value ^ value >> 33) * 0xC4CEB9FE1A85EC53u;
    return value ^ value >> 33;
  }

  const uint64_t seed_;
};

inline uint64_t threshold_of(double rate) noexcept {
  return rate < 1 ? static_cast<uint64_t>(std::ldexp(rate, 64))
                  : std::numeric_limits<uint64_t>::max();
}

}  // namespace kvcore
