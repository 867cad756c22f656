#pragma once

#include <algorithm>
#include <span>

#include "common/check.h"
#include "common/types.h"
#include "common/virtual_array.h"

namespace kvcore {

// The block ids that no span owns: those given back, last in first out, then those never used.
// O(1) an id; memory only for ids given back and not yet taken again. Not thread safe.
class BlockIdPool {
 public:
  explicit BlockIdPool(uint32_t num_blocks) : given_back_(num_blocks), num_blocks_(num_blocks) {}

  uint32_t available() const noexcept { return count_ + num_blocks_ - fresh_; }

  // Fills `ids`, in the order in which they were given back; at most available() many.
  void take(std::span<BlockId> ids) noexcept {
    KV_DCHECK(ids.size() <= available());
    uint32_t reused = std::min<uint32_t>(static_cast<uint32_t>(ids.size()), count_);
    count_ -= reused;
    std::copy_n(given_back_.data() + count_, reused, ids.begin());
    for (BlockId& id : ids.subspan(reused)) id = BlockId{fresh_++};
  }

  void give_back(std::span<const BlockId> ids) noexcept {
    KV_CHECK(ids.size() <= num_blocks_ - available());
    given_back_.grow(count_ + ids.size());
    std::copy(ids.begin(), ids.end(), given_back_.data() + count_);
    count_ += static_cast<uint32_t>(ids.size());
  }

  // Calls `visit(BlockId)` for every id in the pool.
  template <typename Visit>
  void for_each(Visit&& visit) const {
    for (uint32_t i = 0; i < count_; ++i) visit(given_back_[i]);
    for (uint32_t i = fresh_; i < num_blocks_; ++i) visit(BlockId{i});
  }

  size_t bytes() const noexcept { return given_back_.bytes(); }

 private:
  VirtualArray<BlockId> given_back_;
  const uint32_t num_blocks_;
  uint32_t count_ = 0;
  uint32_t fresh_ = 0;  // ids from here on were never taken
};

}  // namespace kvcore
