#pragma once

#include <pybind11/pybind11.h>

namespace kvcore::bindings {

// One function a concept; module.cpp calls them in the order of the layers.
void register_hash(pybind11::module_& module);
void register_request(pybind11::module_& module);
void register_tenants(pybind11::module_& module);
void register_handles(pybind11::module_& module);
void register_cache(pybind11::module_& module);
void register_sim(pybind11::module_& module);
void register_plan(pybind11::module_& module);
void register_curve(pybind11::module_& module);
void register_slab(pybind11::module_& module);
void register_copy(pybind11::module_& module);
void register_raw_loop(pybind11::module_& module);
void register_raw_sockets(pybind11::module_& module);
void register_stores(pybind11::module_& module);
void register_batch_source(pybind11::module_& module);
void register_placement(pybind11::module_& module);
void register_remote_stores(pybind11::module_& module);

}  // namespace kvcore::bindings
