#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "store/remote/placement.h"

namespace kvcore {

// Weighted rendezvous hashing (Thaler and Ravishankar 1998; weights after Schindelhauer and
// Schomaker 2005): every server draws a number for a chunk, from its name and the chunk's, and the
// smallest have it. Which server that is depends on no other: one that comes takes its share from
// all, one that goes leaves its own to all. O(servers) a chunk.
class Rendezvous final : public Placement {
 public:
  struct Server {
    std::string name;
    double weight = 1.0;
  };

  // Throws std::invalid_argument where names are the same or weights are not above 0.
  explicit Rendezvous(const std::vector<Server>& servers);

  size_t place(const BlockHash& name, std::string_view key,
               std::span<uint32_t> servers) const noexcept override;

 private:
  struct Entry {
    uint64_t seed;
    double inverse_weight;
  };
  std::vector<Entry> entries_;
};

}  // namespace kvcore
