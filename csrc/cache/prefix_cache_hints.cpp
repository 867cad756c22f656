// What PrefixCache is told of the future: pins, kept chains, and when a session is expected back.

#include <algorithm>

#include "cache/prefix_cache.h"

namespace kvcore {
namespace {

constexpr int64_t kLeastGraceUs = 10'000'000;

// Until when blocks are kept for a use that is expected at `next_use_us`.
int64_t end_of_grace(int64_t now_us, int64_t next_use_us) {
  int64_t grace_us = std::max(kLeastGraceUs, (next_use_us - now_us) / 4);
  return next_use_us > kNever - grace_us ? kNever : next_use_us + grace_us;
}

std::string name_of(const BlockHash& hash) {
  return {reinterpret_cast<const char*>(hash.bytes.data()), hash.bytes.size()};
}

// Tenants may call sessions the same.
std::string session_of(const RequestInfo& request) {
  return std::to_string(request.tenant.size()) + ' ' + request.tenant + request.session;
}

}  // namespace

Lease PrefixCache::pin(std::span<const BlockHash> hashes) noexcept {
  Lease lease(shared_from_this());
  std::lock_guard lock(mutex_);
  const uint64_t room = max_pinned_ - pinned_blocks_;
  const size_t matched = walk_committed(hashes.first(std::min<uint64_t>(hashes.size(), room)));
  if (matched == 0) return lease;
  lend(lease, matched);
  lease.counts_ = true;
  pinned_blocks_ += matched;
  return lease;
}

Lease PrefixCache::retain(std::span<const BlockHash> hashes) noexcept {
  Lease lease(shared_from_this());
  std::lock_guard lock(mutex_);
  if (const size_t matched = walk_committed(hashes); matched > 0) lend(lease, matched);
  return lease;
}

size_t PrefixCache::keep(std::span<const BlockHash> hashes, int64_t until_us) noexcept {
  std::lock_guard lock(mutex_);
  if (hints_ == nullptr || hashes.empty()) return 0;
  const std::string name = name_of(hashes.back());
  const size_t matched = until_us < clock_.now_us()
                             ? 0
                             : walk_committed(hashes.first(std::min(hashes.size(), max_kept_)));
  keep(name, matched > 0 ? path_.back() : kRootSpan, until_us);
  return matched;
}

// Keeps a chain in place of what was kept under its name; with no chain, ends that.
void PrefixCache::keep(const std::string& name, SpanId last, int64_t until_us) noexcept {
  SpanId before = kRootSpan;
  if (last == kRootSpan) {
    before = hints_->end(name);
  } else {
    hold(last);
    before = hints_->keep(name, last, until_us);
  }
  if (before != kRootSpan) unhold(before);
  for (SpanId id; (id = hints_->end_excess()) != kRootSpan;) unhold(id);
}

// A request uses the path, of which so many spans at its end are new. Its session is back.
void PrefixCache::heed(const RequestInfo& request, size_t fresh_spans) noexcept {
  hints_->use(request.serial, path_, fresh_spans);
  for (SpanId id; (id = hints_->end_lapsed(clock_.now_us())) != kRootSpan;) unhold(id);
  if (request.session.empty()) return;
  if (SpanId id = hints_->end(session_of(request)); id != kRootSpan) unhold(id);
}

void PrefixCache::expect(const RequestInfo& request, int64_t next_use_us) noexcept {
  if (next_use_us == kNever) return hints_->dismiss(request.serial);
  const SpanId last = hints_->end_of(request.serial);
  if (last == kRootSpan) return;
  const int64_t until_us = end_of_grace(clock_.now_us(), next_use_us);
  keep(request.session.empty() ? name_of(table_[last].last_hash) : session_of(request),
       until_us < clock_.now_us() ? kRootSpan : last, until_us);
}

// What is not needed any more goes first. It was nobody's choice, so no policy remembers it.
void PrefixCache::remove_dismissed(uint64_t blocks_wanted, Reservation& reservation) noexcept {
  while (free_ids_.available() < blocks_wanted) {
    const SpanId id = hints_->dismissed();
    if (id == kRootSpan) return;
    const auto blocks = static_cast<uint32_t>(
        std::min<uint64_t>(table_[id].length, blocks_wanted - free_ids_.available()));
    leave(id, blocks, reservation);
    policy_->withdraw(id, blocks);
    shorten(id, blocks);
  }
}

// Nothing else can leave: a kept chain may. False: none is left.
bool PrefixCache::let_go(const RequestInfo& request, uint64_t blocks_wanted) noexcept {
  const SpanId id = hints_->end_one([this](SpanId last) {
    return tenants_ == nullptr || tenants_->may_take_from(table_[last].tenant);
  });
  if (id == kRootSpan) return false;
  unhold(id);
  if (tenants_ != nullptr) tenants_->begin(request, blocks_wanted);
  return true;
}

}  // namespace kvcore
