#pragma once

#include <cstddef>

namespace kvcore {

// XXH3 for CPUs with AVX2; on others, and where there is none, checksum.cpp has its own. `state` is
// an XXH3_state_t, which is the same for both.
using AddToXxh3 = void (*)(void* state, const void* bytes, size_t num_bytes);

AddToXxh3 xxh3_avx2() noexcept;  // none where this CPU has no AVX2

}  // namespace kvcore
