#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

#include "table/span.h"

namespace kvcore {

// Finds a span by its parent and the hash of its first block: open addressing with linear probing
// inside segments of 512 slots, which a directory finds by the tag's top bits (Fagin et al.,
// "Extendible hashing", TODS 1979). A full segment is split and two sparse ones are joined, so
// growing and shrinking move at most 512 slots a call, and at most the pointers of the directory,
// one for about every 250 spans at its peak. A slot is 8 bytes, 11 to 32 bytes a span. Not thread
// safe.
//
// The tag is keyed with a secret of the index, so nobody can choose hashes that collide, and takes
// in the parent, so one hash under many parents (which no chain gives) makes no crowd either.
// Nothing that a caller sees depends on the secret.
class SpanIndex {
 public:
  SpanIndex();
  ~SpanIndex();
  SpanIndex(const SpanIndex&) = delete;
  SpanIndex& operator=(const SpanIndex&) = delete;

  uint32_t tag_of(SpanId parent, const BlockHash& first) const noexcept;
  // The same for what is found by a number.
  uint32_t tag_of(uint32_t key) const noexcept { return tag_of(SpanId{key}, BlockHash{}); }

  // The span with this tag that `is_match(SpanId)` accepts, or kRootSpan.
  template <typename Match>
  SpanId find(uint32_t tag, Match&& is_match) const noexcept {
    const Segment& segment = *directory_[entry_of(tag)];
    for (uint32_t i = tag;; ++i) {
      const Slot& slot = segment.slots[i % kSlots];
      if (slot.span == kRootSpan) return kRootSpan;
      if (slot.tag == tag && is_match(slot.span)) return slot.span;
    }
  }

  void insert(uint32_t tag, SpanId span) noexcept;
  void erase(uint32_t tag, SpanId span) noexcept;               // must be there
  void replace(uint32_t tag, SpanId from, SpanId to) noexcept;  // must be there

  size_t size() const noexcept { return size_; }
  size_t bytes() const noexcept;
  void check_invariants() const;

 private:
  static constexpr uint32_t kSlots = 512;
  static constexpr uint32_t kMaxUsed = kSlots * 3 / 4;
  static constexpr uint32_t kJoinBelow = kSlots / 4;

  struct Slot {
    uint32_t tag = 0;
    SpanId span = kRootSpan;  // kRootSpan: empty
  };
  struct Segment {
    Slot slots[kSlots];
    uint32_t used = 0;
    uint32_t depth = 0;  // tag bits that all its spans share
  };

  size_t entry_of(uint32_t tag) const noexcept { return uint64_t{tag} >> (32 - depth_); }
  Slot& locate(uint32_t tag, SpanId span) noexcept;
  static void put(Segment& segment, uint32_t tag, SpanId span) noexcept;
  void split(uint32_t tag) noexcept;
  void join(uint32_t tag) noexcept;
  void point_directory(uint32_t tag, uint32_t depth, Segment* segment) noexcept;

  std::vector<Segment*> directory_;  // owns; the entries of one segment are neighbours
  uint32_t depth_ = 0;
  size_t size_ = 0;
  uint64_t secret_[2];
};

}  // namespace kvcore
