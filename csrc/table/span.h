#pragma once

#include <cstdint>
#include <span>

#include "common/types.h"

namespace kvcore {

// Index of a span's record. Span 0 is the root: it has no blocks, is the parent of every chain's
// first span, and stands for "none" wherever a link may be empty (nothing links to the root).
enum class SpanId : uint32_t {};
inline constexpr SpanId kRootSpan{0};

constexpr uint32_t index_of(SpanId id) noexcept { return static_cast<uint32_t>(id); }

// Longer runs of blocks become several spans, so that a split copies a bounded number of bytes.
inline constexpr uint32_t kMaxSpanBlocks = 2048;

// Where a span stands in its policy's order (see evict/recency_order.h).
enum class Place : uint8_t { kInside, kListed, kParked, kReturned };

// One cache line a span: a run of consecutive blocks of one chain, all touched by the same
// requests. States, by `filled` and `vacant`:
//
//   in flight   filled < length            a reservation is writing the blocks from `filled` on
//   committed   filled == length
//   vacant      filled == 0, vacant        given up by its writer while others had blocks below:
//                                          its hashes stand, it owns no block ids
//
// A block can be matched when it is filled and every span above it is committed.
struct alignas(64) Span {
  BlockHash last_hash;  // equal last hashes mean equal runs: one comparison matches the span
  BlockHash* hashes;    // [capacity], followed by the block ids, BlockId[capacity]
  uint64_t stamp;       // policy: time of the last touch, in touches
  SpanId parent;
  SpanId child;            // hint: the child that was made or walked last, or what it has become
  uint32_t holds;          // what keeps it: children, leases, and 1 while in flight
  SpanId prev, next;       // policy: links of its list
  uint32_t last_request;   // policy: the request that touched it last
  uint16_t length;         // blocks; 0: the record is free
  uint16_t filled;         // blocks committed, from the start
  uint8_t size_class : 7;  // of its run, see RunPool
  bool vacant : 1;
  uint8_t tenant : 7;  // in whose order it stands; 0 where there are none
  bool second : 1;     // in the second of the orders that auto may have
  uint8_t list;        // policy: which of its lists
  Place place;         // policy

  // As if no policy had seen it.
  void forget_order() noexcept {
    stamp = 0;
    prev = next = kRootSpan;
    last_request = 0;
    list = 0;
    place = Place::kInside;
  }

  bool in_flight() const noexcept { return filled < length && !vacant; }
  bool committed() const noexcept { return filled == length; }
};
static_assert(sizeof(Span) == 64);

}  // namespace kvcore
