#pragma once

#include <cstdint>
#include <optional>
#include <unordered_map>
#include <vector>

#include "common/types.h"

namespace kvcore {

// Which value is in which of a store's equal slots, and which leaves for another: CLOCK, the second
// chance, since a store sees keys that were used and no chains. A slot that is read or written is
// taken, and is not given to another value before it is let go. O(1), amortised for eviction. Not
// thread safe.
class SlotIndex {
 public:
  explicit SlotIndex(uint32_t num_slots);

  // Whether a value is there, whole.
  bool contains(const BlockHash& hash) const noexcept;
  // Takes the slot of a value for reading, if it is there. Counts as a use.
  std::optional<uint32_t> begin_read(const BlockHash& hash) noexcept;
  // True: the value was removed meanwhile and this was its last reader, so the slot is to be wiped.
  bool end_read(uint32_t slot) noexcept;

  struct Place {
    uint32_t slot;
    bool is_used;  // it held another value before
  };
  bool is_known(const BlockHash& hash) const noexcept;  // there, or being written
  // Takes a slot for writing a value that is not known; evicts one if none is free. None: all slots
  // are taken.
  std::optional<Place> begin_write(const BlockHash& hash);
  // A whole value is there from now on; without it the slot is free again. True: the value was
  // removed meanwhile, so the slot is to be wiped.
  bool end_write(uint32_t slot, bool is_whole) noexcept;

  // The value is not there any more. Its slot, if it is to be wiped now; one that is read or
  // written is wiped after that.
  std::optional<uint32_t> remove(const BlockHash& hash) noexcept;
  // The same for what is in a slot that is being read, if it was not removed before: the hash may
  // name another slot by now.
  void condemn(uint32_t slot) noexcept;
  // What was removed is gone: the slot is free.
  void end_wipe(uint32_t slot) noexcept;

  // On a store's start: what was found in a slot. False: the value is there already.
  bool adopt(uint32_t slot, const BlockHash& hash);
  // After the last adopt(): all other slots are free.
  void end_adoption();

  uint32_t num_slots() const noexcept { return static_cast<uint32_t>(slots_.size()); }
  uint32_t num_values() const noexcept { return num_values_; }
  uint64_t evictions() const noexcept { return evictions_; }

 private:
  enum class State : uint8_t { kFree, kWriting, kThere, kRemoved };
  struct Slot {
    BlockHash hash;
    uint32_t readers = 0;
    State state = State::kFree;
    bool was_used = false;    // since the hand passed
    bool held_value = false;  // ever
  };
  // Hashes are digests: their bits are as good as those of a hash of them.
  struct Digest {
    size_t operator()(const BlockHash& hash) const noexcept { return hash.low(); }
  };

  std::optional<uint32_t> evict() noexcept;
  void free(uint32_t slot) noexcept;

  std::vector<Slot> slots_;
  std::unordered_map<BlockHash, uint32_t, Digest> by_hash_;
  std::vector<uint32_t> free_;
  uint32_t hand_ = 0;
  uint32_t num_values_ = 0;
  uint64_t evictions_ = 0;
};

}  // namespace kvcore
