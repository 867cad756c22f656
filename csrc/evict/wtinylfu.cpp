#include <algorithm>
#include <array>
#include <utility>

#include "common/check.h"
#include "evict/frequency_sketch.h"
#include "evict/policy.h"
#include "evict/recency_order.h"

namespace kvcore {
namespace {

// W-TinyLFU, prefix-aware. Einziger, Friedman and Manes, "TinyLFU: A Highly Efficient Cache
// Admission Policy" (TOS 2017): blocks come into a small window, an LRU list. What it pushes out is
// taken into the main part only if it was used more often, by a sketch, than what would have to
// leave for it. The main part is a segmented LRU: probation, and protected, at most 80 % of it, for
// what was used again. The window begins at 1 % and climbs the hill: after every 10 uses a block of
// the cache it moves on by 1/16 of the cache, and turns when the hit ratio has fallen (Einziger,
// Eytan, Friedman and Manes, "Adaptive Software Cache Management", Middleware 2018).
//
// On chains of one block this is the paper's policy. On longer ones five rules make it
// prefix-aware:
//   1. A request uses a block once, however often it touches it; what it does not find it has used
//      as well.
//   2. What was touched together and stands in one list is a group, and moves between lists as one;
//      in a contest its deepest block counts, which was used least.
//   3. A use carries a block no lower than the blocks that the request uses below it.
//   4. What cannot leave cannot lose: a group of the window that something holds goes on into the
//      main part. Only what nothing holds leaves the main part; when probation has nothing that
//      may, protected hands down its oldest.
//   5. What comes and has no place in the window has to win its contest before it comes.
//
// A touch writes each span of the path and counts each block once (two cache lines); lists are
// O(1) amortised. Memory: the sketch.
class WTinyLfuPolicy final : public EvictionPolicy {
 public:
  WTinyLfuPolicy(BlockTable& table, uint32_t num_blocks)
      : table_(table),
        num_blocks_(num_blocks),
        lists_{RecencyOrder(table), RecencyOrder(table), RecencyOrder(table)},
        sketch_(num_blocks) {}

  std::span<const uint32_t> remember(std::span<const SpanId>, std::span<const BlockHash> missing,
                                     const Use& use) noexcept override;
  void enter(SpanId id, std::optional<uint32_t> position) noexcept override;
  void touch(std::span<const SpanId> path, const Use& use) noexcept override;
  void split(SpanId head_id, SpanId tail_id) noexcept override;
  void resize(uint32_t num_blocks) noexcept override {
    num_blocks_ = std::max(num_blocks, 1u);
    window_limit_ = std::min(window_limit_, num_blocks_);
  }
  Victim oldest() noexcept override;
  void evict(SpanId id, uint32_t blocks) noexcept override { withdraw(id, blocks); }
  void withdraw(SpanId id, uint32_t blocks) noexcept override;
  void released(SpanId id) noexcept override { lists_[table_[id].list].released(id); }
  size_t bytes() const noexcept override {
    size_t bytes = sketch_.bytes();
    for (const RecencyOrder& list : lists_) bytes += list.bytes();
    return bytes;
  }
  void check_invariants() const override;

 private:
  enum List : uint8_t { kWindow, kProbation, kProtected };

  void set_list(Span& span, uint8_t list) noexcept {
    blocks_[span.list] -= span.length;
    blocks_[list] += span.length;
    span.list = list;
  }
  void move_oldest(List from, List to) noexcept;
  SpanId main_victim() noexcept;
  void count_uses(SpanId id) noexcept;
  void climb() noexcept;
  uint32_t frequency(SpanId id) const noexcept { return sketch_.count(table_[id].last_hash); }

