#include "bindings/arguments.h"

#include <string_view>

namespace kvcore::bindings {

// Whatever the object does when it is asked to show itself, the error that is being told wins.
std::string describe(py::handle object) {
  std::string text = Py_TYPE(object.ptr())->tp_name;
  try {
    if (py::hasattr(object, "shape") && py::hasattr(object, "dtype")) {
      return text + " of dtype " + std::string(py::str(object.attr("dtype"))) + " and shape " +
             std::string(py::str(object.attr("shape")));
    }
    auto repr = py::repr(object).attr("encode")("utf-8", "backslashreplace").cast<std::string>();
    return repr.size() <= 60 ? text + " " + repr : text;
  } catch (py::error_already_set&) {
    return text;
  }
}

int64_t integer_argument(py::handle object, const char* argument, int64_t low, int64_t high) {
  auto allowed = [&] {
    return std::string(argument) + " must be an int from " + std::to_string(low) + " to " +
           std::to_string(high) + ", got " + describe(object);
  };
  if (PyBool_Check(object.ptr()) || !PyIndex_Check(object.ptr())) throw py::type_error(allowed());
  py::object index = py::reinterpret_steal<py::object>(PyNumber_Index(object.ptr()));
  if (!index) throw py::error_already_set();
  int overflow = 0;
  int64_t value = PyLong_AsLongLongAndOverflow(index.ptr(), &overflow);
  if (overflow != 0 || value < low || value > high) throw py::value_error(allowed());
  return value;
}

double number_argument(py::handle object, const char* argument) {
  const double value = PyBool_Check(object.ptr()) ? -1 : PyFloat_AsDouble(object.ptr());
  if (PyErr_Occurred() != nullptr || PyBool_Check(object.ptr())) {
    PyErr_Clear();
    throw py::type_error(std::string(argument) + " must be a number, got " + describe(object));
  }
  return value;
}

std::string string_argument(py::handle object, const char* argument) {
  if (!py::isinstance<py::str>(object)) {
    throw py::type_error(std::string(argument) + " must be a str, got " + describe(object));
  }
  Py_ssize_t size = 0;
  const char* text = PyUnicode_AsUTF8AndSize(object.ptr(), &size);
  if (text == nullptr) {
    PyErr_Clear();
    throw py::value_error(std::string(argument) + " must be valid Unicode text, got " +
                          describe(object));
  }
  return {text, static_cast<size_t>(size)};
}

Buffer::Buffer(py::handle object, const char* argument, const char* allowed) {
  if (PyObject_GetBuffer(object.ptr(), &view_, PyBUF_C_CONTIGUOUS | PyBUF_FORMAT) != 0) {
    PyErr_Clear();
    throw py::type_error(std::string(argument) + " must be " + allowed + ", got " +
                         describe(object));
  }
}

HashesArgument::HashesArgument(py::handle object, const char* argument)
    : buffer_(object, argument, "a C-contiguous uint8[n, 16] array") {
  const Py_buffer& view = buffer_.view();
  std::string_view format = view.format == nullptr ? "B" : view.format;
  if (view.ndim != 2 || view.shape[1] != sizeof(BlockHash) || view.itemsize != 1 ||
      !format.ends_with('B')) {
    throw py::value_error(std::string(argument) +
                          " must be a C-contiguous uint8[n, 16] array, got " + describe(object));
  }
  hashes_ = {static_cast<const BlockHash*>(view.buf), static_cast<size_t>(view.shape[0])};
}

py::array_t<uint8_t> new_hash_array(size_t rows) {
  return py::array_t<uint8_t>({rows, sizeof(BlockHash)});
}

std::span<BlockHash> rows_of(py::array_t<uint8_t>& array) {
  return {reinterpret_cast<BlockHash*>(array.mutable_data()), static_cast<size_t>(array.shape(0))};
}

std::chrono::steady_clock::time_point deadline_argument(py::handle timeout_s) {
  using Clock = std::chrono::steady_clock;
  constexpr double kLongestWaitS = 1e9;
  if (timeout_s.is_none()) return Clock::time_point::max();
  const double seconds = number_argument(timeout_s, "timeout_s");
  if (!(seconds >= 0 && seconds <= kLongestWaitS)) {
    throw py::value_error("timeout_s must be None or from 0 to 1e9, got " + describe(timeout_s));
  }
  return Clock::now() +
         std::chrono::duration_cast<Clock::duration>(std::chrono::duration<double>(seconds));
}

std::array<uint8_t, 16> fingerprint_argument(py::handle object) {
  if (!py::isinstance<py::bytes>(object) || py::len(object) != 16) {
    throw py::type_error("fingerprint must be 16 bytes, as Namespace.fingerprint is, got " +
                         describe(object));
  }
  std::array<uint8_t, 16> fingerprint;
  std::ranges::copy(object.cast<std::string_view>(), fingerprint.begin());
  return fingerprint;
}

}  // namespace kvcore::bindings
