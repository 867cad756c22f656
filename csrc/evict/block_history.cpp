#include "evict/block_history.h"

#include <algorithm>

#include "common/check.h"

namespace kvcore {

std::span<const uint32_t> BlockHistory::recall(std::span<const BlockHash> missing) noexcept {
  missing_ = missing;
  entered_ = 0;
  ends_.clear();
  values_.clear();
  for (uint32_t begin = 0; begin < missing.size();) {
    GhostLists::Hit hit = ghosts_.take(missing.subspan(begin));
    begin += std::max(hit.blocks, 1u);
    if (!values_.empty() && hit.value > values_.back()) hit.value = 0;
    if (!values_.empty() && hit.value == values_.back()) {
      ends_.back() = begin;
    } else {
      ends_.push_back(begin);
      values_.push_back(hit.value);
    }
  }
  return ends_;
}

uint64_t BlockHistory::value_at(uint32_t position) const noexcept {
  auto piece = std::upper_bound(ends_.begin(), ends_.end(), position) - ends_.begin();
  return values_[std::min<size_t>(static_cast<size_t>(piece), values_.size() - 1)];
}

uint32_t BlockHistory::count_of(uint64_t value) const noexcept {
  auto below = std::partition_point(values_.begin(), values_.end(),
                                    [&](uint64_t known) { return known >= value; });
  return below == values_.begin() ? 0 : ends_[static_cast<size_t>(below - values_.begin()) - 1];
}

void BlockHistory::check_invariants() const {
  ghosts_.check_invariants();
  KV_INVARIANT(is_settled() && ghosts_.size(GhostLists::kFirst) <= max_ghosts_);
}

}  // namespace kvcore
