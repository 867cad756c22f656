#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "store/remote/placement.h"

namespace kvcore {

// Where AIBrix's clients would put a key: their watcher gives ranges of slots to servers, and the
// slot of a key is FarmHash64(key) modulo the number of slots in the list, sorted. A slot that two
// servers have is there twice, a slot that nobody has is not there; both as AIBrix has it. The
// other servers of a chunk are those that come next along the slots.
//
// In one thing it is better than AIBrix: the watcher writes of a server that has the first and the
// last slot one range whose first is above its last, and forgets the rest of its slots. AIBrix's
// clients then use that server for nothing. Here it gets the slots that nobody else has.
//
// FarmHash64 is what the package `cityhash` calls so, which AIBrix uses: util::Hash64, compiled for
// SSE4.2, so farmhashte::Hash64. That is farmhashxo::Hash64 for keys below 512 bytes, with SSE4.2
// or without; Fingerprint64 is another function.
class AibrixSlots final : public Placement {
 public:
  static constexpr uint32_t kRingSlots = 4096;  // of the watcher, unless it is told otherwise
  static constexpr uint32_t kMostSlots = 1 << 20;

  // Both slots are of the range; where the first is above the last, it goes round.
  struct Range {
    uint32_t server = 0;
    uint32_t first = 0;
    uint32_t last = 0;
  };

  // Throws std::invalid_argument naming what is wrong with the ranges.
  AibrixSlots(std::span<const Range> ranges, uint32_t num_servers);

  size_t num_slots() const noexcept { return run_of_slot_.size(); }
  size_t place(const BlockHash& name, std::string_view key,
               std::span<uint32_t> servers) const noexcept override;

 private:
  std::vector<uint32_t> run_of_slot_;    // by place in the sorted list
  std::vector<uint32_t> server_of_run_;  // of slots that follow each other; two in a row differ
};

}  // namespace kvcore
