#include <algorithm>
#include <array>
#include <ranges>
#include <vector>

#include "common/check.h"
#include "evict/ghost_lists.h"
#include "evict/overdue_spans.h"
#include "evict/policy.h"
#include "evict/span_list.h"

namespace kvcore {
namespace {

// S3-FIFO, prefix-aware. Yang, Zhang, Qiu, Yue and Rashmi, "FIFO queues are all you need for cache
// eviction" (SOSP 2023): blocks come into a small queue of a tenth of the cache; at its end those
// used more than once since go to the main queue and the others leave, remembered in as many ghosts
// as main has blocks. What is found there comes into main at once. At main's end a block with uses
// left pays one and goes around; uses are counted up to 3, anew in main.
//
// As in the authors' code, main loses blocks when it has more than its nine tenths, and small
// otherwise; but small is filled first, as in the paper. On chains of one block this is the paper's
// S3-FIFO. On longer ones five rules make it prefix-aware:
//   1. A request uses a block once, however often it touches it; bringing it is no use.
//   2. A block at the end of its queue goes to main, or around, whether it could leave or not, so a
//      chain ages as a whole.
//   3. One that should leave and cannot is overdue (OverdueSpans) and leaves before the rest of its
//      queue; but if it has been used enough before, it goes to main, or around, at once.
//   4. A vacant span was asked for before: when it gets blocks again, they go to main. Where one
//      queue has nothing that may leave, the other one is asked.
//   5. Of the blocks that one request brings the deepest come first, so when small is used up they
//      would push each other out: as soon as they have small's tenth, the rest is bypassed and
//      becomes ghosts. Main makes room for them only as far as known ones would fill it.
//
// A touch writes each span of the path and moves only what is overdue. Each step at a queue's end
// pays with a use that was counted or parks a span, so the next leaf is found in O(1) amortised. A
// block that comes costs one search in the ghosts' index.
class S3FifoPolicy final : public EvictionPolicy {
 public:
  S3FifoPolicy(BlockTable& table, uint32_t num_blocks)
      : table_(table),
        num_blocks_(num_blocks),
        max_ghosts_(main_limit_of(num_blocks)),
        main_limit_(max_ghosts_),
        queues_{Queue(table), Queue(table)},
        ghosts_(max_ghosts_) {}

  std::span<const uint32_t> remember(std::span<const SpanId>, std::span<const BlockHash> missing,
                                     const Use& use) noexcept override;
  void enter(SpanId id, std::optional<uint32_t> position) noexcept override;
  void touch(std::span<const SpanId> path, const Use& use) noexcept override;
  void split(SpanId head_id, SpanId tail_id) noexcept override;
  void resize(uint32_t num_blocks) noexcept override {
    num_blocks_ = num_blocks;
    main_limit_ = main_limit_of(num_blocks);
  }
  Victim oldest() noexcept override;
  void evict(SpanId id, uint32_t blocks) noexcept override;
  void withdraw(SpanId id, uint32_t blocks) noexcept override;
  void released(SpanId id) noexcept override { queue_of(table_[id]).overdue.released(id); }
  size_t bytes() const noexcept override;
  void check_invariants() const override;

 private:
  enum Which : uint8_t { kSmall, kMain };
  static constexpr uint8_t kMaxUses = 3;
  static constexpr auto kGhosts = GhostLists::kFirst;

  struct Queue {
    explicit Queue(BlockTable& table) : list(table), overdue(table) {}
    SpanList list;  // oldest first
    OverdueSpans overdue;
    uint64_t blocks = 0;  // of both
  };

  static uint32_t main_limit_of(uint32_t num_blocks) noexcept {
    return num_blocks - std::min(num_blocks, std::max<uint32_t>(num_blocks / 10, 1));
  }

  // Span::list: which queue, and the uses that count.
  static Which which(const Span& span) noexcept { return Which(span.list & 1); }
  static uint8_t uses(const Span& span) noexcept { return span.list >> 1; }
  static uint8_t packed(Which which, uint8_t uses) noexcept {
    return static_cast<uint8_t>(which | uses << 1);
  }
  Queue& queue_of(const Span& span) noexcept { return queues_[which(span)]; }

