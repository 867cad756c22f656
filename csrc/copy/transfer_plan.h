#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <vector>

#include "copy/layout.h"
#include "copy/paged_layout.h"
#include "copy/run_codec.h"
#include "slab/slab_span.h"

namespace kvcore {

// Which blocks of a paged cache and of a slab belong together; made once, used for as many copies
// in both directions as wanted. All that could go wrong is found here: a copy cannot leave either
// memory, and no two blocks of it meet. Immutable, so several threads may use one. O(blocks).
class TransferPlan {
 public:
  // Throws std::invalid_argument naming the argument: slab blocks that are too small, ids of
  // unequal number, out of range or there twice. Without a codec runs are copied as they are.
  TransferPlan(PagedLayout layout, SlabSpan slab, std::span<const uint32_t> paged_blocks,
               std::span<const uint32_t> slab_blocks,
               std::shared_ptr<const RunCodec> codec = nullptr);

  // The part of some layers; all of it lies in the memory of this plan.
  CopyView view(uint32_t first_layer, uint32_t num_layers) const noexcept;
  CopyView view() const noexcept { return view(0, layout_.num_layers()); }

  const PagedLayout& layout() const noexcept { return layout_; }
  const SlabSpan& slab() const noexcept { return slab_; }
  const RunCodec* codec() const noexcept { return codec_.get(); }
  // Bytes of a run in the slab.
  uint64_t slab_run_bytes() const noexcept {
    return codec_ == nullptr ? layout_.run_bytes() : codec_->slab_bytes();
  }
  uint32_t num_blocks() const noexcept { return static_cast<uint32_t>(paged_blocks_.size()); }
  uint64_t bytes() const noexcept { return num_blocks() * layout_.block_bytes(); }

 private:
  PagedLayout layout_;
  SlabSpan slab_;
  std::vector<uint32_t> paged_blocks_;
  std::vector<uint32_t> slab_blocks_;
  std::shared_ptr<const RunCodec> codec_;
};

}  // namespace kvcore
