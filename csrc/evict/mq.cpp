#include <algorithm>
#include <array>
#include <bit>

#include "common/check.h"
#include "evict/block_history.h"
#include "evict/policy.h"
#include "evict/recency_order.h"

namespace kvcore {
namespace {

// Multi-queue, prefix-aware. Zhou, Philbin and Li, "The Multi-Queue Replacement Algorithm for
// Second Level Buffer Caches" (USENIX ATC 2001): a block used f times stands in queue log2(f), each
// in the order of last use; one that has not been used for a life time sinks to the queue below,
// and the first of the lowest queue leaves. Qout remembers f of blocks that have left.
//
// The life time is the paper's peak temporal distance: the power of two that covers most of the
// gaps between two uses of a block, measured as the cache runs.
//
// Nothing needs to sink one by one. A block of queue q whose last use was at t comes to the end of
// the lowest queue at t + q (life + 1), unless it is used before, and blocks leave in just this
// order: all that sinks through one queue sinks in its order. So a queue is a list by last use that
// only uses change, and of the eight fronts the one that is due first leaves. (The paper looks at
// the front of each queue once a use; here all that is due has sunk.)
//
// On chains of one block this is the paper's MQ. On longer ones four rules make it prefix-aware:
//   1. A request uses a block once, however often it touches it. Time is counted in blocks used.
//   2. A block was used no more often than the block before it; where its ghost says otherwise,
//      the history of the block before was lost, and it counts as new.
//   3. Blocks touched together are ordered deepest first, and only what nothing holds leaves.
//   4. A block comes only if it ranks no lower than the block that leaves for it, but for the first
//      of a request. (In the paper as well, the blocks of a scan only push out each other.) What
//      finds no place has been used all the same: it is remembered.
//
// Ghosts: 4 a block of the cache, as in the paper. A touch writes each span of the path once and
// moves a link for each group of them with one count.
class MqPolicy final : public EvictionPolicy {
 public:
  MqPolicy(BlockTable& table, uint32_t num_blocks)
      : table_(table),
        num_blocks_(num_blocks),
        queues_{RecencyOrder(table), RecencyOrder(table), RecencyOrder(table), RecencyOrder(table),
                RecencyOrder(table), RecencyOrder(table), RecencyOrder(table), RecencyOrder(table)},
        history_(num_blocks, kGhostsPerBlock) {}

  std::span<const uint32_t> remember(std::span<const SpanId>, std::span<const BlockHash> missing,
                                     const Use&) noexcept override {
    return history_.recall(missing);
  }
  void enter(SpanId id, std::optional<uint32_t> position) noexcept override;
  void touch(std::span<const SpanId> path, const Use& use) noexcept override;
  void split(SpanId head_id, SpanId tail_id) noexcept override;
  void resize(uint32_t num_blocks) noexcept override { num_blocks_ = num_blocks; }
  Victim oldest() noexcept override;
  void evict(SpanId id, uint32_t blocks) noexcept override;
  void withdraw(SpanId id, uint32_t blocks) noexcept override;
  void released(SpanId id) noexcept override { queues_[table_[id].list].released(id); }
  size_t bytes() const noexcept override {
    size_t bytes = history_.bytes();
    for (const RecencyOrder& queue : queues_) bytes += queue.bytes();
    return bytes;
  }
  void check_invariants() const override;

 private:
  static constexpr uint32_t kQueues = 8;
  static constexpr uint32_t kGhostsPerBlock = 4;

  // A span's `stamp`: the time of its last use, and in the lowest byte how often it was used.
  static constexpr uint32_t kUsesBits = 8;
  static constexpr uint64_t kMaxUses = (1 << kUsesBits) - 1;  // that are counted
  static uint64_t uses(const Span& span) noexcept { return span.stamp & kMaxUses; }
  static uint64_t last_use(const Span& span) noexcept { return span.stamp >> kUsesBits; }
  // A ghost's value, which is not to grow along a chain: the same with the uses in front.
  static uint64_t value_of(uint64_t stamp) noexcept { return std::rotr(stamp, kUsesBits); }
  static uint64_t stamp_of(uint64_t value) noexcept { return std::rotl(value, kUsesBits); }
  static uint8_t queue_of(uint64_t uses) noexcept {
    return static_cast<uint8_t>(std::bit_width(uses) - (uses != 0));
  }
  static uint64_t used_again(uint64_t uses) noexcept { return std::min(uses + 1, kMaxUses); }
  // When blocks used so often come to the end of the lowest queue, and leave before what comes.
  uint64_t due(uint64_t last_use, uint8_t queue) const noexcept { return last_use + queue * life_; }

  void tune_life() noexcept;