  void push(SpanId id) noexcept;
  void take_out(SpanId id) noexcept;
  bool stay(SpanId id) noexcept;
  SpanId next_of(Which which) noexcept;
  uint32_t shortest(SpanId id, uint64_t blocks) const noexcept {
    return static_cast<uint32_t>(std::min<uint64_t>(table_[id].length, blocks));
  }
  void add_ghosts(std::span<const BlockHash> run) noexcept;

  BlockTable& table_;
  uint32_t num_blocks_;
  const uint32_t max_ghosts_;
  uint32_t main_limit_;
  std::array<Queue, 2> queues_;
  GhostLists ghosts_;
  // Of the request at hand:
  std::span<const BlockHash> missing_;  // blocks that come
  std::vector<uint32_t> borders_;       // where they change: unknown, known, unknown, ...
  uint64_t known_ = 0;                  // so many of them were ghosts
  uint64_t come_ = 0;                   // so many have come
};

std::span<const uint32_t> S3FifoPolicy::remember(std::span<const SpanId>,
                                                 std::span<const BlockHash> missing,
                                                 const Use&) noexcept {
  missing_ = missing;
  borders_.clear();
  known_ = come_ = 0;
  for (uint32_t i = 0; i < missing.size();) {
    uint32_t known = ghosts_.take(missing.subspan(i)).blocks;
    if (known == 0) {
      ++i;
      continue;
    }
    if (!borders_.empty() && borders_.back() == i) {
      borders_.back() = i + known;
    } else {
      borders_.insert(borders_.end(), {i, i + known});
    }
    i += known;
    known_ += known;
  }
  return borders_;
}

void S3FifoPolicy::enter(SpanId id, std::optional<uint32_t> position) noexcept {
  bool known = !position || (std::ranges::upper_bound(borders_, *position) - borders_.begin()) % 2;
  table_[id].list = packed(known ? kMain : kSmall, 0);
  if (position) come_ += table_[id].length;
}

void S3FifoPolicy::touch(std::span<const SpanId> path, const Use& use) noexcept {
  for (SpanId id : path | std::views::reverse) {
    Span& span = table_[id];
    if (span.place == Place::kInside) {
      push(id);
    } else if (span.last_request != use.request.serial) {
      span.list = packed(which(span), std::min<uint8_t>(uses(span) + 1, kMaxUses));
      if (queue_of(span).overdue.contains(id)) stay(id);
    }
    span.last_request = use.request.serial;
  }
  // Those that found no room are as if they had come and left.
  if (missing_.size() > come_) add_ghosts(missing_.subspan(come_));
  missing_ = {};
  known_ = 0;
}

void S3FifoPolicy::add_ghosts(std::span<const BlockHash> run) noexcept {
  run = run.first(std::min<size_t>(run.size(), max_ghosts_));
  if (run.empty()) return;
  auto blocks = ghosts_.size(kGhosts) + static_cast<uint32_t>(run.size());
  ghosts_.drop_oldest(kGhosts, blocks - std::min(blocks, max_ghosts_));
  ghosts_.add(kGhosts, run);
}

void S3FifoPolicy::split(SpanId head_id, SpanId tail_id) noexcept {
  Span& head = table_[head_id];
  const Span& tail = table_[tail_id];
  Queue& queue = queue_of(tail);
  head.last_request = tail.last_request;
  head.list = tail.list;
  if (queue.overdue.contains(tail_id)) return queue.overdue.split(head_id, tail_id);
  if (tail.place != Place::kListed) return;  // vacant
  queue.list.insert_before(queue.list.after(tail_id), head_id);
  head.place = Place::kListed;
}

void S3FifoPolicy::push(SpanId id) noexcept {
  Queue& queue = queue_of(table_[id]);
  queue.list.push_back(id);
  queue.blocks += table_[id].length;
  table_[id].place = Place::kListed;
}

void S3FifoPolicy::take_out(SpanId id) noexcept {
  Span& span = table_[id];
  Queue& queue = queue_of(span);
  queue.blocks -= span.length;
  if (span.place == Place::kListed) {
    queue.list.erase(id);
    span.place = Place::kInside;
  } else {
    queue.overdue.erase(id);
  }
}

// A span at the end of its queue goes on in main if it was used enough.
bool S3FifoPolicy::stay(SpanId id) noexcept {
  Span& span = table_[id];
  bool from_small = which(span) == kSmall;
  if (uses(span) < (from_small ? 2 : 1)) return false;
  take_out(id);
  span.list = packed(kMain, from_small ? 0 : uses(span) - 1);
  push(id);
  return true;
}

// The leaf that a queue loses next, or kRootSpan.
SpanId S3FifoPolicy::next_of(Which which) noexcept {
  auto& [list, overdue, blocks] = queues_[which];
  if (SpanId id = overdue.first(); id != kRootSpan) return id;
  for (SpanId id; (id = list.front()) != kRootSpan;) {
    if (stay(id)) continue;
    if (table_[id].holds == 0) return id;
    list.erase(id);
    overdue.push(id);
  }
  return kRootSpan;
}

EvictionPolicy::Victim S3FifoPolicy::oldest() noexcept {
  // As if the blocks came one by one: main may be one above its limit when the next is to come.
  uint64_t main_blocks = queues_[kMain].blocks + std::max<uint64_t>(known_, 1) - 1;
  uint64_t excess = main_blocks - std::min<uint64_t>(main_blocks, main_limit_);
  SpanId id = excess > 0 ? next_of(kMain) : kRootSpan;
  if (id != kRootSpan) return {id, shortest(id, excess)};
  id = next_of(kSmall);
  if (id != kRootSpan) return {id, shortest(id, excess > 0 ? 1 : UINT64_MAX)};
  uint64_t room = num_blocks_ - queues_[kSmall].blocks - queues_[kMain].blocks;
  uint64_t share = num_blocks_ - main_limit_;
  if (!missing_.empty() && room >= share) return kBypassRest;
  id = next_of(kMain);
  return {id, shortest(id, room < share ? share - room : UINT64_MAX)};
}

void S3FifoPolicy::evict(SpanId id, uint32_t blocks) noexcept {
  if (which(table_[id]) == kSmall) add_ghosts(table_.hashes(id).last(blocks));
  withdraw(id, blocks);
}

void S3FifoPolicy::withdraw(SpanId id, uint32_t blocks) noexcept {
  if (blocks == table_[id].length) {
    take_out(id);
  } else {
    queue_of(table_[id]).blocks -= blocks;
  }
}

size_t S3FifoPolicy::bytes() const noexcept {
  return ghosts_.bytes() + queues_[kSmall].overdue.bytes() + queues_[kMain].overdue.bytes() +
         borders_.capacity() * sizeof(uint32_t);
}

void S3FifoPolicy::check_invariants() const {
  ghosts_.check_invariants();
  KV_INVARIANT(ghosts_.size(kGhosts) <= max_ghosts_);
  std::array<size_t, 2> listed{};
  std::array<uint64_t, 2> blocks{};
  for (Which queue : {kSmall, kMain}) {
    const auto& [list, overdue, total] = queues_[queue];
    overdue.check_invariants();
    for (SpanId id = list.front(); id != kRootSpan; id = list.after(id)) ++listed[queue];
  }
  table_.for_each([&](SpanId id) {
    const Span& span = table_[id];
    KV_INVARIANT(span.vacant == (span.place == Place::kInside));
    KV_INVARIANT(span.place != Place::kParked || span.holds != 0);
    if (span.vacant) return;
    bool overdue = span.place != Place::kListed;
    KV_INVARIANT(!overdue || uses(span) < (which(span) == kSmall ? 2 : 1));
    listed[which(span)] -= !overdue;
    blocks[which(span)] += span.length;
  });
  KV_INVARIANT(listed[kSmall] == 0 && listed[kMain] == 0);
  KV_INVARIANT(blocks[kSmall] == queues_[kSmall].blocks && blocks[kMain] == queues_[kMain].blocks);
}

}  // namespace

std::unique_ptr<EvictionPolicy> make_s3fifo(BlockTable& table, uint32_t num_blocks) {
  return std::make_unique<S3FifoPolicy>(table, num_blocks);
}

}  // namespace kvcore
