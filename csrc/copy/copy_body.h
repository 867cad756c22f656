#pragma once

#include <cstdint>

#include "copy/layout.h"

#ifdef __CUDA_ARCH__
#define KV_UNROLL _Pragma("unroll")
#else
#define KV_UNROLL
#endif

// What the kernels do, without a word of how a device does it: which bytes each warp, lane or
// thread block moves, and in which order. cuda/kernels.cu runs it on a GPU; tests/cpp runs the same
// code on the CPU, where a sanitizer sees every address.
namespace kvcore {

// Exact division of 32-bit numbers by one that is known beforehand: a multiplication and a shift.
// Source: Granlund and Montgomery, Division by Invariant Integers using Multiplication, PLDI 1994.
class FastDivider {
 public:
  FastDivider() = default;
  explicit FastDivider(uint32_t divisor) noexcept : divisor_(divisor) {
    while ((uint64_t{1} << shift_) < divisor) ++shift_;
    magic_ = ((uint64_t{1} << 32) * ((uint64_t{1} << shift_) - divisor)) / divisor + 1;
  }
  KV_HOST_DEVICE uint32_t divisor() const { return divisor_; }
  KV_HOST_DEVICE uint32_t divide(uint32_t number) const {
    const uint64_t high = (magic_ * number) >> 32;
    return static_cast<uint32_t>((high + number) >> shift_);
  }

 private:
  uint64_t magic_ = 1;
  uint32_t divisor_ = 1;
  uint32_t shift_ = 0;
};

// A copy cut into units of at most unit_bytes of a run: block after block, in it plane after plane,
// so that neighbours in the slab are moved at about the same time.
struct UnitSplit {
  FastDivider units_a_run;
  FastDivider num_planes;
  uint32_t num_units = 0;

