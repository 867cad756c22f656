#pragma once

#include <cuda_runtime_api.h>

#include <cstddef>
#include <cstdint>
#include <vector>

#include "copy/device_path.h"

namespace kvcore {

// The pieces of a copy, moved by the copy engine in one call of the driver; one call a piece where
// the driver is older than CUDA 12.8. Immutable. Addresses are those that the host sees.
class BatchedCopy {
 public:
  explicit BatchedCopy(const Pieces& pieces);

  // Neither the legacy default stream nor one that is being captured takes a batch.
  static bool takes(cudaStream_t stream);
  // Enqueues the pieces of some planes.
  void enqueue(Direction direction, uint32_t first_plane, uint32_t num_planes, cudaStream_t stream);

 private:
  std::vector<uint64_t> paged_;
  std::vector<uint64_t> slab_;
  std::vector<size_t> bytes_;
  std::vector<size_t> first_of_plane_;
};

}  // namespace kvcore
