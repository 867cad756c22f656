#include "copy/cuda/copy_engine.h"

#include <cuda.h>
#include <cudaTypedefs.h>

#include "copy/cuda/resources.h"

namespace kvcore {
namespace {

#if CUDA_VERSION >= 12080
// That of 12.8, which later drivers keep under this version.
PFN_cuMemcpyBatchAsync_v12080 find_batch_call() {
  void* call = nullptr;
  cudaDriverEntryPointQueryResult found{};
  const cudaError_t error = cudaGetDriverEntryPointByVersion("cuMemcpyBatchAsync", &call, 12080,
                                                             cudaEnableDefault, &found);
  if (error != cudaSuccess || found != cudaDriverEntryPointSuccess) {
    cudaGetLastError();
    return nullptr;
  }
  return reinterpret_cast<PFN_cuMemcpyBatchAsync_v12080>(call);
}

// False where the driver has no such call.
bool enqueue_batch(uint64_t* to, uint64_t* from, size_t* bytes, size_t count, cudaStream_t stream) {
  const PFN_cuMemcpyBatchAsync_v12080 call = find_batch_call();
  if (call == nullptr) return false;
  static_assert(sizeof(CUdeviceptr) == sizeof(uint64_t));
  CUmemcpyAttributes in_stream_order{};
  in_stream_order.srcAccessOrder = CU_MEMCPY_SRC_ACCESS_ORDER_STREAM;
  size_t first = 0, failed = 0;
  const CUresult result =
      call(reinterpret_cast<CUdeviceptr*>(to), reinterpret_cast<CUdeviceptr*>(from), bytes, count,
           &in_stream_order, &first, 1, &failed, stream);
  if (result != CUDA_SUCCESS) {
    throw std::runtime_error("cuMemcpyBatchAsync: error " + std::to_string(result));
  }
  return true;
}
#else
bool enqueue_batch(uint64_t*, uint64_t*, size_t*, size_t, cudaStream_t) { return false; }
#endif

}  // namespace

void EngineCopies::enqueue(size_t first, size_t count, cudaStream_t stream) {
  if (count == 0) return;
  if (!is_capturing(stream) &&
      enqueue_batch(to.data() + first, from.data() + first, bytes.data() + first, count, stream)) {
    return;
  }
  for (size_t i = first; i < first + count; ++i) {
    KV_CUDA(cudaMemcpyAsync(reinterpret_cast<void*>(to[i]), reinterpret_cast<const void*>(from[i]),
                            bytes[i], cudaMemcpyDefault, stream));
  }
}

BatchedCopy::BatchedCopy(const Pieces& pieces) : first_of_plane_(pieces.first_of_plane) {
  for (const Piece& piece : pieces.all) {
    gather_.add(piece.paged, piece.slab, piece.bytes);
    scatter_.add(piece.slab, piece.paged, piece.bytes);
  }
}

void BatchedCopy::enqueue(Direction direction, uint32_t first_plane, uint32_t num_planes,
                          cudaStream_t stream) {
  const size_t first = first_of_plane_[first_plane];
  const size_t count = first_of_plane_[first_plane + num_planes] - first;
  EngineCopies& copies = direction == Direction::kGather ? gather_ : scatter_;
  if (stream != nullptr && stream != cudaStreamLegacy) {
    copies.enqueue(first, count, stream);
    return;
  }
  both_.record(stream);
  both_.hold(side_.get());
  copies.enqueue(first, count, side_.get());
  both_.record(side_.get());
  both_.hold(stream);
}

}  // namespace kvcore
