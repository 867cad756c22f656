#pragma once

#include <limits>
#include <optional>

#include "bindings/arguments.h"
#include "evict/request_info.h"

namespace kvcore::bindings {

// The `request` argument: a RequestInfo, or None for a request that nobody asks about again.
class RequestArgument {
 public:
  explicit RequestArgument(py::handle object) {
    if (object.is_none()) {
      given_ = &anonymous_.emplace();
    } else if (py::isinstance<RequestInfo>(object)) {
      given_ = object.cast<const RequestInfo*>();
    } else {
      throw py::type_error("request must be a RequestInfo or None, got " + describe(object));
    }
  }
  const RequestInfo& get() const { return *given_; }

 private:
  std::optional<RequestInfo> anonymous_;
  const RequestInfo* given_;
};

// The arguments of `finish`.
inline const RequestInfo& finished_request(py::handle object) {
  if (py::isinstance<RequestInfo>(object)) return object.cast<const RequestInfo&>();
  throw py::type_error("request must be a RequestInfo, got " + describe(object));
}
inline uint64_t output_tokens_argument(py::handle object) {
  return static_cast<uint64_t>(
      integer_argument(object, "output_tokens", 0, std::numeric_limits<int64_t>::max()));
}

}  // namespace kvcore::bindings
