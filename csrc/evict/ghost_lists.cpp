#include "evict/ghost_lists.h"

#include "common/check.h"

namespace kvcore {

GhostLists::Hit GhostLists::take(std::span<const BlockHash> rest) noexcept {
  auto [id, matched] = runs_.step(kRootSpan, rest);
  if (id == kRootSpan) return {};
  Which which{runs_[id].list};
  blocks_[which] -= matched;
  if (matched < runs_[id].length) {
    runs_.trim_front(id, matched);
  } else {
    erase(id);
  }
  return {matched, which};
}

void GhostLists::add(Which which, std::span<const BlockHash> run) noexcept {
  // Only hashes that are no chain can stand in two runs; the newer one counts.
  if (SpanId old = runs_.step(kRootSpan, run.first(1)).span; old != kRootSpan) {
    blocks_[runs_[old].list] -= runs_[old].length;
    erase(old);
  }
  SpanId id = runs_.append(kRootSpan, run, {});
  runs_[id].list = which;
  lists_[which].push_back(id);
  blocks_[which] += static_cast<uint32_t>(run.size());
}

void GhostLists::drop_oldest(Which which, uint32_t blocks) noexcept {
  KV_DCHECK(blocks <= blocks_[which]);
  blocks_[which] -= blocks;
  while (blocks > 0) {
    SpanId id = lists_[which].front();
    uint32_t length = runs_[id].length;
    if (blocks < length) return runs_.trim(id, blocks);
    erase(id);
    blocks -= length;
  }
}

void GhostLists::erase(SpanId id) noexcept {
  lists_[runs_[id].list].erase(id);
  runs_.remove(id);
}

void GhostLists::check_invariants() const {
  runs_.check_invariants();
  std::array<uint32_t, 2> blocks{};
  runs_.for_each([&](SpanId id) { blocks[runs_[id].list] += runs_[id].length; });
  KV_INVARIANT(blocks == blocks_);
  for (size_t which = 0; which < 2; ++which) {
    uint32_t listed = 0;
    for (SpanId id = lists_[which].front(); id != kRootSpan; id = lists_[which].after(id)) {
      KV_INVARIANT(runs_[id].list == which);
      listed += runs_[id].length;
    }
    KV_INVARIANT(listed == blocks_[which]);
  }
}

}  // namespace kvcore
