#pragma once

#include "copy/floats.h"
#include "copy/quantize_path.h"

// The loops of codecs to 8 bits; see floats.h for who includes this, and what it must not call.
namespace kvcore {
namespace {

constexpr float kLargestInt8 = 127;
constexpr float kLeastScale = 0x1p-126f;  // so that its inverse is finite
constexpr float kLargestFloat = 0x1.fffffep127f;
constexpr uint64_t kScaleBytes = sizeof(float);
// Channels that are worked on together: a row of them is a few cache lines.
constexpr uint64_t kStripVectors = 8;

// As bits, whose order is that of the magnitudes; 0 for infinities and NaN.
Words magnitude_of(Floats values) noexcept {
  const Words magnitude = (Words)values & 0x7FFFFFFF;
  return signed_of(magnitude) < 0x7F800000 ? magnitude : Words{};
}

Words max_of(Words a, Words b) noexcept { return signed_of(a) > signed_of(b) ? a : b; }

Floats scale_of(Words largest, float largest_code) noexcept {
  const Floats fitting = (Floats)largest / largest_code;
  const Floats scale = fitting > kLeastScale ? fitting : Floats{} + kLeastScale;
  // Rounded up, the largest value of all would come back as infinity.
  const Ints is_too_large = scale * largest_code > kLargestFloat;
  return (Floats)((Ints)scale + is_too_large);
}

// Does something for each vector of some values, and the rest: with where it begins, and how many.
template <typename Function>
void each_vector(uint64_t count, Function function) noexcept {
  uint64_t at = 0;
  for (; at + kLanes <= count; at += kLanes) function(at, kLanes);
  if (at < count) function(at, count - at);
}

template <typename Type>
constexpr uint64_t kTypeBytes = sizeof(typename Type::Bits) / kLanes;

template <typename Type>
Floats load_floats(const std::byte* run, uint64_t first, uint64_t count) noexcept {
  return Type::to_float(load<typename Type::Bits>(run + first * kTypeBytes<Type>, count));
}

template <typename Type>
void store_floats(std::byte* run, uint64_t first, Floats values, uint64_t count) noexcept {
  store(run + first * kTypeBytes<Type>, Type::from_float(values), count);
}

template <typename Type>
void encode_fp8(const std::byte* run, std::byte* scales, std::byte* codes, uint64_t groups,
                uint64_t group_values) {
  for (uint64_t g = 0; g < groups; ++g) {
    Words largest{};
    each_vector(group_values, [&](uint64_t at, uint64_t count) {
      largest = max_of(largest, magnitude_of(load_floats<Type>(run, at, count)));
    });
    uint32_t largest_of_all = 0;
    for (uint64_t i = 0; i < kLanes; ++i) {
      largest_of_all = largest[i] > largest_of_all ? largest[i] : largest_of_all;
    }
    const float scale = scale_of(Words{} + largest_of_all, E4m3::kLargest)[0];
    const float inverse = 1 / scale;
    __builtin_memcpy(scales + g * kScaleBytes, &scale, kScaleBytes);
    each_vector(group_values, [&](uint64_t at, uint64_t count) {
      store(codes + at, E4m3::from_float(load_floats<Type>(run, at, count) * inverse), count);
    });
    run += group_values * kTypeBytes<Type>;
    codes += group_values;
  }
}

template <typename Type>
void decode_fp8(const std::byte* scales, const std::byte* codes, std::byte* run, uint64_t groups,
                uint64_t group_values) {
  for (uint64_t g = 0; g < groups; ++g) {
    float scale;
    __builtin_memcpy(&scale, scales + g * kScaleBytes, kScaleBytes);
    each_vector(group_values, [&](uint64_t at, uint64_t count) {
      store_floats<Type>(run, at, E4m3::to_float(load<Bytes>(codes + at, count)) * scale, count);
    });
    run += group_values * kTypeBytes<Type>;
    codes += group_values;
  }
}

Bytes int8_of(Floats values) noexcept {
  const Floats numbers = values == values ? values : Floats{};
  const Floats above = numbers > -kLargestInt8 ? numbers : Floats{} - kLargestInt8;
  const Floats bounded = above < kLargestInt8 ? above : Floats{} + kLargestInt8;
  // With 1.5 * 2^23 added, the last bits are the nearest integer.
  return bytes_of((Words)(bounded + 0x1.8p23f));
}

Floats float_of_int8(Bytes codes) noexcept {
  return __builtin_convertvector(widen_signed(codes), Floats);
}

// Strips of channels: the first of a strip, and how many.
template <typename Function>
void each_strip(uint64_t channels, Function function) noexcept {
  constexpr uint64_t kStrip = kStripVectors * kLanes;
  for (uint64_t first = 0; first < channels; first += kStrip) {
    function(first, channels - first < kStrip ? channels - first : kStrip);
  }
}

template <typename Type>
void encode_int8(const std::byte* run, std::byte* scales, std::byte* codes, uint64_t rows,
                 uint64_t channels) {
  each_strip(channels, [&](uint64_t first, uint64_t width) {
    Words largest[kStripVectors]{};
    for (uint64_t row = 0; row < rows; ++row) {
      each_vector(width, [&](uint64_t at, uint64_t count) {
        const Floats values = load_floats<Type>(run, row * channels + first + at, count);
        largest[at / kLanes] = max_of(largest[at / kLanes], magnitude_of(values));
      });
    }
    Floats inverses[kStripVectors];
    each_vector(width, [&](uint64_t at, uint64_t count) {
      const Floats scale = scale_of(largest[at / kLanes], kLargestInt8);
      store(scales + (first + at) * kScaleBytes, scale, count);
      inverses[at / kLanes] = 1 / scale;
    });
    for (uint64_t row = 0; row < rows; ++row) {
      each_vector(width, [&](uint64_t at, uint64_t count) {
        const uint64_t place = row * channels + first + at;
        const Floats values = load_floats<Type>(run, place, count);
        store(codes + place, int8_of(values * inverses[at / kLanes]), count);
      });
    }
  });
}

template <typename Type>
void decode_int8(const std::byte* scales, const std::byte* codes, std::byte* run, uint64_t rows,
                 uint64_t channels) {
  each_strip(channels, [&](uint64_t first, uint64_t width) {
    Floats scale[kStripVectors];
    each_vector(width, [&](uint64_t at, uint64_t count) {
      scale[at / kLanes] = load<Floats>(scales + (first + at) * kScaleBytes, count);
    });
    for (uint64_t row = 0; row < rows; ++row) {
      each_vector(width, [&](uint64_t at, uint64_t count) {
        const uint64_t place = row * channels + first + at;
        const Floats values = float_of_int8(load<Bytes>(codes + place, count)) * scale[at / kLanes];
        store_floats<Type>(run, place, values, count);
      });
    }
  });
}

template <typename Type>
constexpr QuantizeLoops kLoopsOf{&encode_fp8<Type>, &decode_fp8<Type>, &encode_int8<Type>,
                                 &decode_int8<Type>};

constexpr std::array<QuantizeLoops, 3> kAllLoops{kLoopsOf<Bfloat16>, kLoopsOf<Float16>,
                                                 kLoopsOf<Float32>};

}  // namespace
}  // namespace kvcore
