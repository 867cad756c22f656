#pragma once

#include <array>
#include <span>
#include <vector>

#include "common/types.h"
#include "common/virtual_array.h"
#include "table/run_pool.h"
#include "table/span_index.h"

namespace kvcore {

// Blocks that were evicted, without the blocks: two lists, oldest first, kept as runs of one chain
// with a value that the policy chooses. The caller bounds them with drop_oldest().
//
// A block is remembered by a fingerprint of 32 bits, the first of a run by 64; so about one in
// 2^32 / runs of the questions for a block that was never there finds one, and so does a run's
// first block after the front of the run was taken. That costs a wrong statistic, never a wrong
// block, and no secret takes part, so every run can be replayed.
//
// Owns its records, fingerprints and index. Invariants: no two runs begin with one fingerprint, so
// nobody can crowd the index; within a run deeper blocks are older. take and drop_oldest copy at
// most kMaxSpanBlocks * 4 bytes a run, nothing else grows by more than a system call. Memory: 4
// bytes a block (at most 1/8 more, 1/3 where a run has lost a part, 8 for a block alone), 32 and
// 11 to 32 of index a run; records stay at their peak. Not thread safe.
class GhostLists {
 public:
  enum Which : uint8_t { kFirst = 0, kSecond = 1 };

  explicit GhostLists(size_t max_blocks);
  ~GhostLists();

  struct Hit {
    uint32_t blocks = 0;  // 0: the first hash of `rest` is in neither list
    Which which = kFirst;
    uint64_t value = 0;
  };
  // Takes out what `rest` and the run that begins as it does have in common.
  Hit take(std::span<const BlockHash> rest) noexcept;

  // Adds blocks of one chain as the newest.
  void add(Which which, std::span<const BlockHash> blocks, uint64_t value = 0) noexcept;

  void drop_oldest(Which which, uint32_t blocks) noexcept;

  // Blocks that were dropped, or gave way to others with the same fingerprint.
  struct Forgotten {
    uint64_t value;
    uint32_t blocks;
  };
  // From the next call on, all of them are put down here. Whoever asks for it empties it.
  void tell_forgotten(std::vector<Forgotten>* list) noexcept { forgotten_ = list; }

  uint32_t size(Which which) const noexcept { return blocks_[which]; }
  size_t bytes() const noexcept { return records_.bytes() + prints_.bytes() + index_.bytes(); }
  // Calls `visit(value, blocks)` for every run.
  template <typename Visit>
  void for_each(Visit&& visit) const {
    for (size_t i = 2; i < records_.size(); ++i) {
      if (records_[i].length > 0) visit(records_[i].value, uint32_t{records_[i].length});
    }
  }
  // Throws std::logic_error. Costs a walk over all runs.
  void check_invariants() const;

 private:
  struct Run {
    uint64_t value;
    uint32_t* prints;  // [length]
    uint32_t check;    // the other half of the first block's key; 0: not known
    SpanId prev, next;
    uint16_t length;  // 0: the record is free, or a list's end
    uint8_t size_class;
    Which which;
  };
  static_assert(sizeof(Run) == 32);

  Run& operator[](SpanId id) noexcept { return records_[index_of(id)]; }
  const Run& operator[](SpanId id) const noexcept { return records_[index_of(id)]; }
  static SpanId end_of(Which which) noexcept { return SpanId{which}; }  // before front, after back

  SpanId find(uint32_t print) const noexcept;
  void add_run(Which which, std::span<const BlockHash> blocks, uint64_t value) noexcept;
  void set_prints(Run& run, std::span<const uint32_t> prints) noexcept;
  void trim(SpanId id, uint32_t blocks) noexcept;
  void trim_front(SpanId id, uint32_t blocks) noexcept;
  void erase(SpanId id) noexcept;
  void forget(const Run& run, uint32_t blocks) noexcept;

  VirtualArray<Run> records_;  // [kFirst], [kSecond]: the ends of the lists, which are rings
  SpanId free_records_ = kRootSpan;
  RunPool prints_{sizeof(uint32_t)};
  SpanIndex index_;
  std::array<uint32_t, 2> blocks_{};
  std::vector<Forgotten>* forgotten_ = nullptr;
};

}  // namespace kvcore
