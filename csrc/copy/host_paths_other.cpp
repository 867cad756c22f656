#if !defined(__x86_64__)

#include <algorithm>
#include <array>
#include <cstring>

#include "copy/host_paths.h"

#if defined(__aarch64__)
#include <arm_neon.h>
#endif

namespace kvcore {

#if defined(__aarch64__)
namespace {

constexpr uint64_t kLine = 64;

// The lines of all streams in turns, then what is left of each. AArch64 has stores that are not to
// be cached only as a hint for pairs (STNP), which compilers emit for the builtin below.
template <bool kPastCaches>
void copy_neon(std::byte* const* to, const std::byte* const* from, uint64_t bytes) {
  const uint64_t lines = bytes / kLine;
  for (uint64_t at = 0; at < lines * kLine; at += kLine) {
    for (uint32_t i = 0; i < kStreams; ++i) {
      const uint8x16x4_t line = vld1q_u8_x4(reinterpret_cast<const uint8_t*>(from[i] + at));
      auto* target = reinterpret_cast<uint8_t*>(to[i] + at);
      if constexpr (kPastCaches) {
        asm volatile("stnp %q0, %q1, [%2]\n\tstnp %q3, %q4, [%2, #32]" ::"w"(line.val[0]),
                     "w"(line.val[1]), "r"(target), "w"(line.val[2]), "w"(line.val[3])
                     : "memory");
      } else {
        vst1q_u8_x4(target, line);
      }
    }
  }
  for (uint32_t i = 0; i < kStreams; ++i) {
    std::memcpy(to[i] + lines * kLine, from[i] + lines * kLine, bytes - lines * kLine);
  }
}

constexpr std::array<HostPath, 1> kPaths{{{"neon", &copy_neon<false>, &copy_neon<true>}}};

}  // namespace

std::span<const HostPath> native_paths() noexcept { return kPaths; }
#else
std::span<const HostPath> native_paths() noexcept { return {}; }
#endif

}  // namespace kvcore

#endif
