// The bodies of the CUDA kernels, run on the CPU: memory is cut to size, so a sanitizer sees each
// byte too many.

#include "copy/copy_body.h"

#include <algorithm>
#include <array>
#include <cstring>
#include <numeric>
#include <optional>
#include <random>
#include <vector>

#include "copy/device_path.h"
#include "doctest/doctest.h"

namespace kvcore {
namespace {

using Bytes = std::vector<uint8_t>;

struct alignas(16) Word16 {
  std::array<uint8_t, 16> bytes;
};

template <typename Type>
struct HostWords {
  using Word = Type;
  static Word load(uint64_t from) {
    Word word;
    REQUIRE(from % sizeof(Word) == 0);
    std::memcpy(&word, reinterpret_cast<const void*>(from), sizeof(word));
    return word;
  }
  static void store(uint64_t to, const Word& word) {
    REQUIRE(to % sizeof(Word) == 0);
    std::memcpy(reinterpret_cast<void*>(to), &word, sizeof(word));
  }
};

struct Shape {
  uint32_t num_planes;
  uint32_t paged_blocks;
  uint32_t slab_blocks;
  uint32_t num_blocks;
  uint32_t run_bytes;
  uint32_t paged_gap;   // between a plane's blocks
  uint32_t slab_gap;    // behind a slab's block
  uint32_t misaligned;  // how far all memory is from a multiple of 16
};

std::vector<uint32_t> some_of(uint32_t all, uint32_t count, std::mt19937& random) {
  std::vector<uint32_t> ids(all);
  std::iota(ids.begin(), ids.end(), 0);
  std::ranges::shuffle(ids, random);
  ids.resize(count);
  return ids;
}

// A paged cache and a slab with random bytes, each plane in memory of its own.
class Memory {
 public:
  Memory(const Shape& shape, std::mt19937& random)
      : shape_(shape),
        paged_blocks_(some_of(shape.paged_blocks, shape.num_blocks, random)),
        slab_blocks_(some_of(shape.slab_blocks, shape.num_blocks, random)) {
    const uint64_t slab_block = uint64_t{shape.num_planes} * shape.run_bytes + shape.slab_gap;
    auto random_bytes = [&](uint64_t size) {
      Bytes bytes(shape.misaligned + size);
      std::ranges::generate(bytes, [&] { return static_cast<uint8_t>(random()); });
      return bytes;
    };
    for (uint32_t plane = 0; plane < shape.num_planes; ++plane) {
      planes.push_back(
          random_bytes(uint64_t{shape.paged_blocks - 1} * paged_stride() + shape.run_bytes));
    }
    slab = random_bytes((shape.slab_blocks - 1) * slab_block +
                        uint64_t{shape.num_planes} * shape.run_bytes);
    for (Bytes& plane : planes) {
      bases_.push_back(reinterpret_cast<uint64_t>(plane.data()) + shape.misaligned);
    }
  }

  CopyView view() {
    return {.plane_bases = bases_.data(),
            .paged_blocks = paged_blocks_.data(),
            .slab_blocks = slab_blocks_.data(),
            .slab = reinterpret_cast<uint64_t>(slab.data()) + shape_.misaligned,
            .paged_stride = paged_stride(),
            .slab_stride = uint64_t{shape_.num_planes} * shape_.run_bytes + shape_.slab_gap,
            .run_bytes = shape_.run_bytes,
            .num_planes = shape_.num_planes,
            .num_blocks = shape_.num_blocks};
  }

  // The naive copy; on the memory itself.
  void copy(Direction direction) {
    const CopyView view = this->view();
    for (uint32_t i = 0; i < view.num_blocks; ++i) {
      for (uint32_t plane = 0; plane < view.num_planes; ++plane) {
        auto* paged = planes[plane].data() + shape_.misaligned + paged_blocks_[i] * paged_stride();
        auto* block = slab.data() + shape_.misaligned + slab_blocks_[i] * view.slab_stride +
                      plane * view.run_bytes;
        if (direction == Direction::kGather) std::copy_n(paged, view.run_bytes, block);
        if (direction == Direction::kScatter) std::copy_n(block, view.run_bytes, paged);
      }
    }
  }

