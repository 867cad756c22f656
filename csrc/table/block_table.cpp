#include "table/block_table.h"

#include <algorithm>

#include "common/check.h"

namespace kvcore {

BlockTable::BlockTable(size_t max_spans)
    : spans_(max_spans + 1), runs_(sizeof(BlockHash) + sizeof(BlockId)) {
  spans_.grow(1);
  spans_[0].holds = 1;  // the root never leaves
}

BlockTable::~BlockTable() {
  for_each([this](SpanId id) { runs_.release((*this)[id].hashes); });
}

BlockId* BlockTable::ids_of(const Span& span) noexcept {
  return reinterpret_cast<BlockId*>(span.hashes + RunPool::capacity(span.size_class));
}

std::span<const BlockHash> BlockTable::hashes(SpanId id) const noexcept {
  return {(*this)[id].hashes, (*this)[id].length};
}

std::span<BlockId> BlockTable::block_ids(SpanId id) noexcept {
  return {ids_of((*this)[id]), (*this)[id].length};
}

std::span<const BlockId> BlockTable::block_ids(SpanId id) const noexcept {
  return {ids_of((*this)[id]), (*this)[id].length};
}

uint32_t BlockTable::matched_blocks(const Span& span,
                                    std::span<const BlockHash> rest) const noexcept {
  uint32_t length = span.length;
  if (rest.size() >= length && rest[length - 1] == span.last_hash) return length;
  if (rest[0] != span.hashes[0]) return 0;
  uint32_t same = 0, differs = static_cast<uint32_t>(std::min<size_t>(length, rest.size()));
  if (span.hashes[differs - 1] == rest[differs - 1]) return differs;
  while (differs - same > 1) {
    uint32_t middle = same + (differs - same) / 2;
    (span.hashes[middle] == rest[middle] ? same : differs) = middle;
  }
  return differs;
}

BlockTable::Step BlockTable::step(SpanId parent, std::span<const BlockHash> rest) const noexcept {
  if (rest.empty()) return {};
  if (SpanId hint = (*this)[parent].child; hint != kRootSpan) {
    const Span& span = (*this)[hint];
    if (span.parent == parent && span.length != 0) {
      if (uint32_t matched = matched_blocks(span, rest); matched != 0) return {hint, matched};
    }
  }
  Step step;
  step.span = index_.find(index_.tag_of(parent, rest[0]), [&](SpanId id) {
    const Span& span = (*this)[id];
    return span.parent == parent && (step.matched = matched_blocks(span, rest)) != 0;
  });
  return step;
}

SpanId BlockTable::make_record() noexcept {
  ++num_spans_;
  if (free_records_ != kRootSpan) {
    SpanId id = free_records_;
    free_records_ = (*this)[id].next;
    (*this)[id] = Span{};
    return id;
  }
  SpanId id{static_cast<uint32_t>(spans_.size())};
  spans_.grow(spans_.size() + 1);
  return id;
}

void BlockTable::free_record(SpanId id) noexcept {
  --num_spans_;
  (*this)[id] = Span{};
  (*this)[id].next = free_records_;
  free_records_ = id;
}

void BlockTable::set_run(Span& span, std::span<const BlockHash> hashes,
                         const BlockId* ids) noexcept {
  span.size_class = RunPool::class_for(static_cast<uint32_t>(hashes.size()));
  span.hashes = static_cast<BlockHash*>(runs_.allocate(span.size_class));
  span.length = static_cast<uint16_t>(hashes.size());
  std::copy(hashes.begin(), hashes.end(), span.hashes);
  span.last_hash = span.hashes[span.length - 1];
  if (ids != nullptr) std::copy(ids, ids + hashes.size(), ids_of(span));
}

SpanId BlockTable::append(SpanId parent, std::span<const BlockHash> hashes,
                          std::span<const BlockId> ids) noexcept {
  KV_DCHECK(!hashes.empty() && hashes.size() <= kMaxSpanBlocks &&
            (ids.empty() || hashes.size() == ids.size()));
  Span span{};
  set_run(span, hashes, ids.data());
  SpanId id = make_record();
  index_.insert(index_.tag_of(parent, span.hashes[0]), id);  // our copy: the caller's may change
  span.parent = parent;
  (*this)[id] = span;
  ++(*this)[parent].holds;
  if (parent != kRootSpan) (*this)[parent].child = id;
  return id;
}

SpanId BlockTable::split(SpanId tail_id, uint32_t at) noexcept {
  Span& tail = (*this)[tail_id];
  KV_DCHECK(at > 0 && at < tail.length);
  const Span whole = tail;
  std::span<const BlockHash> hashes{whole.hashes, whole.length};
  Span head{};
  set_run(head, hashes.first(at), ids_of(whole));
  set_run(tail, hashes.subspan(at), ids_of(whole) + at);
  SpanId head_id = make_record();
  index_.replace(index_.tag_of(whole.parent, hashes[0]), tail_id, head_id);
  index_.insert(index_.tag_of(head_id, hashes[at]), tail_id);
  runs_.release(whole.hashes);

  head.parent = whole.parent;
  head.child = tail_id;
  head.holds = 1;
  head.filled = std::min<uint16_t>(whole.filled, head.length);
  head.vacant = whole.vacant;
  head.tenant = whole.tenant;
  head.second = whole.second;
  (*this)[head_id] = head;
  tail.parent = head_id;
  tail.filled = static_cast<uint16_t>(whole.filled - head.filled);
  if (head.parent != kRootSpan) (*this)[head.parent].child = head_id;
  return head_id;
}

void BlockTable::trim(SpanId id, uint32_t blocks) noexcept {
  Span& span = (*this)[id];
  KV_DCHECK(blocks < span.length);
  span.length = static_cast<uint16_t>(span.length - blocks);
  span.filled = std::min(span.filled, span.length);
  span.last_hash = span.hashes[span.length - 1];
  if (RunPool::capacity(span.size_class) * 3 > span.length * 4u) {
    const Span before = span;
    set_run(span, {before.hashes, before.length}, ids_of(before));
    runs_.release(before.hashes);
  }
}

void BlockTable::remove(SpanId id) noexcept {
  const Span& span = (*this)[id];
  index_.erase(index_.tag_of(span.parent, span.hashes[0]), id);
  runs_.release(span.hashes);
  --(*this)[span.parent].holds;
  free_record(id);
}

void BlockTable::check_invariants() const {
  index_.check_invariants();
  size_t live = 0;
  std::vector<uint32_t> children(spans_.size());
  for_each([&](SpanId id) {
    const Span& span = (*this)[id];
    ++live;
    ++children[index_of(span.parent)];
    KV_INVARIANT(span.parent == kRootSpan || (*this)[span.parent].length != 0);
    KV_INVARIANT(span.length <= RunPool::capacity(span.size_class));
    KV_INVARIANT(span.filled <= span.length && !(span.vacant && span.filled != 0));
    KV_INVARIANT(span.last_hash == span.hashes[span.length - 1]);
    Step found = step(span.parent, hashes(id));
    KV_INVARIANT(found.span == id && found.matched == span.length);
    KV_INVARIANT(index_.find(index_.tag_of(span.parent, span.hashes[0]),
                             [&](SpanId at) { return at == id; }) == id);
  });
  KV_INVARIANT(live == num_spans_ && live == index_.size() && live == runs_.num_runs());
  for (uint32_t i = 0; i < spans_.size(); ++i) {
    const Span& span = spans_[i];
    KV_INVARIANT(i == 0 || span.length != 0 || span.parent == kRootSpan);
    KV_INVARIANT(span.holds >= children[i]);
  }
}

}  // namespace kvcore
