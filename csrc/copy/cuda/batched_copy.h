#pragma once

#include <cuda_runtime_api.h>

#include <cstddef>
#include <cstdint>
#include <vector>

#include "copy/cuda/resources.h"
#include "copy/device_path.h"

namespace kvcore {

// The pieces of a copy, moved by the copy engine in one call of the driver; one call a piece where
// the driver is older than CUDA 12.8. Addresses are those that the host sees. One call at a time;
// no stream that is being captured takes a batch.
class BatchedCopy {
 public:
  explicit BatchedCopy(const Pieces& pieces);

  // Enqueues the pieces of some planes.
  void enqueue(Direction direction, uint32_t first_plane, uint32_t num_planes, cudaStream_t stream);

 private:
  void enqueue_runs(Direction direction, size_t first, size_t count, cudaStream_t stream);

  std::vector<uint64_t> paged_;
  std::vector<uint64_t> slab_;
  std::vector<size_t> bytes_;
  std::vector<size_t> first_of_plane_;
  Stream side_;  // instead of the legacy default stream, which takes no batch
  Event both_;
};

}  // namespace kvcore
