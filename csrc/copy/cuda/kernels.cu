#include <algorithm>

#include "copy/copy_body.h"
#include "copy/cuda/kernels.h"

namespace kvcore {
namespace {

constexpr uint32_t kBulkRingBytes = kBulkSlots * kBulkUnitBytes;

// Both sides are streamed: what is read or written once shall not push out of the caches what the
// engine's kernels keep there.
struct Words16 {
  using Word = uint4;
  static __device__ __forceinline__ uint4 load(uint64_t from) {
    uint4 word;
    asm volatile("ld.global.nc.L1::no_allocate.L2::128B.v4.u32 {%0, %1, %2, %3}, [%4];"
                 : "=r"(word.x), "=r"(word.y), "=r"(word.z), "=r"(word.w)
                 : "l"(from));
    return word;
  }
  static __device__ __forceinline__ void store(uint64_t to, const uint4& word) {
    asm volatile("st.global.cs.v4.u32 [%0], {%1, %2, %3, %4};" ::"l"(to), "r"(word.x), "r"(word.y),
                 "r"(word.z), "r"(word.w)
                 : "memory");
  }
};

template <typename Type>
struct Words {
  using Word = Type;
  static __device__ __forceinline__ Word load(uint64_t from) {
    return __ldcs(reinterpret_cast<const Word*>(from));
  }
  static __device__ __forceinline__ void store(uint64_t to, Word word) {
    __stcs(reinterpret_cast<Word*>(to), word);
  }
};

template <typename Memory, Direction kDirection>
__global__ void __launch_bounds__(kLoadStoreThreads, 2)
    load_store_kernel(const __grid_constant__ CopyView view,
                      const __grid_constant__ UnitSplit split) {
  constexpr uint32_t kWarps = kLoadStoreThreads / kWarpLanes;
  load_store_body<Memory, kDirection>(view, split, blockIdx.x * kWarps + threadIdx.x / kWarpLanes,
                                      gridDim.x * kWarps, threadIdx.x % kWarpLanes);
}

#if !defined(__CUDA_ARCH__) || __CUDA_ARCH__ >= 900
__device__ __forceinline__ uint32_t shared_address(const void* pointer) {
  return static_cast<uint32_t>(__cvta_generic_to_shared(pointer));
}

// The ring of copy_body.h in shared memory. All of its copies are made by the asynchronous proxy:
// no thread reads or writes the bytes, so no fence stands between a load and its store.
class SharedRing {
 public:
  __device__ SharedRing(uint8_t* slots, uint64_t* loaded)
      : slots_(shared_address(slots)), loaded_(shared_address(loaded)) {
    for (uint32_t slot = 0; slot < kBulkSlots; ++slot) {
      asm volatile("mbarrier.init.shared::cta.b64 [%0], 1;" ::"r"(barrier(slot)) : "memory");
    }
    asm volatile("fence.mbarrier_init.release.cluster;" ::: "memory");
    asm volatile("fence.proxy.async.shared::cta;" ::: "memory");
  }

  __device__ void load(uint32_t slot, uint64_t from, uint32_t bytes) {
    asm volatile("mbarrier.arrive.expect_tx.shared::cta.b64 _, [%0], %1;" ::"r"(barrier(slot)),
                 "r"(bytes)
                 : "memory");
    asm volatile(
        "cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes [%0], [%1], %2, [%3];" ::
            "r"(data(slot)),
        "l"(from), "r"(bytes), "r"(barrier(slot))
        : "memory");
  }

  __device__ void wait_loaded(uint32_t slot, uint32_t parity) {
    uint32_t done = 0;
    while (done == 0) {
      asm volatile(
          "{\n"
          ".reg .pred loaded;\n"
          "mbarrier.try_wait.parity.shared::cta.b64 loaded, [%1], %2;\n"
          "selp.u32 %0, 1, 0, loaded;\n"
          "}"
          : "=r"(done)
          : "r"(barrier(slot)), "r"(parity)
          : "memory");
    }
  }

  __device__ void store(uint32_t slot, uint64_t to, uint32_t bytes) {
    asm volatile("cp.async.bulk.global.shared::cta.bulk_group [%0], [%1], %2;" ::"l"(to),
                 "r"(data(slot)), "r"(bytes)
                 : "memory");
    asm volatile("cp.async.bulk.commit_group;" ::: "memory");
  }

  template <uint32_t kStores>
  __device__ void wait_read() {
    asm volatile("cp.async.bulk.wait_group.read %0;" ::"n"(kStores) : "memory");
  }

  __device__ void wait_written() { asm volatile("cp.async.bulk.wait_group 0;" ::: "memory"); }

 private:
  __device__ uint32_t data(uint32_t slot) const { return slots_ + slot * kBulkUnitBytes; }
  __device__ uint32_t barrier(uint32_t slot) const { return loaded_ + slot * sizeof(uint64_t); }

