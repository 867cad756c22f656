#pragma once

#include <cuda_runtime_api.h>

#include <cstdint>
#include <memory>
#include <vector>

#include "copy/cuda/cuda_device.h"
#include "copy/layout.h"

namespace kvcore {

// Copies between a device and pinned host memory by way of a ring of slots in device memory: a
// kernel gathers a chunk into a slot (or scatters it from there) on the caller's stream, while the
// copy engine moves other slots on a stream of our own, all rows of a slot in one call. Owns
// the ring, 3 x 16 MiB. One copy at a time.
class StagedCopy {
 public:
  // For so many blocks with runs of this size. `device` is the current one.
  StagedCopy(const std::shared_ptr<CudaDevice>& device, uint32_t num_blocks, uint64_t run_bytes);

  // Before the first enqueue() of a copy: our stream starts after what `stream` has to do first.
  void begin(cudaStream_t stream);
  // Both views are of the same planes and blocks: that of the device as kernels see it, that of
  // the host with arrays and a slab that the host sees. Enqueues on both streams and returns the
  // one on which the last byte arrives.
  cudaStream_t enqueue(const CopyView& on_device, const CopyView& on_host, Direction direction,
                       uint32_t word_bytes, uint32_t thread_blocks, cudaStream_t stream);
  // After the last one: what follows on `stream` finds all bytes in place.
  void join(cudaStream_t stream);

 private:
  struct Slot {
    Event filled;
    Event emptied;
  };
  struct Part;

  void gather(const Part& part, Slot& slot, uint32_t word_bytes, uint32_t thread_blocks,
              cudaStream_t stream);
  void scatter(const Part& part, Slot& slot, uint32_t word_bytes, uint32_t thread_blocks,
               cudaStream_t stream);
  void copy_rows(const Part& part, Direction direction);

  uint64_t slot_bytes_;
  DeviceMemory ring_;
  DeviceMemory numbers_;  // 0, 1, ...: the blocks of a slot
  Stream side_;
  Event both_;  // where one stream waits for the other, at both ends of a copy
  std::vector<Slot> slots_;
  uint32_t num_chunks_ = 0;  // of the copy under way
};

}  // namespace kvcore
