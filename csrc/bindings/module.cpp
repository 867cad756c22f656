#include <stdexcept>
#include <system_error>

#include "bindings/register.h"

namespace {

// Other pybind11 modules in the process may take our exceptions for their own unknown ones.
void translate(std::exception_ptr exception) {
  try {
    std::rethrow_exception(exception);
  } catch (const pybind11::builtin_exception& error) {
    error.set_error();
  } catch (const std::invalid_argument& error) {
    PyErr_SetString(PyExc_ValueError, error.what());
  } catch (const std::system_error& error) {
    PyErr_SetObject(PyExc_OSError, pybind11::make_tuple(error.code().value(), error.what()).ptr());
  } catch (const std::runtime_error& error) {
    PyErr_SetString(PyExc_RuntimeError, error.what());
  } catch (const std::logic_error& error) {
    PyErr_SetString(PyExc_RuntimeError, error.what());
  }
}

}  // namespace

PYBIND11_MODULE(_core, module, pybind11::mod_gil_not_used()) {
  module.doc() = "kvcore's native core; its public names are those of the package kvcore.";
  pybind11::register_local_exception_translator(&translate);
  kvcore::bindings::register_hash(module);
  kvcore::bindings::register_request(module);
  kvcore::bindings::register_tenants(module);
  kvcore::bindings::register_handles(module);
  kvcore::bindings::register_cache(module);
  kvcore::bindings::register_sim(module);
  kvcore::bindings::register_curve(module);
  kvcore::bindings::register_slab(module);
}
