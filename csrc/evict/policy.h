#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <string_view>
#include <vector>

#include "table/block_table.h"

namespace kvcore {

// The contract of every eviction policy: it orders spans and says which leaf loses blocks next.
//
// A policy keeps its order in the policy fields of the spans (stamp, last_request, prev, next,
// list, place) and sees every change to them. It may only name leaves (`holds == 0`), so a block
// never leaves before its cached descendants, and it finds the next one in O(1) amortised. What it
// keeps besides grows in bounded steps; no policy reads a clock. Calls come under the cache's lock.
//
// The calls of one request that misses, in this order:
//   remember(missing)      the blocks that it will bring
//   oldest() ... evict()   until there is room
//   enter(span, ...)       for every new span
//   touch(path, request)   once, over all its spans
class EvictionPolicy {
 public:
  struct Victim {
    SpanId span = kRootSpan;  // kRootSpan: nothing may leave
    uint32_t blocks = 0;      // that may leave its tail before the policy is asked again
  };

  virtual ~EvictionPolicy() = default;

  // `missing` blocks of one chain are about to come. Answers how many of them, from the first on,
  // the policy knows from before: a span never reaches across that border.
  virtual uint32_t remember(std::span<const BlockHash> missing) noexcept {
    (void)missing;
    return 0;
  }

  // A span has got its blocks: a new one, `known` as remember() answered; or a vacant one, known
  // since it was asked for before. touch() follows for the same path.
  virtual void enter(SpanId span, bool known) noexcept = 0;

  // `request` has used these spans, the root's child first; vacant ones are not among them. All
  // touches of one request count as one use.
  virtual void touch(std::span<const SpanId> path, uint32_t request) noexcept = 0;

  // `head` was split off `tail`, which kept its place.
  virtual void split(SpanId head, SpanId tail) noexcept = 0;

  // The leaf that should lose blocks next.
  virtual Victim oldest() noexcept = 0;

  // The last `blocks` of a span are about to leave: to make room, or given up by their writer.
  // With its last block the span leaves the order.
  virtual void evict(SpanId span, uint32_t blocks) noexcept = 0;
  virtual void withdraw(SpanId span, uint32_t blocks) noexcept = 0;

  // The last hold on a span has gone: it is a leaf that may be named again.
  virtual void released(SpanId span) noexcept = 0;

  virtual size_t bytes() const noexcept { return 0; }
  virtual void check_invariants() const = 0;  // throws std::logic_error
};

// The policy called `name` over the spans of `table`, for a cache of `num_blocks`; null when there
// is none of that name.
std::unique_ptr<EvictionPolicy> make_policy(std::string_view name, BlockTable& table,
                                            uint32_t num_blocks);

// The names that make_policy knows.
std::vector<std::string_view> policy_names();

}  // namespace kvcore
