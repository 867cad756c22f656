#pragma once

#include <cstddef>
#include <cstdint>
#include <string_view>

#include "copy/layout.h"
#include "copy/run_codec.h"

namespace kvcore {

// Runs of equal length that are copied side by side: a core keeps more lines under way that way
// than with one run after the other. Neither places nor length need be aligned.
inline constexpr uint32_t kStreams = 4;
using CopyStreams = void (*)(std::byte* const* to, const std::byte* const* from, uint64_t bytes);

// How a kind of CPU copies. The stores of `streamed` go past the caches; they are visible to other
// threads before it returns.
struct HostPath {
  std::string_view name;
  CopyStreams cached;
  CopyStreams streamed;
};

// The fastest path of this machine, or what the environment's KVCORE_CPU asks for: "avx512",
// "avx2", "neon" or "portable". Throws std::invalid_argument when the machine has no such path.
const HostPath& host_path();

// Copies the bytes [begin, end) of a view, counted block after block, in each plane after plane.
void copy_on_host(const HostPath& path, const CopyView& view, Direction direction, uint64_t begin,
                  uint64_t end, bool streamed);

// Converts the runs [begin, end) of a view, counted in the same order.
void convert_on_host(const RunCodec& codec, const CopyView& view, Direction direction,
                     uint64_t begin, uint64_t end);

}  // namespace kvcore
