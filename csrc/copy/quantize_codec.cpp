#include <algorithm>
#include <cmath>
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

template <typename Type>
float load(const std::byte* run, uint64_t i) noexcept {
  typename Type::Bits bits;
  std::memcpy(&bits, run + i * Type::kBytes, Type::kBytes);
  return Type::to_float(bits);
}

template <typename Type>
void store(std::byte* run, uint64_t i, float value) noexcept {
  const typename Type::Bits bits = Type::from_float(value);
  std::memcpy(run + i * Type::kBytes, &bits, Type::kBytes);
}

float magnitude_of(float value) noexcept {
  const float magnitude = std::fabs(value);
  return magnitude <= std::numeric_limits<float>::max() ? magnitude : 0;  // neither inf nor NaN
}

float scale_at(const std::byte* scales, uint64_t i) noexcept {
  float scale;
  std::memcpy(&scale, scales + i * kScaleBytes, kScaleBytes);
  return scale;
}

void set_scale(std::byte* scales, uint64_t i, float scale) noexcept {
  std::memcpy(scales + i * kScaleBytes, &scale, kScaleBytes);
}

template <typename Type>
class Fp8 final : public RunCodec {
 public:
  Fp8(uint64_t run_bytes, uint64_t group)
      : values_(run_bytes / Type::kBytes), group_(group), groups_(values_ / group) {}

  uint64_t run_bytes() const noexcept override { return values_ * Type::kBytes; }
  uint64_t slab_bytes() const noexcept override { return groups_ * kScaleBytes + values_; }

  void encode(const std::byte* run, std::byte* slab) const noexcept override {
    auto* codes = reinterpret_cast<uint8_t*>(slab + groups_ * kScaleBytes);
    for (uint64_t g = 0; g < groups_; ++g) {
      const uint64_t first = g * group_;
      float largest = 0;
      for (uint64_t i = first; i < first + group_; ++i) {
        largest = std::max(largest, magnitude_of(load<Type>(run, i)));
      }
      const float scale = std::max(largest / E4m3::kLargest, kLeastScale);
      set_scale(slab, g, scale);
      for (uint64_t i = first; i < first + group_; ++i) {
        codes[i] = E4m3::from_float(load<Type>(run, i) / scale);
      }
    }
  }

  void decode(const std::byte* slab, std::byte* run) const noexcept override {
    const auto* codes = reinterpret_cast<const uint8_t*>(slab + groups_ * kScaleBytes);
    for (uint64_t g = 0; g < groups_; ++g) {
      const float scale = scale_at(slab, g);
      for (uint64_t i = g * group_; i < (g + 1) * group_; ++i) {
        store<Type>(run, i, E4m3::to_float(codes[i]) * scale);
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
    auto* codes = reinterpret_cast<int8_t*>(slab + scales_ * kScaleBytes);
    for (uint64_t s = 0; s < scales_; ++s) set_scale(slab, s, 0);
    each_value([&](uint64_t i, uint64_t s) {
      set_scale(slab, s, std::max(scale_at(slab, s), magnitude_of(load<Type>(run, i))));
    });
    for (uint64_t s = 0; s < scales_; ++s) {
      set_scale(slab, s, std::max(scale_at(slab, s) / kLargestInt8, kLeastScale));
    }
    each_value([&](uint64_t i, uint64_t s) {
      const float scaled = load<Type>(run, i) / scale_at(slab, s);
      const float bounded = std::clamp(scaled == scaled ? scaled : 0, -kLargestInt8, kLargestInt8);
      codes[i] = static_cast<int8_t>(std::nearbyint(bounded));
    });
  }

  void decode(const std::byte* slab, std::byte* run) const noexcept override {
    const auto* codes = reinterpret_cast<const int8_t*>(slab + scales_ * kScaleBytes);
    each_value([&](uint64_t i, uint64_t s) {
      store<Type>(run, i, static_cast<float>(codes[i]) * scale_at(slab, s));
    });
  }

 private:
  // Each value with the number of its scale, in the order of the run.
  template <typename Function>
  void each_value(Function function) const noexcept {
    uint64_t i = 0;
    for (uint64_t first_scale = 0; first_scale < scales_; first_scale += channels_) {
      for (uint64_t row = 0; row < rows_; ++row) {
        for (uint64_t channel = 0; channel < channels_; ++channel) {
          function(i++, first_scale + channel);
        }
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
