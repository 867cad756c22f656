#pragma once

#include <cstdint>
#include <memory>

#include "store/remote/placement.h"

namespace kvcore::bindings {

// A placement as Python has it, with the number of servers that it places on.
struct BoundPlacement {
  std::shared_ptr<const Placement> placement;
  uint32_t num_servers = 0;
};

}  // namespace kvcore::bindings
