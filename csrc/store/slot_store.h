#pragma once

#include <atomic>
#include <cstdint>
#include <memory>
#include <mutex>
#include <span>

#include "common/home.h"
#include "store/envelope.h"
#include "store/slot_index.h"
#include "store/store.h"

namespace kvcore {

// What an engine is to do with a slot.
struct SlotTask {
  enum class Kind : uint8_t { kRead, kWrite, kWipe };

  Kind kind = Kind::kRead;
  bool is_used = false;  // of a write: the slot held a value before
  uint32_t slot = 0;
  BlockHash hash{};
  std::byte* memory = nullptr;     // read only, for a write
  std::shared_ptr<Batch> batch{};  // none for a wipe that nobody waits for
  size_t key = 0;

  // Whether it is still to be done. What was removed must not come back, whoever waits.
  bool is_wanted() const { return kind == Kind::kWipe || batch->is_wanted(key); }
};

// Does tasks, in an order and on threads of its own, and tells a SlotStore what became of each: it
// calls finish() once for each task, never inside start().
class SlotEngine {
 public:
  virtual ~SlotEngine() = default;

  virtual void start(SlotTask task) = 0;
  // Finishes what nobody wants any more and no thread has begun, also where all threads hang.
  virtual void sweep() = 0;
  // Ends what is under way; of the rest only wipes are done, also those that are started meanwhile.
  // Returns when its threads are gone. Once.
  virtual void stop() = 0;
};

// A store of equal slots: who has which slot, the outcomes of batches, and the counts; an engine
// does the rest. What is in memory or on disk is the engine's affair. Whoever asks for something
// first takes back the memory of what is late and waits behind a device that hangs. Thread safe.
class SlotStore : public Store {
 public:
  SlotStore(const Fingerprint& fingerprint, uint64_t value_bytes, uint64_t slot_bytes,
            uint32_t num_slots);
  ~SlotStore() override;

  std::shared_ptr<Batch> get_into(Keys keys,
                                  std::span<std::byte* const> destinations,
                                  Deadline deadline) override;
  std::shared_ptr<Batch> put_from(Keys keys,
                                  std::span<const std::byte* const> sources,
                                  Deadline deadline) override;
  std::shared_ptr<Batch> contains(Keys keys, Deadline deadline) override;
  std::shared_ptr<Batch> remove(Keys keys, Deadline deadline) override;
  size_t match(Keys keys) const override;
  uint64_t value_bytes() const noexcept override { return value_bytes_; }
  StoreStats stats() const override;
  void close() final;

  const Fingerprint& fingerprint() const noexcept { return fingerprint_; }

  // For the engine.
  void finish(const SlotTask& task, Outcome outcome);

 protected:
  // Called by the constructor of who has the engine, and the slots that hold values already.
  void open(std::unique_ptr<SlotEngine> engine) noexcept;
  SlotIndex& index() noexcept { return index_; }  // before open()
  // Nothing is under way any more, nor will be.
  virtual void end() {}

 private:
  void start(SlotTask task);
  bool is_open() const;
  void sweep() const;
  void count(Outcome outcome) noexcept;

  const Fingerprint fingerprint_;
  const uint64_t value_bytes_;
  const uint64_t slot_bytes_;
  mutable std::mutex mutex_;  // of index_, stats_; a leaf but for batches
  SlotIndex index_;
  StoreStats stats_;
  std::mutex close_mutex_;  // held by who closes
  const Home home_{};
  mutable std::mutex engine_mutex_;  // of the following
  bool is_closing_ = false;
  std::shared_ptr<SlotEngine> engine_;
};

}  // namespace kvcore
