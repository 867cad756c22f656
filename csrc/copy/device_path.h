#pragma once

#include <cstdint>
#include <optional>
#include <string_view>
#include <vector>

#include "copy/layout.h"

namespace kvcore {

// How a device moves the blocks of a plan.
enum class DevicePath : uint8_t {
  kLoadStore,  // a kernel's loads and stores, straight from place to place; any alignment
  kBulk,       // bulk copies through shared memory, one thread a block; 16-byte alignment, sm_90
  kBatch,      // the copy engine, all runs in one call; takes no multiprocessors
  kStaged,     // a kernel and the copy engine in turns, by way of a ring in device memory
};

std::optional<DevicePath> parse_device_path(std::string_view name) noexcept;
std::string_view name_of(DevicePath path) noexcept;

// Where one way of copying takes over from another. None is measured by us yet: they follow what
// others report on H100 (docs/design.md), and benchmarks/gpu/copy.py is there to replace them.
struct PathThresholds {
  uint64_t batch_run_bytes = 64 << 10;   // from here on the copy engine keeps up run by run
  uint64_t zero_copy_bytes = 2 << 20;    // up to here a staged copy is not worth its start
  uint64_t chunk_bytes = 16 << 20;       // a slot of the ring of staged copies
  uint64_t first_chunk_bytes = 2 << 20;  // so that the copy engine starts early
  uint32_t ring_slots = 3;
  uint32_t host_thread_blocks = 8;  // more do not make a bus faster
  uint32_t thread_blocks_a_multiprocessor = 2;
};
inline constexpr PathThresholds kThresholds;

// What the choice depends on.
struct CopyTraits {
  uint64_t bytes = 0;
  uint64_t run_bytes = 0;
  uint32_t word_bytes = 1;  // as word_bytes_of() says
  bool host_slab = false;   // pinned host memory, else memory of the device
  bool has_bulk = false;    // the device and the build have bulk copies
};

// Whether a path can do such a copy at all.
bool is_possible(DevicePath path, const CopyTraits& traits) noexcept;
// The path that is expected to be fastest; always a possible one.
DevicePath choose_path(const CopyTraits& traits) noexcept;

// The largest of 16, 4 and 1 that divides every address and size of a copy. Reads the view's
// arrays, so they are the host's.
uint32_t word_bytes_of(const CopyView& view) noexcept;

// Bytes that lie together in both memories.
struct Piece {
  uint64_t paged;
  uint64_t slab;
  uint64_t bytes;
};

// The pieces of a copy, plane after plane, runs that continue each other in both memories as one.
// first_of_plane has num_planes + 1 numbers. Reads the view's arrays.
struct Pieces {
  std::vector<Piece> all;
  std::vector<size_t> first_of_plane;
};
Pieces pieces_of(const CopyView& view);

// A part of a copy that fits a slot of a ring: some planes of some blocks.
struct Chunk {
  uint32_t first_plane;
  uint32_t num_planes;
  uint32_t first_block;
  uint32_t num_blocks;
};

// All of a copy in chunks, of first_bytes for the first one and chunk_bytes for the others, but of
// a run at least: whole blocks where these fit, else planes of one block.
std::vector<Chunk> chunks_of(uint32_t num_planes, uint32_t num_blocks, uint64_t run_bytes,
                             uint64_t first_bytes, uint64_t chunk_bytes);

}  // namespace kvcore
