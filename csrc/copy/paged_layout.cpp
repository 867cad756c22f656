#include "copy/paged_layout.h"

#include <algorithm>
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
  std::vector<uint64_t> sorted = plane_bases_;
  std::ranges::sort(sorted);
  for (size_t i = 0; i < sorted.size(); ++i) {
    // Planes that are further apart than one reaches cannot meet, nor can those behind.
    for (size_t j = i + 1; j < sorted.size() && sorted[j] - sorted[i] < plane_bytes(); ++j) {
      check(!overlap(sorted[i], sorted[j]), "share no byte", "two planes that do");
    }
  }
}

// Blocks of both lie at one distance, so two meet when their places within that distance do and
// they are there at the same time.
bool PagedLayout::overlap(uint64_t low_base, uint64_t high_base) const noexcept {
  const uint64_t apart = high_base - low_base;
  if (apart >= plane_bytes()) return false;
  if (num_blocks_ == 1) return true;
  const uint64_t steps = apart / block_stride_, offset = apart % block_stride_;
  // The block of the low plane that starts before the high plane's first one, and the next.
  if (offset < run_bytes_) return steps < num_blocks_;
  return block_stride_ - offset < run_bytes_ && steps + 1 < num_blocks_;
}

}  // namespace kvcore
