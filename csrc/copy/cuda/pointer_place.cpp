#include "copy/cuda/pointer_place.h"

#include "copy/cuda/resources.h"

namespace kvcore {

PointerPlace place_of(uint64_t address) {
  cudaPointerAttributes attributes{};
  KV_CUDA(cudaPointerGetAttributes(&attributes, reinterpret_cast<const void*>(address)));
  using Kind = PointerPlace::Kind;
  const auto alias = reinterpret_cast<uint64_t>(attributes.devicePointer);
  switch (attributes.type) {
    case cudaMemoryTypeHost:
      return {Kind::kPinned, attributes.device, alias};
    case cudaMemoryTypeDevice:
      return {Kind::kDevice, attributes.device, alias};
    case cudaMemoryTypeManaged:
      return {Kind::kManaged, attributes.device, alias};
    case cudaMemoryTypeUnregistered:
      break;
  }
  return {};
}

std::string describe(const PointerPlace& place) {
  using Kind = PointerPlace::Kind;
  switch (place.kind) {
    case Kind::kPinned:
      return "pinned host memory";
    case Kind::kDevice:
      return "memory of CUDA device " + std::to_string(place.device);
    case Kind::kManaged:
      return "managed memory";
    case Kind::kPageable:
      break;
  }
  return "host memory that is not pinned";
}

}  // namespace kvcore
