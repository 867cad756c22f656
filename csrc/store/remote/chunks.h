#pragma once

#include <algorithm>
#include <bit>
#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>
#include <vector>

namespace kvcore {

// Blocks of a chain at aligned places: `num_blocks`, a power of two, from position `begin` on, a
// multiple of it. Chunks are named by the hash of their last block.
struct Chunk {
  uint64_t begin = 0;
  uint32_t num_blocks = 1;

  uint64_t end() const noexcept { return begin + num_blocks; }
};

// Positions that follow each other: those of the keys from `key` on.
struct Run {
  size_t key = 0;
  uint64_t begin = 0;
  uint64_t end = 0;

  bool contains(uint64_t position) const noexcept { return begin <= position && position < end; }
  size_t key_of(uint64_t position) const noexcept { return key + (position - begin); }
};

inline std::vector<Run> runs_of(std::span<const uint32_t> positions) {
  std::vector<Run> runs;
  for (size_t key = 0; key < positions.size(); ++key) {
    if (runs.empty() || runs.back().end != positions[key]) {
      runs.push_back({key, positions[key], positions[key]});
    }
    ++runs.back().end;
  }
  return runs;
}

// The fewest chunks that a run is made of: how it is written.
inline std::vector<Chunk> chunks_of(const Run& run, uint32_t most_blocks) {
  std::vector<Chunk> chunks;
  for (uint64_t at = run.begin; at < run.end;) {
    uint32_t blocks = most_blocks;
    while (at % blocks != 0 || at + blocks > run.end) blocks /= 2;
    chunks.push_back({at, blocks});
    at += blocks;
  }
  return chunks;
}

// The chunk of that size that has a position.
inline Chunk chunk_around(uint64_t position, uint32_t num_blocks) noexcept {
  return {position / num_blocks * num_blocks, num_blocks};
}

}  // namespace kvcore
