#include "common/check.h"
#include "evict/policy.h"
#include "evict/recency_order.h"

namespace kvcore {
namespace {

// Least recently used, over spans. Evicts exactly what LRU over blocks would whose requests touch
// their blocks deepest first. A touch writes each span of the path once and moves one link.
class LruPolicy final : public EvictionPolicy {
 public:
  explicit LruPolicy(BlockTable& table) : table_(table), order_(table) {}

  void enter(SpanId, std::optional<uint32_t>) noexcept override {}

  void touch(std::span<const SpanId> path, const Use&) noexcept override {
    ++now_;
    for (SpanId id : path) {
      Span& span = table_[id];
      order_.take_out(id);
      span.stamp = now_;
    }
    if (!path.empty()) order_.push(path.back());
  }

  void split(SpanId head_id, SpanId tail_id) noexcept override {
    table_[head_id].stamp = table_[tail_id].stamp;
  }

  Victim oldest() noexcept override {
    SpanId id = order_.oldest();
    return {id, table_[id].length};
  }

  void evict(SpanId id, uint32_t blocks) noexcept override {
    if (blocks == table_[id].length) order_.remove(id);
  }
  void withdraw(SpanId id, uint32_t blocks) noexcept override { evict(id, blocks); }
  void released(SpanId id) noexcept override { order_.released(id); }

  size_t bytes() const noexcept override { return order_.bytes(); }
  void check_invariants() const override {
    order_.check_invariants(0);
    table_.for_each([this](SpanId id) {
      const Span& span = table_[id];
      const Span& above = table_[span.parent];
      if (!table_.shows_all() || span.vacant || above.vacant || span.parent == kRootSpan) return;
      KV_INVARIANT(above.stamp >= span.stamp);
    });
  }

 private:
  BlockTable& table_;
  RecencyOrder order_;
  uint64_t now_ = 0;
};

}  // namespace

std::unique_ptr<EvictionPolicy> make_lru(BlockTable& table, uint32_t) {
  return std::make_unique<LruPolicy>(table);
}

}  // namespace kvcore