  BlockTable& table_;
  uint32_t num_blocks_;
  std::array<RecencyOrder, kQueues> queues_;
  BlockHistory history_;
  std::array<uint64_t, 64> gaps_{};  // blocks used again, by the width of the time between uses
  uint64_t num_gaps_ = 0;
  uint64_t life_ = 2;  // and 1: the use at which a block sinks
  uint32_t resident_blocks_ = 0;
  uint64_t now_ = 0;  // blocks used
};

void MqPolicy::enter(SpanId id, std::optional<uint32_t> position) noexcept {
  Span& span = table_[id];
  resident_blocks_ += span.length;
  if (!position) {  // what was vacant has kept its history
    span.last_request = 0;
    return;
  }
  span.stamp = stamp_of(history_.value_at(*position));
  history_.entered(span.length);
}

void MqPolicy::touch(std::span<const SpanId> path, const Use& use) noexcept {
  const uint32_t request = use.request.serial;
  uint64_t blocks_used = 0;
  for (SpanId id : path) {
    blocks_used += table_[id].last_request != request ? table_[id].length : 0;
  }
  now_ += blocks_used;
  history_.settle([this](uint64_t value) {
    return value_of(now_ << kUsesBits | used_again(stamp_of(value) & kMaxUses));
  });
  if (blocks_used == 0) return;  // all by this request, and nobody else since
  uint64_t above = kMaxUses;
  for (SpanId id : path) {
    Span& span = table_[id];
    queues_[span.list].take_out(id);
    uint64_t count = uses(span);
    if (span.last_request != request) {
      if (count > 0) {
        gaps_[std::bit_width(now_ - last_use(span))] += span.length;
        num_gaps_ += span.length;
      }
      count = used_again(count);
    }
    above = std::min(count, above);
    span.list = queue_of(above);
    span.stamp = now_ << kUsesBits | above;
    span.last_request = request;
  }
  tune_life();
  // A list is in the order of stamps, so the deepest group goes first.
  uint64_t below = 0;
  for (size_t i = path.size(); i-- > 0;) {
    uint64_t count = uses(table_[path[i]]);
    if (count != below) queues_[table_[path[i]].list].push(path[i]);
    below = count;
  }
}

// The gaps of the last 64 to 128 uses a block of the cache count; older ones fade.
void MqPolicy::tune_life() noexcept {
  if (num_gaps_ > uint64_t{num_blocks_} * 128) {
    num_gaps_ = 0;
    for (uint64_t& number : gaps_) num_gaps_ += number /= 2;
  }
  auto peak = std::max_element(gaps_.begin(), gaps_.end()) - gaps_.begin();
  life_ = (uint64_t{1} << peak) + 1;
}

void MqPolicy::split(SpanId head_id, SpanId tail_id) noexcept {
  Span& head = table_[head_id];
  const Span& tail = table_[tail_id];
  head.stamp = tail.stamp;
  head.last_request = tail.last_request;
  head.list = tail.list;
}

EvictionPolicy::Victim MqPolicy::oldest() noexcept {
  Victim victim;
  uint64_t first_due = 0;
  for (uint8_t queue = 0; queue < kQueues; ++queue) {
    SpanId id = queues_[queue].oldest();
    if (id == kRootSpan) continue;
    uint64_t is_due = due(last_use(table_[id]), queue);
    if (victim.span != kRootSpan && is_due >= first_due) continue;
    first_due = is_due;
    victim = {id, table_[id].length};
  }
  if (victim.span == kRootSpan || history_.is_settled()) return victim;
  // What comes is worth it from the queue on in which it would be due no earlier.
  uint64_t wait = first_due > now_ ? first_due - now_ : 0;
  uint64_t queue = (wait + life_ - 1) / life_;
  if (queue == 0) return victim;
  const uint32_t with_room = num_blocks_ - resident_blocks_;
  uint32_t worth_it = queue < kQueues ? history_.count_of(value_of((uint64_t{1} << queue) - 1))
                                      : 0;  // and this use
  worth_it = std::max(worth_it, 1u);
  if (worth_it <= with_room) return kBypassRest;
  return {victim.span, std::min(victim.blocks, worth_it - with_room)};
}

void MqPolicy::evict(SpanId id, uint32_t blocks) noexcept {
  history_.evicted(table_.hashes(id).last(blocks), value_of(table_[id].stamp));
  withdraw(id, blocks);
}

void MqPolicy::withdraw(SpanId id, uint32_t blocks) noexcept {
  resident_blocks_ -= blocks;
  if (blocks == table_[id].length) queues_[table_[id].list].remove(id);
}

void MqPolicy::check_invariants() const {
  history_.check_invariants();
  for (uint8_t queue = 0; queue < kQueues; ++queue) queues_[queue].check_invariants(queue);
  uint32_t resident = 0;
  table_.for_each([&](SpanId id) {
    const Span& span = table_[id];
    if (span.vacant) return;
    resident += span.length;
    KV_INVARIANT(uses(span) > 0 && span.list == queue_of(uses(span)) && last_use(span) <= now_);
    const Span& above = table_[span.parent];
    if (!table_.shows_all() || span.parent == kRootSpan || above.vacant) return;
    KV_INVARIANT(uses(above) >= uses(span));
  });
  KV_INVARIANT(resident == resident_blocks_);
}

}  // namespace

std::unique_ptr<EvictionPolicy> make_mq(BlockTable& table, uint32_t num_blocks) {
  return std::make_unique<MqPolicy>(table, num_blocks);
}

}  // namespace kvcore
