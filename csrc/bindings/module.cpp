#include "bindings/exceptions.h"
#include "bindings/register.h"

PYBIND11_MODULE(_core, module, pybind11::mod_gil_not_used()) {
  module.doc() = "kvcore's native core; its public names are those of the package kvcore.";
  pybind11::register_local_exception_translator(&kvcore::bindings::translate);
  kvcore::bindings::register_hash(module);
  kvcore::bindings::register_request(module);
  kvcore::bindings::register_tenants(module);
  kvcore::bindings::register_handles(module);
  kvcore::bindings::register_cache(module);
  kvcore::bindings::register_sim(module);
  kvcore::bindings::register_curve(module);
  kvcore::bindings::register_slab(module);
  kvcore::bindings::register_plan(module);
  kvcore::bindings::register_copy(module);
  kvcore::bindings::register_raw_loop(module);
  kvcore::bindings::register_raw_sockets(module);
  kvcore::bindings::register_stores(module);
  kvcore::bindings::register_batch_source(module);
  kvcore::bindings::register_placement(module);
  kvcore::bindings::register_remote_stores(module);
}
