#pragma once

#include <memory>
#include <vector>

#include "store/disk_operation.h"
#include "store/slot_store.h"

namespace kvcore {

// Does tasks on one thread, as many at a time as there are operations, by io_uring. Null where the
// build or the kernel has none.
std::unique_ptr<SlotEngine> new_uring_engine(
    SlotStore& store, std::vector<std::unique_ptr<DiskOperation>> operations);

}  // namespace kvcore
