#include "store/slot_store.h"

#include <utility>

#include "common/check.h"

namespace kvcore {

SlotStore::SlotStore(const Fingerprint& fingerprint, uint64_t value_bytes, uint64_t slot_bytes,
                     uint32_t num_slots)
    : fingerprint_(fingerprint),
      value_bytes_(value_bytes),
      slot_bytes_(slot_bytes),
      index_(num_slots) {}

SlotStore::~SlotStore() { KV_CHECK(engine_ == nullptr); }

void SlotStore::open(std::unique_ptr<SlotEngine> engine) noexcept { engine_ = std::move(engine); }

void SlotStore::close() {
  if (!home_.is_here()) {
    new std::shared_ptr(std::move(engine_));  // kept for good: its threads are the parent's
    return;
  }
  std::lock_guard closing(close_mutex_);
  if (engine_ == nullptr) return;
  {
    std::lock_guard lock(engine_mutex_);
    is_closing_ = true;
  }
  engine_->stop();
  {
    std::lock_guard lock(engine_mutex_);
    engine_.reset();
  }
  end();
}

std::shared_ptr<Batch> SlotStore::get_into(Keys keys,
                                           std::span<std::byte* const> destinations,
                                           Deadline deadline) {
  sweep();
  auto batch = std::make_shared<Batch>(keys.size(), deadline);
  const bool can_read = is_open();
  for (size_t key = 0; key < keys.size(); ++key) {
    std::optional<uint32_t> slot;
    {
      std::lock_guard lock(mutex_);
      ++stats_.gets;
      if (can_read) slot = index_.begin_read(keys[key]);
      if (!slot) count(batch->decide(key, Outcome::kMiss));
    }
    if (slot) {
      start({.kind = SlotTask::Kind::kRead,
             .slot = *slot,
             .hash = keys[key],
             .memory = destinations[key],
             .batch = batch,
             .key = key});
    } else {
      batch->let_go();
    }
  }
  return batch;
}

std::shared_ptr<Batch> SlotStore::put_from(Keys keys,
                                           std::span<const std::byte* const> sources,
                                           Deadline deadline) {
  sweep();
  auto batch = std::make_shared<Batch>(keys.size(), deadline);
  for (size_t key = 0; key < keys.size(); ++key) {
    std::optional<SlotIndex::Place> place;
    {
      std::lock_guard lock(mutex_);
      ++stats_.puts;
      const bool is_known = index_.is_known(keys[key]);
      if (!is_known) place = index_.begin_write(keys[key]);
      if (!place) batch->decide(key, is_known ? Outcome::kDone : Outcome::kMiss);
    }
    if (place) {
      start({.kind = SlotTask::Kind::kWrite,
             .is_used = place->is_used,
             .slot = place->slot,
             .hash = keys[key],
             .memory = const_cast<std::byte*>(sources[key]),
             .batch = batch,
             .key = key});
    } else {
      batch->let_go();
    }
  }
  return batch;
}

std::shared_ptr<Batch> SlotStore::contains(Keys keys, Deadline deadline) {
  auto batch = std::make_shared<Batch>(keys.size(), deadline);
  const bool can_read = is_open();
  std::lock_guard lock(mutex_);
  for (size_t key = 0; key < keys.size(); ++key) {
    const bool is_there = can_read && index_.contains(keys[key]);
    batch->decide(key, is_there ? Outcome::kDone : Outcome::kMiss);
  }
  batch->let_go(keys.size());
  return batch;
}

std::shared_ptr<Batch> SlotStore::remove(Keys keys, Deadline deadline) {
  auto batch = std::make_shared<Batch>(keys.size(), deadline);
  for (size_t key = 0; key < keys.size(); ++key) {
    std::optional<uint32_t> slot;
    {
      std::lock_guard lock(mutex_);
      const bool was_there = index_.contains(keys[key]);
      slot = index_.remove(keys[key]);
      if (!slot) batch->decide(key, was_there ? Outcome::kDone : Outcome::kMiss);
    }
    if (slot) {
      start({.kind = SlotTask::Kind::kWipe, .slot = *slot, .batch = batch, .key = key});
    } else {
      batch->let_go();
    }
  }
  return batch;
}

size_t SlotStore::match(Keys keys) const {
  sweep();
  if (!is_open()) return 0;
  std::lock_guard lock(mutex_);
  size_t matched = 0;
  while (matched < keys.size() && index_.contains(keys[matched])) ++matched;
  return matched;
}

StoreStats SlotStore::stats() const {
  std::lock_guard lock(mutex_);
  StoreStats stats = stats_;
  stats.num_values = index_.num_values();
  stats.used_bytes = index_.num_values() * slot_bytes_;
  stats.max_bytes = index_.num_slots() * slot_bytes_;
  stats.evictions = index_.evictions();
  return stats;
}

bool SlotStore::is_open() const {
  if (!home_.is_here()) return false;
  std::lock_guard lock(engine_mutex_);
  return engine_ != nullptr && !is_closing_;
}

void SlotStore::sweep() const {
  if (!home_.is_here()) return;
  std::shared_ptr<SlotEngine> engine;
  {
    std::lock_guard lock(engine_mutex_);
    if (!is_closing_) engine = engine_;
  }
  if (engine != nullptr) engine->sweep();
}

void SlotStore::start(SlotTask task) {
  if (home_.is_here()) {
    std::lock_guard lock(engine_mutex_);
    const bool is_open = engine_ != nullptr && !is_closing_;
    if (is_open || (engine_ != nullptr && task.batch == nullptr)) {
      engine_->start(std::move(task));
      return;
    }
  }
  finish(task, Outcome::kFailed);
}

// A value is there, or is not any more, before anybody hears of the outcome.
void SlotStore::finish(const SlotTask& task, Outcome outcome) {
  std::optional<uint32_t> removed;
  {
    std::lock_guard lock(mutex_);
    const bool is_done = outcome == Outcome::kDone;
    switch (task.kind) {
      case SlotTask::Kind::kRead:
        if (is_done) stats_.read_bytes += value_bytes_;
        if (outcome == Outcome::kCorrupt) {
          ++stats_.corrupt;
          index_.condemn(task.slot);
        }
        if (index_.end_read(task.slot)) removed = task.slot;
        break;
      case SlotTask::Kind::kWrite:
        if (is_done) {
          ++stats_.written;
          stats_.written_bytes += value_bytes_;
        }
        if (index_.end_write(task.slot, is_done)) removed = task.slot;
        break;
      case SlotTask::Kind::kWipe:
        index_.end_wipe(task.slot);
        break;
    }
    if (task.batch != nullptr) {
      const Outcome standing = task.batch->decide(task.key, outcome);
      const bool is_write = task.kind == SlotTask::Kind::kWrite;
      if (task.kind == SlotTask::Kind::kRead || (is_write && standing != Outcome::kDone)) {
        count(standing);
      }
    }
  }
  if (task.batch != nullptr) task.batch->let_go();
  if (removed) start({.kind = SlotTask::Kind::kWipe, .slot = *removed});
}

void SlotStore::count(Outcome outcome) noexcept {
  stats_.hits += outcome == Outcome::kDone;
  stats_.misses += outcome == Outcome::kMiss;
  stats_.timed_out += outcome == Outcome::kTimedOut;
  stats_.failed += outcome == Outcome::kFailed;
}

}  // namespace kvcore
