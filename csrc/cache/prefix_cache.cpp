#include "cache/prefix_cache.h"

#include <algorithm>
#include <stdexcept>
#include <utility>

#include "common/check.h"

namespace kvcore {

std::shared_ptr<PrefixCache> PrefixCache::create(uint64_t num_blocks, std::string policy,
                                                 const CacheOptions& options) {
  if (num_blocks < 1 || num_blocks > kMaxBlocks) {
    throw std::invalid_argument("num_blocks must be from 1 to " + std::to_string(kMaxBlocks) +
                                ", got " + std::to_string(num_blocks));
  }
  check_policy(policy);
  for (auto [name, share] :
       {std::pair{"max_pinned", options.max_pinned}, {"max_kept", options.max_kept}}) {
    if (share >= 0 && share <= 1) continue;
    throw std::invalid_argument(std::string(name) + " must be from 0 to 1, got " +
                                std::to_string(share));
  }
  return std::shared_ptr<PrefixCache>(
      new PrefixCache(static_cast<uint32_t>(num_blocks), std::move(policy), options));
}

// Every span has a block of its own but the vacant ones. Where these use up the records, make_room
// evicts what keeps them.
PrefixCache::PrefixCache(uint32_t num_blocks, std::string policy, const CacheOptions& options)
    : num_blocks_(num_blocks),
      policy_name_(std::move(policy)),
      table_(size_t{num_blocks} * 2 + 1024),
      max_pinned_(static_cast<uint64_t>(options.max_pinned * num_blocks)),
      max_kept_(static_cast<uint64_t>(options.max_kept * num_blocks)),
      free_ids_(num_blocks) {
  if (options.second_use) asked_before_ = std::make_unique<AskedBefore>(num_blocks);
  if (options.max_kept > 0) hints_ = std::make_unique<Hints>(table_, max_kept_);
  if (options.tenants.empty()) {
    policy_ = make_policy(policy_name_, table_, num_blocks);
  } else {
    auto policies =
        std::make_unique<TenantPolicy>(table_, policy_name_, num_blocks, options.tenants);
    tenants_ = policies.get();
    policy_ = std::move(policies);
  }
}

size_t PrefixCache::match(std::span<const BlockHash> hashes) const noexcept {
  std::lock_guard lock(mutex_);
  size_t matched = 0;
  for (SpanId at = kRootSpan;;) {
    auto [id, blocks] = table_.step(at, hashes.subspan(matched));
    if (id == kRootSpan) return matched;
    uint32_t visible = std::min<uint32_t>(blocks, table_[id].filled);
    matched += visible;
    if (visible < table_[id].length) return matched;
    at = id;
  }
}

Lease PrefixCache::acquire(std::span<const BlockHash> hashes, const RequestInfo& request) noexcept {
  Lease lease(shared_from_this());
  std::lock_guard lock(mutex_);
  const size_t matched = walk_committed(hashes);
  if (tenants_ != nullptr) tenants_->count(request, hashes.size(), matched);
  if (matched == 0) return lease;
  policy_->touch(path_, clock_.use_of(request));
  lend(lease, matched);
  if (hints_ != nullptr) heed(request, 0);
  return lease;
}

void PrefixCache::finish(const RequestInfo& request, uint64_t output_tokens,
                         std::optional<int64_t> next_use_us) noexcept {
  std::lock_guard lock(mutex_);
  policy_->finish(clock_.use_of(request), output_tokens);
  ++finished_requests_;
  if (!next_use_us) next_use_us = request.next_use_us;
  if (hints_ != nullptr && next_use_us) expect(request, *next_use_us);
}

bool PrefixCache::is_busy() const noexcept {
  std::unique_lock lock(mutex_, std::try_to_lock);
  return !lock.owns_lock();
}

CacheStats PrefixCache::stats() const {
  std::lock_guard lock(mutex_);
  CacheStats stats;
  stats.num_blocks = num_blocks_;
  stats.free_blocks = free_ids_.available();
  stats.in_flight_blocks = in_flight_blocks_;
  stats.num_leases = num_leases_;
  stats.pinned_blocks = pinned_blocks_;
  stats.kept_blocks = hints_ != nullptr ? hints_->kept_blocks() : 0;
  stats.num_spans = table_.num_spans();
  stats.evictions = evictions_;
  stats.finished_requests = finished_requests_;
  stats.metadata_bytes = table_.bytes() + policy_->bytes() + free_ids_.bytes();
  if (hints_ != nullptr) stats.metadata_bytes += hints_->bytes();
  if (asked_before_ != nullptr) stats.metadata_bytes += asked_before_->bytes();
  return stats;
}

std::vector<TenantStats> PrefixCache::tenant_stats() const {
  std::lock_guard lock(mutex_);
  return tenants_ != nullptr ? tenants_->stats() : std::vector<TenantStats>{};
}

// Blocks that the request at hand may bring though none leaves.
uint64_t PrefixCache::available() const noexcept {
  uint64_t free = free_ids_.available();
  return tenants_ != nullptr ? std::min(free, tenants_->room()) : free;
}

// Leaves in path_ the spans that `hashes` begin with, whatever their state, splitting the last one
// where they part or stop. Answers how many blocks these are.
size_t PrefixCache::walk(std::span<const BlockHash> hashes) {
  path_.clear();
  size_t covered = 0;
  for (SpanId at = kRootSpan;;) {
    auto [id, blocks] = table_.step(at, hashes.subspan(covered));
    if (id == kRootSpan) return covered;
    bool whole = blocks == table_[id].length;
    if (!whole && !table_.has_room(1)) return covered;
    covered += blocks;
    at = path_.emplace_back(whole ? id : split(id, blocks));
    if (!whole) return covered;
  }
}

// The same for what is committed.
size_t PrefixCache::walk_committed(std::span<const BlockHash> hashes) {
  path_.clear();
  size_t matched = 0;
  for (SpanId at = kRootSpan;;) {
    auto [id, blocks] = table_.step(at, hashes.subspan(matched));
    if (id == kRootSpan) return matched;
    uint32_t visible = std::min<uint32_t>(blocks, table_[id].filled);
    bool whole = visible == table_[id].length;
    if (visible == 0 || (!whole && !table_.has_room(1))) return matched;
    matched += visible;
    at = path_.emplace_back(whole ? id : split(id, visible));
    if (!whole) return matched;
  }
}

// The lease gets the path.
void PrefixCache::lend(Lease& lease, size_t blocks) {
  hold(lease.last_ = path_.back());
  ++num_leases_;
  lease.block_ids_.reserve(blocks);
  for (SpanId id : path_) {
    std::span<const BlockId> ids = table_.block_ids(id);
    lease.block_ids_.insert(lease.block_ids_.end(), ids.begin(), ids.end());
  }
}

SpanId PrefixCache::split(SpanId id, uint32_t at) {
  SpanId head = table_.split(id, at);
  policy_->split(head, id);
  if (hints_ != nullptr) hints_->split(head, id);
  if (table_[head].in_flight()) hold(head);
  return head;
}

void PrefixCache::shorten(SpanId id, uint32_t blocks) noexcept {
  if (blocks < table_[id].length) {
    table_.trim(id, blocks);
  } else {
    remove(id);
  }
}

void PrefixCache::unhold(SpanId id) noexcept {
  if (--table_[id].holds == 0) settle(id);
}

// Nothing holds the span any more: it may be evicted, or if it is vacant, nobody needs it.
void PrefixCache::settle(SpanId id) noexcept {
  if (table_[id].vacant) {
    remove(id);
  } else {
    policy_->released(id);
  }
}

// Takes a span out of the table, and the vacant ones above that nothing else holds.
void PrefixCache::remove(SpanId id) noexcept {
  for (;;) {
    SpanId parent = table_[id].parent;
    if (hints_ != nullptr) hints_->remove(id);
    table_.remove(id);
    if (table_[parent].holds != 0) return;
    if (!table_[parent].vacant) return policy_->released(parent);
    id = parent;
  }
}

Lease Lease::share() const noexcept {
  Lease lease(cache_);
  std::lock_guard lock(cache_->mutex_);
  if (last_ == kRootSpan) return lease;
  cache_->hold(lease.last_ = last_);
  ++cache_->num_leases_;
  lease.block_ids_ = block_ids_;
  return lease;
}

void Lease::release() noexcept {
  if (cache_ == nullptr) return;  // moved from
  std::lock_guard lock(cache_->mutex_);
  if (last_ == kRootSpan) return;
  cache_->unhold(std::exchange(last_, kRootSpan));
  --cache_->num_leases_;
  if (counts_) cache_->pinned_blocks_ -= block_ids_.size();
}

void PrefixCache::check_invariants() const {
  std::lock_guard lock(mutex_);
  table_.check_invariants();
  policy_->check_invariants();
  std::vector<int64_t> leases(table_.record_limit());
  std::vector<bool> owned(num_blocks_);
  auto own = [&](BlockId id) {
    KV_INVARIANT(index_of(id) < num_blocks_ && !owned[index_of(id)]);
    owned[index_of(id)] = true;
  };
  free_ids_.for_each(own);
  uint32_t in_flight = 0;
  table_.for_each([&](SpanId id) {
    const Span& span = table_[id];
    leases[index_of(id)] += span.holds - (span.in_flight() ? 1 : 0);
    --leases[index_of(span.parent)];
    KV_INVARIANT(!span.vacant || span.holds > 0);
    if (span.vacant) return;
    in_flight += span.length - span.filled;
    for (BlockId block : table_.block_ids(id)) own(block);
  });
  KV_INVARIANT(std::find(owned.begin(), owned.end(), false) == owned.end());
  KV_INVARIANT(in_flight == in_flight_blocks_);
  int64_t num_leases = 0;
  for (size_t i = 1; i < leases.size(); ++i) {
    KV_INVARIANT(leases[i] >= 0);
    num_leases += leases[i];
  }
  const size_t kept = hints_ != nullptr ? hints_->num_chains() : 0;
  KV_INVARIANT(num_leases == num_leases_ + static_cast<int64_t>(kept));
  if (hints_ != nullptr) hints_->check_invariants();
}

}  // namespace kvcore
