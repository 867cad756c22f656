#pragma once

#include <cuda_runtime_api.h>

#include <cstdint>

#include "copy/layout.h"

// The kernels' launches: addresses and a stream, nothing else. All layers and blocks of a view go
// in one launch; its arrays and memory are such that the device of the stream reaches them.
// `thread_blocks` caps how many thread blocks run, so how many multiprocessors are taken.
namespace kvcore {

// What a multiprocessor runs at a time of the load/store kernel.
inline constexpr uint32_t kLoadStoreThreads = 512;

// word_bytes is 16, 4 or 1 and divides every address and size of the view.
cudaError_t launch_load_store(const CopyView& view, Direction direction, uint32_t word_bytes,
                              uint32_t thread_blocks, cudaStream_t stream) noexcept;

// Every address and size is a multiple of 16. Takes a multiprocessor a thread block.
cudaError_t launch_bulk(const CopyView& view, Direction direction, uint32_t thread_blocks,
                        cudaStream_t stream) noexcept;

// Loads the kernels' code onto the current device, which otherwise the first launch would do, and
// that may be part of a capture.
cudaError_t load_kernels() noexcept;

// Lets the bulk kernels of the current device have their ring; once a device, before a launch.
// cudaErrorNotSupported where there are no bulk copies: compute capability below 9.0, too little
// shared memory, or a build without code for it.
cudaError_t prepare_bulk() noexcept;

}  // namespace kvcore
