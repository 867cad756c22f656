#pragma once

#include <cstddef>
#include <cstdint>

#ifdef __CUDACC__
#define KV_HOST_DEVICE __host__ __device__ __forceinline__
#else
#define KV_HOST_DEVICE inline
#endif

namespace kvcore {

// Every paged KV cache is planes: a plane has one run of bytes of each block, at
//
//   plane_bases[plane] + block * paged_stride,
//
// and of a slab's block, plane after plane makes the whole:
//
//   slab + block * slab_stride + plane * run_bytes.
//
//   a layer of a paged cache                          planes a layer   run
//   [2, blocks, tokens, heads, dim] or HND            2                a page
//   [blocks, 2, tokens, heads, dim] or HND            1                two pages
//   [blocks, tokens, latent] (MLA)                    1                a page
//   [blocks, layers, 2, ...], one tensor for all      1 of all layers  everything
//
// CopyView is what a copy needs to know, for host and device code alike. It owns nothing. Addresses
// are those of the memory that runs the copy.
struct CopyView {
  const uint64_t* plane_bases;   // [num_planes]
  const uint32_t* paged_blocks;  // [num_blocks]
  const uint32_t* slab_blocks;   // [num_blocks]
  uint64_t slab;
  uint64_t paged_stride;
  uint64_t slab_stride;
  uint64_t run_bytes;
  uint32_t num_planes;
  uint32_t num_blocks;
};

// Gather brings blocks of a paged cache together in a slab, scatter spreads them again.
enum class Direction : uint8_t { kGather, kScatter };

struct Run {
  uint64_t paged;
  uint64_t slab;
};

// The run of the i-th block in a plane.
KV_HOST_DEVICE Run run_of(const CopyView& view, uint32_t i, uint32_t plane) {
  return {view.plane_bases[plane] + view.paged_blocks[i] * view.paged_stride,
          view.slab + view.slab_blocks[i] * view.slab_stride + plane * view.run_bytes};
}

}  // namespace kvcore
