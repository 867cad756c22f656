#pragma once

#include <cstdint>
#include <string>

namespace kvcore {

// Whose memory an address is, as CUDA knows it.
struct PointerPlace {
  enum class Kind : uint8_t { kPageable, kPinned, kDevice, kManaged };

  Kind kind = Kind::kPageable;
  int device = 0;      // of kDevice, and where kPinned was pinned
  uint64_t alias = 0;  // the same byte as kernels see it
};

// Throws CudaError where there is no device at all.
PointerPlace place_of(uint64_t address);

// "memory of CUDA device 1", "pinned host memory", ...
std::string describe(const PointerPlace& place);

}  // namespace kvcore
