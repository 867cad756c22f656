#include "copy/cuda/staged_copy.h"

#include <algorithm>
#include <numeric>

#include "copy/cuda/copy_engine.h"
#include "copy/cuda/kernels.h"
#include "copy/device_path.h"

namespace kvcore {

// A chunk of a copy and its slot.
struct StagedCopy::Part {
  CopyView staged;  // between the paged cache and the slot
  CopyView host;    // the same blocks and planes, of the slab
};

StagedCopy::StagedCopy(const std::shared_ptr<CudaDevice>& device, uint32_t num_blocks,
                       uint64_t run_bytes)
    : slot_bytes_(std::max(kThresholds.chunk_bytes, run_bytes)),
      ring_(device, slot_bytes_ * kThresholds.ring_slots),
      numbers_(device, num_blocks * sizeof(uint32_t)),
      slots_(kThresholds.ring_slots) {
  std::vector<uint32_t> numbers(num_blocks);
  std::iota(numbers.begin(), numbers.end(), 0);
  numbers_.write(0, numbers.data(), numbers.size() * sizeof(uint32_t));
}

// This is also what takes our stream into a capture.
void StagedCopy::begin(cudaStream_t stream) {
  num_chunks_ = 0;
  both_.record(stream);
  both_.hold(side_.get());
}

cudaStream_t StagedCopy::enqueue(const CopyView& on_device, const CopyView& on_host,
                                 Direction direction, uint32_t word_bytes, uint32_t thread_blocks,
                                 cudaStream_t stream) {
  const uint64_t first_bytes =
      num_chunks_ == 0 ? kThresholds.first_chunk_bytes : kThresholds.chunk_bytes;
  for (const Chunk& chunk : chunks_of(on_host.num_planes, on_host.num_blocks, on_host.run_bytes,
                                      first_bytes, kThresholds.chunk_bytes)) {
    const uint32_t number = num_chunks_ % kThresholds.ring_slots;
    auto part_of = [&](CopyView view) {
      view.plane_bases += chunk.first_plane;
      view.paged_blocks += chunk.first_block;
      view.slab_blocks += chunk.first_block;
      view.slab += chunk.first_plane * view.run_bytes;
      view.num_planes = chunk.num_planes;
      view.num_blocks = chunk.num_blocks;
      return view;
    };
    Part part{part_of(on_device), part_of(on_host)};
    part.staged.slab = ring_.address() + number * slot_bytes_;
    part.staged.slab_stride = chunk.num_planes * on_host.run_bytes;
    part.staged.slab_blocks = reinterpret_cast<const uint32_t*>(numbers_.data());
    if (direction == Direction::kGather) {
      gather(part, slots_[number], word_bytes, thread_blocks, stream);
    } else {
      scatter(part, slots_[number], word_bytes, thread_blocks, stream);
    }
    ++num_chunks_;
  }
  return direction == Direction::kGather ? side_.get() : stream;
}

void StagedCopy::join(cudaStream_t stream) {
  both_.record(side_.get());
  both_.hold(stream);
}

void StagedCopy::gather(const Part& part, Slot& slot, uint32_t word_bytes, uint32_t thread_blocks,
                        cudaStream_t stream) {
  if (num_chunks_ >= slots_.size()) slot.emptied.hold(stream);
  check_cuda(launch_load_store(part.staged, Direction::kGather, word_bytes, thread_blocks, stream),
             "gather kernel");
  slot.filled.record(stream);
  slot.filled.hold(side_.get());
  copy_rows(part, Direction::kGather);
  slot.emptied.record(side_.get());
}

void StagedCopy::scatter(const Part& part, Slot& slot, uint32_t word_bytes, uint32_t thread_blocks,
                         cudaStream_t stream) {
  if (num_chunks_ >= slots_.size()) slot.emptied.hold(side_.get());
  copy_rows(part, Direction::kScatter);
  slot.filled.record(side_.get());
  slot.filled.hold(stream);
  check_cuda(launch_load_store(part.staged, Direction::kScatter, word_bytes, thread_blocks, stream),
             "scatter kernel");
  slot.emptied.record(stream);
}

// Between a slot and the slab: blocks that follow each other in both make one copy.
void StagedCopy::copy_rows(const Part& part, Direction direction) {
  const uint32_t* blocks = part.host.slab_blocks;
  const uint64_t row_bytes = part.staged.slab_stride, stride = part.host.slab_stride;
  EngineCopies rows;
  for (uint32_t first = 0, end = 0; first < part.host.num_blocks; first = end) {
    end = first + 1;
    if (row_bytes == stride) {
      while (end < part.host.num_blocks && blocks[end] == blocks[end - 1] + 1) ++end;
    }
    const uint64_t slab = part.host.slab + blocks[first] * stride;
    const uint64_t slot = part.staged.slab + first * row_bytes;
    const uint64_t bytes = (end - first) * row_bytes;
    if (direction == Direction::kGather) {
      rows.add(slot, slab, bytes);
    } else {
      rows.add(slab, slot, bytes);
    }
  }
  rows.enqueue(0, rows.bytes.size(), side_.get());
}

}  // namespace kvcore
