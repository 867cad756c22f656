#include "copy/paged_layout.h"

#include <algorithm>
#include <iterator>
#include <set>
#include <stdexcept>
#include <string>

namespace kvcore {

PagedLayout::PagedLayout(std::vector<uint64_t> plane_bases, uint32_t num_layers,
                         uint32_t num_blocks, uint64_t block_stride, uint64_t run_bytes)
    : plane_bases_(std::move(plane_bases)),
      num_layers_(num_layers),
      num_blocks_(num_blocks),
      block_stride_(block_stride),
      run_bytes_(run_bytes) {
  auto check = [](bool allowed, const std::string& rule, const std::string& got) {
    if (!allowed) throw std::invalid_argument("layers must " + rule + ", got " + got);
  };
  check(num_layers_ > 0 && num_planes() > 0 && num_planes() % num_layers_ == 0,
        "be at least 1, with equally many planes each",
        std::to_string(num_planes()) + " planes of " + std::to_string(num_layers_) + " layers");
  check(num_blocks_ > 0 && run_bytes_ > 0, "have blocks with bytes",
        std::to_string(num_blocks_) + " blocks of " + std::to_string(run_bytes_) + " bytes");
  check(num_blocks_ == 1 || block_stride_ >= run_bytes_, "have blocks that share no byte",
        std::to_string(run_bytes_) + " bytes every " + std::to_string(block_stride_));
  check(!planes_overlap(), "share no byte", "two planes that do");
}

// Blocks of all planes lie at one distance. So two planes of which one begins before the other ends
// meet if and only if their places within that distance do, and of those that reach a plane's begin
// its two neighbours by that place are the ones to ask.
bool PagedLayout::planes_overlap() const {
  std::vector<uint64_t> sorted = plane_bases_;
  std::ranges::sort(sorted);
  const uint64_t stride = num_blocks_ == 1 ? run_bytes_ : block_stride_;
  std::set<uint64_t> reaching;  // places; none meets another
  size_t first = 0;
  for (const uint64_t base : sorted) {
    for (; sorted[first] + plane_bytes() <= base; ++first) reaching.erase(sorted[first] % stride);
    const uint64_t place = base % stride;
    if (!reaching.empty()) {
      const auto next = reaching.lower_bound(place);
      const uint64_t above = next == reaching.end() ? *reaching.begin() + stride : *next;
      const uint64_t below = next == reaching.begin() ? *reaching.rbegin() : *std::prev(next);
      if (above - place < run_bytes_ || (place + stride - below) % stride < run_bytes_) return true;
    }
    reaching.insert(place);
  }
  return false;
}

}  // namespace kvcore
