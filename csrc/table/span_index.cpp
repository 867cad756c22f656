#include "table/span_index.h"

#include <random>

#include "common/check.h"

namespace kvcore {

SpanIndex::SpanIndex() {
  std::random_device entropy;
  for (uint64_t& word : secret_) word = uint64_t{entropy()} << 32 | entropy();
  directory_.push_back(new Segment());
}

SpanIndex::~SpanIndex() {
  for (size_t i = 0; i < directory_.size(); ++i) {
    if (i == 0 || directory_[i] != directory_[i - 1]) delete directory_[i];
  }
}

uint32_t SpanIndex::tag_of(SpanId parent, const BlockHash& first) const noexcept {
  uint64_t salt = index_of(parent) * uint64_t{0x9E3779B97F4A7C15};
  auto product =
      static_cast<unsigned __int128>(first.low() ^ secret_[0]) * (first.high() ^ secret_[1] ^ salt);
  uint64_t folded = static_cast<uint64_t>(product) ^ static_cast<uint64_t>(product >> 64);
  return static_cast<uint32_t>(folded ^ folded >> 32);
}

void SpanIndex::insert(uint32_t tag, SpanId span) noexcept {
  while (directory_[entry_of(tag)]->used == kMaxUsed) split(tag);
  put(*directory_[entry_of(tag)], tag, span);
  ++size_;
}

// Closes the gap by moving back every later span of the same cluster that may stand there (Knuth,
// TAOCP 6.4, algorithm R), so that no tombstone ever slows a search.
void SpanIndex::erase(uint32_t tag, SpanId span) noexcept {
  Segment& segment = *directory_[entry_of(tag)];
  uint32_t gap = static_cast<uint32_t>(&locate(tag, span) - segment.slots);
  for (uint32_t i = (gap + 1) % kSlots; segment.slots[i].span != kRootSpan; i = (i + 1) % kSlots) {
    uint32_t from_home = (i - segment.slots[i].tag) % kSlots;
    if (from_home >= (i - gap) % kSlots) {
      segment.slots[gap] = segment.slots[i];
      gap = i;
    }
  }
  segment.slots[gap] = Slot{};
  --segment.used;
  --size_;
  if (segment.used < kJoinBelow) join(tag);
}

void SpanIndex::replace(uint32_t tag, SpanId from, SpanId to) noexcept {
  locate(tag, from).span = to;
}

SpanIndex::Slot& SpanIndex::locate(uint32_t tag, SpanId span) noexcept {
  Segment& segment = *directory_[entry_of(tag)];
  for (uint32_t i = tag;; ++i) {
    Slot& slot = segment.slots[i % kSlots];
    KV_CHECK(slot.span != kRootSpan);
    if (slot.span == span) return slot;
  }
}

void SpanIndex::put(Segment& segment, uint32_t tag, SpanId span) noexcept {
  uint32_t i = tag % kSlots;
  while (segment.slots[i].span != kRootSpan) i = (i + 1) % kSlots;
  segment.slots[i] = {tag, span};
  ++segment.used;
}

void SpanIndex::split(uint32_t tag) noexcept {
  Segment* full = directory_[entry_of(tag)];
  KV_CHECK(full->depth < 23);  // 2^23 segments: beyond any number of spans that memory can hold
  if (full->depth == depth_) {
    std::vector<Segment*> doubled(directory_.size() * 2);
    for (size_t i = 0; i < doubled.size(); ++i) doubled[i] = directory_[i / 2];
    directory_.swap(doubled);
    ++depth_;
  }
  auto* low = new Segment();
  auto* high = new Segment();
  low->depth = high->depth = full->depth + 1;
  uint32_t bit = uint32_t{1} << (32 - low->depth);
  for (const Slot& slot : full->slots) {
    if (slot.span != kRootSpan) put(slot.tag & bit ? *high : *low, slot.tag, slot.span);
  }
  point_directory(tag & ~bit, low->depth, low);
  point_directory(tag | bit, high->depth, high);
  delete full;
}

void SpanIndex::join(uint32_t tag) noexcept {
  Segment* sparse = directory_[entry_of(tag)];
  if (sparse->depth == 0) return;
  uint32_t bit = uint32_t{1} << (32 - sparse->depth);
  Segment* buddy = directory_[entry_of(tag ^ bit)];
  if (buddy->depth != sparse->depth || buddy->used + sparse->used > kMaxUsed / 2) return;
  for (const Slot& slot : sparse->slots) {
    if (slot.span != kRootSpan) put(*buddy, slot.tag, slot.span);
  }
  --buddy->depth;
  point_directory(tag, buddy->depth, buddy);
  delete sparse;
}

// Lets every entry whose first `depth` bits are those of `tag` lead to `segment`.
void SpanIndex::point_directory(uint32_t tag, uint32_t depth, Segment* segment) noexcept {
  size_t count = size_t{1} << (depth_ - depth);
  size_t first = entry_of(tag) / count * count;
  for (size_t i = first; i < first + count; ++i) directory_[i] = segment;
}

size_t SpanIndex::bytes() const noexcept {
  size_t segments = 0;
  for (size_t i = 0; i < directory_.size(); ++i) {
    segments += i == 0 || directory_[i] != directory_[i - 1];
  }
  return segments * sizeof(Segment) + directory_.capacity() * sizeof(Segment*);
}

void SpanIndex::check_invariants() const {
  size_t total = 0;
  for (size_t i = 0; i < directory_.size(); ++i) {
    const Segment& segment = *directory_[i];
    size_t count = size_t{1} << (depth_ - segment.depth);
    KV_INVARIANT(segment.depth <= depth_ && directory_[i / count * count] == &segment);
    if (i % count != 0) continue;
    uint32_t used = 0;
    for (uint32_t slot = 0; slot < kSlots; ++slot) {
      if (segment.slots[slot].span == kRootSpan) continue;
      uint32_t tag = segment.slots[slot].tag;
      KV_INVARIANT(entry_of(tag) / count == i / count);
      for (uint32_t j = tag % kSlots; j != slot; j = (j + 1) % kSlots) {
        KV_INVARIANT(segment.slots[j].span != kRootSpan);  // no gap between home and place
      }
      ++used;
    }
    KV_INVARIANT(used == segment.used && used <= kMaxUsed);
    total += used;
  }
  KV_INVARIANT(total == size_);
}

}  // namespace kvcore
