#pragma once

#include "bindings/arguments.h"
#include "copy/transfer_plan.h"

namespace kvcore::bindings {

// A plan as its numbers; kvcore.planes derives them from tensors. The arguments of every call that
// takes one, each of its own name:
//
//   plane_bases uint64[planes], num_layers, num_paged_blocks, paged_stride, run_bytes,
//   slab (address), slab_block_bytes, num_slab_blocks, block_ids uint32[n], slab_blocks uint32[n]
//
// Throws py::type_error, py::value_error or std::invalid_argument naming the argument.
TransferPlan plan_argument(const py::kwargs& numbers,
                           std::shared_ptr<const RunCodec> codec = nullptr);

}  // namespace kvcore::bindings
