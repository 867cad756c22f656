#include <algorithm>
#include <bit>
#include <cstring>
#include <limits>
#include <stdexcept>
#include <string>

#include "copy/floats.h"
#include "copy/run_codec.h"

namespace kvcore {
namespace {

constexpr float kLargestInt8 = 127;
constexpr uint64_t kScaleBytes = sizeof(float);
// So that its inverse is finite.
constexpr float kLeastScale = std::numeric_limits<float>::min();
constexpr uint32_t kInfinity = 0x7F800000;
// Values that are worked on together, in arrays that nothing else points to: compilers make vectors
// of loops over them.
constexpr uint64_t kChunk = 256;

template <typename Type>
struct Chunk {
  float values[kChunk];
  uint64_t count;

  Chunk(const std::byte* run, uint64_t first, uint64_t end) noexcept
      : count(std::min(kChunk, end - first)) {
    typename Type::Bits bits[kChunk];
    std::memcpy(bits, run + first * Type::kBytes, count * Type::kBytes);
    for (uint64_t i = 0; i < count; ++i) values[i] = Type::to_float(bits[i]);
  }
};

template <typename Type>
void store(std::byte* run, uint64_t first, const float* values, uint64_t count) noexcept {
  typename Type::Bits bits[kChunk];
  for (uint64_t i = 0; i < count; ++i) bits[i] = Type::from_float(values[i]);
  std::memcpy(run + first * Type::kBytes, bits, count * Type::kBytes);
}

// As bits, whose order is that of the magnitudes; 0 for infinities and NaN.
uint32_t magnitude_of(float value) noexcept {
  const uint32_t magnitude = std::bit_cast<uint32_t>(value) & 0x7FFFFFFF;
  return magnitude < kInfinity ? magnitude : 0;
}

float scale_of(uint32_t largest, float largest_code) noexcept {
  const float scale = std::max(std::bit_cast<float>(largest) / largest_code, kLeastScale);
  // Rounded up, the largest value of all would come back as infinity.
  const bool is_too_large = scale * largest_code > std::numeric_limits<float>::max();
  return std::bit_cast<float>(std::bit_cast<uint32_t>(scale) - is_too_large);
}

template <typename Type>
class Fp8 final : public RunCodec {
 public:
  Fp8(uint64_t run_bytes, uint64_t group)
      : values_(run_bytes / Type::kBytes), group_(group), groups_(values_ / group) {}

  uint64_t run_bytes() const noexcept override { return values_ * Type::kBytes; }
  uint64_t slab_bytes() const noexcept override { return groups_ * kScaleBytes + values_; }

  void encode(const std::byte* run, std::byte* slab) const noexcept override {
    std::byte* const all_codes = slab + groups_ * kScaleBytes;
    for (uint64_t g = 0; g < groups_; ++g) {
      const uint64_t end = (g + 1) * group_;
      uint32_t largest = 0;
      for (uint64_t first = g * group_; first < end; first += kChunk) {
        const Chunk<Type> chunk(run, first, end);
        for (uint64_t i = 0; i < chunk.count; ++i) {
          largest = std::max(largest, magnitude_of(chunk.values[i]));
        }
      }
      const float scale = scale_of(largest, E4m3::kLargest), inverse = 1 / scale;
      std::memcpy(slab + g * kScaleBytes, &scale, kScaleBytes);
      for (uint64_t first = g * group_; first < end; first += kChunk) {
        const Chunk<Type> chunk(run, first, end);
        uint8_t codes[kChunk];
        for (uint64_t i = 0; i < chunk.count; ++i) {
          codes[i] = E4m3::from_float(chunk.values[i] * inverse);
        }
        std::memcpy(all_codes + first, codes, chunk.count);
      }
    }
  }

  void decode(const std::byte* slab, std::byte* run) const noexcept override {
    const std::byte* const all_codes = slab + groups_ * kScaleBytes;
    for (uint64_t g = 0; g < groups_; ++g) {
      float scale;
      std::memcpy(&scale, slab + g * kScaleBytes, kScaleBytes);
      const uint64_t end = (g + 1) * group_;
      for (uint64_t first = g * group_; first < end; first += kChunk) {
        const uint64_t count = std::min(kChunk, end - first);
        uint8_t codes[kChunk];
        std::memcpy(codes, all_codes + first, count);
        float values[kChunk];
        for (uint64_t i = 0; i < count; ++i) values[i] = E4m3::to_float(codes[i]) * scale;
        store<Type>(run, first, values, count);
      }
    }
  }

 private:
  const uint64_t values_, group_, groups_;
};

template <typename Type>
class Int8 final : public RunCodec {
 public:
  Int8(uint64_t run_bytes, uint64_t rows, uint64_t channels)
      : values_(run_bytes / Type::kBytes),
        rows_(rows),
        channels_(channels),
        scales_(values_ / rows) {}

  uint64_t run_bytes() const noexcept override { return values_ * Type::kBytes; }
  uint64_t slab_bytes() const noexcept override { return scales_ * kScaleBytes + values_; }

