#pragma once

#include <array>
#include <cstddef>
#include <cstdint>

namespace kvcore {

// Memory for what is kept of runs of up to kMaxSpanBlocks blocks, so many bytes a block, cut from
// 256 KiB chunks. Sizes are rounded up to classes at most 1/8 apart, a chunk serves one class at a
// time, and an empty chunk serves any class again, so memory follows what is held.
// Every call is O(1) and never copies; a fresh chunk is touched only as far as it is used.
// Bonwick, "The slab allocator" (USENIX 1994). Not thread safe.
class RunPool {
 public:
  explicit RunPool(uint32_t block_bytes) : block_bytes_(block_bytes) {}
  ~RunPool();
  RunPool(const RunPool&) = delete;
  RunPool& operator=(const RunPool&) = delete;

  // The smallest class that holds `blocks`, 1..kMaxSpanBlocks; and the blocks that a class holds.
  static uint8_t class_for(uint32_t blocks) noexcept;
  static uint32_t capacity(uint8_t size_class) noexcept;

  void* allocate(uint8_t size_class) noexcept;
  void release(void* run) noexcept;

  // What has been touched, chunk by chunk in whole pages at most.
  size_t bytes() const noexcept { return touched_bytes_ + num_chunks_ * kPageBytes; }
  size_t num_runs() const noexcept { return num_runs_; }

 private:
  static constexpr size_t kChunkBytes = size_t{256} << 10;
  static constexpr size_t kPageBytes = 4096;
  static constexpr size_t kMaxSpareChunks = 16;
  static constexpr size_t kNumClasses = 80;

  struct Chunk;

  Chunk* take_chunk(uint8_t size_class) noexcept;
  void retire(Chunk* chunk) noexcept;
  void link(Chunk* chunk) noexcept;
  void unlink(Chunk* chunk) noexcept;

  const uint32_t block_bytes_;
  std::array<Chunk*, kNumClasses> open_{};  // chunks of the class that have room
  Chunk* spare_ = nullptr;
  size_t num_spare_ = 0;
  size_t num_chunks_ = 0;
  size_t touched_bytes_ = 0;
  size_t num_runs_ = 0;
};

}  // namespace kvcore
