#pragma once

#include <cstddef>

#include "bindings/waiting.h"

namespace kvcore::bindings {

// A call for fewer blocks mostly takes less than 100 us and keeps the GIL: taking it back beside a
// busy thread takes milliseconds. But nobody keeps the GIL while he waits for another's long call.
constexpr size_t kKeepGilBlocks = 4096;

template <typename Guarded, typename Call>
auto without_gil_if_long(const Guarded& object, size_t blocks, Call&& call) {
  if (blocks < kKeepGilBlocks && !object.is_busy()) return call();
  const Waiting waiting;
  return call();
}

}  // namespace kvcore::bindings
