#pragma once

#include <bit>
#include <cstdint>
#include <cstring>

namespace kvcore {

// Floats of 16 and 8 bits, by their bits alone, so that every compiler makes vectors of it. All
// round to the nearest, ties to even.

struct Bfloat16 {
  static constexpr uint64_t kBytes = 2;
  using Bits = uint16_t;
  static float to_float(uint16_t bits) noexcept {
    return std::bit_cast<float>(static_cast<uint32_t>(bits) << 16);
  }
  static uint16_t from_float(float value) noexcept {
    const auto bits = std::bit_cast<uint32_t>(value);
    const uint32_t rounded = bits + 0x7FFF + (bits >> 16 & 1);
    const bool is_nan = (bits & 0x7FFFFFFF) > 0x7F800000;
    return static_cast<uint16_t>((is_nan ? bits | 0x400000 : rounded) >> 16);
  }
};

struct Float16 {
  static constexpr uint64_t kBytes = 2;
  using Bits = uint16_t;
  static float to_float(uint16_t bits) noexcept {
    const uint32_t sign = static_cast<uint32_t>(bits & 0x8000) << 16;
    const uint32_t magnitude = bits & 0x7FFF;
    // Exponents are put right by a multiplication, which makes subnormals normal.
    const float scaled = std::bit_cast<float>(magnitude << 13) * 0x1p112f;
    const uint32_t finite = std::bit_cast<uint32_t>(scaled);
    const uint32_t special = magnitude << 13 | 0x7F800000;
    return std::bit_cast<float>(sign | (magnitude >= 0x7C00 ? special : finite));
  }
  static uint16_t from_float(float value) noexcept {
    const auto bits = std::bit_cast<uint32_t>(value);
    const uint32_t sign = bits >> 16 & 0x8000;
    const uint32_t magnitude = bits & 0x7FFFFFFF;
    // Below 2^-14 adding 0.5 rounds at the last bit of a subnormal.
    const uint32_t subnormal =
        std::bit_cast<uint32_t>(std::bit_cast<float>(magnitude) + 0.5f) - 0x3F000000;
    const uint32_t normal = (magnitude + 0xFFF + (magnitude >> 13 & 1) - 0x38000000) >> 13;
    const uint32_t special = magnitude > 0x7F800000 ? 0x7E00 : 0x7C00;
    const uint32_t finite = magnitude < 0x38800000 ? subnormal : normal;
    return static_cast<uint16_t>(sign | (magnitude >= 0x477FF000 ? special : finite));
  }
};

struct Float32 {
  static constexpr uint64_t kBytes = 4;
  using Bits = uint32_t;
  static float to_float(uint32_t bits) noexcept { return std::bit_cast<float>(bits); }
  static uint32_t from_float(float value) noexcept { return std::bit_cast<uint32_t>(value); }
};

// OCP's FP8 E4M3: no infinities, NaN is all ones. Larger values become the largest one.
struct E4m3 {
  static constexpr float kLargest = 448;

  static float to_float(uint8_t bits) noexcept {
    const uint32_t sign = static_cast<uint32_t>(bits & 0x80) << 24;
    const uint32_t magnitude = bits & 0x7F;
    const float scaled = std::bit_cast<float>(magnitude << 20) * 0x1p120f;
    const uint32_t value = magnitude == 0x7F ? 0x7FC00000 : std::bit_cast<uint32_t>(scaled);
    return std::bit_cast<float>(sign | value);
  }
  static uint8_t from_float(float value) noexcept {
    const auto bits = std::bit_cast<uint32_t>(value);
    const uint32_t magnitude = bits & 0x7FFFFFFF;
    // Below 2^-6 adding 2^14 rounds at the last bit of a subnormal, which is 2^-9.
    const uint32_t subnormal =
        std::bit_cast<uint32_t>(std::bit_cast<float>(magnitude) + 0x1p14f) - 0x46800000;
    const uint32_t normal = (magnitude + 0x7FFFF + (magnitude >> 20 & 1) - 0x3C000000) >> 20;
    const uint32_t finite = magnitude < 0x3C800000 ? subnormal : normal;
    const uint32_t saturated = magnitude > 0x43E00000 ? 0x7E : finite;
    return static_cast<uint8_t>(bits >> 24 & 0x80) |
           static_cast<uint8_t>(magnitude > 0x7F800000 ? 0x7F : saturated);
  }
};

}  // namespace kvcore