  void encode(const std::byte* run, std::byte* slab) const noexcept override {
    std::byte* const all_codes = slab + scales_ * kScaleBytes;
    each_strip([&](uint64_t first_scale, uint64_t first, uint64_t end) {
      const uint64_t count = end - first;
      uint32_t largest[kChunk] = {};
      for (uint64_t row = 0; row < rows_; ++row) {
        const Chunk<Type> chunk(run, first + row * channels_, end + row * channels_);
        for (uint64_t i = 0; i < count; ++i) {
          largest[i] = std::max(largest[i], magnitude_of(chunk.values[i]));
        }
      }
      float scales[kChunk], inverses[kChunk];
      for (uint64_t i = 0; i < count; ++i) {
        scales[i] = scale_of(largest[i], kLargestInt8);
        inverses[i] = 1 / scales[i];
      }
      std::memcpy(slab + first_scale * kScaleBytes, scales, count * kScaleBytes);
      for (uint64_t row = 0; row < rows_; ++row) {
        const Chunk<Type> chunk(run, first + row * channels_, end + row * channels_);
        uint8_t codes[kChunk];
        for (uint64_t i = 0; i < count; ++i) codes[i] = code_of(chunk.values[i] * inverses[i]);
        std::memcpy(all_codes + first + row * channels_, codes, count);
      }
    });
  }

  void decode(const std::byte* slab, std::byte* run) const noexcept override {
    const std::byte* const all_codes = slab + scales_ * kScaleBytes;
    each_strip([&](uint64_t first_scale, uint64_t first, uint64_t end) {
      const uint64_t count = end - first;
      float scales[kChunk];
      std::memcpy(scales, slab + first_scale * kScaleBytes, count * kScaleBytes);
      for (uint64_t row = 0; row < rows_; ++row) {
        int8_t codes[kChunk];
        std::memcpy(codes, all_codes + first + row * channels_, count);
        float values[kChunk];
        for (uint64_t i = 0; i < count; ++i) values[i] = static_cast<float>(codes[i]) * scales[i];
        store<Type>(run, first + row * channels_, values, count);
      }
    });
  }

 private:
  static uint8_t code_of(float value) noexcept {
    const float number = value == value ? value : 0;
    const float bounded = std::min(std::max(number, -kLargestInt8), kLargestInt8);
    // With 1.5 * 2^23 added, the last bits are the nearest integer.
    return static_cast<uint8_t>(std::bit_cast<uint32_t>(bounded + 0x1.8p23f));
  }

  // Strips of at most kChunk channels: their first scale, and their values in the first row.
  template <typename Function>
  void each_strip(Function function) const noexcept {
    for (uint64_t matrix = 0; matrix * rows_ * channels_ < values_; ++matrix) {
      for (uint64_t channel = 0; channel < channels_; channel += kChunk) {
        const uint64_t first = matrix * rows_ * channels_ + channel;
        function(matrix * channels_ + channel, first,
                 first + std::min(kChunk, channels_ - channel));
      }
    }
  }

  const uint64_t values_, rows_, channels_, scales_;
};

uint64_t bytes_of(FloatType type) { return type == FloatType::kFloat32 ? 4 : 2; }

bool divides(uint64_t a, uint64_t b, uint64_t values) {
  return a > 0 && b > 0 && a <= values && b <= values / a && values % (a * b) == 0;
}

[[noreturn]] void refuse(const char* names, uint64_t values, const std::string& got) {
  throw std::invalid_argument(std::string(names) + " must divide a run of " +
                              std::to_string(values) + " values, got " + got);
}

template <template <typename> typename Codec, typename... Arguments>
std::unique_ptr<RunCodec> make(FloatType type, Arguments... arguments) {
  switch (type) {
    case FloatType::kBfloat16:
      return std::make_unique<Codec<Bfloat16>>(arguments...);
    case FloatType::kFloat16:
      return std::make_unique<Codec<Float16>>(arguments...);
    case FloatType::kFloat32:
      break;
  }
  return std::make_unique<Codec<Float32>>(arguments...);
}

}  // namespace

std::unique_ptr<RunCodec> make_fp8(uint64_t run_bytes, FloatType type, uint64_t group) {
  const uint64_t values = run_bytes / bytes_of(type);
  if (run_bytes % bytes_of(type) != 0 || !divides(group, 1, values)) {
    refuse("group", values, std::to_string(group));
  }
  return make<Fp8>(type, run_bytes, group);
}

std::unique_ptr<RunCodec> make_int8(uint64_t run_bytes, FloatType type, uint64_t rows,
                                    uint64_t channels) {
  const uint64_t values = run_bytes / bytes_of(type);
  if (run_bytes % bytes_of(type) != 0 || !divides(rows, channels, values)) {
    refuse("rows and channels", values, std::to_string(rows) + " and " + std::to_string(channels));
  }
  return make<Int8>(type, run_bytes, rows, channels);
}

}  // namespace kvcore
