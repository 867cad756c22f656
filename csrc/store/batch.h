#pragma once

#include <chrono>
#include <condition_variable>
#include <cstdint>
#include <mutex>
#include <vector>

namespace kvcore {

// What became of one key of a batch.
enum class Outcome : uint8_t {
  kPending,
  kDone,      // found and verified, written, or removed
  kMiss,      // not there; for a value to write: no room
  kCorrupt,   // there, but not what was written: counted, never handed out
  kTimedOut,  // the deadline came first
  kFailed,    // the store could not
  kCancelled,
};

// A batched call under way, shared by the caller, who waits, and the store, which works.
//
// A key's outcome is decided once: what comes after its deadline or after cancel() is dropped. The
// memory of the batch belongs to the store until the batch is quiet, which may be long after the
// deadline when a device hangs: whoever lends memory takes it back only then.
//
// Thread safe; a leaf in the order of locks.
class Batch {
 public:
  using Clock = std::chrono::steady_clock;

  explicit Batch(size_t num_keys, Clock::time_point deadline);

  // For the caller.
  // Waits until every key is decided, to the deadline at most. Then none is pending.
  void wait();
  void cancel();
  bool is_quiet() const;
  bool wait_quiet(Clock::time_point until) const;
  std::vector<Outcome> outcomes();  // none is pending once the deadline is over

  // For the store.
  // Whether there is still something to do for a key; after that the store may use its memory.
  bool is_wanted(size_t key) const;
  // Answers what stands, which may be an earlier decision.
  Outcome decide(size_t key, Outcome outcome);
  // The store has done with a key's memory, once for each key, after decide().
  void let_go(size_t count = 1);

  size_t num_keys() const noexcept { return num_keys_; }
  Clock::time_point deadline() const noexcept { return deadline_; }

 private:
  void decide_pending(Outcome outcome);  // under the lock

  const size_t num_keys_;
  const Clock::time_point deadline_;
  mutable std::mutex mutex_;
  mutable std::condition_variable changed_;
  std::vector<Outcome> outcomes_;
  size_t num_pending_;
  size_t num_held_;  // keys whose memory the store has
};

}  // namespace kvcore
