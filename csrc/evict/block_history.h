#pragma once

#include <span>
#include <vector>

#include "evict/ghost_lists.h"

namespace kvcore {

// What a policy knows from before of the blocks that a request brings: a value for each, kept as
// ghosts when they leave, which never grows along a chain. Serves the policies that rank a block by
// its history and so can tell what is worth less than what comes:
//
//   recall(missing)     in remember(): takes their values out of the ghosts
//   value_at, count_of  while room is made, and as spans enter
//   settle(used)        in touch(): what found no place has been used as well, and is a ghost again
//
// Owns the ghosts, at most `ghosts_a_block` times `num_blocks` after settle(), and 2^30. Not thread
// safe. Costs one search in the ghosts' index for a run, or for a block that is not there.
class BlockHistory {
 public:
  BlockHistory(uint32_t num_blocks, uint32_t ghosts_a_block)
      : max_ghosts_(static_cast<uint32_t>(
            std::min(uint64_t{num_blocks} * ghosts_a_block, uint64_t{1} << 30))),
        ghosts_(size_t{max_ghosts_} * 2 + num_blocks) {}

  // Answers where the value changes: what EvictionPolicy::remember answers.
  std::span<const uint32_t> recall(std::span<const BlockHash> missing) noexcept;

  // Nothing is about to come.
  bool is_settled() const noexcept { return missing_.empty(); }

  // The value of missing[position]. 0: never seen, or its history is broken: a block before it has
  // a smaller value. Beyond the last block: that of the last.
  uint64_t value_at(uint32_t position) const noexcept;

  // How many of the missing blocks, from the first on, have at least `value`.
  uint32_t count_of(uint64_t value) const noexcept;

  void entered(uint32_t blocks) noexcept { entered_ += blocks; }
  // How many of the missing blocks have not.
  size_t bypassed() const noexcept { return missing_.size() - entered_; }

  void evicted(std::span<const BlockHash> blocks, uint64_t value) noexcept {
    ghosts_.add(GhostLists::kFirst, blocks, value);
    if (is_settled()) trim();
  }

  // `used(value)` is what a use makes of a value.
  template <typename Used>
  void settle(Used&& used) noexcept {
    // What is deeper than the ghosts are many would push itself out.
    size_t end = std::min<size_t>(missing_.size(), size_t{entered_} + max_ghosts_);
    for (size_t i = ends_.size(); i-- > 0;) {
      size_t begin = std::max(i == 0 ? 0 : ends_[i - 1], entered_);
      size_t until = std::min<size_t>(ends_[i], end);
      if (begin >= until) continue;
      evicted(missing_.subspan(begin, until - begin), used(values_[i]));
    }
    missing_ = {};
    trim();
  }

  size_t bytes() const noexcept { return ghosts_.bytes(); }
  // Throws std::logic_error.
  void check_invariants() const;

 private:
  void trim() noexcept {
    uint32_t blocks = ghosts_.size(GhostLists::kFirst);
    ghosts_.drop_oldest(GhostLists::kFirst, blocks - std::min(blocks, max_ghosts_));
  }

  const uint32_t max_ghosts_;
  GhostLists ghosts_;
  std::span<const BlockHash> missing_;  // the caller's, from recall() to settle()
  uint32_t entered_ = 0;                // of them, from the first on
  std::vector<uint32_t> ends_;          // of their pieces with one value
  std::vector<uint64_t> values_;
};

}  // namespace kvcore
