#pragma once

#include <pybind11/pybind11.h>

#include <memory>
#include <utility>

#include "store/batch.h"

namespace kvcore::bindings {

// A batch as Python has it, with the owner of the memory that is lent to the store. Where it is
// dropped while a store still has that memory, the owner is kept until the batch is quiet. Needs
// the GIL.
class LentBatch {
 public:
  LentBatch(std::shared_ptr<Batch> batch, pybind11::object owner);
  LentBatch(LentBatch&&) = default;
  ~LentBatch();
  Batch& get() const { return *batch_; }

 private:
  std::shared_ptr<Batch> batch_;
  pybind11::object owner_;
};

}  // namespace kvcore::bindings
