#pragma once

#include <cstdint>
#include <vector>

#include "sim/requests.h"

namespace kvcore {

struct OptimalCounts {
  std::vector<uint32_t> hit_blocks;  // of the cached prefix of each request
  uint64_t evictions = 0;            // blocks that were kept and left to make room
};

// What the best possible prefix cache would find, knowing the future: Belady with bypass. After
// each request, of the blocks that were cached or came, those that are asked for soonest stay;
// of equal ones the deepest leaves first.
//
// A block is never asked for later than those below it, so what stays is closed under prefixes: the
// blocks that hit are the contiguous prefix, and since no cache of single blocks can have more hits
// than Belady's, the count is exact.
//
// The cached blocks whose next use is request r are an unbroken piece of r's chain that ends where
// its cached prefix ends. So a number a request is all the state: it loses from its deep end, and
// when r comes it is r's hits for good. Building costs a pass over the blocks; a run costs O(log
// requests) for each piece of a request with one next use, whatever its length.
//
// L. A. Belady, "A study of replacement algorithms for a virtual-storage computer", 1966.
// Immutable, so safe to share between threads.
class OptimalReplay {
 public:
  explicit OptimalReplay(const Requests& requests);

  OptimalCounts run(uint64_t num_blocks) const;

 private:
  struct Piece {
    uint32_t next_use;  // a request, or kNever
    uint32_t blocks;
  };

  std::vector<Piece> pieces_;         // request by request, each from its deepest block
  std::vector<uint32_t> num_pieces_;  // of each request
};

}  // namespace kvcore
