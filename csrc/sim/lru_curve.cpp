#include "sim/lru_curve.h"

#include <algorithm>
#include <cmath>
#include <limits>

namespace kvcore {
// Follows one chain from its root and moves blocks from the requests that used them last.
class LruCurve::Walk {
 public:
  explicit Walk(LruCurve& curve) : curve_(curve), last_use_(curve.now_) {}
  ~Walk() { leave_piece(); }
  Walk(const Walk&) = delete;
  Walk& operator=(const Walk&) = delete;

  // A followed block at `position`: while it hits, so do the first `hits` blocks of the chain.
  void visit(Block& block, size_t position, double hits) {
    if (block.last_use == curve_.now_) return;  // no chain holds a block twice
    if (block.last_use < last_use_) {
      leave_piece();
      last_use_ = block.last_use;
      newer_ = std::max(0.0, curve_.last_used_sums_.sum_after(last_use_));
    }
    curve_.hits_.add(static_cast<uint64_t>(std::llround(newer_)) + position + 1, hits - reached_);
    moved_ += hits - reached_;
    reached_ = hits;
    block.last_use = curve_.now_;
  }

 private:
  void leave_piece() noexcept {
    if (moved_ == 0) return;
    curve_.last_used_[last_use_] -= moved_;
    curve_.last_used_sums_.add(last_use_, -moved_);
    moved_ = 0;
  }

  LruCurve& curve_;
  uint32_t last_use_;   // of the piece at hand
  double newer_ = 0;    // blocks used since, without those of this chain
  double moved_ = 0;    // blocks of the piece that this request takes over
  double reached_ = 0;  // blocks of the chain that were taken over so far
};

LruCurve::LruCurve(double sample_ratio, size_t min_sample_blocks, uint64_t seed)
    : sample_ratio_(sample_ratio),
      max_sample_blocks_(9 * min_sample_blocks / 4),
      max_root_blocks_(std::max<size_t>(1, min_sample_blocks / 2)),
      key_of_(seed),
      table_(max_sample_blocks_ + max_root_blocks_ + 2),
      last_used_(2 * (max_sample_blocks_ + max_root_blocks_) + 1024),
      last_used_sums_(last_used_.size()) {}

void LruCurve::update(std::span<const BlockHash> hashes) {
  if (hashes.empty()) return;
  if (now_ + 1 == last_used_.size()) renumber();
  ++now_;
  size_t position = 0;
  {
    Walk walk(*this);
    for (; position < hashes.size(); ++position) {
      Block& block = table_.find(hashes[position], key_of_(hashes[position]));
      if (block.last_use == 0 || block.root_uses == 0) break;
      walk.visit(block, position, static_cast<double>(position + 1));
      if (block.root_uses != std::numeric_limits<uint32_t>::max()) ++block.root_uses;
    }
    for (size_t i = position; i < hashes.size(); ++i) {
      const uint64_t key = key_of_(hashes[i]);
      if (!is_sampled(key)) continue;
      Block& block = table_.find(hashes[i], key);
      if (block.last_use != 0) {
        walk.visit(block, i, static_cast<double>(i) + 1 / rate_);
      } else {
        track(block, hashes[i], key);
        if (sampled_blocks_ > max_sample_blocks_) trim_sample();
      }
    }
  }
  last_used_[now_] = static_cast<double>(hashes.size());
  last_used_sums_.add(now_, static_cast<double>(hashes.size()));
  if (position < hashes.size()) add_root(hashes[position]);
}

void LruCurve::track(Block& place, const BlockHash& hash, uint64_t key) noexcept {
  table_.fill(place, {hash, now_, 0});
  sampled_blocks_ += is_sampled(key);
}

void LruCurve::add_root(const BlockHash& hash) {
  const uint64_t key = key_of_(hash);
  Block& block = table_.find(hash, key);
  if (block.last_use == 0) track(block, hash, key);
  block.root_uses = 1;
  if (++root_blocks_ > max_root_blocks_) trim_roots();
}

void LruCurve::trim_roots() {
  while (root_blocks_ > max_root_blocks_ / 4 * 3) {
    retain([&](Block& block) {
      block.root_uses /= 2;
      return true;
    });
  }
}

void LruCurve::trim_sample() {
  if (rate_ > sample_ratio_) {
    rate_ = std::max(sample_ratio_, rate_ / 2);
    threshold_ = threshold_of(rate_);
    retain([](const Block&) { return true; });
    return;
  }
  std::vector<uint32_t> last_uses;
  table_.for_each([&](const Block& block) { last_uses.push_back(block.last_use); });
  const auto oldest_kept = last_uses.begin() + static_cast<ptrdiff_t>(last_uses.size() / 8);
  std::ranges::nth_element(last_uses, oldest_kept);
  retain([&](const Block& block) { return block.last_use > *oldest_kept; });
}

// Keeps what `keep` wants and what is sampled or a root.
template <typename Keep>
void LruCurve::retain(Keep&& keep) {
  sampled_blocks_ = 0;
  root_blocks_ = 0;
  table_.retain(
      [&](Block& block) {
        if (!keep(block)) return false;
        const bool sampled = is_sampled(key_of_(block.hash));
        sampled_blocks_ += sampled;
        root_blocks_ += block.root_uses != 0;
        return sampled || block.root_uses != 0;
      },
      [&](const BlockHash& hash) { return key_of_(hash); });
}

// Numbers the requests from 1 again, without those that no followed block names: their blocks
// count to the next newer one, so every followed block has as many newer ones as before.
void LruCurve::renumber() {
  std::vector<uint32_t> numbers(last_used_.size());
  table_.for_each([&](const Block& block) { numbers[block.last_use] = 1; });
  std::vector<double> kept(last_used_.size());
  uint32_t number = 1;
  for (size_t old = 1; old < last_used_.size(); ++old) {
    kept[number] += last_used_[old];
    if (numbers[old] != 0) numbers[old] = number++;
  }
  table_.for_each([&](Block& block) { block.last_use = numbers[block.last_use]; });
  last_used_ = std::move(kept);
  last_used_sums_.clear();
  for (size_t i = 1; i <= number; ++i) last_used_sums_.add(i, last_used_[i]);
  now_ = number;
}

}  // namespace kvcore
