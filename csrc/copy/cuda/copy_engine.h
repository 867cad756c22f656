#pragma once

#include <cuda_runtime_api.h>

#include <cstddef>
#include <cstdint>
#include <vector>

#include "copy/cuda/resources.h"
#include "copy/device_path.h"

namespace kvcore {

// Copies by the copy engine, which takes no multiprocessors. Addresses are those that the host
// sees.
struct EngineCopies {
  std::vector<uint64_t> from;
  std::vector<uint64_t> to;
  std::vector<size_t> bytes;

  void add(uint64_t source, uint64_t target, size_t size) {
    from.push_back(source);
    to.push_back(target);
    bytes.push_back(size);
  }
  // Those from `first` on, in one call of the driver; one call each where the driver is older than
  // CUDA 12.8 or the stream is being captured. Not for the legacy default stream.
  void enqueue(size_t first, size_t count, cudaStream_t stream);
};

// A copy piece by piece. One call at a time; its end waits for nothing.
class BatchedCopy {
 public:
  explicit BatchedCopy(const Pieces& pieces);

  // Enqueues the pieces of some planes.
  void enqueue(Direction direction, uint32_t first_plane, uint32_t num_planes, cudaStream_t stream);

 private:
  EngineCopies gather_;
  EngineCopies scatter_;
  std::vector<size_t> first_of_plane_;
  Stream side_;  // instead of the legacy default stream
  Event both_;
};

}  // namespace kvcore
