#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>

#include "copy/quantize_path.h"

namespace kvcore {

// How a run looks in a slab, where it does not lie there byte for byte; runs are converted while
// they are copied. Immutable, so several threads may use one.
class RunCodec {
 public:
  virtual ~RunCodec() = default;

  virtual uint64_t run_bytes() const noexcept = 0;   // in the paged cache
  virtual uint64_t slab_bytes() const noexcept = 0;  // in the slab
  virtual void encode(const std::byte* run, std::byte* slab) const noexcept = 0;
  virtual void decode(const std::byte* slab, std::byte* run) const noexcept = 0;
};

// All of these throw std::invalid_argument naming what does not divide a run.

// A run is matrices of rows x columns cells, row after row; in the slab it is column after column:
// tokens x heads (NHD) becomes heads x tokens (HND), and the other way round.
std::unique_ptr<RunCodec> make_transpose(uint64_t run_bytes, uint64_t rows, uint64_t columns,
                                         uint64_t cell_bytes);

enum class FloatType : uint8_t { kBfloat16, kFloat16, kFloat32 };

// Floats as 8-bit ones (e4m3: 4 bits of exponent, 3 of mantissa, largest 448) with a scale for each
// `group` values that follow each other; in the slab first the scales (float32), then the codes.
//
// For a group with largest magnitude m, decoded values differ by at most max(|x| / 16, m /
// 458,752), and the rounding to the float type. Infinities become m, NaN stays NaN.
std::unique_ptr<RunCodec> make_fp8(uint64_t run_bytes, FloatType type, uint64_t group,
                                   const QuantizePath& path = quantize_path());

// Floats as integers of 8 bits with a scale for each channel, that is each column of the matrices
// of rows x channels that a run is. In the slab first the scales (float32), then the codes.
//
// For a channel with largest magnitude m, decoded values differ by at most m / 254, and the
// rounding to the float type. Infinities become m, NaN becomes 0.
std::unique_ptr<RunCodec> make_int8(uint64_t run_bytes, FloatType type, uint64_t rows,
                                    uint64_t channels, const QuantizePath& path = quantize_path());

}  // namespace kvcore
