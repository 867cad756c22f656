#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <string_view>

#include "common/types.h"

namespace kvcore {

// Which servers have a chunk. Immutable; thread safe.
class Placement {
 public:
  virtual ~Placement() = default;

  // The servers of a chunk, by number, the first choice first, and how many: as many as are wanted
  // and there are.
  virtual size_t place(const BlockHash& name, std::string_view key,
                       std::span<uint32_t> servers) const noexcept = 0;
};

}  // namespace kvcore
