#include "store/slot_index.h"

#include "common/check.h"

namespace kvcore {

SlotIndex::SlotIndex(uint32_t num_slots) : slots_(num_slots) {
  free_.reserve(num_slots);
  end_adoption();
}

bool SlotIndex::contains(const BlockHash& hash) const noexcept {
  const auto found = by_hash_.find(hash);
  return found != by_hash_.end() && slots_[found->second].state == State::kThere;
}

bool SlotIndex::is_known(const BlockHash& hash) const noexcept { return by_hash_.contains(hash); }

std::optional<uint32_t> SlotIndex::begin_read(const BlockHash& hash) noexcept {
  const auto found = by_hash_.find(hash);
  if (found == by_hash_.end()) return std::nullopt;
  Slot& slot = slots_[found->second];
  if (slot.state != State::kThere) return std::nullopt;
  slot.was_used = true;
  ++slot.readers;
  return found->second;
}

bool SlotIndex::end_read(uint32_t number) noexcept {
  Slot& slot = slots_[number];
  KV_CHECK(slot.readers > 0);
  return --slot.readers == 0 && slot.state == State::kRemoved;
}

std::optional<SlotIndex::Place> SlotIndex::begin_write(const BlockHash& hash) {
  KV_CHECK(!by_hash_.contains(hash));
  std::optional<uint32_t> number;
  if (free_.empty()) {
    number = evict();
    if (!number) return std::nullopt;
  } else {
    number = free_.back();
    free_.pop_back();
  }
  Slot& slot = slots_[*number];
  slot.hash = hash;
  slot.state = State::kWriting;
  slot.was_used = false;
  by_hash_.emplace(hash, *number);
  return Place{*number, slot.held_value};
}

bool SlotIndex::end_write(uint32_t number, bool is_whole) noexcept {
  Slot& slot = slots_[number];
  slot.held_value = true;  // or a part of it
  if (slot.state == State::kRemoved) return true;
  KV_CHECK(slot.state == State::kWriting);
  if (is_whole) {
    slot.state = State::kThere;
    ++num_values_;
  } else {
    by_hash_.erase(slot.hash);
    free(number);
  }
  return false;
}

std::optional<uint32_t> SlotIndex::remove(const BlockHash& hash) noexcept {
  const auto found = by_hash_.find(hash);
  if (found == by_hash_.end()) return std::nullopt;
  const uint32_t number = found->second;
  by_hash_.erase(found);
  Slot& slot = slots_[number];
  const bool was_there = slot.state == State::kThere;
  if (was_there) --num_values_;
  slot.state = State::kRemoved;
  if (!was_there || slot.readers > 0) return std::nullopt;
  return number;
}

void SlotIndex::condemn(uint32_t number) noexcept {
  Slot& slot = slots_[number];
  KV_CHECK(slot.readers > 0);
  if (slot.state != State::kThere) return;
  by_hash_.erase(slot.hash);
  --num_values_;
  slot.state = State::kRemoved;
}

void SlotIndex::end_wipe(uint32_t number) noexcept {
  KV_CHECK(slots_[number].state == State::kRemoved);
  free(number);
}

bool SlotIndex::adopt(uint32_t number, const BlockHash& hash) {
  Slot& slot = slots_[number];
  KV_CHECK(slot.state == State::kFree);
  slot.held_value = true;
  if (!by_hash_.emplace(hash, number).second) return false;
  slot.hash = hash;
  slot.state = State::kThere;
  ++num_values_;
  return true;
}

void SlotIndex::end_adoption() {
  free_.clear();
  for (uint32_t number = num_slots(); number-- > 0;) {
    if (slots_[number].state == State::kFree) free_.push_back(number);
  }
}

// Two rounds find one if there is any: the first takes second chances away.
std::optional<uint32_t> SlotIndex::evict() noexcept {
  for (uint64_t step = 0; step < uint64_t{2} * num_slots(); ++step) {
    const uint32_t number = hand_;
    hand_ = number + 1 == num_slots() ? 0 : number + 1;
    Slot& slot = slots_[number];
    if (slot.state != State::kThere || slot.readers > 0) continue;
    if (slot.was_used) {
      slot.was_used = false;
      continue;
    }
    by_hash_.erase(slot.hash);
    --num_values_;
    ++evictions_;
    return number;
  }
  return std::nullopt;
}

void SlotIndex::free(uint32_t number) noexcept {
  slots_[number].state = State::kFree;
  free_.push_back(number);
}

}  // namespace kvcore
