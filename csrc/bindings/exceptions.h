#pragma once

#include <pybind11/pybind11.h>

#include <exception>
#include <stdexcept>
#include <system_error>

namespace kvcore::bindings {

// Each of our modules registers it for itself: other pybind11 modules in the process may take our
// exceptions for their own unknown ones.
inline void translate(std::exception_ptr exception) {
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

}  // namespace kvcore::bindings
