#include "store/batch.h"

#include <algorithm>

#include "common/check.h"

namespace kvcore {

Batch::Batch(size_t num_keys, Clock::time_point deadline)
    : num_keys_(num_keys),
      deadline_(deadline),
      outcomes_(num_keys, Outcome::kPending),
      num_pending_(num_keys),
      num_held_(num_keys) {}

void Batch::wait() {
  std::unique_lock lock(mutex_);
  changed_.wait_until(lock, deadline_, [this] { return num_pending_ == 0; });
  decide_pending(Outcome::kTimedOut);
}

void Batch::cancel() {
  std::lock_guard lock(mutex_);
  decide_pending(Outcome::kCancelled);
}

bool Batch::is_quiet() const {
  std::lock_guard lock(mutex_);
  return num_held_ == 0;
}

bool Batch::wait_quiet(Clock::time_point until) const {
  std::unique_lock lock(mutex_);
  return changed_.wait_until(lock, until, [this] { return num_held_ == 0; });
}

std::vector<Outcome> Batch::outcomes() {
  std::lock_guard lock(mutex_);
  if (Clock::now() >= deadline_) decide_pending(Outcome::kTimedOut);
  return outcomes_;
}

bool Batch::is_wanted(size_t key) const {
  if (Clock::now() >= deadline_) return false;
  std::lock_guard lock(mutex_);
  return outcomes_[key] == Outcome::kPending;
}

Outcome Batch::decide(size_t key, Outcome outcome) {
  const bool late = Clock::now() >= deadline_;
  std::lock_guard lock(mutex_);
  if (outcomes_[key] == Outcome::kPending) {
    outcomes_[key] = late ? Outcome::kTimedOut : outcome;
    if (--num_pending_ == 0) changed_.notify_all();
  }
  return outcomes_[key];
}

void Batch::let_go(size_t count) {
  std::lock_guard lock(mutex_);
  KV_CHECK(count <= num_held_);
  num_held_ -= count;
  if (num_held_ == 0) changed_.notify_all();
}

void Batch::decide_pending(Outcome outcome) {
  if (num_pending_ == 0) return;
  std::ranges::replace(outcomes_, Outcome::kPending, outcome);
  num_pending_ = 0;
  changed_.notify_all();
}

}  // namespace kvcore
