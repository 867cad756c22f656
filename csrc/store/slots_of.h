#pragma once

#include <algorithm>
#include <cstdint>
#include <stdexcept>
#include <string>

namespace kvcore {

// How many slots fit. Throws std::invalid_argument naming `max_bytes` when none does.
inline uint32_t slots_of(uint64_t slot_bytes, uint64_t max_bytes) {
  if (max_bytes < slot_bytes) {
    throw std::invalid_argument("max_bytes must be " + std::to_string(slot_bytes) +
                                " at least, which one value takes, got " +
                                std::to_string(max_bytes));
  }
  return static_cast<uint32_t>(std::min<uint64_t>(max_bytes / slot_bytes, uint64_t{1} << 30));
}

}  // namespace kvcore
