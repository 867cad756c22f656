#include "evict/ghost_lists.h"

#include <algorithm>

#include "common/check.h"

namespace kvcore {
namespace {

struct Key {
  uint32_t print;
  uint32_t check;
};

// All bits of a hash take part: an engine's own hashes may be anything.
Key key_of(const BlockHash& hash) noexcept {
  auto product = static_cast<unsigned __int128>(hash.low() ^ 0x9E3779B97F4A7C15) *
                 (hash.high() ^ 0xBF58476D1CE4E5B9);
  uint64_t folded = static_cast<uint64_t>(product) ^ static_cast<uint64_t>(product >> 64);
  return {static_cast<uint32_t>(folded), static_cast<uint32_t>(folded >> 32)};
}

}  // namespace

GhostLists::GhostLists(size_t max_blocks) : records_(max_blocks + 2) {
  records_.grow(2);
  for (Which which : {kFirst, kSecond}) {
    Run& end = (*this)[end_of(which)];
    end.prev = end.next = end_of(which);
  }
}

GhostLists::~GhostLists() {
  for (Which which : {kFirst, kSecond}) drop_oldest(which, blocks_[which]);
}

SpanId GhostLists::find(uint32_t print) const noexcept {
  return index_.find(index_.tag_of(print),
                     [&](SpanId id) { return (*this)[id].prints[0] == print; });
}

GhostLists::Hit GhostLists::take(std::span<const BlockHash> rest) noexcept {
  Key first = key_of(rest[0]);
  SpanId id = find(first.print);
  if (id == kRootSpan) return {};
  const Run& run = (*this)[id];
  if (run.check != 0 && run.check != first.check) return {};
  auto is_same = [&](uint32_t i) { return key_of(rest[i]).print == run.prints[i]; };
  uint32_t same = 1, differs = static_cast<uint32_t>(std::min<size_t>(run.length, rest.size()));
  if (differs > 1 && is_same(differs - 1)) same = differs;
  while (same < differs) {
    uint32_t middle = same + (differs - same) / 2;
    if (is_same(middle)) {
      same = middle + 1;
    } else {
      differs = middle;
    }
  }
  Hit hit{same, run.which, run.value};
  blocks_[hit.which] -= same;
  if (same < run.length) {
    trim_front(id, same);
  } else {
    erase(id);
  }
  return hit;
}

void GhostLists::add(Which which, std::span<const BlockHash> blocks, uint64_t value) noexcept {
  while (!blocks.empty()) {
    size_t before = (blocks.size() - 1) / kMaxSpanBlocks * kMaxSpanBlocks;
    add_run(which, blocks.subspan(before), value);
    blocks = blocks.first(before);
  }
}

void GhostLists::add_run(Which which, std::span<const BlockHash> blocks, uint64_t value) noexcept {
  std::array<uint32_t, kMaxSpanBlocks> prints;
  for (size_t i = 0; i < blocks.size(); ++i) prints[i] = key_of(blocks[i]).print;
  if (SpanId old = find(prints[0]); old != kRootSpan) {
    forget((*this)[old], (*this)[old].length);
    erase(old);
  }
  SpanId id = free_records_;
  if (id != kRootSpan) {
    free_records_ = (*this)[id].next;
  } else {
    id = SpanId{static_cast<uint32_t>(records_.size())};
    records_.grow(records_.size() + 1);
  }
  Run& run = (*this)[id];
  Run& end = (*this)[end_of(which)];
  run.value = value;
  run.check = key_of(blocks[0]).check;
  run.which = which;
  run.prev = end.prev;
  run.next = end_of(which);
  end.prev = (*this)[run.prev].next = id;
  set_prints(run, std::span(prints).first(blocks.size()));
  index_.insert(index_.tag_of(prints[0]), id);
  blocks_[which] += run.length;
}

void GhostLists::drop_oldest(Which which, uint32_t blocks) noexcept {
  KV_DCHECK(blocks <= blocks_[which]);
  while (blocks > 0) {
    SpanId id = (*this)[end_of(which)].next;
    uint32_t length = (*this)[id].length;
    forget((*this)[id], std::min(blocks, length));
    if (blocks < length) return trim(id, blocks);
    erase(id);
    blocks -= length;
  }
}

// The last `blocks` of a run are about to go, other than by being taken.
void GhostLists::forget(const Run& run, uint32_t blocks) noexcept {
  blocks_[run.which] -= blocks;
  if (forgotten_ != nullptr) forgotten_->push_back({run.value, blocks});
}

void GhostLists::set_prints(Run& run, std::span<const uint32_t> prints) noexcept {
  run.size_class = RunPool::class_for(static_cast<uint32_t>(prints.size()));
  run.prints = static_cast<uint32_t*>(prints_.allocate(run.size_class));
  run.length = static_cast<uint16_t>(prints.size());
  std::copy(prints.begin(), prints.end(), run.prints);
}

void GhostLists::trim(SpanId id, uint32_t blocks) noexcept {
  Run& run = (*this)[id];
  run.length = static_cast<uint16_t>(run.length - blocks);
  if (RunPool::capacity(run.size_class) * 3 <= run.length * 4u) return;
  uint32_t* before = run.prints;
  set_prints(run, {before, run.length});
  prints_.release(before);
}

// Of the block that is first now, no more than the fingerprint is known.
void GhostLists::trim_front(SpanId id, uint32_t blocks) noexcept {
  Run& run = (*this)[id];
  uint32_t* before = run.prints;
  SpanId twin = find(before[blocks]);
  if (twin != kRootSpan && twin != id) {  // hashes that are no chain may come twice in a run
    forget((*this)[twin], (*this)[twin].length);
    erase(twin);
  }
  index_.erase(index_.tag_of(before[0]), id);
  index_.insert(index_.tag_of(before[blocks]), id);
  run.check = 0;
  set_prints(run, std::span(before, run.length).subspan(blocks));
  prints_.release(before);
}

void GhostLists::erase(SpanId id) noexcept {
  Run& run = (*this)[id];
  index_.erase(index_.tag_of(run.prints[0]), id);
  prints_.release(run.prints);
  (*this)[run.prev].next = run.next;
  (*this)[run.next].prev = run.prev;
  run = Run{};
  run.next = free_records_;
  free_records_ = id;
}

void GhostLists::check_invariants() const {
  index_.check_invariants();
  size_t runs = 0;
  for (Which which : {kFirst, kSecond}) {
    uint32_t blocks = 0;
    SpanId before = end_of(which);
    for (SpanId id = (*this)[before].next; id != end_of(which); id = (*this)[id].next, ++runs) {
      const Run& run = (*this)[id];
      KV_INVARIANT(run.prev == before && run.which == which && run.length > 0);
      KV_INVARIANT(run.length <= RunPool::capacity(run.size_class));
      KV_INVARIANT(find(run.prints[0]) == id);
      blocks += run.length;
      before = id;
    }
    KV_INVARIANT((*this)[end_of(which)].prev == before);
    KV_INVARIANT(blocks == blocks_[which]);
  }
  KV_INVARIANT(runs == index_.size() && runs == prints_.num_runs());
}

}  // namespace kvcore
