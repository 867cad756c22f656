#pragma once

#include <array>
#include <span>

#include "evict/span_list.h"

namespace kvcore {

// Hashes of blocks that were evicted, without the blocks: two lists, oldest first, kept as runs.
// Found by a run's first hash, as spans are, in a block table of their own. The caller bounds them
// with drop_oldest(). Within a run deeper blocks are older. About 20 bytes a block and, a run, the
// 64 and 7 to 21 bytes of a span. Not thread safe.
class GhostLists {
 public:
  enum Which : uint8_t { kFirst = 0, kSecond = 1 };

  explicit GhostLists(size_t max_blocks)
      : runs_(max_blocks), lists_{SpanList(runs_), SpanList(runs_)} {}

  struct Hit {
    uint32_t blocks = 0;  // 0: the first hash of `rest` is in neither list
    Which which = kFirst;
  };
  // Takes out the run that `rest` begins with.
  Hit take(std::span<const BlockHash> rest) noexcept;

  // Adds a run as the newest.
  void add(Which which, std::span<const BlockHash> run) noexcept;

  void drop_oldest(Which which, uint32_t blocks) noexcept;

  uint32_t size(Which which) const noexcept { return blocks_[which]; }
  size_t bytes() const noexcept { return runs_.bytes(); }
  void check_invariants() const;

 private:
  void erase(SpanId id) noexcept;

  BlockTable runs_;
  std::array<SpanList, 2> lists_;
  std::array<uint32_t, 2> blocks_{};
};

}  // namespace kvcore
