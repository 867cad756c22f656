#include <algorithm>
#include <array>
#include <string>
#include <utility>
#include <vector>

#include "common/check.h"
#include "evict/contest.h"
#include "evict/policy.h"

namespace kvcore {
namespace {

// The best of several policies: a contest on a sample of the blocks tells which it is (contest.h).
//
// When another policy takes over, nothing is rebuilt: spans go over to it when they are touched,
// and at each touch up to 32 more, first the leaves that the policy before would evict next, then
// what cannot leave, as if used at that moment. What has not gone over yet leaves first. Until all
// have, no third one takes over.
//
// A span belongs to one of two policies (Span::second). Costs the policy at work and
// the contest. Memory: that of both and of the small caches.
class AutoPolicy final : public EvictionPolicy {
 public:
  AutoPolicy(BlockTable& table, uint32_t num_blocks, std::vector<std::string> contenders)
      : table_(table),
        made_for_(num_blocks),
        num_blocks_(num_blocks),
        contenders_(std::move(contenders)),
        contest_(contenders_, num_blocks) {
    orders_[0].policy = make_policy(contenders_[0], table, num_blocks);
  }

  std::span<const uint32_t> remember(std::span<const SpanId> path,
                                     std::span<const BlockHash> missing,
                                     const Use& use) noexcept override;
  void enter(SpanId id, std::optional<uint32_t> position) noexcept override;
  void touch(std::span<const SpanId> path, const Use& use) noexcept override;
  void finish(const Use& use, uint64_t output_tokens) noexcept override;
  void split(SpanId head, SpanId tail) noexcept override;
  void resize(uint32_t num_blocks) noexcept override {
    num_blocks_ = num_blocks;
    contest_.resize(num_blocks);
  }
  Victim oldest() noexcept override;
  void evict(SpanId id, uint32_t blocks) noexcept override;
  void withdraw(SpanId id, uint32_t blocks) noexcept override;
  void released(SpanId id) noexcept override { order_of(id).policy->released(id); }
  size_t bytes() const noexcept override;
  void check_invariants() const override;

 private:
  static constexpr int kMovedATouch = 32;
  static constexpr int kSearched = 64;  // records

  struct Order {
    std::unique_ptr<EvictionPolicy> policy;
    uint32_t spans = 0, blocks = 0;
  };

  size_t side_of(SpanId id) const noexcept { return table_[id].second; }
  Order& order_of(SpanId id) noexcept { return orders_[side_of(id)]; }
  Order& current() noexcept { return orders_[current_]; }
  Order& leaving() noexcept { return orders_[1 - current_]; }
  Order& lose(SpanId id, uint32_t blocks) noexcept;
  void switch_policy() noexcept;
  void take_over(std::span<const SpanId> path) noexcept;
  void take_over_leaves(const Use& use) noexcept;
  SpanId find_held() noexcept;

