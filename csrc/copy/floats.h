#pragma once

#include <cstddef>
#include <cstdint>
#if KVCORE_LANES > 4
#include <immintrin.h>
#endif

// Vectors of KVCORE_LANES numbers, and what floats of 16 and 8 bits are, by their bits alone. All
// round to the nearest, ties to even.
//
// Included by files that are compiled for one instruction set each. So all of it is unnamed, and
// calls no function that has a name: the linker keeps one of each name, for whatever machine.
namespace kvcore {
namespace {

constexpr uint64_t kLanes = KVCORE_LANES;
typedef float Floats __attribute__((vector_size(4 * KVCORE_LANES)));
typedef uint32_t Words __attribute__((vector_size(4 * KVCORE_LANES)));
typedef int32_t Ints __attribute__((vector_size(4 * KVCORE_LANES)));
typedef uint16_t Halves __attribute__((vector_size(2 * KVCORE_LANES)));
typedef uint8_t Bytes __attribute__((vector_size(KVCORE_LANES)));

// Up to kLanes of them; the rest are zeros.
template <typename Vector>
Vector load(const std::byte* from, uint64_t count) noexcept {
  Vector vector{};
  __builtin_memcpy(&vector, from, count * (sizeof(vector) / kLanes));
  return vector;
}
template <typename Vector>
void store(std::byte* to, const Vector& vector, uint64_t count) noexcept {
  __builtin_memcpy(to, &vector, count * (sizeof(vector) / kLanes));
}

// Numbers of 8 and 16 bits as such of 32, and the last bits of those. Compilers take them one by
// one where they are not told how to.
#if KVCORE_LANES == 16
constexpr __mmask16 kAll = 0xFFFF;  // GCC 12 warns of those without a mask
Words widen(Bytes bytes) noexcept {
  return (Words)_mm512_maskz_cvtepu8_epi32(kAll, (__m128i)bytes);
}
Words widen(Halves halves) noexcept {
  return (Words)_mm512_maskz_cvtepu16_epi32(kAll, (__m256i)halves);
}
Ints widen_signed(Bytes bytes) noexcept {
  return (Ints)_mm512_maskz_cvtepi8_epi32(kAll, (__m128i)bytes);
}
Bytes bytes_of(Words words) noexcept {
  return (Bytes)_mm512_maskz_cvtepi32_epi8(kAll, (__m512i)words);
}
Halves halves_of(Words words) noexcept {
  return (Halves)_mm512_maskz_cvtepi32_epi16(kAll, (__m512i)words);
}
#elif KVCORE_LANES == 8
Words widen(Bytes bytes) noexcept {
  return (Words)_mm256_cvtepu8_epi32(_mm_cvtsi64_si128((int64_t)bytes));
}
Words widen(Halves halves) noexcept { return (Words)_mm256_cvtepu16_epi32((__m128i)halves); }
Ints widen_signed(Bytes bytes) noexcept {
  return (Ints)_mm256_cvtepi8_epi32(_mm_cvtsi64_si128((int64_t)bytes));
}
Halves halves_of(Words words) noexcept {
  const __m256i kept = (__m256i)(words & 0xFFFF);
  return (Halves)_mm_packus_epi32(_mm256_castsi256_si128(kept), _mm256_extracti128_si256(kept, 1));
}
Bytes bytes_of(Words words) noexcept {
  const __m128i halves = (__m128i)halves_of(words & 0xFF);
  return (Bytes)_mm_cvtsi128_si64(_mm_packus_epi16(halves, halves));
}
#else
Words widen(Bytes bytes) noexcept { return __builtin_convertvector(bytes, Words); }
Words widen(Halves halves) noexcept { return __builtin_convertvector(halves, Words); }
Ints widen_signed(Bytes bytes) noexcept { return (Ints)(widen(bytes) << 24) >> 24; }
Bytes bytes_of(Words words) noexcept { return __builtin_convertvector(words, Bytes); }
Halves halves_of(Words words) noexcept { return __builtin_convertvector(words, Halves); }
#endif

// As numbers below 2^31, which all machines compare.
Ints signed_of(Words words) noexcept { return (Ints)words; }

struct Bfloat16 {
  using Bits = Halves;
  static Floats to_float(Halves bits) noexcept { return (Floats)(widen(bits) << 16); }
  static Halves from_float(Floats value) noexcept {
    const Words bits = (Words)value;
    const Words rounded = bits + 0x7FFF + (bits >> 16 & 1);
    const Ints is_nan = signed_of(bits & 0x7FFFFFFF) > 0x7F800000;
    return halves_of((is_nan ? bits | 0x400000 : rounded) >> 16);
  }
};

struct Float16 {
  using Bits = Halves;
  static Floats to_float(Halves half_bits) noexcept {
    const Words bits = widen(half_bits);
    const Words sign = (bits & 0x8000) << 16;
    const Words magnitude = bits & 0x7FFF;
    // Exponents are put right by a multiplication, which makes subnormals normal.
    const Words finite = (Words)((Floats)(magnitude << 13) * 0x1p112f);
    const Words special = magnitude << 13 | 0x7F800000;
    return (Floats)(sign | (signed_of(magnitude) >= 0x7C00 ? special : finite));
  }
  static Halves from_float(Floats value) noexcept {
    const Words bits = (Words)value;
    const Words sign = bits >> 16 & 0x8000;
    const Words magnitude = bits & 0x7FFFFFFF;
    // Below 2^-14 adding 0.5 rounds at the last bit of a subnormal.
    const Words subnormal = (Words)((Floats)magnitude + 0.5f) - 0x3F000000;
    const Words normal = (magnitude + 0xFFF + (magnitude >> 13 & 1) - 0x38000000) >> 13;
    const Words special = signed_of(magnitude) > 0x7F800000 ? Words{} + 0x7E00 : Words{} + 0x7C00;
    const Words finite = signed_of(magnitude) < 0x38800000 ? subnormal : normal;
    const Words whole = signed_of(magnitude) >= 0x477FF000 ? special : finite;
    return halves_of(sign | whole);
  }
};

struct Float32 {
  using Bits = Words;
  static Floats to_float(Words bits) noexcept { return (Floats)bits; }
  static Words from_float(Floats value) noexcept { return (Words)value; }
};

// OCP's FP8 E4M3: no infinities, NaN is all ones. Larger values become the largest one.
struct E4m3 {
  static constexpr float kLargest = 448;

