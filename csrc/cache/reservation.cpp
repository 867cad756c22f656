// The write side of PrefixCache: what a reservation gets, who leaves for it, and what becomes of
// it.

#include <algorithm>
#include <utility>

#include "cache/prefix_cache.h"

namespace kvcore {

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

// What may come of the missing blocks: those that were asked for before, and those that find room.
std::span<const BlockHash> PrefixCache::admitted(std::span<const BlockHash> missing,
                                                 uint64_t vacant) noexcept {
  const size_t known = asked_before_->ask(missing);
  const uint64_t free = free_ids_.available();
  const uint64_t room = free - std::min(free, vacant);
  return missing.first(std::min<uint64_t>(missing.size(), std::max<uint64_t>(known, room)));
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

size_t Reservation::num_committed() const noexcept {
  std::lock_guard lock(cache_->mutex_);
  return committed_;
}

bool Reservation::is_open() const noexcept {
  std::lock_guard lock(cache_->mutex_);
  return open_;
}

}  // namespace kvcore
