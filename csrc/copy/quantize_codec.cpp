#include <algorithm>
#include <stdexcept>
#include <string>
#include <string_view>
#include <vector>

#include "copy/host_copy.h"
#include "copy/quantize_path.h"
#include "copy/run_codec.h"

namespace kvcore {
namespace {

constexpr uint64_t kScaleBytes = sizeof(float);

class Fp8 final : public RunCodec {
 public:
  Fp8(const QuantizeLoops& loops, uint64_t run_bytes, uint64_t values, uint64_t group)
      : loops_(loops), run_bytes_(run_bytes), group_(group), groups_(values / group) {}

  uint64_t run_bytes() const noexcept override { return run_bytes_; }
  uint64_t slab_bytes() const noexcept override { return groups_ * (kScaleBytes + group_); }

  void encode(const std::byte* run, std::byte* slab) const noexcept override {
    loops_.encode_fp8(run, slab, slab + groups_ * kScaleBytes, groups_, group_);
  }
  void decode(const std::byte* slab, std::byte* run) const noexcept override {
    loops_.decode_fp8(slab, slab + groups_ * kScaleBytes, run, groups_, group_);
  }

 private:
  const QuantizeLoops loops_;
  const uint64_t run_bytes_, group_, groups_;
};

class Int8 final : public RunCodec {
 public:
  Int8(const QuantizeLoops& loops, uint64_t run_bytes, uint64_t values, uint64_t rows,
       uint64_t channels)
      : loops_(loops),
        run_bytes_(run_bytes),
        rows_(rows),
        channels_(channels),
        matrices_(values / (rows * channels)) {}

  uint64_t run_bytes() const noexcept override { return run_bytes_; }
  uint64_t slab_bytes() const noexcept override {
    return matrices_ * channels_ * (kScaleBytes + rows_);
  }

  void encode(const std::byte* run, std::byte* slab) const noexcept override {
    for (uint64_t i = 0; i < matrices_; ++i) {
      loops_.encode_int8(run + i * matrix_run_bytes(), slab + i * channels_ * kScaleBytes,
                         codes_of(slab, i), rows_, channels_);
    }
  }
  void decode(const std::byte* slab, std::byte* run) const noexcept override {
    for (uint64_t i = 0; i < matrices_; ++i) {
      loops_.decode_int8(slab + i * channels_ * kScaleBytes, codes_of(slab, i),
                         run + i * matrix_run_bytes(), rows_, channels_);
    }
  }

 private:
  uint64_t matrix_run_bytes() const noexcept { return run_bytes_ / matrices_; }
  template <typename Byte>
  Byte* codes_of(Byte* slab, uint64_t matrix) const noexcept {
    return slab + matrices_ * channels_ * kScaleBytes + matrix * rows_ * channels_;
  }

  const QuantizeLoops loops_;
  const uint64_t run_bytes_, rows_, channels_, matrices_;
};

uint64_t bytes_of(FloatType type) { return type == FloatType::kFloat32 ? 4 : 2; }

bool divides(uint64_t a, uint64_t b, uint64_t values) {
  return a > 0 && b > 0 && a <= values && b <= values / a && values % (a * b) == 0;
}

[[noreturn]] void refuse(const char* names, uint64_t values, const std::string& got) {
  throw std::invalid_argument(std::string(names) + " must divide a run of " +
                              std::to_string(values) + " values, got " + got);
}

const QuantizeLoops& loops_for(const QuantizePath& path, FloatType type) {
  return path.loops[static_cast<size_t>(type)];
}

}  // namespace

std::unique_ptr<RunCodec> make_fp8(uint64_t run_bytes, FloatType type, uint64_t group,
                                   const QuantizePath& path) {
  const uint64_t values = run_bytes / bytes_of(type);
  if (run_bytes % bytes_of(type) != 0 || !divides(group, 1, values)) {
    refuse("group", values, std::to_string(group));
  }
  return std::make_unique<Fp8>(loops_for(path, type), run_bytes, values, group);
}

std::unique_ptr<RunCodec> make_int8(uint64_t run_bytes, FloatType type, uint64_t rows,
                                    uint64_t channels, const QuantizePath& path) {
  const uint64_t values = run_bytes / bytes_of(type);
  if (run_bytes % bytes_of(type) != 0 || !divides(rows, channels, values)) {
    refuse("rows and channels", values, std::to_string(rows) + " and " + std::to_string(channels));
  }
  return std::make_unique<Int8>(loops_for(path, type), run_bytes, values, rows, channels);
}

const std::vector<const QuantizePath*>& quantize_paths() {
  static const std::vector<const QuantizePath*> kPaths = [] {
    std::vector<const QuantizePath*> paths;
#if defined(__x86_64__)
    const bool has_avx512 =
        __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
        __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl");
    if (has_avx512) paths.push_back(&kAvx512QuantizePath);
    if (__builtin_cpu_supports("avx2")) paths.push_back(&kAvx2QuantizePath);
#endif
    paths.push_back(&kPortableQuantizePath);
    return paths;
  }();
  return kPaths;
}

const QuantizePath& quantize_path() {
  const auto& paths = quantize_paths();
  const auto same = std::ranges::find(paths, std::string_view(host_path().name),
                                      [](const QuantizePath* path) { return path->name; });
  return same == paths.end() ? *paths.front() : **same;
}

}  // namespace kvcore
