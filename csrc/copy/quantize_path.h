#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <vector>

namespace kvcore {

// The loops of codecs to 8 bits, for one type of float. Nothing need be aligned. A scale is a
// float32.
struct QuantizeLoops {
  // Of groups that follow each other.
  void (*encode_fp8)(const std::byte* run, std::byte* scales, std::byte* codes, uint64_t groups,
                     uint64_t group_values);
  void (*decode_fp8)(const std::byte* scales, const std::byte* codes, std::byte* run,
                     uint64_t groups, uint64_t group_values);
  // Of one matrix.
  void (*encode_int8)(const std::byte* run, std::byte* scales, std::byte* codes, uint64_t rows,
                      uint64_t channels);
  void (*decode_int8)(const std::byte* scales, const std::byte* codes, std::byte* run,
                      uint64_t rows, uint64_t channels);
};

// The same for one instruction set; all give the same bits.
struct QuantizePath {
  const char* name;
  std::array<QuantizeLoops, 3> loops;  // by FloatType; see run_codec.h
};

extern const QuantizePath kPortableQuantizePath;
#if defined(__x86_64__)
extern const QuantizePath kAvx2QuantizePath, kAvx512QuantizePath;
#endif

// Those that this machine's CPU has, the fastest first.
const std::vector<const QuantizePath*>& quantize_paths();

// The one that goes with host_path(), or the fastest.
const QuantizePath& quantize_path();

}  // namespace kvcore
