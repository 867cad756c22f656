#pragma once

#include <span>

#include "copy/host_copy.h"

namespace kvcore {

// What this machine's CPU has beyond plain C++, the fastest first.
std::span<const HostPath> native_paths() noexcept;

}  // namespace kvcore
