#include <ranges>

#include "common/check.h"
#include "evict/overdue_spans.h"
#include "evict/policy.h"
#include "evict/span_list.h"

namespace kvcore {
namespace {

// First in, first out, over spans. The blocks that one request brought came deepest first.
//
// Prefix-aware by one rule: the leaf that came first leaves. A block whose turn comes while others
// stand below it, or while it is pinned, leaves as soon as it can (OverdueSpans); use does not help
// it. On chains of one block this is plain FIFO.
//
// A span is linked once when it comes, and a touch moves nothing.
class FifoPolicy final : public EvictionPolicy {
 public:
  explicit FifoPolicy(BlockTable& table) : table_(table), queue_(table), overdue_(table) {}

  void enter(SpanId, std::optional<uint32_t>) noexcept override {}

  void touch(std::span<const SpanId> path, const Use&) noexcept override {
    for (SpanId id : path | std::views::reverse) {
      if (table_[id].place != Place::kInside) continue;  // came before
      queue_.push_back(id);
      table_[id].place = Place::kListed;
    }
  }

  void split(SpanId head, SpanId tail) noexcept override {
    if (overdue_.contains(tail)) return overdue_.split(head, tail);
    if (table_[tail].place != Place::kListed) return;  // vacant
    queue_.insert_before(queue_.after(tail), head);
    table_[head].place = Place::kListed;
  }

  Victim oldest() noexcept override {
    SpanId id = overdue_.first();
    if (id == kRootSpan) {
      while ((id = queue_.front()) != kRootSpan && table_[id].holds != 0) {
        queue_.erase(id);
        overdue_.push(id);
      }
    }
    return {id, table_[id].length};
  }

  void evict(SpanId id, uint32_t blocks) noexcept override {
    Span& span = table_[id];
    if (blocks != span.length) return;
    if (overdue_.contains(id)) return overdue_.erase(id);
    queue_.erase(id);
    span.place = Place::kInside;
  }
  void withdraw(SpanId id, uint32_t blocks) noexcept override { evict(id, blocks); }
  void released(SpanId id) noexcept override { overdue_.released(id); }

  size_t bytes() const noexcept override { return overdue_.bytes(); }
  void check_invariants() const override {
    overdue_.check_invariants();
    size_t listed = 0;
    for (SpanId id = queue_.front(); id != kRootSpan; id = queue_.after(id)) ++listed;
    table_.for_each([&](SpanId id) {
      const Span& span = table_[id];
      listed -= span.place == Place::kListed;
      KV_INVARIANT(span.vacant == (span.place == Place::kInside));
      KV_INVARIANT(span.place != Place::kParked || span.holds != 0);
    });
    KV_INVARIANT(listed == 0);
  }

 private:
  BlockTable& table_;
  SpanList queue_;
  OverdueSpans overdue_;
};

}  // namespace

std::unique_ptr<EvictionPolicy> make_fifo(BlockTable& table, uint32_t) {
  return std::make_unique<FifoPolicy>(table);
}

}  // namespace kvcore
