#pragma once

#include <bit>
#include <span>
#include <vector>

#include "common/types.h"

namespace kvcore {

// Which blocks were asked for lately, so that a full cache lets in only what comes a second time.
//
// A block is remembered by 32 bits of its hash at a place that the others name; who comes to the
// same place later takes it. So what is forgotten is random, a block that was never asked for is
// taken for a known one about once in 2^32, and both cost a wrong guess, never a wrong block. Owns
// its places: 4 to 8 a block of the cache, 4 bytes each. O(1) a block. Not thread safe.
class AskedBefore {
 public:
  explicit AskedBefore(uint32_t num_blocks) : places_(std::bit_ceil(size_t{num_blocks} * 4)) {}

  // How many of these, from the first on, were asked for before; from now on all of them are.
  size_t ask(std::span<const BlockHash> hashes) noexcept {
    size_t known = 0;
    for (const BlockHash& hash : hashes) {
      uint32_t& place = places_[hash.low() & (places_.size() - 1)];
      auto print = static_cast<uint32_t>(hash.high()) | 1;  // 0: nobody's
      known += known == static_cast<size_t>(&hash - hashes.data()) && place == print;
      place = print;
    }
    return known;
  }

  size_t bytes() const noexcept { return places_.size() * sizeof(uint32_t); }

 private:
  std::vector<uint32_t> places_;
};

}  // namespace kvcore
