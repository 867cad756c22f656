#include "copy/transfer_plan.h"

#include <algorithm>
#include <stdexcept>
#include <string>

#include "common/check.h"

namespace kvcore {
namespace {

[[noreturn]] void refuse(const std::string& message) { throw std::invalid_argument(message); }

void check_ids(const char* name, std::span<const uint32_t> ids, uint32_t num_blocks) {
  std::vector<uint32_t> sorted(ids.begin(), ids.end());
  std::ranges::sort(sorted);
  if (!sorted.empty() && sorted.back() >= num_blocks) {
    refuse(std::string(name) + " must be below " + std::to_string(num_blocks) + ", got " +
           std::to_string(sorted.back()));
  }
  if (auto twice = std::ranges::adjacent_find(sorted); twice != sorted.end()) {
    refuse(std::string(name) + " must differ from each other, got " + std::to_string(*twice) +
           " more than once");
  }
}

}  // namespace

TransferPlan::TransferPlan(PagedLayout layout, SlabSpan slab,
                           std::span<const uint32_t> paged_blocks,
                           std::span<const uint32_t> slab_blocks,
                           std::shared_ptr<const RunCodec> codec)
    : layout_(std::move(layout)),
      slab_(slab),
      paged_blocks_(paged_blocks.begin(), paged_blocks.end()),
      slab_blocks_(slab_blocks.begin(), slab_blocks.end()),
      codec_(std::move(codec)) {
  if (codec_ != nullptr && codec_->run_bytes() != layout_.run_bytes()) {
    refuse("codec must be for runs of " + std::to_string(layout_.run_bytes()) + " bytes, got " +
           std::to_string(codec_->run_bytes()));
  }
  const uint64_t needed = layout_.num_planes() * slab_run_bytes();
  if (slab_.block_bytes < needed) {
    refuse("slab must have blocks of at least " + std::to_string(needed) + " bytes, got " +
           std::to_string(slab_.block_bytes));
  }
  if (paged_blocks_.size() != slab_blocks_.size()) {
    refuse("slab_blocks must be as many as block_ids, got " + std::to_string(slab_blocks_.size()) +
           " for " + std::to_string(paged_blocks_.size()));
  }
  check_ids("block_ids", paged_blocks_, layout_.num_blocks());
  check_ids("slab_blocks", slab_blocks_, slab_.num_blocks);
}

CopyView TransferPlan::view(uint32_t first_layer, uint32_t num_layers) const noexcept {
  KV_CHECK(first_layer <= layout_.num_layers() && num_layers <= layout_.num_layers() - first_layer);
  const uint32_t first_plane = first_layer * layout_.planes_a_layer();
  return {.plane_bases = layout_.plane_bases().data() + first_plane,
          .paged_blocks = paged_blocks_.data(),
          .slab_blocks = slab_blocks_.data(),
          .slab = slab_.data + first_plane * slab_run_bytes(),
          .paged_stride = layout_.block_stride(),
          .slab_stride = slab_.block_bytes,
          .run_bytes = layout_.run_bytes(),
          .num_planes = num_layers * layout_.planes_a_layer(),
          .num_blocks = num_blocks()};
}

}  // namespace kvcore
