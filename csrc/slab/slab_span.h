#pragma once

#include <cstdint>

namespace kvcore {

// Memory cut into equal blocks, lent by its owner.
struct SlabSpan {
  uint64_t data = 0;
  uint64_t block_bytes = 0;  // from one block to the next
  uint32_t num_blocks = 0;
};

}  // namespace kvcore