  static Floats to_float(Bytes code) noexcept {
    const Words bits = widen(code);
    const Words sign = (bits & 0x80) << 24;
    const Words magnitude = bits & 0x7F;
    const Words finite = (Words)((Floats)(magnitude << 20) * 0x1p120f);
    return (Floats)(sign | (signed_of(magnitude) == 0x7F ? Words{} + 0x7FC00000 : finite));
  }
  static Bytes from_float(Floats value) noexcept {
    const Words bits = (Words)value;
    const Words magnitude = bits & 0x7FFFFFFF;
    // Below 2^-6 adding 2^14 rounds at the last bit of a subnormal, which is 2^-9.
    const Words subnormal = (Words)((Floats)magnitude + 0x1p14f) - 0x46800000;
    const Words normal = (magnitude + 0x7FFFF + (magnitude >> 20 & 1) - 0x3C000000) >> 20;
    const Words finite = signed_of(magnitude) < 0x3C800000 ? subnormal : normal;
    const Words bounded = signed_of(magnitude) > 0x43E00000 ? Words{} + 0x7E : finite;
    const Words code = signed_of(magnitude) > 0x7F800000 ? Words{} + 0x7F : bounded;
    return bytes_of((bits >> 24 & 0x80) | code);
  }
};

}  // namespace
}  // namespace kvcore
