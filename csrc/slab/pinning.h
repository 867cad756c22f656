#pragma once

#include <cstddef>

namespace kvcore {

// How host memory is registered with a device, so that the device reaches it. Made by the module of
// that device and never gone again; plain functions, since no C++ type passes between modules.
struct Pinning {
  // Both answer null, or what went wrong as text that stays.
  const char* (*pin)(void* data, size_t bytes);
  const char* (*unpin)(void* data);
};

}  // namespace kvcore
