#include <pybind11/stl.h>

#include <limits>
#include <optional>

#include "bindings/arguments.h"
#include "bindings/register.h"
#include "evict/request_info.h"

namespace kvcore::bindings {
namespace {

constexpr const char* kRequestDoc = R"(What an engine tells about one request; immutable.

Make one object a request: all touches with the same object count as one use.

Parameters
----------
tenant : str
    Who its blocks are charged to.
session : str
    The conversation or agent run that it continues.
kind : str
    A class of requests that behave alike, such as ``"chat"`` or ``"tool call"``.
arrival_us : int, optional
    When it arrived, in microseconds of the caller's clock. Policies read no other clock.
priority : int
    Higher is more urgent; from -2**31 to 2**31 - 1.
next_use_us : int, optional
    When its session is expected back, in microseconds of the same clock, or `NEVER`; heeded when
    it is finished, by a cache with `max_kept`.

Raises
------
TypeError, ValueError
    An argument has the wrong type or is out of range; the message names it.)";

std::optional<int64_t> optional_time(py::handle object, const char* argument) {
  if (object.is_none()) return std::nullopt;
  return integer_argument(object, argument, 0, std::numeric_limits<int64_t>::max());
}

}  // namespace

void register_request(py::module_& module) {
  py::class_<RequestInfo>(module, "RequestInfo", kRequestDoc)
      .def(py::init([](py::handle tenant, py::handle session, py::handle kind,
                       py::handle arrival_us, py::handle priority, py::handle next_use_us) {
             return RequestInfo{string_argument(tenant, "tenant"),
                                string_argument(session, "session"),
                                string_argument(kind, "kind"),
                                optional_time(arrival_us, "arrival_us"),
                                static_cast<int32_t>(integer_argument(
                                    priority, "priority", std::numeric_limits<int32_t>::min(),
                                    std::numeric_limits<int32_t>::max())),
                                optional_time(next_use_us, "next_use_us")};
           }),
           py::arg("tenant") = "", py::arg("session") = "", py::arg("kind") = "",
           py::arg("arrival_us") = py::none(), py::arg("priority") = 0,
           py::arg("next_use_us") = py::none())
      .def_readonly("tenant", &RequestInfo::tenant)
      .def_readonly("session", &RequestInfo::session)
      .def_readonly("kind", &RequestInfo::kind)
      .def_readonly("arrival_us", &RequestInfo::arrival_us)
      .def_readonly("priority", &RequestInfo::priority)
      .def_readonly("next_use_us", &RequestInfo::next_use_us)
      .def("__repr__", [](const RequestInfo& self) {
        return "RequestInfo(tenant='" + self.tenant + "', session='" + self.session + "', kind='" +
               self.kind + "')";
      });
}

}  // namespace kvcore::bindings
