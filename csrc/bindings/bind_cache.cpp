#include <pybind11/native_enum.h>

#include <limits>
#include <optional>

#include "bindings/arguments.h"
#include "bindings/register.h"
#include "cache/prefix_cache.h"

namespace kvcore::bindings {
namespace {

constexpr int64_t kMaxTime = std::numeric_limits<int64_t>::max();

// Calls of fewer blocks are done before another thread could be handed the GIL; at most about
// 100 us, while taking it back beside a busy thread takes milliseconds.
constexpr size_t kKeepGilBlocks = 16384;

template <typename Call>
auto without_gil_if_long(size_t blocks, Call&& call) {
  if (blocks < kKeepGilBlocks) return call();
  py::gil_scoped_release release;
  return call();
}

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

std::optional<int64_t> optional_time(py::handle object, const char* argument) {
  if (object.is_none()) return std::nullopt;
  return integer_argument(object, argument, 0, kMaxTime);
}

void register_request_info(py::module_& module) {
  py::class_<RequestInfo>(module, "RequestInfo")
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

void register_lease(py::module_& module) {
  py::class_<Lease>(module, "Lease")
      .def_property_readonly("num_blocks", [](const Lease& self) { return self.block_ids().size(); })
      .def_property_readonly("block_ids",
                             [](py::object self) {
                               const auto& ids = self.cast<const Lease&>().block_ids();
                               return borrowed_array<uint32_t>(ids.data(), ids.size(), self);
                             })
      .def("release", &Lease::release)
      .def("__enter__", [](py::object self) { return self; })
      .def("__exit__", [](Lease& self, const py::args&) { self.release(); })
      .def("__repr__", [](const Lease& self) {
        return "Lease(num_blocks=" + std::to_string(self.block_ids().size()) + ")";
      });
}

void commit(Reservation& reservation, py::handle n) {
  size_t all = reservation.block_ids().size();
  size_t count = n.is_none() ? all
                             : static_cast<size_t>(integer_argument(n, "n", 0,
                                                                    static_cast<int64_t>(all)));
  if (reservation.commit(count)) return;
  if (!reservation.is_open()) {
    throw std::runtime_error("this reservation was aborted; nothing can be committed any more");
  }
  throw py::value_error("n must be at least " + std::to_string(reservation.num_committed()) +
                        ", which are committed already, got " + std::to_string(count));
}

// What a reservation evicted: a view that keeps it alive.
struct Evicted {
  py::object reservation;
  const Reservation& get() const { return reservation.cast<const Reservation&>(); }
};

void register_reservation(py::module_& module) {
  py::native_enum<BlockState>(module, "BlockState", "enum.IntEnum",
                              "What `reserve` answers for a block.")
      .value("NEW", BlockState::kNew)
      .value("PRESENT", BlockState::kPresent)
      .value("IN_FLIGHT", BlockState::kInFlight)
      .value("BYPASSED", BlockState::kBypassed)
      .finalize();

  py::class_<Evicted>(module, "Evicted")
      .def_property_readonly("hashes",
                             [](const Evicted& self) {
                               const auto& hashes = self.get().evicted_hashes();
                               return borrowed_array<uint8_t>(hashes.data(),
                                                              hashes.size() * sizeof(BlockHash),
                                                              self.reservation)
                                   .reshape({static_cast<py::ssize_t>(hashes.size()),
                                             static_cast<py::ssize_t>(sizeof(BlockHash))});
                             })
      .def_property_readonly("block_ids",
                             [](const Evicted& self) {
                               const auto& ids = self.get().evicted_ids();
                               return borrowed_array<uint32_t>(ids.data(), ids.size(),
                                                               self.reservation);
                             })
      .def("__len__", [](const Evicted& self) { return self.get().evicted_ids().size(); });

  py::class_<Reservation>(module, "Reservation")
      .def_property_readonly("states",
                             [](py::object self) {
                               const auto& states = self.cast<const Reservation&>().states();
                               return borrowed_array<uint8_t>(states.data(), states.size(), self);
                             })
      .def_property_readonly("new_positions",
                             [](py::object self) {
                               const auto& at = self.cast<const Reservation&>().new_positions();
                               return borrowed_array<uint32_t>(at.data(), at.size(), self);
                             })
      .def_property_readonly("block_ids",
                             [](py::object self) {
                               const auto& ids = self.cast<const Reservation&>().block_ids();
                               return borrowed_array<uint32_t>(ids.data(), ids.size(), self);
                             })
      .def_property_readonly("evicted", [](py::object self) { return Evicted{self}; })
      .def_property_readonly("num_committed", &Reservation::num_committed)
      .def("commit", &commit, py::arg("n") = py::none())
      .def("abort", &Reservation::abort)
      .def("__enter__", [](py::object self) { return self; })
      .def("__exit__", [](Reservation& self, const py::args&) { self.abort(); })
      .def("__repr__", [](const Reservation& self) {
        return "Reservation(new=" + std::to_string(self.block_ids().size()) +
               ", committed=" + std::to_string(self.num_committed()) +
               ", evicted=" + std::to_string(self.evicted_ids().size()) + ")";
      });
}

void register_stats(py::module_& module) {
  py::class_<CacheStats>(module, "CacheStats")
      .def_readonly("num_blocks", &CacheStats::num_blocks)
      .def_readonly("free_blocks", &CacheStats::free_blocks)
      .def_readonly("in_flight_blocks", &CacheStats::in_flight_blocks)
      .def_readonly("num_leases", &CacheStats::num_leases)
      .def_readonly("num_spans", &CacheStats::num_spans)
      .def_readonly("evictions", &CacheStats::evictions)
      .def_readonly("finished_requests", &CacheStats::finished_requests)
      .def_readonly("metadata_bytes", &CacheStats::metadata_bytes)
      .def_property_readonly("used_blocks", [](const CacheStats& self) {
        return self.num_blocks - self.free_blocks;
      });
}

}  // namespace

void register_cache(py::module_& module) {
  register_request_info(module);
  register_lease(module);
  register_reservation(module);
  register_stats(module);
  module.attr("POLICIES") = py::str(std::string(policy_names())).attr("split")(", ");

  py::class_<PrefixCache, std::shared_ptr<PrefixCache>>(module, "PrefixCache")
      .def(py::init([](py::handle num_blocks, py::handle policy) {
             return PrefixCache::create(
                 static_cast<uint64_t>(
                     integer_argument(num_blocks, "num_blocks", 1, PrefixCache::kMaxBlocks)),
                 string_argument(policy, "policy"));
           }),
           py::arg("num_blocks"), py::arg("policy") = "lru")
      .def_property_readonly("num_blocks", &PrefixCache::num_blocks)
      .def_property_readonly("policy", &PrefixCache::policy)
      .def("match",
           [](const PrefixCache& self, py::handle hashes) {
             HashesArgument argument(hashes);
             return without_gil_if_long(argument.get().size(),
                                        [&] { return self.match(argument.get()); });
           },
           py::arg("hashes"))
      .def("acquire",
           [](PrefixCache& self, py::handle hashes, py::handle request) {
             HashesArgument argument(hashes);
             RequestArgument info(request);
             return without_gil_if_long(argument.get().size(), [&] {
               return self.acquire(argument.get(), info.get());
             });
           },
           py::arg("hashes"), py::arg("request") = py::none())
      .def("reserve",
           [](PrefixCache& self, py::handle hashes, py::handle request) {
             HashesArgument argument(hashes);
             RequestArgument info(request);
             return without_gil_if_long(argument.get().size(), [&] {
               return self.reserve(argument.get(), info.get());
             });
           },
           py::arg("hashes"), py::arg("request") = py::none())
      .def("finish",
           [](PrefixCache& self, py::handle request, py::handle output_tokens) {
             if (!py::isinstance<RequestInfo>(request)) {
               throw py::type_error("request must be a RequestInfo, got " + describe(request));
             }
             self.finish(request.cast<const RequestInfo&>(),
                         static_cast<uint64_t>(
                             integer_argument(output_tokens, "output_tokens", 0, kMaxTime)));
           },
           py::arg("request"), py::arg("output_tokens") = 0)
      .def("stats", &PrefixCache::stats)
      .def("check_invariants", &PrefixCache::check_invariants)
      .def("__repr__", [](const PrefixCache& self) {
        return "PrefixCache(num_blocks=" + std::to_string(self.num_blocks()) + ", policy='" +
               self.policy() + "')";
      });
}

}  // namespace kvcore::bindings
