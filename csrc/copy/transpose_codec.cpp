#include <cstring>
#include <stdexcept>
#include <string>

#include "copy/run_codec.h"

namespace kvcore {
namespace {

// Writes one byte after the other; a size that is known when it is compiled needs no call a cell.
template <uint64_t kCellBytes>
void transpose(const std::byte* from, std::byte* to, uint64_t rows, uint64_t columns,
               uint64_t cell_bytes) noexcept {
  const uint64_t size = kCellBytes == 0 ? cell_bytes : kCellBytes;
  for (uint64_t column = 0; column < columns; ++column) {
    for (uint64_t row = 0; row < rows; ++row, to += size) {
      std::memcpy(to, from + (row * columns + column) * size, size);
    }
  }
}

void transpose(const std::byte* from, std::byte* to, uint64_t rows, uint64_t columns,
               uint64_t cell_bytes) noexcept {
  switch (cell_bytes) {
    case 64:
      return transpose<64>(from, to, rows, columns, cell_bytes);
    case 128:
      return transpose<128>(from, to, rows, columns, cell_bytes);
    case 256:
      return transpose<256>(from, to, rows, columns, cell_bytes);
    case 512:
      return transpose<512>(from, to, rows, columns, cell_bytes);
    default:
      return transpose<0>(from, to, rows, columns, cell_bytes);
  }
}

class Transpose final : public RunCodec {
 public:
  Transpose(uint64_t run_bytes, uint64_t rows, uint64_t columns, uint64_t cell_bytes)
      : run_bytes_(run_bytes), rows_(rows), columns_(columns), cell_bytes_(cell_bytes) {}

  uint64_t run_bytes() const noexcept override { return run_bytes_; }
  uint64_t slab_bytes() const noexcept override { return run_bytes_; }
  void encode(const std::byte* run, std::byte* slab) const noexcept override {
    each_matrix(run, slab, rows_, columns_);
  }
  void decode(const std::byte* slab, std::byte* run) const noexcept override {
    each_matrix(slab, run, columns_, rows_);
  }

 private:
  void each_matrix(const std::byte* from, std::byte* to, uint64_t rows,
                   uint64_t columns) const noexcept {
    const uint64_t bytes = rows * columns * cell_bytes_;
    for (uint64_t at = 0; at < run_bytes_; at += bytes) {
      transpose(from + at, to + at, rows, columns, cell_bytes_);
    }
  }

  const uint64_t run_bytes_, rows_, columns_, cell_bytes_;
};

}  // namespace

std::unique_ptr<RunCodec> make_transpose(uint64_t run_bytes, uint64_t rows, uint64_t columns,
                                         uint64_t cell_bytes) {
  const bool fits = rows > 0 && columns > 0 && cell_bytes > 0 && rows <= run_bytes &&
                    columns <= run_bytes / rows && cell_bytes <= run_bytes / rows / columns &&
                    run_bytes % (rows * columns * cell_bytes) == 0;
  if (!fits) {
    throw std::invalid_argument("rows, columns and cell_bytes must divide a run of " +
                                std::to_string(run_bytes) + " bytes, got " + std::to_string(rows) +
                                ", " + std::to_string(columns) + " and " +
                                std::to_string(cell_bytes));
  }
  return std::make_unique<Transpose>(run_bytes, rows, columns, cell_bytes);
}

}  // namespace kvcore
