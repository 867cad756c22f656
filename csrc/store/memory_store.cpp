#include "store/memory_store.h"

#include <cstring>
#include <new>

#include "store/slots_of.h"
#include "store/thread_engine.h"

namespace kvcore {

MemoryStore::MemoryStore(const Fingerprint& fingerprint, uint64_t value_bytes, uint64_t max_bytes)
    : SlotStore(fingerprint, value_bytes, kEnvelopeBytes + value_bytes,
                slots_of(kEnvelopeBytes + value_bytes, max_bytes)),
      slots_(index().num_slots()) {
  open(std::make_unique<ThreadEngine>(
      *this, 1, [this](uint32_t, const SlotTask& task) { return work(task); }));
}

Outcome MemoryStore::work(const SlotTask& task) noexcept {
  std::unique_ptr<std::byte[]>& slot = slots_[task.slot];
  const std::span memory(task.memory, value_bytes());
  switch (task.kind) {
    case SlotTask::Kind::kRead: {
      std::memcpy(memory.data(), slot.get() + kEnvelopeBytes, memory.size());
      const ConstEnvelopeSpan envelope(slot.get(), kEnvelopeBytes);
      return verify(envelope, fingerprint(), task.hash, memory) ? Outcome::kDone
                                                                : Outcome::kCorrupt;
    }
    case SlotTask::Kind::kWrite:
      if (slot == nullptr) {
        slot.reset(new (std::nothrow) std::byte[kEnvelopeBytes + memory.size()]);
        if (slot == nullptr) return Outcome::kFailed;
      }
      std::memcpy(slot.get() + kEnvelopeBytes, memory.data(), memory.size());
      seal(EnvelopeSpan(slot.get(), kEnvelopeBytes), fingerprint(), task.hash, memory);
      return Outcome::kDone;
    case SlotTask::Kind::kWipe:
      slot.reset();
      return Outcome::kDone;
  }
  return Outcome::kFailed;
}

}  // namespace kvcore
