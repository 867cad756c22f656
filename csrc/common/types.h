#pragma once

#include <array>
#include <bit>
#include <compare>
#include <cstdint>
#include <cstring>

namespace kvcore {

static_assert(std::endian::native == std::endian::little,
              "hashes and envelopes are defined little-endian");

// 128-bit identity of a token block and of all blocks before it (parent hash, tokens, and the
// namespace's seed). Equal hashes mean equal prefixes.
struct BlockHash {
  std::array<uint8_t, 16> bytes{};

  friend bool operator==(const BlockHash& a, const BlockHash& b) noexcept {
    return a.low() == b.low() && a.high() == b.high();
  }
  uint64_t low() const noexcept { return word(0); }
  uint64_t high() const noexcept { return word(8); }

 private:
  uint64_t word(size_t offset) const noexcept {
    uint64_t value;
    std::memcpy(&value, bytes.data() + offset, sizeof(value));
    return value;
  }
};
static_assert(sizeof(BlockHash) == 16 && alignof(BlockHash) == 1);

// Index of a block-sized place in a slab.
enum class BlockId : uint32_t {};

constexpr uint32_t index_of(BlockId id) noexcept { return static_cast<uint32_t>(id); }

}  // namespace kvcore
