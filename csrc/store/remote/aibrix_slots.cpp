#include "store/remote/aibrix_slots.h"

#include <algorithm>
#include <stdexcept>
#include <string>
#include <utility>

#include "common/check.h"
#include "farmhash/farmhash64.h"

namespace kvcore {
namespace {

using Slot = std::pair<uint32_t, uint32_t>;  // its number, and who has it

bool goes_round(const AibrixSlots::Range& range) { return range.first > range.last; }

void append(std::vector<Slot>& slots, uint32_t first, uint32_t end, uint32_t server) {
  if (slots.size() + (end - first) > AibrixSlots::kMostSlots) {
    throw std::invalid_argument("slots must be at most " + std::to_string(AibrixSlots::kMostSlots));
  }
  for (uint32_t slot = first; slot < end; ++slot) slots.emplace_back(slot, server);
}

// What is in none of the sorted slots.
std::vector<Slot> gaps_of(const std::vector<Slot>& slots, uint32_t end, uint32_t server) {
  std::vector<Slot> gaps;
  uint32_t next = 0;
  for (const auto& [slot, owner] : slots) {
    if (slot > next) append(gaps, next, slot, server);
    next = slot + 1;
  }
  if (next < end) append(gaps, next, end, server);
  return gaps;
}

}  // namespace

AibrixSlots::AibrixSlots(std::span<const Range> ranges, uint32_t num_servers) {
  uint32_t ring_slots = kRingSlots;
  for (const Range& range : ranges) {
    const uint32_t highest = std::max(range.first, range.last);
    if (highest >= kMostSlots) {
      throw std::invalid_argument("slots must be below " + std::to_string(kMostSlots) + ", got " +
                                  std::to_string(highest));
    }
    if (range.server >= num_servers) {
      throw std::invalid_argument("slots must be of one of " + std::to_string(num_servers) +
                                  " servers, got server " + std::to_string(range.server));
    }
    ring_slots = std::max(ring_slots, highest + 1);
  }
  std::vector<Slot> slots;
  for (const Range& range : ranges) {
    if (goes_round(range)) {
      append(slots, range.first, ring_slots, range.server);
      append(slots, 0, range.last + 1, range.server);
    } else {
      append(slots, range.first, range.last + 1, range.server);
    }
  }
  const auto by_number = [](const Slot& a, const Slot& b) { return a.first < b.first; };
  std::ranges::stable_sort(slots, by_number);  // who comes first has it first, as AIBrix has it
  if (std::ranges::count_if(ranges, goes_round) == 1) {
    const auto range = std::ranges::find_if(ranges, goes_round);
    const std::vector<Slot> gaps = gaps_of(slots, ring_slots, range->server);
    slots.insert(slots.end(), gaps.begin(), gaps.end());
    std::ranges::stable_sort(slots, by_number);
  }
  for (const auto& [slot, server] : slots) {
    if (server_of_run_.empty() || server_of_run_.back() != server) server_of_run_.push_back(server);
    run_of_slot_.push_back(static_cast<uint32_t>(server_of_run_.size() - 1));
  }
}

size_t AibrixSlots::place(const BlockHash&, std::string_view key,
                          std::span<uint32_t> servers) const noexcept {
  KV_CHECK(key.size() < farmhash::kEndOfAgreement);
  if (run_of_slot_.empty()) return 0;
  size_t run = run_of_slot_[farmhash::Hash64(key.data(), key.size()) % run_of_slot_.size()];
  size_t count = 0;
  for (size_t step = 0; step < server_of_run_.size() && count < servers.size(); ++step) {
    const uint32_t server = server_of_run_[run];
    const auto placed = servers.first(count);
    if (std::ranges::find(placed, server) == placed.end()) servers[count++] = server;
    run = run + 1 < server_of_run_.size() ? run + 1 : 0;
  }
  return count;
}

}  // namespace kvcore
