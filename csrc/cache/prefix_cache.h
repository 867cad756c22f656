#pragma once

#include <memory>
#include <mutex>
#include <span>
#include <string>
#include <vector>

#include "cache/admission.h"
#include "cache/block_id_pool.h"
#include "cache/handles.h"
#include "cache/hints.h"
#include "cache/tenants.h"
#include "evict/policy.h"
#include "evict/request_clock.h"
#include "evict/request_info.h"
#include "table/block_table.h"

namespace kvcore {

// Shares are of the cache's blocks.
struct CacheOptions {
  TenantQuotas tenants;     // none: nobody is charged
  bool second_use = false;  // a full cache lets in only what was asked for before
  double max_pinned = 0.5;  // share that pin() may hold
  double max_kept = 0;      // share that hints may keep; 0: hints are not heeded
};

struct CacheStats {
  uint32_t num_blocks = 0;
  uint32_t free_blocks = 0;
  uint32_t in_flight_blocks = 0;  // reserved, not committed
  uint32_t num_leases = 0;        // and pins
  uint64_t pinned_blocks = 0;     // by pin()
  uint64_t kept_blocks = 0;       // by hints and keep()
  uint64_t num_spans = 0;
  uint64_t evictions = 0;  // blocks, since the start
  uint64_t finished_requests = 0;
  uint64_t metadata_bytes = 0;
};

// Which prefixes are cached and where: match, lease, reserve, commit, evict. Decides, never moves
// a byte. One chain of hashes is one prompt; a block counts only with all blocks before it.
//
// A block is free, in flight (reserved by a writer), or committed; committed blocks leave by
// eviction alone. A lease pins its last block and thereby all before it. A block in flight is
// written by nobody else; others may build below it, and what they commit is seen once it is
// committed itself. When its writer gives up, its place stays vacant as long as others have blocks
// below, and the next one who asks for it writes it.
//
// Thread safe: one lock, held for the microseconds that a call takes, never during I/O. Calls cost
// by the spans that they touch, create or evict, whatever is resident. Leases and reservations
// keep the cache alive. Where memory cannot be had the process ends: a call half done would leave
// a cache that lies.
class PrefixCache : public std::enable_shared_from_this<PrefixCache> {
 public:
  static constexpr uint32_t kMaxBlocks = uint32_t{1} << 30;

  // Throws std::invalid_argument naming what is wrong.
  static std::shared_ptr<PrefixCache> create(uint64_t num_blocks, std::string policy,
                                             const CacheOptions& options = {});

  uint32_t num_blocks() const noexcept { return num_blocks_; }
  const std::string& policy() const noexcept { return policy_name_; }
  bool heeds_hints() const noexcept { return hints_ != nullptr; }

  // The committed blocks that `hashes` begin with. No side effect.
  size_t match(std::span<const BlockHash> hashes) const noexcept;

  // Pins and touches them.
  Lease acquire(std::span<const BlockHash> hashes, const RequestInfo& request) noexcept;

  // Asks for places for the blocks that are not there, and touches what is; evicts to make room,
  // never what the same chain needs. When fewer fit, the first that fit are kept.
  Reservation reserve(std::span<const BlockHash> hashes, const RequestInfo& request) noexcept;

  // Its `next_use_us`, or else what the request said: its blocks are kept until then and a grace,
  // the longer of 10 s and a quarter of the time until then; kNever: they go first, as far as no
  // other request has used them.
  void finish(const RequestInfo& request, uint64_t output_tokens,
              std::optional<int64_t> next_use_us = std::nullopt) noexcept;

  // Pins without using; what is above the bound, counted anew for each pin, is left out.
  Lease pin(std::span<const BlockHash> hashes) noexcept;

  // Pins without using and without a bound: for those who move bytes and let go soon.
  Lease retain(std::span<const BlockHash> hashes) noexcept;

  // Keeps what is committed of a chain until then (kNever: for good), as far as the bound allows,
  // unless nothing else can leave. A later call for the same chain replaces it. Answers the blocks.
  size_t keep(std::span<const BlockHash> hashes, int64_t until_us) noexcept;

  // True while another call is at work; the answer may be old when it arrives.
  bool is_busy() const noexcept;

  CacheStats stats() const;
  std::vector<TenantStats> tenant_stats() const;  // empty without tenants
  // Throws std::logic_error. Costs a walk over everything.
  void check_invariants() const;

 private:
  friend class Lease;
  friend class Reservation;

  PrefixCache(uint32_t num_blocks, std::string policy, const CacheOptions& options);

  // All below run under the lock.
  uint64_t available() const noexcept;
  size_t walk(std::span<const BlockHash> hashes);
  size_t walk_committed(std::span<const BlockHash> hashes);
  void lend(Lease& lease, size_t blocks);
  std::span<const BlockHash> admitted(std::span<const BlockHash> missing, uint64_t vacant) noexcept;
  SpanId split(SpanId id, uint32_t at);
  uint32_t make_room(const RequestInfo& request, uint64_t blocks_wanted, size_t spans_wanted,
                     Reservation& reservation);
  void leave(SpanId id, uint32_t blocks, Reservation& reservation) noexcept;
  void shorten(SpanId id, uint32_t blocks) noexcept;
  void adopt(SpanId id, Reservation& reservation);
  SpanId append(SpanId parent, std::span<const BlockHash> missing, uint32_t begin, uint32_t end,
                Reservation& reservation);
  void heed(const RequestInfo& request, size_t fresh_spans) noexcept;
  void expect(const RequestInfo& request, int64_t next_use_us) noexcept;
  void remove_dismissed(uint64_t blocks_wanted, Reservation& reservation) noexcept;
  bool let_go(const RequestInfo& request, uint64_t blocks_wanted) noexcept;
  void keep(const std::string& name, SpanId last, int64_t until_us) noexcept;
  void hold(SpanId id) noexcept { ++table_[id].holds; }
  void unhold(SpanId id) noexcept;
  void settle(SpanId id) noexcept;
  void remove(SpanId id) noexcept;
  SpanId give_up(SpanId id) noexcept;
  void collect(Reservation::Piece piece);

  const uint32_t num_blocks_;
  const std::string policy_name_;
  mutable std::mutex mutex_;
  BlockTable table_;
  std::unique_ptr<EvictionPolicy> policy_;
  TenantPolicy* tenants_ = nullptr;            // policy_, where there are tenants
  std::unique_ptr<Hints> hints_;               // null: not heeded
  std::unique_ptr<AskedBefore> asked_before_;  // null: all are admitted
  const uint64_t max_pinned_, max_kept_;       // blocks
  BlockIdPool free_ids_;
  std::vector<SpanId> path_;  // scratch: the spans of the request at hand, the root's child first
  RequestClock clock_;
  uint32_t in_flight_blocks_ = 0;
  uint32_t num_leases_ = 0;
  uint64_t pinned_blocks_ = 0;
  uint64_t evictions_ = 0;
  uint64_t finished_requests_ = 0;
};

}  // namespace kvcore
