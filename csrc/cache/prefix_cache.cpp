#include "cache/prefix_cache.h"

#include <algorithm>
#include <stdexcept>

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

Reservation PrefixCache::reserve(std::span<const BlockHash> hashes,
                                 const RequestInfo& request) noexcept {
  Reservation reservation(shared_from_this());
  reservation.states_.assign(hashes.size(), BlockState::kBypassed);
  std::lock_guard lock(mutex_);
  size_t spans = std::min<size_t>(hashes.size(), num_blocks_) / kMaxSpanBlocks + 4;
  make_room(request, 0, spans, reservation);
  bool has_records = table_.has_room(spans);
  size_t known = walk(hashes);
  SpanId deepest = path_.empty() ? kRootSpan : path_.back();
  std::span<const BlockHash> missing = hashes.subspan(known);
  if (!has_records) missing = {};  // where walk() could not split, more may stand than it found
  uint64_t vacant = 0;
  for (SpanId id : path_) vacant += table_[id].vacant ? table_[id].length : 0;
  if (asked_before_ != nullptr) missing = admitted(missing, vacant);
  const uint64_t wanted = missing.size() + vacant;
  hold(deepest);
  const Use use = clock_.use_of(request);
  std::span<const uint32_t> borders = policy_->remember(path_, missing, use);
  missing = missing.first(missing.size() - make_room(request, wanted, 0, reservation));

  auto state = reservation.states_.begin();
  for (size_t i = 0; i < path_.size(); ++i) {
    SpanId id = path_[i];
    if (!table_[id].vacant) {
      const Span& span = table_[id];
      state = std::fill_n(state, span.filled, BlockState::kPresent);
      state = std::fill_n(state, span.length - span.filled, BlockState::kInFlight);
      continue;
    }
    auto room = static_cast<uint32_t>(std::min<uint64_t>(table_[id].length, available()));
    bool fits = room == table_[id].length;
    if (!fits) {  // what lies below is of no use without it
      missing = {};
      path_.resize(i);
      if (room == 0 || !table_.has_room(1)) break;
      id = path_.emplace_back(split(id, room));
    }
    adopt(id, reservation);
    state = std::fill_n(state, room, BlockState::kNew);
    if (!fits) break;
  }

  size_t taken = std::min<size_t>(missing.size(), available());
  std::fill_n(state, taken, BlockState::kNew);
  SpanId last = deepest;
  const size_t found_spans = path_.size();
  for (uint32_t begin = 0; begin < taken;) {
    while (!borders.empty() && borders.front() <= begin) borders = borders.subspan(1);
    size_t border = borders.empty() ? taken : std::min<size_t>(borders.front(), taken);
    auto end = static_cast<uint32_t>(std::min<size_t>(border, size_t{begin} + kMaxSpanBlocks));
    last = append(last, missing, begin, end, reservation);
    begin = end;
  }
  if (taken > 0) reservation.pieces_.push_back({last, static_cast<uint32_t>(taken)});

  for (size_t i = 0; i < hashes.size(); ++i) {
    if (reservation.states_[i] == BlockState::kNew) {
      reservation.new_positions_.push_back(static_cast<uint32_t>(i));
    }
  }
  policy_->touch(path_, use);
  if (hints_ != nullptr) heed(request, path_.size() - found_spans);
  unhold(deepest);
  return reservation;
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

// What may come of the missing blocks: those that were asked for before, and those that find room.
std::span<const BlockHash> PrefixCache::admitted(std::span<const BlockHash> missing,
                                                 uint64_t vacant) noexcept {
  const size_t known = asked_before_->ask(missing);
  const uint64_t free = free_ids_.available();
  const uint64_t room = free - std::min(free, vacant);
  return missing.first(std::min<uint64_t>(missing.size(), std::max<uint64_t>(known, room)));
}

SpanId PrefixCache::split(SpanId id, uint32_t at) {
  SpanId head = table_.split(id, at);
  policy_->split(head, id);
  if (hints_ != nullptr) hints_->split(head, id);
  if (table_[head].in_flight()) hold(head);
  return head;
}

// Evicts until there are so many free ids, and records for so many more spans. Answers how many of
// the wanted blocks the policy would rather bypass.
uint32_t PrefixCache::make_room(const RequestInfo& request, uint64_t blocks_wanted,
                                size_t spans_wanted, Reservation& reservation) {
  if (hints_ != nullptr) remove_dismissed(blocks_wanted, reservation);
  if (tenants_ != nullptr) tenants_->begin(request, blocks_wanted);
  uint32_t bypassed = 0;
  for (;;) {
    uint64_t available = this->available();
    bool short_of_records = !table_.has_room(spans_wanted);
    if (available >= blocks_wanted && !short_of_records) return bypassed;
    auto [id, blocks] = policy_->oldest();
    if (id == kRootSpan) {
      if (blocks == 0) {
        if (hints_ != nullptr && let_go(request, blocks_wanted)) continue;
        return bypassed;
      }
      blocks = static_cast<uint32_t>(std::min<uint64_t>(blocks, blocks_wanted - available));
      blocks_wanted -= blocks;
      bypassed += blocks;
      continue;
    }
    if (!short_of_records) {
      blocks = static_cast<uint32_t>(std::min<uint64_t>(blocks, blocks_wanted - available));
    }
    leave(id, blocks, reservation);
    policy_->evict(id, blocks);
    shorten(id, blocks);
  }
}

// The last blocks of a leaf make room: what the reservation tells of it, and that they are free.
void PrefixCache::leave(SpanId id, uint32_t blocks, Reservation& reservation) noexcept {
  std::span<const BlockHash> hashes = table_.hashes(id).last(blocks);
  std::span<const BlockId> ids = table_.block_ids(id).last(blocks);
  reservation.evicted_hashes_.insert(reservation.evicted_hashes_.end(), hashes.rbegin(),
                                     hashes.rend());
  reservation.evicted_ids_.insert(reservation.evicted_ids_.end(), ids.rbegin(), ids.rend());
  free_ids_.give_back(ids);
  evictions_ += blocks;
}

void PrefixCache::shorten(SpanId id, uint32_t blocks) noexcept {
  if (blocks < table_[id].length) {
    table_.trim(id, blocks);
  } else {
    remove(id);
  }
}

// Gives a vacant span ids, for the reservation to fill.
void PrefixCache::adopt(SpanId id, Reservation& reservation) {
  Span& span = table_[id];
  std::span<BlockId> ids = table_.block_ids(id);
  free_ids_.take(ids);
  reservation.block_ids_.insert(reservation.block_ids_.end(), ids.begin(), ids.end());
  reservation.pieces_.push_back({id, span.length});
  span.vacant = false;
  hold(id);
  in_flight_blocks_ += span.length;
  policy_->enter(id, std::nullopt);
}

SpanId PrefixCache::append(SpanId parent, std::span<const BlockHash> missing, uint32_t begin,
                           uint32_t end, Reservation& reservation) {
  std::span<const BlockHash> hashes = missing.subspan(begin, end - begin);
  size_t before = reservation.block_ids_.size();
  reservation.block_ids_.resize(before + hashes.size());
  std::span<BlockId> ids = std::span(reservation.block_ids_).subspan(before);
  free_ids_.take(ids);
  SpanId id = table_.append(parent, hashes, ids);
  hold(id);
  in_flight_blocks_ += static_cast<uint32_t>(hashes.size());
  policy_->enter(id, begin);
  return path_.emplace_back(id);
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

// The writer of a span gives up what it has not committed. Answers the span above.
SpanId PrefixCache::give_up(SpanId id) noexcept {
  uint32_t filled = table_[id].filled;
  bool needed = table_[id].holds > 1;  // by more than its writer
  Span& span = table_[id];
  if (needed && filled > 0) {
    if (table_.has_room(1)) {
      split(id, filled);
    } else {  // then all of the span goes; losing blocks is allowed
      in_flight_blocks_ += std::exchange(span.filled, uint16_t{0});
    }
    filled = 0;
  }
  SpanId above = span.parent;
  uint32_t blocks = span.length - filled;
  free_ids_.give_back(table_.block_ids(id).last(blocks));
  in_flight_blocks_ -= blocks;
  policy_->withdraw(id, blocks);
  --span.holds;
  if (needed) {
    span.vacant = true;
  } else if (filled == 0) {
    remove(id);
  } else {
    table_.trim(id, blocks);
    settle(id);
  }
  return above;
}

void Lease::release() noexcept {
  if (cache_ == nullptr) return;  // moved from
  std::lock_guard lock(cache_->mutex_);
  if (last_ == kRootSpan) return;
  cache_->unhold(std::exchange(last_, kRootSpan));
  --cache_->num_leases_;
  if (counts_) cache_->pinned_blocks_ -= block_ids_.size();
}

bool Reservation::commit(size_t count) noexcept {
  std::lock_guard lock(cache_->mutex_);
  if (!open_ || count < committed_ || count > block_ids_.size()) return false;
  size_t begin = 0;
  for (Piece piece : pieces_) {
    size_t end = begin + piece.blocks;
    if (end > committed_ && begin < count) {
      cache_->collect(piece);
      for (SpanId id : cache_->path_) {
        Span& span = cache_->table_[id];
        auto filled =
            static_cast<uint16_t>(std::min<size_t>(count - std::min(count, begin), span.length));
        begin += span.length;
        if (filled <= span.filled) continue;
        cache_->in_flight_blocks_ -= filled - span.filled;
        span.filled = filled;
        if (span.committed()) cache_->unhold(id);
      }
    }
    begin = end;
  }
  committed_ = count;
  return true;
}

void Reservation::abort() noexcept {
  if (cache_ == nullptr) return;  // moved from
  std::lock_guard lock(cache_->mutex_);
  if (!std::exchange(open_, false)) return;
  size_t begin = block_ids_.size();
  for (auto piece = pieces_.rbegin(); piece != pieces_.rend() && begin > committed_; ++piece) {
    size_t left = std::min<size_t>(begin - committed_, piece->blocks);
    for (SpanId id = piece->last; left > 0;) {
      const Span& span = cache_->table_[id];
      left -= span.length - span.filled;
      id = cache_->give_up(id);
    }
    begin -= piece->blocks;
  }
}

// Leaves in path_ the spans of a piece, from the top down.
void PrefixCache::collect(Reservation::Piece piece) {
  path_.clear();
  SpanId id = piece.last;
  for (uint32_t left = piece.blocks; left > 0; id = table_[id].parent) {
    left -= table_[id].length;
    path_.push_back(id);
  }
  std::reverse(path_.begin(), path_.end());
}

size_t Reservation::num_committed() const noexcept {
  std::lock_guard lock(cache_->mutex_);
  return committed_;
}

bool Reservation::is_open() const noexcept {
  std::lock_guard lock(cache_->mutex_);
  return open_;
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
