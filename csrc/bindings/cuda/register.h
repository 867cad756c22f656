#pragma once

#include <pybind11/pybind11.h>

namespace kvcore::bindings {

void register_transfer(pybind11::module_& module);

}  // namespace kvcore::bindings
