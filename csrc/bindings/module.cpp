#include "bindings/register.h"

PYBIND11_MODULE(_core, module, pybind11::mod_gil_not_used()) {
  module.doc() = "kvcore's native core; its public names are those of the package kvcore.";
  kvcore::bindings::register_hash(module);
  kvcore::bindings::register_request(module);
  kvcore::bindings::register_handles(module);
  kvcore::bindings::register_cache(module);
}
