#include "copy/copy_pool.h"

#include <algorithm>
#include <deque>
#include <stdexcept>
#include <string>
#include <thread>
#include <utility>

namespace kvcore {
namespace {

constexpr uint32_t kMaxThreads = 64;
// Small enough that threads end together, large enough that taking one costs nothing.
constexpr uint64_t kMostPartBytes = 4 << 20;
constexpr uint64_t kLeastPartBytes = 64 << 10;
constexpr uint64_t kPartsAThread = 4;
// From here on stores go past the caches. Measured on Zen 4, one thread, GB/s of cached and
// streamed: into memory that the caches have 15 and 12 at 512 KiB, 19 and 18 at 1 MiB, 16 and 20 at
// 2 MiB; into other memory 7 and 11, 8 and 13, 11 and 17.
constexpr uint64_t kStreamedBytes = 1 << 20;
constexpr uint64_t kLine = 64;

uint64_t parts_of(uint64_t bytes, uint32_t threads) {
  if (bytes == 0) return 0;
  const uint64_t share = bytes / (threads * kPartsAThread);
  const uint64_t part = std::clamp(share, kLeastPartBytes, kMostPartBytes);
  return (bytes + part - 1) / part;
}

}  // namespace

CopyJob::CopyJob(std::shared_ptr<const TransferPlan> plan, Direction direction, uint32_t threads)
    : plan_(std::move(plan)),
      direction_(direction),
      layer_bytes_(plan_->bytes() / plan_->layout().num_layers()),
      parts_a_layer_(parts_of(layer_bytes_, threads)),
      num_parts_(parts_a_layer_ * plan_->layout().num_layers()),
      parts_left_(plan_->layout().num_layers(), parts_a_layer_) {}

bool CopyJob::is_done() const {
  std::lock_guard lock(mutex_);
  return is_over();
}

bool CopyJob::wait(Clock::time_point until) const {
  std::unique_lock lock(mutex_);
  return changed_.wait_until(lock, until, [this] { return is_over(); });
}

bool CopyJob::wait_layer(uint32_t layer, Clock::time_point until) const {
  std::unique_lock lock(mutex_);
  changed_.wait_until(lock, until, [&] { return parts_left_[layer] == 0 || is_over(); });
  return parts_left_[layer] == 0;
}

void CopyJob::cancel() {
  std::lock_guard lock(mutex_);
  if (next_part_ == num_parts_) return;
  next_part_ = num_parts_;
  failed_ = true;
  if (is_over()) changed_.notify_all();
}

bool CopyJob::has_failed() const {
  std::lock_guard lock(mutex_);
  return is_over() && failed_;
}

bool CopyJob::begin_part(uint64_t& part) {
  std::lock_guard lock(mutex_);
  if (next_part_ == num_parts_) return false;
  part = next_part_++;
  ++num_running_;
  return true;
}

// Parts end, but for the last, where as many runs do as are copied side by side; or where lines do,
// if that were too coarse. What is converted is not cut inside a run.
uint64_t CopyJob::unit_of(uint64_t run_bytes) const noexcept {
  if (plan_->codec() != nullptr) return run_bytes;
  const uint64_t together = kStreams * run_bytes;
  return together <= layer_bytes_ / parts_a_layer_ ? together : kLine;
}

void CopyJob::copy_part(const HostPath& path, uint64_t part) {
  const auto layer = static_cast<uint32_t>(part / parts_a_layer_);
  const uint64_t number = part % parts_a_layer_;
  const CopyView view = plan_->view(layer, 1);
  const RunCodec* codec = plan_->codec();
  const uint64_t unit = unit_of(view.run_bytes);
  auto border = [&](uint64_t i) {
    return i == parts_a_layer_ ? layer_bytes_ : layer_bytes_ * i / parts_a_layer_ / unit * unit;
  };
  if (codec == nullptr) {
    copy_on_host(path, view, direction_, border(number), border(number + 1),
                 plan_->bytes() >= kStreamedBytes);
  } else {
    convert_on_host(*codec, view, direction_, border(number) / view.run_bytes,
                    border(number + 1) / view.run_bytes);
  }
  std::lock_guard lock(mutex_);
  --num_running_;
  if (--parts_left_[layer] == 0 || is_over()) changed_.notify_all();
}

void copy_here(std::shared_ptr<const TransferPlan> plan, Direction direction) {
  CopyJob job(std::move(plan), direction, 1);
  uint64_t part;
  while (job.begin_part(part)) job.copy_part(host_path(), part);
}

struct CopyPool::State {
  std::mutex mutex;
  std::condition_variable wanted;
  std::deque<std::shared_ptr<CopyJob>> jobs;
  bool ends = false;
  std::vector<std::thread> threads;
};

CopyPool::CopyPool(uint32_t threads) : path_(host_path()), state_(new State) {
  if (threads < 1 || threads > kMaxThreads) {
    throw std::invalid_argument("threads must be from 1 to " + std::to_string(kMaxThreads) +
                                ", got " + std::to_string(threads));
  }
  try {
    for (uint32_t i = 0; i < threads; ++i) state_->threads.emplace_back([this] { work(); });
  } catch (...) {
    end();
    throw;
  }
}

CopyPool::~CopyPool() {
  if (!home_.is_here()) {
    (void)state_.release();  // kept for good: its threads are the parent's
    return;
  }
  end();
}

void CopyPool::end() {
  {
    std::lock_guard lock(state_->mutex);
    state_->ends = true;
    for (const auto& job : state_->jobs) job->cancel();
  }
  state_->wanted.notify_all();
  for (std::thread& thread : state_->threads) thread.join();
}

uint32_t CopyPool::num_threads() const noexcept {
  return static_cast<uint32_t>(state_->threads.size());
}

std::shared_ptr<CopyJob> CopyPool::start(std::shared_ptr<const TransferPlan> plan,
                                         Direction direction) {
  if (!home_.is_here()) {
    throw std::runtime_error("a pool of another process has no threads here; make one after a fork");
  }
  auto job = std::make_shared<CopyJob>(std::move(plan), direction, num_threads());
  {
    std::lock_guard lock(state_->mutex);
    state_->jobs.push_back(job);
  }
  state_->wanted.notify_all();
  return job;
}

void CopyPool::work() {
  auto& jobs = state_->jobs;
  std::unique_lock lock(state_->mutex);
  for (;;) {
    state_->wanted.wait(lock, [&] { return state_->ends || !jobs.empty(); });
    if (jobs.empty()) return;
    const std::shared_ptr<CopyJob> job = jobs.front();
    uint64_t part;
    if (!job->begin_part(part)) {
      if (!jobs.empty() && jobs.front() == job) jobs.pop_front();
      continue;
    }
    lock.unlock();
    job->copy_part(path_, part);
    lock.lock();
  }
}

}  // namespace kvcore