  // More blocks than this make more units than can be counted; they take another launch.
  static uint32_t max_blocks(const CopyView& view, uint64_t unit_bytes) noexcept {
    const uint64_t units_a_block = (view.run_bytes + unit_bytes - 1) / unit_bytes * view.num_planes;
    const uint64_t blocks = UINT32_MAX / units_a_block;
    return blocks < view.num_blocks ? static_cast<uint32_t>(blocks) : view.num_blocks;
  }
  static UnitSplit of(const CopyView& view, uint64_t unit_bytes) noexcept {
    const auto units_a_run = static_cast<uint32_t>((view.run_bytes + unit_bytes - 1) / unit_bytes);
    return {FastDivider(units_a_run), FastDivider(view.num_planes),
            units_a_run * view.num_planes * view.num_blocks};
  }
};

struct Unit {
  uint64_t from;
  uint64_t to;
  uint32_t bytes;
};

template <Direction kDirection, uint32_t kUnitBytes>
KV_HOST_DEVICE Unit unit_of(const CopyView& view, const UnitSplit& split, uint32_t number) {
  const uint32_t run_number = split.units_a_run.divide(number);
  const uint32_t block = split.num_planes.divide(run_number);
  const Run run = run_of(view, block, run_number - block * split.num_planes.divisor());
  const uint64_t offset = uint64_t{number - run_number * split.units_a_run.divisor()} * kUnitBytes;
  const uint64_t left = view.run_bytes - offset;
  const uint32_t bytes = left < kUnitBytes ? static_cast<uint32_t>(left) : kUnitBytes;
  return kDirection == Direction::kGather ? Unit{run.paged + offset, run.slab + offset, bytes}
                                          : Unit{run.slab + offset, run.paged + offset, bytes};
}

inline constexpr uint32_t kWarpLanes = 32;
// Loads that a lane has in flight before its first store.
inline constexpr uint32_t kLoadsInFlight = 8;

template <typename Word>
inline constexpr uint32_t kWarpUnitBytes = kWarpLanes * kLoadsInFlight * sizeof(Word);

// One lane's part of a copy in words of Memory::Word: every address and run_bytes are multiples of
// its size. Warps take units in turns; all lanes of a warp are in the same unit.
template <typename Memory, Direction kDirection>
KV_HOST_DEVICE void load_store_body(const CopyView& view, const UnitSplit& split, uint32_t warp,
                                    uint32_t num_warps, uint32_t lane) {
  using Word = typename Memory::Word;
  constexpr uint32_t kUnitBytes = kWarpUnitBytes<Word>;
  // 64 bits: the last warp's next number may lie beyond 32.
  for (uint64_t number = warp; number < split.num_units; number += num_warps) {
    const Unit unit = unit_of<kDirection, kUnitBytes>(view, split, static_cast<uint32_t>(number));
    Word words[kLoadsInFlight];
    if (unit.bytes == kUnitBytes) {
      KV_UNROLL
      for (uint32_t k = 0; k < kLoadsInFlight; ++k) {
        words[k] = Memory::load(unit.from + (k * kWarpLanes + lane) * sizeof(Word));
      }
      KV_UNROLL
      for (uint32_t k = 0; k < kLoadsInFlight; ++k) {
        Memory::store(unit.to + (k * kWarpLanes + lane) * sizeof(Word), words[k]);
      }
    } else {
      KV_UNROLL
      for (uint32_t k = 0; k < kLoadsInFlight; ++k) {
        const uint32_t offset = (k * kWarpLanes + lane) * sizeof(Word);
        if (offset < unit.bytes) words[k] = Memory::load(unit.from + offset);
      }
      KV_UNROLL
      for (uint32_t k = 0; k < kLoadsInFlight; ++k) {
        const uint32_t offset = (k * kWarpLanes + lane) * sizeof(Word);
        if (offset < unit.bytes) Memory::store(unit.to + offset, words[k]);
      }
    }
  }
}

// The ring of shared memory that bulk copies go through: a thread block has kBulkSlots units under
// way, of which kBulkStores may still be read by their stores while later ones are loaded.
inline constexpr uint32_t kBulkUnitBytes = 32 << 10;
inline constexpr uint32_t kBulkSlots = 6;
inline constexpr uint32_t kBulkStores = 2;
// What a bulk copy needs of every address and size.
inline constexpr uint32_t kBulkAlignment = 16;

// A thread block's part of a bulk copy, done by one thread. Ring has
//   load(slot, from, bytes)        starts to fill a slot
//   wait_loaded(slot, parity)      until the slot was filled parity + 1 times, modulo 2
//   store(slot, to, bytes)         starts to empty it
//   wait_read<n>()                 until at most the n latest stores still read their slots
//   wait_written()                 until all stores are done
template <typename Ring, Direction kDirection>
KV_HOST_DEVICE void bulk_body(const CopyView& view, const UnitSplit& split, uint32_t block,
                              uint32_t num_blocks, Ring& ring) {
  auto unit = [&](uint32_t step) {
    return unit_of<kDirection, kBulkUnitBytes>(view, split, block + step * num_blocks);
  };
  auto load = [&](uint32_t step) {
    const Unit next = unit(step);
    ring.load(step % kBulkSlots, next.from, next.bytes);
  };
  const uint32_t steps =
      block < split.num_units ? (split.num_units - 1 - block) / num_blocks + 1 : 0;
  constexpr uint32_t kAhead = kBulkSlots - kBulkStores;
  for (uint32_t step = 0; step < steps && step < kAhead; ++step) load(step);
  for (uint32_t step = 0; step < steps; ++step) {
    const uint32_t slot = step % kBulkSlots;
    const Unit loaded = unit(step);
    ring.wait_loaded(slot, step / kBulkSlots & 1);
    ring.store(slot, loaded.to, loaded.bytes);
    // The store kBulkStores before this one has read its slot, which is that of step + kAhead.
    ring.template wait_read<kBulkStores>();
    if (steps - step > kAhead) load(step + kAhead);
  }
  ring.wait_written();
}

}  // namespace kvcore
