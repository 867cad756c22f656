#pragma once

#include <pybind11/pybind11.h>
#include <unistd.h>

namespace kvcore::bindings {

// Gives up the GIL while a call waits. A daemon thread that comes back when Python is ending would
// be ended by Python in a way that C++ takes for a fatal error; it stays here instead, and ends with
// the process.
class Waiting {
 public:
  Waiting() : state_(PyEval_SaveThread()) {}
  ~Waiting() {
    while (is_ending()) pause();
    PyEval_RestoreThread(state_);
  }
  Waiting(const Waiting&) = delete;
  Waiting& operator=(const Waiting&) = delete;

 private:
  static bool is_ending() {
#if PY_VERSION_HEX >= 0x030D0000
    return Py_IsFinalizing() != 0;
#else
    return _Py_IsFinalizing() != 0;
#endif
  }

  PyThreadState* state_;
};

}  // namespace kvcore::bindings
