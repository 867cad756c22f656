#pragma once

#include <chrono>
#include <condition_variable>
#include <cstdint>
#include <memory>
#include <mutex>
#include <vector>

#include "common/home.h"
#include "copy/host_copy.h"
#include "copy/transfer_plan.h"

namespace kvcore {

// A copy that a pool has under way: layer after layer, each cut in parts of about equal bytes.
// The memory of its plan is the copy's until it is done. Thread safe.
class CopyJob {
 public:
  using Clock = std::chrono::steady_clock;

  CopyJob(std::shared_ptr<const TransferPlan> plan, Direction direction, uint32_t threads);

  // Whether all is copied or given up, and no thread touches the memory any more.
  bool is_done() const;
  // Blocks to that, until then at most; whether it came to that.
  bool wait(Clock::time_point until) const;
  // The same for the bytes of one layer. False as well when they were given up.
  bool wait_layer(uint32_t layer, Clock::time_point until) const;
  // Gives up what no thread has begun.
  void cancel();
  // Whether it is done and something was given up.
  bool has_failed() const;

  uint32_t num_layers() const noexcept { return plan_->layout().num_layers(); }

  // For the pool. False: there is no part left to begin.
  bool begin_part(uint64_t& part);
  void copy_part(const HostPath& path, uint64_t part);

 private:
  uint64_t unit_of(uint64_t run_bytes) const noexcept;
  bool is_over() const noexcept { return num_running_ == 0 && next_part_ == num_parts_; }

  const std::shared_ptr<const TransferPlan> plan_;
  const Direction direction_;
  const uint64_t layer_bytes_;
  const uint64_t parts_a_layer_;
  const uint64_t num_parts_;
  mutable std::mutex mutex_;
  mutable std::condition_variable changed_;
  uint64_t next_part_ = 0;
  uint32_t num_running_ = 0;
  bool failed_ = false;
  std::vector<uint64_t> parts_left_;  // of each layer
};

// Copies on the calling thread: no other has to wake up for it, which takes up to 0.1 ms. Throws
// what host_path() throws.
void copy_here(std::shared_ptr<const TransferPlan> plan, Direction direction);

// Threads that copy. Jobs begin in the order in which they came, and all threads work on the first
// that has parts left. Dying gives up what has not begun; in a forked child, which has no such
// threads, it does nothing. Thread safe.
class CopyPool {
 public:
  // Throws std::invalid_argument naming `threads`, std::system_error where there can not be so many,
  // or what host_path() throws.
  explicit CopyPool(uint32_t threads);
  ~CopyPool();
  CopyPool(const CopyPool&) = delete;
  CopyPool& operator=(const CopyPool&) = delete;

  // Throws std::runtime_error in a forked child.
  std::shared_ptr<CopyJob> start(std::shared_ptr<const TransferPlan> plan, Direction direction);

  uint32_t num_threads() const noexcept;

 private:
  void work();
  void end();

  struct State;

  const Home home_;
  const HostPath& path_;
  std::unique_ptr<State> state_;
};

}  // namespace kvcore