  uint32_t slots_;
  uint32_t loaded_;
};
#endif

// One thread a block; on devices before sm_90 it is empty, and prepare_bulk() refuses it.
template <Direction kDirection>
__global__ void __launch_bounds__(1, 1)
    bulk_kernel(const __grid_constant__ CopyView view, const __grid_constant__ UnitSplit split) {
#if !defined(__CUDA_ARCH__) || __CUDA_ARCH__ >= 900
  extern __shared__ __align__(128) uint8_t slots[];
  __shared__ __align__(8) uint64_t loaded[kBulkSlots];
  SharedRing ring(slots, loaded);
  bulk_body<SharedRing, kDirection>(view, split, blockIdx.x, gridDim.x, ring);
#endif
}

// Launches for as many blocks at a time as can be counted in units.
template <typename Launch>
cudaError_t launch_in_parts(CopyView view, uint64_t unit_bytes, Launch launch) noexcept {
  while (view.num_blocks > 0) {
    CopyView part = view;
    part.num_blocks = UnitSplit::max_blocks(view, unit_bytes);
    launch(part, UnitSplit::of(part, unit_bytes));
    if (const cudaError_t error = cudaGetLastError(); error != cudaSuccess) return error;
    view.paged_blocks += part.num_blocks;
    view.slab_blocks += part.num_blocks;
    view.num_blocks -= part.num_blocks;
  }
  return cudaSuccess;
}

template <typename Memory, Direction kDirection>
cudaError_t launch_words(const CopyView& view, uint32_t thread_blocks, cudaStream_t stream) {
  constexpr uint32_t kWarps = kLoadStoreThreads / kWarpLanes;
  constexpr uint32_t kUnitBytes = kWarpUnitBytes<typename Memory::Word>;
  return launch_in_parts(view, kUnitBytes, [=](const CopyView& part, const UnitSplit& split) {
    const uint32_t useful = (split.num_units - 1) / kWarps + 1;
    load_store_kernel<Memory, kDirection>
        <<<std::min(thread_blocks, useful), kLoadStoreThreads, 0, stream>>>(part, split);
  });
}

template <Direction kDirection>
cudaError_t launch_words(const CopyView& view, uint32_t word_bytes, uint32_t thread_blocks,
                         cudaStream_t stream) {
  switch (word_bytes) {
    case 16:
      return launch_words<Words16, kDirection>(view, thread_blocks, stream);
    case 4:
      return launch_words<Words<uint32_t>, kDirection>(view, thread_blocks, stream);
    case 1:
      return launch_words<Words<uint8_t>, kDirection>(view, thread_blocks, stream);
    default:
      return cudaErrorInvalidValue;
  }
}

}  // namespace

cudaError_t launch_load_store(const CopyView& view, Direction direction, uint32_t word_bytes,
                              uint32_t thread_blocks, cudaStream_t stream) noexcept {
  return direction == Direction::kGather
             ? launch_words<Direction::kGather>(view, word_bytes, thread_blocks, stream)
             : launch_words<Direction::kScatter>(view, word_bytes, thread_blocks, stream);
}

cudaError_t launch_bulk(const CopyView& view, Direction direction, uint32_t thread_blocks,
                        cudaStream_t stream) noexcept {
  const auto kernel = direction == Direction::kGather ? &bulk_kernel<Direction::kGather>
                                                      : &bulk_kernel<Direction::kScatter>;
  return launch_in_parts(view, kBulkUnitBytes, [=](const CopyView& part, const UnitSplit& split) {
    kernel<<<std::min(thread_blocks, split.num_units), 1, kBulkRingBytes, stream>>>(part, split);
  });
}

cudaError_t load_kernels() noexcept {
  cudaFuncAttributes attributes;
  for (const auto kernel : {&load_store_kernel<Words16, Direction::kGather>,
                            &load_store_kernel<Words16, Direction::kScatter>,
                            &load_store_kernel<Words<uint32_t>, Direction::kGather>,
                            &load_store_kernel<Words<uint32_t>, Direction::kScatter>,
                            &load_store_kernel<Words<uint8_t>, Direction::kGather>,
                            &load_store_kernel<Words<uint8_t>, Direction::kScatter>,
                            &bulk_kernel<Direction::kGather>, &bulk_kernel<Direction::kScatter>}) {
    const cudaError_t error = cudaFuncGetAttributes(&attributes, kernel);
    if (error != cudaSuccess) return error;
  }
  return cudaSuccess;
}

cudaError_t prepare_bulk() noexcept {
  int device = 0, major = 0, shared_bytes = 0;
  cudaError_t error = cudaGetDevice(&device);
  if (error == cudaSuccess) {
    error = cudaDeviceGetAttribute(&major, cudaDevAttrComputeCapabilityMajor, device);
  }
  if (error == cudaSuccess) {
    error = cudaDeviceGetAttribute(&shared_bytes, cudaDevAttrMaxSharedMemoryPerBlockOptin, device);
  }
  if (error != cudaSuccess) return error;
  // Devices for desktops have bulk copies, but not the memory for this ring.
  constexpr uint32_t kBarrierBytes = kBulkSlots * sizeof(uint64_t);
  if (major < 9 || static_cast<uint32_t>(shared_bytes) < kBulkRingBytes + kBarrierBytes) {
    return cudaErrorNotSupported;
  }
  for (const auto kernel : {&bulk_kernel<Direction::kGather>, &bulk_kernel<Direction::kScatter>}) {
    // Where the device runs code that was compiled for an older one, the kernel is empty.
    cudaFuncAttributes attributes;
    error = cudaFuncGetAttributes(&attributes, kernel);
    if (error != cudaSuccess) return error;
    if (attributes.binaryVersion < 90) return cudaErrorNotSupported;
    error = cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize,
                                 static_cast<int>(kBulkRingBytes));
    if (error != cudaSuccess) return error;
  }
  return cudaSuccess;
}

}  // namespace kvcore
