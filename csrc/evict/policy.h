#pragma once

#include <cstdint>
#include <limits>
#include <memory>
#include <optional>
#include <span>
#include <string_view>
#include <vector>

#include "evict/request_info.h"
#include "table/block_table.h"

namespace kvcore {

// A request at work, as a policy sees it.
struct Use {
  const RequestInfo& request;
  int64_t now_us;        // never goes back
  uint32_t sampled = 1;  // what the policy sees is one block in so many, on average
};

// The contract of every eviction policy: it orders spans and says which leaf loses blocks next.
//
// A policy keeps its order in the policy fields of the spans (stamp, last_request, prev, next,
// list, place) and sees every change to them. It may only name leaves (`holds == 0`), so a block
// never leaves before its cached descendants, and it finds the next one in O(1) amortised. What it
// keeps besides grows in bounded steps; no policy reads a clock. Calls come under the cache's lock.
//
// The calls of one request that misses, in this order:
//   touch(path, use)         what it found
//   remember(path, missing, use)   the blocks that it will bring below the spans of the path
//   oldest() ... evict()     until there is room for what is not bypassed
//   enter(span, ...)         for every new span
//   touch(path, use)         all its spans; before it, others may touch what changes hands
//   finish(use, tokens)      perhaps much later; other requests come in between
class EvictionPolicy {
 public:
  struct Victim {
    SpanId span = kRootSpan;  // kRootSpan: none
    // That may leave its tail before the policy is asked again. With no span: so many of the
    // missing blocks, from the last on, are to be bypassed; 0: nothing may leave.
    uint32_t blocks = 0;
  };
  // What is missing and has no room is to be bypassed.
  static constexpr Victim kBypassRest{kRootSpan, std::numeric_limits<uint32_t>::max()};

  virtual ~EvictionPolicy() = default;

  // `missing` blocks of one chain are about to come below `path`, spans that a touch() will name;
  // vacant ones are among them. Answers where what the policy knows of them
  // from before changes: positions, ascending, that no new span reaches across. Good until the
  // next call.
  virtual std::span<const uint32_t> remember(std::span<const SpanId> path,
                                             std::span<const BlockHash> missing,
                                             const Use& use) noexcept {
    (void)path, (void)missing, (void)use;
    return {};
  }

  // A span has got its blocks: a new one, whose first is missing[position]; or, with no
  // position, a vacant one, which was asked for before, or one that comes from another policy,
  // which has not left its marks (Span::forget_order). touch() follows for the same path.
  virtual void enter(SpanId span, std::optional<uint32_t> position) noexcept = 0;

  // A request has used these spans, the root's child first; vacant ones are not among them. All
  // touches of one request count as one use.
  virtual void touch(std::span<const SpanId> path, const Use& use) noexcept = 0;

  // A request has ended and was answered with so many tokens.
  virtual void finish(const Use& use, uint64_t output_tokens) noexcept {
    (void)use, (void)output_tokens;
  }

  // `head` was split off `tail`, which kept its place.
  virtual void split(SpanId head, SpanId tail) noexcept = 0;

  // The blocks that it orders, and that are free to it, are so many, at most what it was made for.
  virtual void resize(uint32_t num_blocks) noexcept { (void)num_blocks; }

  // The leaf that should lose blocks next; perhaps with no request at hand.
  virtual Victim oldest() noexcept = 0;

  // The last `blocks` of a span are about to leave: to make room, or for another reason, named by
  // oldest() or not, held or not. With its last block the span leaves the order.
  virtual void evict(SpanId span, uint32_t blocks) noexcept = 0;
  virtual void withdraw(SpanId span, uint32_t blocks) noexcept = 0;

  // The last hold on a span has gone: it is a leaf that may be named again.
  virtual void released(SpanId span) noexcept = 0;

  virtual size_t bytes() const noexcept { return 0; }
  virtual void check_invariants() const = 0;  // throws std::logic_error
};

// The policy called `name` over the spans of `table`, for a cache of `num_blocks`; null when there
// is none of that name. "auto:lru+hazard" is auto among these; the first one starts.
std::unique_ptr<EvictionPolicy> make_policy(std::string_view name, BlockTable& table,
                                            uint32_t num_blocks);

// Throws std::invalid_argument unless make_policy knows the name.
void check_policy(std::string_view name);

// The policies that there are; "auto:..." names choices among them.
std::vector<std::string_view> policy_names();

}  // namespace kvcore
