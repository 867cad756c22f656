#pragma once

#include <pybind11/pybind11.h>
#include <unistd.h>

namespace kvcore::bindings {

// Gives up the GIL while a call works or waits. Python ends a daemon thread that wants it back
// while Python itself is ending, and does so by unwinding its stack, which C++ takes for a fatal
// error wherever a destructor is on it. Here such a thread stays where it is, and ends with the
// process.
class Waiting {
 public:
  Waiting() : state_(PyEval_SaveThread()) {}
  ~Waiting() {
    try {
      PyEval_RestoreThread(state_);
    } catch (...) {  // the unwinding
      for (;;) pause();
    }
  }
  Waiting(const Waiting&) = delete;
  Waiting& operator=(const Waiting&) = delete;

 private:
  PyThreadState* state_;
};

}  // namespace kvcore::bindings