  // Whether a copy does what the naive one does, to all bytes.
  template <typename Copy>
  void check(Direction direction, Copy copy_with) {
    const std::vector<Bytes> planes_before = planes;
    const Bytes slab_before = slab;
    copy(direction);
    const std::vector<Bytes> planes_after = planes;
    const Bytes slab_after = slab;
    for (size_t i = 0; i < planes.size(); ++i)
      std::ranges::copy(planes_before[i], planes[i].begin());
    std::ranges::copy(slab_before, slab.begin());
    copy_with();
    REQUIRE(slab == slab_after);
    REQUIRE(planes == planes_after);
  }

  std::vector<Bytes> planes;
  Bytes slab;

 private:
  uint64_t paged_stride() const { return uint64_t{shape_.run_bytes} + shape_.paged_gap; }

  Shape shape_;
  std::vector<uint32_t> paged_blocks_;
  std::vector<uint32_t> slab_blocks_;
  std::vector<uint64_t> bases_;
};

template <typename Words, Direction kDirection>
void load_store(const CopyView& view, uint32_t num_warps) {
  const auto split = UnitSplit::of(view, kWarpUnitBytes<typename Words::Word>);
  for (uint32_t warp = 0; warp < num_warps; ++warp) {
    for (uint32_t lane = 0; lane < kWarpLanes; ++lane) {
      load_store_body<Words, kDirection>(view, split, warp, num_warps, lane);
    }
  }
}

template <Direction kDirection>
void load_store(const CopyView& view, uint32_t word_bytes, uint32_t num_warps) {
  if (word_bytes == 16) load_store<HostWords<Word16>, kDirection>(view, num_warps);
  if (word_bytes == 4) load_store<HostWords<uint32_t>, kDirection>(view, num_warps);
  if (word_bytes == 1) load_store<HostWords<uint8_t>, kDirection>(view, num_warps);
}

// Bulk copies that come as late as they may: a load when its slot is waited for, a store when it
// has to be done. Whoever waits too little or on the wrong parity copies wrong bytes.
class LateRing {
 public:
  void load(uint32_t slot, uint64_t from, uint32_t bytes) {
    REQUIRE((from % kBulkAlignment == 0 && bytes % kBulkAlignment == 0 && bytes > 0));
    REQUIRE(!slots_[slot].load.has_value());
    auto still_reads = [&](const Copy& store) { return store.slot == slot && !store.is_read; };
    REQUIRE(std::ranges::none_of(stores_, still_reads));
    slots_[slot].load = Copy{slot, from, bytes};
  }
  void wait_loaded(uint32_t slot, uint32_t parity) {
    Slot& waited = slots_[slot];
    REQUIRE(waited.num_loads % 2 == parity);
    REQUIRE(waited.load.has_value());
    std::memcpy(waited.bytes.data(), reinterpret_cast<const void*>(waited.load->address),
                waited.load->bytes);
    waited.load.reset();
    ++waited.num_loads;
  }
  void store(uint32_t slot, uint64_t to, uint32_t bytes) {
    REQUIRE(to % kBulkAlignment == 0);
    stores_.push_back({slot, to, bytes});
  }
  template <uint32_t kStores>
  void wait_read() {
    for (size_t i = 0; i + kStores < stores_.size(); ++i) finish(stores_[i]);
  }
  void wait_written() {
    for (Copy& store : stores_) finish(store);
    for (const Slot& slot : slots_) REQUIRE(!slot.load.has_value());
  }

 private:
  struct Copy {
    uint32_t slot;
    uint64_t address;
    uint32_t bytes;
    bool is_read = false;
  };
  struct Slot {
    Bytes bytes = Bytes(kBulkUnitBytes);
    std::optional<Copy> load;
    uint32_t num_loads = 0;
  };

  void finish(Copy& store) {
    if (store.is_read) return;
    std::memcpy(reinterpret_cast<void*>(store.address), slots_[store.slot].bytes.data(),
                store.bytes);
    store.is_read = true;
  }

