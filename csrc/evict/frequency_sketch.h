#pragma once

#include <algorithm>
#include <bit>
#include <cstdint>

#include "common/types.h"
#include "common/virtual_array.h"

namespace kvcore {

// How often blocks were used of late, about: a count-min sketch with four counters of 4 bits a
// block behind a doorkeeper. Einziger, Friedman and Manes, "TinyLFU: A Highly Efficient Cache
// Admission Policy" (TOS 2017). A block's first use only opens its door (3 bits of a word); from
// the second on its counters count, up to 15.
//
// Ageing: in the course of 10 uses a block of the cache every counter is halved once and every door
// closed, one line after the other rather than all in one call. A block's counters lie in one cache
// line, so add and count cost two cache misses. Memory: 5 bytes a block of the cache, rounded up to
// a power of two. Deterministic. Not thread safe.
class FrequencySketch {
 public:
  static constexpr uint32_t kMaxCount = 16;

  explicit FrequencySketch(uint32_t num_blocks)
      : num_lines_(std::bit_ceil(std::max(num_blocks, kBlocksPerLine)) / kBlocksPerLine),
        adds_per_line_((uint64_t{num_blocks} * 10 + num_lines_ - 1) / num_lines_),
        lines_(num_lines_),
        doors_(size_t{num_lines_} * kDoorsPerLine) {
    lines_.grow(num_lines_);
    doors_.grow(size_t{num_lines_} * kDoorsPerLine);
  }

  void add(const BlockHash& hash) noexcept {
    Place place = place_of(hash);
    uint64_t& door = doors_[place.door];
    if ((door & place.door_bits) != place.door_bits) {
      door |= place.door_bits;
    } else {
      for (uint32_t row = 0; row < kRows; ++row) {
        uint64_t& word = lines_[place.line].words[place.word(row)];
        uint64_t one = uint64_t{1} << place.shift(row);
        if ((word & one * 15) != one * 15) word += one;
      }
    }
    if (++adds_ == adds_per_line_) age_a_line();
  }

  uint32_t count(const BlockHash& hash) const noexcept {
    Place place = place_of(hash);
    uint64_t least = 15;
    for (uint32_t row = 0; row < kRows; ++row) {
      uint64_t word = lines_[place.line].words[place.word(row)];
      least = std::min(least, word >> place.shift(row) & 15);
    }
    bool is_open = (doors_[place.door] & place.door_bits) == place.door_bits;
    return static_cast<uint32_t>(least) + is_open;
  }

  size_t bytes() const noexcept { return lines_.bytes() + doors_.bytes(); }

 private:
  static constexpr uint32_t kRows = 4;
  static constexpr uint32_t kBlocksPerLine = 16;  // 8 counters and 8 bits of door each
  static constexpr uint32_t kDoorsPerLine = 2;

  struct alignas(64) Line {
    uint64_t words[8];  // two a row, 16 counters each
  };
  struct Place {
    uint64_t line, door, door_bits;
    uint32_t low;  // 5 bits a row: which of its 32 counters
    uint32_t word(uint32_t row) const noexcept { return row * 2 + (low >> (row * 5 + 4) & 1); }
    uint32_t shift(uint32_t row) const noexcept { return (low >> row * 5 & 15) * 4; }
  };

  Place place_of(const BlockHash& hash) const noexcept {
    auto product = static_cast<unsigned __int128>(hash.low() ^ 0xD6E8FEB86659FD93) *
                   (hash.high() ^ 0xA0761D6478BD642F);
    auto low = static_cast<uint64_t>(product), high = static_cast<uint64_t>(product >> 64);
    uint64_t folded = low ^ high;
    uint64_t bits = uint64_t{1} << (folded >> 20 & 63) | uint64_t{1} << (folded >> 26 & 63) |
                    uint64_t{1} << (folded >> 32 & 63);
    uint64_t line = folded >> 38 & (num_lines_ - 1);
    return {line, line * kDoorsPerLine + (folded >> 63), bits, static_cast<uint32_t>(folded)};
  }

  void age_a_line() noexcept {
    adds_ = 0;
    for (uint64_t& word : lines_[next_].words) word = word >> 1 & 0x7777777777777777;
    for (uint32_t i = 0; i < kDoorsPerLine; ++i) doors_[next_ * kDoorsPerLine + i] = 0;
    next_ = (next_ + 1) & (num_lines_ - 1);
  }

  const uint64_t num_lines_;
  const uint64_t adds_per_line_;
  VirtualArray<Line> lines_;
  VirtualArray<uint64_t> doors_;
  uint64_t adds_ = 0;  // since a line was aged
  uint64_t next_ = 0;  // the line that is
};

}  // namespace kvcore
