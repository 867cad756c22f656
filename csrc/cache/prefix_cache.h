#pragma once

#include <memory>
#include <mutex>
#include <span>
#include <string>
#include <vector>

#include "cache/block_id_pool.h"
#include "cache/handles.h"
#include "evict/policy.h"
#include "evict/request_info.h"
#include "table/block_table.h"

namespace kvcore {

struct CacheStats {
  uint32_t num_blocks = 0;
  uint32_t free_blocks = 0;
  uint32_t in_flight_blocks = 0;  // reserved, not committed
  uint32_t num_leases = 0;
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
  static std::shared_ptr<PrefixCache> create(uint64_t num_blocks, std::string policy);

  uint32_t num_blocks() const noexcept { return num_blocks_; }
  const std::string& policy() const noexcept { return policy_name_; }

  // The committed blocks that `hashes` begin with. No side effect.
  size_t match(std::span<const BlockHash> hashes) const noexcept;

  // Pins and touches them.
  Lease acquire(std::span<const BlockHash> hashes, const RequestInfo& request) noexcept;

  // Asks for places for the blocks that are not there, and touches what is; evicts to make room,
  // never what the same chain needs. When fewer fit, the first that fit are kept.
  Reservation reserve(std::span<const BlockHash> hashes, const RequestInfo& request) noexcept;

  void finish(const RequestInfo& request, uint64_t output_tokens) noexcept;

  // True while another call is at work; the answer may be old when it arrives.
  bool is_busy() const noexcept;

  CacheStats stats() const;
  // Throws std::logic_error. Costs a walk over everything.
  void check_invariants() const;

 private:
  friend class Lease;
  friend class Reservation;

  PrefixCache(uint32_t num_blocks, std::string policy);

  // All below run under the lock.
  Use use_of(const RequestInfo& request) noexcept;
  size_t walk(std::span<const BlockHash> hashes);
  SpanId split(SpanId id, uint32_t at);
  uint32_t make_room(uint64_t blocks_wanted, size_t spans_wanted, Reservation& reservation);
  void adopt(SpanId id, Reservation& reservation);
  SpanId append(SpanId parent, std::span<const BlockHash> missing, uint32_t begin, uint32_t end,
                Reservation& reservation);
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
  BlockIdPool free_ids_;
  std::vector<SpanId> path_;  // scratch: the spans of the request at hand, the root's child first
  int64_t now_us_ = 0;
  uint32_t last_request_ = 0;  // the newest; 0: none yet
  uint32_t in_flight_blocks_ = 0;
  uint32_t num_leases_ = 0;
  uint64_t evictions_ = 0;
  uint64_t finished_requests_ = 0;
};

}  // namespace kvcore
