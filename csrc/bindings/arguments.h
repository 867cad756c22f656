#pragma once

#include <pybind11/numpy.h>
#include <pybind11/pybind11.h>

#include <array>
#include <chrono>
#include <span>
#include <string>
#include <vector>

#include "common/types.h"

namespace kvcore::bindings {

namespace py = pybind11;

// A borrowed, C-contiguous buffer of a Python object; released when it dies. Needs the GIL.
class Buffer {
 public:
  // Raises TypeError naming `argument` and what is `allowed` unless `object` gives such a buffer.
  Buffer(py::handle object, const char* argument, const char* allowed);
  ~Buffer() { PyBuffer_Release(&view_); }
  Buffer(const Buffer&) = delete;
  Buffer& operator=(const Buffer&) = delete;

  const Py_buffer& view() const { return view_; }

 private:
  Py_buffer view_;
};

// The `hashes` argument of every call: C-contiguous uint8[n, 16].
class HashesArgument {
 public:
  explicit HashesArgument(py::handle object, const char* argument = "hashes");
  std::span<const BlockHash> get() const { return hashes_; }

 private:
  Buffer buffer_;
  std::span<const BlockHash> hashes_;
};

// An int argument from `low` to `high`; TypeError or ValueError otherwise.
int64_t integer_argument(py::handle object, const char* argument, int64_t low, int64_t high);

// A float or int argument; TypeError otherwise.
double number_argument(py::handle object, const char* argument);

// A str argument; TypeError otherwise.
std::string string_argument(py::handle object, const char* argument);

// 16 bytes: a namespace's fingerprint; TypeError otherwise.
std::array<uint8_t, 16> fingerprint_argument(py::handle object);

// A time limit in seconds from now as the time to give up at; None waits as long as it takes.
std::chrono::steady_clock::time_point deadline_argument(py::handle timeout_s);

// A short description of a value for an error message: its type, and repr where that is short.
std::string describe(py::handle object);

// A read-only array over memory that `owner` keeps alive.
template <typename T>
py::array_t<T> borrowed_array(const void* data, size_t size, py::handle owner) {
  py::array_t<T> array(static_cast<py::ssize_t>(size), static_cast<const T*>(data), owner);
  py::detail::array_proxy(array.ptr())->flags &= ~py::detail::npy_api::NPY_ARRAY_WRITEABLE_;
  return array;
}

// A fresh uint8[n, 16] array and its rows.
py::array_t<uint8_t> new_hash_array(size_t rows);
std::span<BlockHash> rows_of(py::array_t<uint8_t>& array);

}  // namespace kvcore::bindings
