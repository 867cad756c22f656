#pragma once

#include <cstdint>
#include <vector>

#include "sim/requests.h"

namespace kvcore {

// The exact LRU curve in one pass: element c is the number of blocks that an LRU prefix cache of c
// blocks finds, over all requests, for c from 0 to the number of unique blocks.
//
// Each request's blocks are touched deepest first, so a block is never more recent than those
// before it: its stack distance grows along the chain, and the blocks within c are the contiguous
// prefix that a cache of c blocks holds.
//
// All blocks that one request was the last to touch are together in the stack and an unbroken piece
// of its chain, so the tree of counts is over requests, not blocks: O(log requests) for each piece
// of a request that was last touched together, and one pass over the blocks.
//
// R. L. Mattson et al., "Evaluation techniques for storage hierarchies", 1970.
std::vector<uint64_t> lru_hit_blocks(const Requests& requests);

}  // namespace kvcore
