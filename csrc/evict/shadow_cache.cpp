#include "evict/shadow_cache.h"

#include <algorithm>

#include "common/check.h"

namespace kvcore {

ShadowCache::ShadowCache(std::string_view policy, uint32_t num_blocks)
    : num_blocks_(num_blocks),
      table_(size_t{num_blocks} * 2 + 1024),
      policy_(make_policy(policy, table_, num_blocks)) {
  KV_CHECK(policy_ != nullptr);
}

uint32_t ShadowCache::serve(std::span<const BlockHash> chain, const Use& use) noexcept {
  const uint32_t found = walk(chain);
  if (found > 0) policy_->touch(path_, use);
  std::span<const BlockHash> missing = chain.subspan(found);
  const SpanId deepest = path_.empty() ? kRootSpan : path_.back();
  ++table_[deepest].holds;
  std::span<const uint32_t> borders = policy_->remember(path_, missing, use);
  const uint32_t bypassed = make_room(static_cast<uint32_t>(missing.size()));
  const uint32_t room = std::min(num_blocks_ - std::min(used_, num_blocks_),
                                 static_cast<uint32_t>(missing.size()) - bypassed);
  SpanId last = deepest;
  for (uint32_t begin = 0; begin < room;) {
    while (!borders.empty() && borders.front() <= begin) borders = borders.subspan(1);
    const uint32_t border = borders.empty() ? room : std::min(borders.front(), room);
    const uint32_t end = std::min(border, begin + kMaxSpanBlocks);
    last = table_.append(last, missing.subspan(begin, end - begin), {});
    policy_->enter(last, begin);
    path_.push_back(last);
    begin = end;
  }
  used_ += room;
  ++table_[last].holds;  // until it is touched
  --table_[deepest].holds;
  policy_->touch(path_, use);
  if (--table_[last].holds == 0) policy_->released(last);
  return found;
}

// Leaves in path_ the spans that the chain begins with; answers how many blocks these are.
uint32_t ShadowCache::walk(std::span<const BlockHash> chain) noexcept {
  path_.clear();
  uint32_t found = 0;
  for (SpanId at = kRootSpan;;) {
    auto [id, blocks] = table_.step(at, chain.subspan(found));
    if (id == kRootSpan) return found;
    found += blocks;
    const bool whole = blocks == table_[id].length;
    if (!whole) {
      SpanId head = table_.split(id, blocks);
      policy_->split(head, id);
      id = head;
    }
    path_.push_back(id);
    if (!whole) return found;
    at = id;
  }
}

// Evicts until `wanted` blocks fit; answers how many of them are to be bypassed.
uint32_t ShadowCache::make_room(uint32_t wanted) noexcept {
  uint32_t bypassed = 0;
  while (num_blocks_ < used_ + wanted) {
    const uint32_t excess = used_ + wanted - num_blocks_;
    policy_->resize(std::max(num_blocks_, used_));
    auto [id, allowed] = policy_->oldest();
    const uint32_t blocks = std::min(allowed, id == kRootSpan ? std::min(excess, wanted) : excess);
    if (blocks == 0) break;
    if (id == kRootSpan) {
      wanted -= blocks;
      bypassed += blocks;
      continue;
    }
    policy_->evict(id, blocks);
    used_ -= blocks;
    if (blocks < table_[id].length) {
      table_.trim(id, blocks);
    } else {
      remove(id);
    }
  }
  return bypassed;
}

void ShadowCache::remove(SpanId id) noexcept {
  const SpanId parent = table_[id].parent;
  table_.remove(id);
  if (table_[parent].holds == 0) policy_->released(parent);
}

void ShadowCache::check_invariants() const {
  table_.check_invariants();
  policy_->check_invariants();
  uint32_t used = 0;
  table_.for_each([&](SpanId id) { used += table_[id].length; });
  KV_INVARIANT(used == used_);
}

}  // namespace kvcore