  std::array<Slot, kBulkSlots> slots_;
  std::vector<Copy> stores_;
};

template <Direction kDirection>
void bulk(const CopyView& view, uint32_t num_thread_blocks) {
  const auto split = UnitSplit::of(view, kBulkUnitBytes);
  for (uint32_t block = 0; block < num_thread_blocks; ++block) {
    LateRing ring;
    bulk_body<LateRing, kDirection>(view, split, block, num_thread_blocks, ring);
  }
}

void check_all_ways(const Shape& shape, std::mt19937& random) {
  Memory memory(shape, random);
  const CopyView view = memory.view();
  const uint32_t widest = word_bytes_of(view);
  CAPTURE(shape.run_bytes);
  CAPTURE(widest);
  for (uint32_t word_bytes : {16u, 4u, 1u}) {
    // Narrow words take their time, and find nothing more in large runs.
    if (word_bytes > widest || (word_bytes < widest && shape.run_bytes > 30000)) continue;
    for (uint32_t num_warps : {1u, 3u, 64u}) {
      memory.check(Direction::kGather,
                   [&] { load_store<Direction::kGather>(view, word_bytes, num_warps); });
      memory.check(Direction::kScatter,
                   [&] { load_store<Direction::kScatter>(view, word_bytes, num_warps); });
    }
  }
  if (widest < kBulkAlignment) return;
  for (uint32_t num_thread_blocks : {1u, 2u, 13u}) {
    memory.check(Direction::kGather, [&] { bulk<Direction::kGather>(view, num_thread_blocks); });
    memory.check(Direction::kScatter, [&] { bulk<Direction::kScatter>(view, num_thread_blocks); });
  }
}

TEST_CASE("kernel bodies copy pages of every layout") {
  std::mt19937 random(7);
  // Pages of 16 tokens: GQA with 8 heads of 128 in bf16, MLA in bf16 and in fp8 with scales.
  for (uint32_t page : {32768u, 18432u, 10496u, 16u}) {
    // [2, blocks, ...]: K and V are planes; [blocks, 2, ...]: one run; MLA; one tensor of 5 layers.
    for (auto [planes, pages] : {std::pair{6u, 1u}, {3u, 2u}, {3u, 1u}, {1u, 10u}}) {
      check_all_ways({planes, 9, 7, 5, page * pages, 0, 0, 0}, random);
    }
  }
}

TEST_CASE("kernel bodies copy runs of any size and alignment, and nothing beside") {
  std::mt19937 random(11);
  for (uint32_t i = 0; i < 150; ++i) {
    const uint32_t step = std::array{1u, 2u, 4u, 8u, 16u}[random() % 5];
    const uint32_t num_blocks = random() % 6;
    check_all_ways({.num_planes = 1 + static_cast<uint32_t>(random() % 4),
                    .paged_blocks = num_blocks + 1 + static_cast<uint32_t>(random() % 4),
                    .slab_blocks = num_blocks + 1,
                    .num_blocks = num_blocks,
                    .run_bytes = step * (1 + static_cast<uint32_t>(random() % 1500)),
                    .paged_gap = step * static_cast<uint32_t>(random() % 3),
                    .slab_gap = step * static_cast<uint32_t>(random() % 3),
                    .misaligned = step % 16},
                   random);
  }
}

TEST_CASE("a bulk ring that goes round many times copies right") {
  std::mt19937 random(13);
  check_all_ways({2, 40, 40, 33, kBulkUnitBytes + 48, 16, 32, 0}, random);
}

TEST_CASE("a copy with more units than can be counted goes in parts") {
  CopyView view{};
  view.run_bytes = uint64_t{1} << 32;
  view.num_planes = 3;
  view.num_blocks = 2000;
  const uint32_t part = UnitSplit::max_blocks(view, 4096);
  CHECK(uint64_t{part} * 3 * (1 << 20) <= UINT32_MAX);
  CHECK(uint64_t{part + 1} * 3 * (1 << 20) > UINT32_MAX);
  view.num_blocks = 10;
  CHECK(UnitSplit::max_blocks(view, 4096) == 10);
  view.num_blocks = part;
  CHECK(UnitSplit::of(view, 4096).num_units == part * 3 * (1u << 20));
}

TEST_CASE("division by multiplication is exact") {
  std::mt19937 random(17);
  auto check = [](uint32_t divisor, uint32_t number) {
    const uint32_t quotient = FastDivider(divisor).divide(number);
    if (quotient != number / divisor) FAIL(number, " / ", divisor, " is not ", quotient);
  };
  for (uint32_t i = 1; i < 5000; ++i) {
    for (uint32_t divisor : {i, static_cast<uint32_t>(random() | 1), UINT32_MAX - i + 1}) {
      for (uint32_t number : {0u, 1u, divisor - 1, divisor, divisor + 1, 2 * divisor - 1,
                              static_cast<uint32_t>(random()), UINT32_MAX}) {
        check(divisor, number);
      }
    }
  }
}

}  // namespace
}  // namespace kvcore
