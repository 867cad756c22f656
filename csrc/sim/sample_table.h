#pragma once

#include <bit>
#include <cstdint>
#include <vector>

#include "common/check.h"
#include "common/types.h"

namespace kvcore {

// Blocks that a miss-ratio curve follows: an open-addressing table that is at most half full.
// Blocks leave only by `retain`, so there are no tombstones. Not thread safe.
class SampleTable {
 public:
  struct Block {
    BlockHash hash;
    uint32_t last_use = 0;  // 0 marks an empty place
    uint32_t root_uses = 0;
  };

  explicit SampleTable(size_t max_blocks) : places_(std::bit_ceil(2 * max_blocks)) {}

  size_t size() const noexcept { return size_; }
  size_t bytes() const noexcept {
    return (places_.capacity() + moving_.capacity()) * sizeof(Block);
  }

  // The block, or the empty place for it. `key` is a digest of the hash.
  Block& find(const BlockHash& hash, uint64_t key) noexcept {
    const size_t mask = places_.size() - 1;
    size_t place = key & mask;
    while (places_[place].last_use != 0 && places_[place].hash != hash) place = (place + 1) & mask;
    return places_[place];
  }
  void fill(Block& empty, const Block& block) noexcept {
    KV_DCHECK(empty.last_use == 0 && block.last_use != 0);
    KV_CHECK(++size_ <= places_.size() / 2);
    empty = block;
  }

  template <typename Visit>
  void for_each(Visit&& visit) {
    for (Block& block : places_) {
      if (block.last_use != 0) visit(block);
    }
  }
  // Keeps the blocks of which `keep(block)` is true; it may change them.
  template <typename Keep, typename Key>
  void retain(Keep&& keep, Key&& key) {
    moving_.clear();
    for_each([&](Block& block) {
      if (keep(block)) moving_.push_back(block);
      block.last_use = 0;
    });
    size_ = 0;
    for (const Block& block : moving_) fill(find(block.hash, key(block.hash)), block);
  }

 private:
  std::vector<Block> places_;
  std::vector<Block> moving_;
  size_t size_ = 0;
};

}  // namespace kvcore