  BlockTable& table_;
  const uint32_t made_for_;
  uint32_t num_blocks_;  // see resize()
  const std::vector<std::string> contenders_;
  Contest contest_;
  std::array<Order, 2> orders_;
  size_t current_ = 0;    // of orders_
  size_t contender_ = 0;  // that it is
  const RequestInfo mover_{};
  size_t searched_ = 0;  // record, last
  uint8_t tenant_ = 0;   // whose spans these are
};

void AutoPolicy::switch_policy() noexcept {
  contender_ = contest_.champion();
  current_ = 1 - current_;
  current().policy = make_policy(contenders_[contender_], table_, made_for_);
}

// These spans are about to be touched.
void AutoPolicy::take_over(std::span<const SpanId> path) noexcept {
  if (leaving().policy == nullptr) return;
  for (auto id = path.rbegin(); id != path.rend(); ++id) {
    Span& span = table_[*id];
    if (side_of(*id) == current_) continue;
    withdraw(*id, span.length);
    enter(*id, std::nullopt);
  }
}

void AutoPolicy::take_over_leaves(const Use& use) noexcept {
  for (int i = 0; i < kMovedATouch && leaving().policy != nullptr; ++i) {
    SpanId id = leaving().policy->oldest().span;
    if (id == kRootSpan) id = find_held();
    if (id == kRootSpan) break;
    take_over({&id, 1});
    current().policy->touch({&id, 1}, {mover_, use.now_us});
  }
  if (leaving().spans == 0) leaving().policy.reset();
}

// The next span, among some records, that has not gone over, though it cannot leave: what is pinned
// may stay for long. Or kRootSpan.
SpanId AutoPolicy::find_held() noexcept {
  for (int i = 0; i < kSearched && leaving().spans > 0; ++i) {
    searched_ = searched_ + 1 < table_.record_limit() ? searched_ + 1 : 1;
    const SpanId id{static_cast<uint32_t>(searched_)};
    const Span& span = table_[id];
    const bool is_ours = span.length > 0 && !span.vacant && span.tenant == tenant_;
    if (is_ours && side_of(id) != current_) return id;
  }
  return kRootSpan;
}

std::span<const uint32_t> AutoPolicy::remember(std::span<const SpanId> path,
                                               std::span<const BlockHash> missing,
                                               const Use& use) noexcept {
  contest_.observe(table_, path, missing, use);
  if (contest_.champion() != contender_ && leaving().policy == nullptr) switch_policy();
  auto vacant =
      std::find_if(path.begin(), path.end(), [&](SpanId id) { return table_[id].vacant; });
  take_over({path.begin(), vacant});
  return current().policy->remember(path, missing, use);
}

void AutoPolicy::enter(SpanId id, std::optional<uint32_t> position) noexcept {
  table_[id].second = current_ == 1;
  tenant_ = table_[id].tenant;
  ++current().spans;
  current().blocks += table_[id].length;
  current().policy->enter(id, position);
}

void AutoPolicy::touch(std::span<const SpanId> path, const Use& use) noexcept {
  take_over(path);
  current().policy->touch(path, use);
  take_over_leaves(use);
}

void AutoPolicy::finish(const Use& use, uint64_t output_tokens) noexcept {
  current().policy->finish(use, output_tokens);
  contest_.finish(use, output_tokens);
}

void AutoPolicy::split(SpanId head, SpanId tail) noexcept {
  if (table_[head].vacant) return;
  ++order_of(head).spans;
  order_of(tail).policy->split(head, tail);
}

EvictionPolicy::Victim AutoPolicy::oldest() noexcept {
  if (leaving().policy != nullptr) {
    Victim victim = leaving().policy->oldest();
    if (victim.span != kRootSpan) return victim;
  }
  current().policy->resize(num_blocks_ - leaving().blocks);
  return current().policy->oldest();
}

// Of a span's order, blocks are about to leave.
AutoPolicy::Order& AutoPolicy::lose(SpanId id, uint32_t blocks) noexcept {
  Order& order = order_of(id);
  order.spans -= blocks == table_[id].length;
  order.blocks -= blocks;
  return order;
}

void AutoPolicy::evict(SpanId id, uint32_t blocks) noexcept {
  lose(id, blocks).policy->evict(id, blocks);
}

void AutoPolicy::withdraw(SpanId id, uint32_t blocks) noexcept {
  lose(id, blocks).policy->withdraw(id, blocks);
  // If it becomes vacant, another policy may be at work when it comes back.
  if (blocks == table_[id].length) table_[id].forget_order();
}

size_t AutoPolicy::bytes() const noexcept {
  size_t bytes = contest_.bytes();
  for (const Order& order : orders_) bytes += order.policy != nullptr ? order.policy->bytes() : 0;
  return bytes;
}

void AutoPolicy::check_invariants() const {
  contest_.check_invariants();
  std::array<uint32_t, 2> spans{}, blocks{};
  table_.for_each([&](SpanId id) {
    if (table_[id].vacant) return;
    ++spans[side_of(id)];
    blocks[side_of(id)] += table_[id].length;
  });
  for (size_t i = 0; i < 2; ++i) {
    KV_INVARIANT(spans[i] == orders_[i].spans && blocks[i] == orders_[i].blocks);
    KV_INVARIANT(orders_[i].policy != nullptr || (i != current_ && spans[i] == 0));
    if (orders_[i].policy == nullptr) continue;
    BlockTable::Shown only(table_, {}, i == 1);
    orders_[i].policy->check_invariants();
  }
}

}  // namespace

std::unique_ptr<EvictionPolicy> make_auto_of(BlockTable& table, uint32_t num_blocks,
                                             std::vector<std::string> contenders) {
  return std::make_unique<AutoPolicy>(table, num_blocks, std::move(contenders));
}

std::unique_ptr<EvictionPolicy> make_auto(BlockTable& table, uint32_t num_blocks) {
  return make_auto_of(table, num_blocks, {"hazard", "lru", "lru2", "s3fifo"});
}

}  // namespace kvcore
