#pragma once

#include <cstdint>
#include <cstring>
#include <random>
#include <vector>

#include "common/types.h"

namespace kvcore::testing {

// A chain of hashes that stands for `tokens`: equal prefixes give equal hashes.
inline std::vector<BlockHash> chain_of(const std::vector<uint32_t>& tokens) {
  std::vector<BlockHash> hashes;
  uint64_t low = 1, high = 2;
  for (uint32_t token : tokens) {
    low = (low ^ token) * 0x9E3779B97F4A7C15u + high;
    high = (high ^ low >> 29) * 0xBF58476D1CE4E5B9u + token;
    BlockHash hash;
    std::memcpy(hash.bytes.data(), &low, 8);
    std::memcpy(hash.bytes.data() + 8, &high, 8);
    hashes.push_back(hash);
  }
  return hashes;
}

// Tokens that mostly agree, so that chains share prefixes, part and stop anywhere.
inline std::vector<uint32_t> random_tokens(std::mt19937_64& random, size_t max_blocks) {
  std::vector<uint32_t> tokens(random() % (max_blocks + 1));
  for (uint32_t& token : tokens) token = random() % 16 == 0 ? 1 + random() % 3 : 0;
  return tokens;
}

}  // namespace kvcore::testing
