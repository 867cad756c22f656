#include "store/checksum_avx2.h"

// Compiled with AVX2, so nothing but xxHash's static functions may be included here: whatever else
// is inline could be taken for all of the program.
#ifdef __AVX2__
#define XXH_INLINE_ALL
#include "xxhash/xxhash.h"
#endif

namespace kvcore {

#ifdef __AVX2__
static void add(void* state, const void* bytes, size_t num_bytes) {
  XXH3_128bits_update(static_cast<XXH3_state_t*>(state), bytes, num_bytes);
}

AddToXxh3 xxh3_avx2() noexcept { return __builtin_cpu_supports("avx2") ? &add : nullptr; }
#else
AddToXxh3 xxh3_avx2() noexcept { return nullptr; }
#endif

}  // namespace kvcore