  BlockTable& table_;
  uint32_t num_blocks_;
  std::array<RecencyOrder, 3> lists_;
  std::array<uint32_t, 3> blocks_{};
  FrequencySketch sketch_;
  std::span<const BlockHash> missing_;  // the caller's, from remember() to touch()
  uint32_t request_ = 0;                // whose they are
  uint64_t now_ = 0;
  // The climb.
  uint32_t window_limit_ = std::max(num_blocks_ / 100, 1u);
  bool growing_ = true;
  uint64_t uses_ = 0, hits_ = 0;  // of this step
  uint64_t uses_before_ = 1, hits_before_ = 0;
};

std::span<const uint32_t> WTinyLfuPolicy::remember(std::span<const SpanId>,
                                                   std::span<const BlockHash> missing,
                                                   const Use& use) noexcept {
  missing_ = missing;
  request_ = use.request.serial;
  for (const BlockHash& hash : missing) sketch_.add(hash);
  uses_ += missing.size();
  return {};
}

void WTinyLfuPolicy::enter(SpanId id, std::optional<uint32_t> position) noexcept {
  Span& span = table_[id];
  span.list = kWindow;
  blocks_[kWindow] += span.length;
  if (position) span.last_request = request_;  // counted when it was missed
}

void WTinyLfuPolicy::touch(std::span<const SpanId> path, const Use& use) noexcept {
  ++now_;
  missing_ = {};
  const uint32_t request = use.request.serial;
  for (SpanId id : path) {
    if (table_[id].last_request != request) count_uses(id);
  }
  uint8_t below = kWindow;
  for (size_t i = path.size(); i-- > 0;) {
    Span& span = table_[path[i]];
    lists_[span.list].take_out(path[i]);
    uint8_t list = span.list;
    if (span.last_request != request && list == kProbation) list = kProtected;
    list = std::max(list, below);
    set_list(span, list);
    span.stamp = now_;
    span.last_request = request;
    if (i + 1 == path.size() || list != below) lists_[list].push(path[i]);
    below = list;
  }
  climb();
  const uint64_t main = num_blocks_ - window_limit_;
  // As long as the main part has room, what the window pushes out comes in.
  while (blocks_[kWindow] > window_limit_ && blocks_[kProbation] + blocks_[kProtected] < main) {
    move_oldest(kWindow, kProbation);
  }
  while (blocks_[kProtected] > main * 4 / 5) move_oldest(kProtected, kProbation);
}

void WTinyLfuPolicy::count_uses(SpanId id) noexcept {
  for (const BlockHash& hash : table_.hashes(id)) sketch_.add(hash);
  uses_ += table_[id].length;
  hits_ += table_[id].length;
}

void WTinyLfuPolicy::climb() noexcept {
  if (uses_ < uint64_t{num_blocks_} * 10) return;
  if (hits_ * uses_before_ < hits_before_ * uses_) growing_ = !growing_;
  const uint32_t step = std::max(num_blocks_ / 16, 1u), least = std::max(num_blocks_ / 100, 1u);
  const uint32_t most = std::max(num_blocks_ - num_blocks_ / 5, 1u);
  window_limit_ = growing_ ? std::min(window_limit_ + step, most)
                           : std::max(window_limit_, least + step) - step;
  uses_before_ = std::exchange(uses_, 0);
  hits_before_ = std::exchange(hits_, 0);
}

void WTinyLfuPolicy::move_oldest(List from, List to) noexcept {
  SpanId deepest = lists_[from].front();
  lists_[from].take_out(deepest);
  ++now_;
  for (SpanId id = deepest; id != kRootSpan;) {
    SpanId up = lists_[from].above_in_group(id);
    set_list(table_[id], to);
    table_[id].stamp = now_;
    id = up;
  }
  lists_[to].push(deepest);
}

SpanId WTinyLfuPolicy::main_victim() noexcept {
  for (;;) {
    SpanId id = lists_[kProbation].oldest();
    if (id != kRootSpan || lists_[kProtected].front() == kRootSpan) return id;
    move_oldest(kProtected, kProbation);
  }
}

EvictionPolicy::Victim WTinyLfuPolicy::oldest() noexcept {
  const uint32_t with_room =
      num_blocks_ - blocks_[kWindow] - blocks_[kProbation] - blocks_[kProtected];
  for (;;) {
    SpanId candidate = lists_[kWindow].front();
    if (candidate != kRootSpan && table_[candidate].holds != 0) {
      move_oldest(kWindow, kProbation);
      continue;
    }
    SpanId victim = main_victim();
    if (victim == kRootSpan && candidate == kRootSpan) return {};
    uint32_t in_window = blocks_[kWindow] + with_room;  // with what comes
    if (victim != kRootSpan && in_window < window_limit_) {
      return {victim, std::min<uint32_t>(table_[victim].length, window_limit_ - in_window)};
    }
    if (candidate != kRootSpan) {
      if (victim == kRootSpan || frequency(candidate) <= frequency(victim)) return {candidate, 1};
      move_oldest(kWindow, kProbation);
      return {victim, 1};
    }
    if (with_room < missing_.size() && sketch_.count(missing_[with_room]) <= frequency(victim)) {
      return kBypassRest;
    }
    return {victim, 1};
  }
}

void WTinyLfuPolicy::split(SpanId head_id, SpanId tail_id) noexcept {
  Span& head = table_[head_id];
  const Span& tail = table_[tail_id];
  head.stamp = tail.stamp;
  head.last_request = tail.last_request;
  head.list = tail.list;
}

void WTinyLfuPolicy::withdraw(SpanId id, uint32_t blocks) noexcept {
  const Span& span = table_[id];
  blocks_[span.list] -= blocks;
  if (blocks == span.length) lists_[span.list].remove(id);
}

void WTinyLfuPolicy::check_invariants() const {
  std::array<uint32_t, 3> blocks{};
  for (uint8_t list = 0; list < 3; ++list) lists_[list].check_invariants(list);
  table_.for_each([&](SpanId id) {
    if (!table_[id].vacant) blocks[table_[id].list] += table_[id].length;
  });
  KV_INVARIANT(blocks == blocks_);
  KV_INVARIANT(missing_.empty() && window_limit_ >= 1 && window_limit_ <= num_blocks_);
}

}  // namespace

std::unique_ptr<EvictionPolicy> make_wtinylfu(BlockTable& table, uint32_t num_blocks) {
  return std::make_unique<WTinyLfuPolicy>(table, num_blocks);
}

}  // namespace kvcore
