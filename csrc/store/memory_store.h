#pragma once

#include <memory>
#include <vector>

#include "store/slot_store.h"

namespace kvcore {

// A store in this process: the simplest there is, whole all the same. Copies on a thread of its
// own. Owns the values; takes their memory as it needs it.
class MemoryStore final : public SlotStore {
 public:
  // Throws std::invalid_argument naming `max_bytes` when no value fits.
  MemoryStore(const Fingerprint& fingerprint, uint64_t value_bytes, uint64_t max_bytes);
  ~MemoryStore() override { close(); }

 private:
  Outcome work(const SlotTask& task) noexcept;

  std::vector<std::unique_ptr<std::byte[]>> slots_;  // envelope and value; of whoever took the slot
};

}  // namespace kvcore
