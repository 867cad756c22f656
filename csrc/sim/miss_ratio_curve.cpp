#include "sim/miss_ratio_curve.h"

#include <algorithm>
#include <cmath>
#include <stdexcept>
#include <string>

namespace kvcore {
namespace {

// The finaliser of MurmurHash3.
constexpr uint64_t mixed(uint64_t value) noexcept {
  value = (value ^ value >> 33) * 0xFF51AFD7ED558CCDu;
  value = (value ^ value >> 33) * 0xC4CEB9FE1A85EC53u;
  return value ^ value >> 33;
}

size_t checked_sample(double sample_ratio, uint64_t min_sample_blocks) {
  if (!(sample_ratio > 0 && sample_ratio <= 1)) {
    throw std::invalid_argument("sample_ratio must be above 0 and at most 1, got " +
                                std::to_string(sample_ratio));
  }
  if (min_sample_blocks < 1 || min_sample_blocks > MissRatioCurve::kMaxMinSampleBlocks) {
    throw std::invalid_argument("min_sample_blocks must be 1 to " +
                                std::to_string(MissRatioCurve::kMaxMinSampleBlocks) + ", got " +
                                std::to_string(min_sample_blocks));
  }
  return static_cast<size_t>(min_sample_blocks);
}

}  // namespace

// Follows one chain from its root and moves blocks from the requests that used them last.
class MissRatioCurve::Walk {
 public:
  explicit Walk(MissRatioCurve& curve) : curve_(curve), last_use_(curve.now_) {}
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

  MissRatioCurve& curve_;
  uint32_t last_use_;   // of the piece at hand
  double newer_ = 0;    // blocks used since, without those of this chain
  double moved_ = 0;    // blocks of the piece that this request takes over
  double reached_ = 0;  // blocks of the chain that were taken over so far
};

MissRatioCurve::MissRatioCurve(double sample_ratio, uint64_t min_sample_blocks, uint64_t seed)
    : sample_ratio_(sample_ratio),
      max_sample_blocks_(9 * checked_sample(sample_ratio, min_sample_blocks) / 4),
      max_root_blocks_(std::max<size_t>(1, static_cast<size_t>(min_sample_blocks) / 2)),
      seed_(mixed(seed + 0x9E3779B97F4A7C15u)),
      table_(max_sample_blocks_ + max_root_blocks_ + 2),
      last_used_(2 * (max_sample_blocks_ + max_root_blocks_) + 1024),
      last_used_sums_(last_used_.size()) {}

uint64_t MissRatioCurve::key_of(const BlockHash& hash) const noexcept {
  return mixed(hash.low() ^ seed_);
}

void MissRatioCurve::update(std::span<const BlockHash> hashes) {
  const std::lock_guard lock(mutex_);
  if (hashes.empty()) return;
  blocks_ += hashes.size();
  if (now_ + 1 == last_used_.size()) renumber();
  ++now_;
  size_t position = 0;
  {
    Walk walk(*this);
    for (; position < hashes.size(); ++position) {
      Block& block = table_.find(hashes[position], key_of(hashes[position]));
      if (block.last_use == 0 || block.root_uses == 0) break;
      walk.visit(block, position, static_cast<double>(position + 1));
      if (block.root_uses != std::numeric_limits<uint32_t>::max()) ++block.root_uses;
    }
    for (size_t i = position; i < hashes.size(); ++i) {
      const uint64_t key = key_of(hashes[i]);
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

void MissRatioCurve::track(Block& place, const BlockHash& hash, uint64_t key) noexcept {
  table_.fill(place, {hash, now_, 0});
  sampled_blocks_ += is_sampled(key);
}

void MissRatioCurve::add_root(const BlockHash& hash) {
  const uint64_t key = key_of(hash);
  Block& block = table_.find(hash, key);
  if (block.last_use == 0) track(block, hash, key);
  block.root_uses = 1;
  if (++root_blocks_ > max_root_blocks_) trim_roots();
}

void MissRatioCurve::trim_roots() {
  while (root_blocks_ > max_root_blocks_ / 4 * 3) {
    retain([&](Block& block) {
      block.root_uses /= 2;
      return true;
    });
  }
}

void MissRatioCurve::trim_sample() {
  if (rate_ > sample_ratio_) {
    rate_ = std::max(sample_ratio_, rate_ / 2);
    threshold_ = static_cast<uint64_t>(std::ldexp(rate_, 64));
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
void MissRatioCurve::retain(Keep&& keep) {
  sampled_blocks_ = 0;
  root_blocks_ = 0;
  table_.retain(
      [&](Block& block) {
        if (!keep(block)) return false;
        const bool sampled = is_sampled(key_of(block.hash));
        sampled_blocks_ += sampled;
        root_blocks_ += block.root_uses != 0;
        return sampled || block.root_uses != 0;
      },
      [&](const BlockHash& hash) { return key_of(hash); });
}

// Numbers the requests from 1 again, without those that no followed block names: their blocks
// count to the next newer one, so every followed block has as many newer ones as before.
void MissRatioCurve::renumber() {
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

double MissRatioCurve::hit_ratio(uint64_t num_blocks) const {
  const std::lock_guard lock(mutex_);
  if (blocks_ == 0) return 0;
  return std::clamp(hits_.sum_to(num_blocks) / static_cast<double>(blocks_), 0.0, 1.0);
}

MissRatioCurve::Stats MissRatioCurve::stats() const {
  const std::lock_guard lock(mutex_);
  return {blocks_, sampled_blocks_, root_blocks_, rate_,
          table_.bytes() + last_used_.capacity() * sizeof(double) + last_used_sums_.bytes() +
              hits_.bytes()};
}

}  // namespace kvcore
