#include "table/run_pool.h"

#include <sys/mman.h>

#include <algorithm>
#include <bit>
#include <cstring>

#include "common/check.h"
#include "table/span.h"

namespace kvcore {

// Lies at the start of its chunk's memory, which is aligned to its size: any cell finds it.
struct alignas(64) RunPool::Chunk {
  Chunk* prev;
  Chunk* next;
  std::byte* released;  // cells given back, linked
  uint32_t cell_bytes;
  uint32_t fresh;  // offset of the first cell that was never used
  uint32_t live;
  uint32_t touched;  // the highest that `fresh` has been
  uint8_t size_class;

  bool has_room() const noexcept {
    return released != nullptr || fresh + cell_bytes <= kChunkBytes;
  }
  static Chunk* of(void* cell) noexcept {
    return reinterpret_cast<Chunk*>(reinterpret_cast<uintptr_t>(cell) & ~(kChunkBytes - 1));
  }
};

namespace {

// Memory straight from the system: the heap would neither align it without waste nor give it back.
void* map_aligned(size_t bytes) noexcept {
  auto map = [](size_t size) noexcept {
    void* memory = mmap(nullptr, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    KV_CHECK(memory != MAP_FAILED);
    return static_cast<std::byte*>(memory);
  };
  std::byte* memory = map(bytes);  // lies next to the one before and so is mostly aligned as well
  auto ahead = [bytes](std::byte* at) { return -reinterpret_cast<uintptr_t>(at) & (bytes - 1); };
  if (ahead(memory) == 0) return memory;
  munmap(memory, bytes);
  memory = map(bytes * 2);
  size_t front = ahead(memory);
  if (front > 0) munmap(memory, front);
  munmap(memory + front + bytes, bytes - front);
  return memory + front;
}

}  // namespace

// Classes 1..16 hold that many blocks; above, eight classes a doubling: 18, 20, ... 32, 36, ...
uint8_t RunPool::class_for(uint32_t blocks) noexcept {
  KV_DCHECK(blocks >= 1 && blocks <= kMaxSpanBlocks);
  if (blocks <= 16) return static_cast<uint8_t>(blocks);
  uint32_t doubling = std::bit_width(blocks - 1) - 1;  // 2^doubling < blocks <= 2^(doubling + 1)
  uint32_t eighth = (blocks - 1) >> (doubling - 3);    // 8..15
  return static_cast<uint8_t>((doubling - 4) * 8 + eighth + 1 + 8);
}

uint32_t RunPool::capacity(uint8_t size_class) noexcept {
  if (size_class <= 16) return size_class;
  uint32_t above = size_class - 17u;
  return (9 + above % 8) << (above / 8 + 1);
}

RunPool::~RunPool() {
  for (Chunk*& head : open_) KV_CHECK(head == nullptr);  // the owner has released every run
  while (spare_ != nullptr) {
    Chunk* next = spare_->next;
    munmap(spare_, kChunkBytes);
    spare_ = next;
  }
}

void* RunPool::allocate(uint8_t size_class) noexcept {
  Chunk* chunk = open_[size_class];
  if (chunk == nullptr) chunk = take_chunk(size_class);
  std::byte* cell;
  if (chunk->released != nullptr) {
    cell = chunk->released;
    std::memcpy(&chunk->released, cell, sizeof(chunk->released));
  } else {
    cell = reinterpret_cast<std::byte*>(chunk) + chunk->fresh;
    chunk->fresh += chunk->cell_bytes;
    if (chunk->fresh > chunk->touched) {
      touched_bytes_ += chunk->fresh - chunk->touched;
      chunk->touched = chunk->fresh;
    }
  }
  ++chunk->live;
  ++num_runs_;
  if (!chunk->has_room()) unlink(chunk);
  return cell;
}

void RunPool::release(void* run) noexcept {
  Chunk* chunk = Chunk::of(run);
  KV_DCHECK(chunk->live > 0);
  if (!chunk->has_room()) link(chunk);
  std::memcpy(run, &chunk->released, sizeof(chunk->released));
  chunk->released = static_cast<std::byte*>(run);
  --num_runs_;
  if (--chunk->live == 0) retire(chunk);
}

RunPool::Chunk* RunPool::take_chunk(uint8_t size_class) noexcept {
  Chunk* chunk = spare_;
  if (chunk != nullptr) {
    spare_ = chunk->next;
    --num_spare_;
  } else {
    chunk = static_cast<Chunk*>(map_aligned(kChunkBytes));
    ++num_chunks_;
  }
  // A cell that is given back holds a link.
  auto cell_bytes = std::max<uint32_t>(capacity(size_class) * block_bytes_, sizeof(void*));
  const uint32_t touched = chunk->touched;
  *chunk = Chunk{nullptr, nullptr, nullptr, cell_bytes, sizeof(Chunk), 0, touched, size_class};
  link(chunk);
  return chunk;
}

void RunPool::retire(Chunk* chunk) noexcept {
  unlink(chunk);
  if (num_spare_ == kMaxSpareChunks) {
    --num_chunks_;
    touched_bytes_ -= chunk->touched;
    munmap(chunk, kChunkBytes);
    return;
  }
  chunk->next = spare_;
  spare_ = chunk;
  ++num_spare_;
}

void RunPool::link(Chunk* chunk) noexcept {
  Chunk*& head = open_[chunk->size_class];
  chunk->prev = nullptr;
  chunk->next = head;
  if (head != nullptr) head->prev = chunk;
  head = chunk;
}

void RunPool::unlink(Chunk* chunk) noexcept {
  (chunk->prev != nullptr ? chunk->prev->next : open_[chunk->size_class]) = chunk->next;
  if (chunk->next != nullptr) chunk->next->prev = chunk->prev;
}

}  // namespace kvcore
