#pragma once

#include <cstdint>
#include <limits>
#include <map>
#include <set>
#include <span>
#include <string>
#include <vector>

#include "common/virtual_array.h"
#include "table/block_table.h"

namespace kvcore {

// The time of a next use that never comes.
inline constexpr int64_t kNever = std::numeric_limits<int64_t>::max();

// What engines say of the future: chains that are to be kept for a while, and blocks that are not
// needed any more.
//
// A kept chain is held like a leased one until its time is over, its session is back, or it is let
// go: when all that is kept exceeds the bound, or nothing else can leave. Then the one that is kept
// the longest goes first, and of equals the oldest. A block counts once, however many chains it is
// kept for.
//
// What a request brought, and no other has used since, is dismissed when the request ends with the
// word that it never comes back: it goes before all else, as far as nothing holds it.
//
// Whoever owns this puts the holds on spans and takes them off: what a call ends, it answers.
// Owns the list of chains and, beside the table, 8 bytes a span; the last 4,096 requests take 128
// KiB. O(log n) a chain that is kept or ends, O(1) a span that is touched, and a span is counted
// once when it becomes kept. Not thread safe.
class Hints {
 public:
  Hints(BlockTable& table, uint64_t max_blocks)
      : table_(table),
        max_blocks_(max_blocks),
        brought_by_(table.record_capacity()),
        kept_(table.record_capacity()),
        recent_(kRecent) {}

  // A request uses a chain, of which `fresh` spans at its end are new.
  void use(uint32_t serial, std::span<const SpanId> path, size_t fresh) noexcept;
  void split(SpanId head, SpanId tail) noexcept;
  // A span leaves.
  void remove(SpanId id) noexcept;

  // The last committed span that a recent request used, or kRootSpan.
  SpanId end_of(uint32_t serial) const noexcept;

  // The caller holds `last` for it. Ends what was kept under that name before: its span, or
  // kRootSpan.
  SpanId keep(const std::string& name, SpanId last, int64_t until_us) noexcept;
  SpanId end(const std::string& name) noexcept;
  // One whose time is over; one that is too much. The span, or kRootSpan.
  SpanId end_lapsed(int64_t now_us) noexcept;
  SpanId end_excess() noexcept { return kept_blocks_ > max_blocks_ ? end_last() : kRootSpan; }
  // The first to go of those that `may_end(span)`.
  template <typename MayEnd>
  SpanId end_one(MayEnd&& may_end) noexcept {
    for (auto at = chains_.rbegin(); at != chains_.rend(); ++at) {
      if (may_end(at->last)) return end(at->name);
    }
    return kRootSpan;
  }

  void dismiss(uint32_t serial) noexcept;
  // A leaf to go before all else, of the last ones that were dismissed, or kRootSpan.
  SpanId dismissed() noexcept;

  uint64_t kept_blocks() const noexcept { return kept_blocks_; }
  size_t num_chains() const noexcept { return chains_.size(); }
  size_t bytes() const noexcept;
  void check_invariants() const;  // throws std::logic_error

 private:
  static constexpr size_t kRecent = 4096;
  static constexpr size_t kTries = 64;  // dismissed ones that are looked at for one that may go

  struct Chain {
    int64_t until_us;
    uint64_t number;  // in order of keep()
    SpanId last;
    std::string name;
    // The last to go comes first.
    friend bool operator<(const Chain& a, const Chain& b) noexcept {
      return a.until_us != b.until_us ? a.until_us < b.until_us : a.number > b.number;
    }
  };
  using Chains = std::set<Chain>;
  struct Recent {
    uint32_t serial = 0;
    SpanId last = kRootSpan;
    BlockHash last_hash;
  };
  struct Dismissed {
    uint32_t serial;
    SpanId last;
  };

  SpanId end_last() noexcept { return end(chains_.rbegin()->name); }
  bool is_dismissed(const Dismissed& of) const noexcept;
  void grow() noexcept;

  BlockTable& table_;
  const uint64_t max_blocks_;
  VirtualArray<uint32_t> brought_by_;  // the request that brought a span; 0: another used it
  VirtualArray<uint32_t> kept_;        // children that are kept, and chains that end here
  std::vector<Recent> recent_;         // by serial
  Chains chains_;
  std::map<std::string, Chains::iterator, std::less<>> names_;
  std::vector<Dismissed> dismissed_;
  uint64_t kept_blocks_ = 0;
  uint64_t last_number_ = 0;
};

}  // namespace kvcore
