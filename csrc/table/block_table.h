#pragma once

#include <cstddef>
#include <optional>
#include <span>
#include <vector>

#include "common/virtual_array.h"
#include "table/run_pool.h"
#include "table/span.h"
#include "table/span_index.h"

namespace kvcore {

// The block hash table: a forest of spans, found by the hash of their first block.
//
// Hashes are chained, so a block's hash names all blocks before it: a span whose last hash equals
// the request's at that place matches as a whole, and where it does not, the place where they part
// is found by bisection. A chain is walked from the root: each step looks at the child that was
// used last (one cache line when it is the right one) or else asks the index. So cost follows the
// number of spans, and what is resident does not matter.
//
// Owns the spans, their arrays and their index; knows nothing of recency, pins or room. A request
// that parts from a span, or stops inside it, splits it: the record keeps the tail, so whoever
// holds a span's id (leases, reservations, children) keeps what ends where it ended.
//
// Bounds: split and trim copy at most kMaxSpanBlocks * 20 bytes, append what it is given; the
// index moves at most 512 slots a call. Memory: 20 bytes a block and at most 1/8 of that in
// rounding (1/3 where a span has lost its tail), 64 bytes and 11 to 32 of index a span; record
// memory stays at its peak.
//
// Not thread safe: PrefixCache guards it with one lock, readers included, held for microseconds.
// A finer scheme would buy nothing, since an engine's scheduler is one thread.
class BlockTable {
 public:
  explicit BlockTable(size_t max_spans);
  ~BlockTable();

  Span& operator[](SpanId id) noexcept { return spans_[index_of(id)]; }
  const Span& operator[](SpanId id) const noexcept { return spans_[index_of(id)]; }

  std::span<const BlockHash> hashes(SpanId id) const noexcept;
  std::span<BlockId> block_ids(SpanId id) noexcept;
  std::span<const BlockId> block_ids(SpanId id) const noexcept;

  // The nearest span above that has blocks, if it stands in the same policy's order, or kRootSpan.
  SpanId above(SpanId id) const noexcept {
    SpanId up = (*this)[id].parent;
    while ((*this)[up].vacant) up = (*this)[up].parent;
    const Span &above = (*this)[up], &span = (*this)[id];
    return above.tenant == span.tenant && above.second == span.second ? up : kRootSpan;
  }

  struct Step {
    SpanId span = kRootSpan;  // kRootSpan: no child matches
    uint32_t matched = 0;     // blocks of it that match, from its start
  };
  // The child of `parent` that begins as `rest` does.
  Step step(SpanId parent, std::span<const BlockHash> rest) const noexcept;

  // True while `count` more spans can be made; split and append each make one.
  bool has_room(size_t count) const noexcept { return num_spans_ + count < spans_.capacity(); }

  // Makes a span below `parent`, in flight: 1..kMaxSpanBlocks blocks, no child of `parent` begins
  // with hashes[0]; `ids` as many, or empty. (Where memory cannot be had, the process ends.)
  SpanId append(SpanId parent, std::span<const BlockHash> hashes,
                std::span<const BlockId> ids) noexcept;

  // Parts a span before block `at`, 0 < at < length. The record keeps the tail, with its holds;
  // the head is new, held by the tail alone, and its policy fields are zero.
  SpanId split(SpanId id, uint32_t at) noexcept;

  // Takes the last `blocks` < length off a span; remove takes a span without children.
  void trim(SpanId id, uint32_t blocks) noexcept;
  void remove(SpanId id) noexcept;

  size_t num_spans() const noexcept { return num_spans_; }
  size_t record_limit() const noexcept { return spans_.size(); }         // above every live SpanId
  size_t record_capacity() const noexcept { return spans_.capacity(); }  // above every SpanId
  size_t bytes() const noexcept { return runs_.bytes() + index_.bytes() + spans_.bytes(); }
  // Calls `visit(SpanId)` for every span, in no order that means anything.
  template <typename Visit>
  void for_each(Visit&& visit) const {
    for (uint32_t i = 1; i < spans_.size(); ++i) {
      const Span& span = spans_[i];
      bool shown = span.tenant == shown_tenant_.value_or(span.tenant) &&
                   span.second == shown_second_.value_or(span.second);
      if (span.length != 0 && shown) visit(SpanId{i});
    }
  }
  // False while for_each shows one policy's spans only: what is above may have been another's for a
  // while, so what a policy knows of neighbours need not fit.
  bool shows_all() const noexcept { return !shown_tenant_ && !shown_second_; }
  // While it lives, for_each shows one policy's spans only; for the checks of its order.
  class Shown {
   public:
    Shown(const BlockTable& table, std::optional<uint8_t> tenant, std::optional<bool> second)
        : table_(table), tenant_(table.shown_tenant_), second_(table.shown_second_) {
      if (tenant) table.shown_tenant_ = tenant;
      if (second) table.shown_second_ = second;
    }
    ~Shown() {
      table_.shown_tenant_ = tenant_;
      table_.shown_second_ = second_;
    }
    Shown(const Shown&) = delete;
    Shown& operator=(const Shown&) = delete;

   private:
    const BlockTable& table_;
    const std::optional<uint8_t> tenant_;
    const std::optional<bool> second_;
  };
  // Throws std::logic_error. Costs a walk over all spans and blocks.
  void check_invariants() const;

 private:
  SpanId make_record() noexcept;
  void free_record(SpanId id) noexcept;
  void set_run(Span& span, std::span<const BlockHash> hashes, const BlockId* ids) noexcept;
  uint32_t matched_blocks(const Span& span, std::span<const BlockHash> rest) const noexcept;
  static BlockId* ids_of(const Span& span) noexcept;

  VirtualArray<Span> spans_;
  SpanId free_records_ = kRootSpan;  // linked by `next`
  size_t num_spans_ = 0;
  RunPool runs_;
  SpanIndex index_;
  mutable std::optional<uint8_t> shown_tenant_;  // by for_each; none: all
  mutable std::optional<bool> shown_second_;
};

}  // namespace kvcore
