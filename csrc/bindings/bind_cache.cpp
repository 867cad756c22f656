#include <limits>
#include <optional>

#include "bindings/arguments.h"
#include "bindings/register.h"
#include "bindings/tenants_argument.h"
#include "cache/prefix_cache.h"

namespace kvcore::bindings {
namespace {

// A call of fewer blocks mostly takes less than 100 us and keeps the GIL: taking it back beside a
// busy thread takes milliseconds. But nobody keeps the GIL while he waits for another's long call.
constexpr size_t kKeepGilBlocks = 4096;

template <typename Call>
auto without_gil_if_long(const PrefixCache& cache, size_t blocks, Call&& call) {
  if (blocks < kKeepGilBlocks && !cache.is_busy()) return call();
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

constexpr const char* kStatsDoc = R"(Counts of a cache at one moment.

num_blocks, free_blocks, used_blocks, in_flight_blocks (reserved, not committed), num_leases,
num_spans, evictions (blocks since the start), finished_requests, metadata_bytes.)";

constexpr const char* kCacheDoc =
    R"(Which prefixes are cached and where; decides, never moves a byte.

A prompt is a chain of block hashes; a block counts only with all blocks before it. `hashes` is
always a C-contiguous ``uint8[n, 16]`` array, as `BlockHasher` gives it.

Parameters
----------
num_blocks : int
    Blocks that there is room for; block ids are ``0 .. num_blocks - 1``.
policy : str
    Who leaves when there is no room: ``"lru"`` or ``"arc"``, both prefix-aware.
tenants : dict[str, TenantQuota], optional
    Who may have how much of it, by `RequestInfo.tenant`; guarantees are at most 1 together. Who is
    not named shares the account ``""``. Each tenant has an order of eviction of its own; a tenant
    within its guarantee never loses a block that it uses because others want room; what is unused
    is lent. A block that several use is charged to them in equal parts.

Raises
------
TypeError, ValueError
    An argument of any method has the wrong type, shape or value; the message names it and what is
    allowed, and nothing has changed.

Notes
-----
Thread safe, also without the GIL: one lock, held for microseconds.)";

constexpr const char* kMatchDoc =
    R"(The number of committed blocks that a chain begins with. No side effect.)";

constexpr const char* kAcquireDoc =
    R"(Pins and touches the committed blocks that a chain begins with.

Parameters
----------
hashes : uint8[n, 16]
request : RequestInfo, optional
    All touches with the same object count as one use.

Returns
-------
Lease)";

constexpr const char* kReserveDoc = R"(Asks for places for the blocks of a chain that are not there.

Evicts to make room, but nothing that is pinned, in flight, or part of this chain. When fewer fit,
the first that fit are kept and the rest is bypassed. Touches what is there.

Parameters
----------
hashes : uint8[n, 16]
    The whole chain, from its start.
request : RequestInfo, optional

Returns
-------
Reservation)";

constexpr const char* kFinishDoc = R"(Ends a request.

Parameters
----------
request : RequestInfo
output_tokens : int
    Tokens that it generated.)";

constexpr const char* kCheckDoc = R"(Checks everything, block by block; for tests.

Raises
------
RuntimeError
    The cache is broken.)";

void register_stats(py::module_& module) {
  py::class_<CacheStats>(module, "CacheStats", kStatsDoc)
      .def_readonly("num_blocks", &CacheStats::num_blocks)
      .def_readonly("free_blocks", &CacheStats::free_blocks)
      .def_readonly("in_flight_blocks", &CacheStats::in_flight_blocks)
      .def_readonly("num_leases", &CacheStats::num_leases)
      .def_readonly("num_spans", &CacheStats::num_spans)
      .def_readonly("evictions", &CacheStats::evictions)
      .def_readonly("finished_requests", &CacheStats::finished_requests)
      .def_readonly("metadata_bytes", &CacheStats::metadata_bytes)
      .def_property_readonly(
          "used_blocks", [](const CacheStats& self) { return self.num_blocks - self.free_blocks; });
}

}  // namespace

void register_cache(py::module_& module) {
  register_stats(module);
  py::list policies;
  for (std::string_view name : policy_names()) policies.append(name);
  module.attr("POLICIES") = py::tuple(policies);

  py::class_<PrefixCache, std::shared_ptr<PrefixCache>>(module, "PrefixCache", kCacheDoc)
      .def(py::init([](py::handle num_blocks, py::handle policy, py::handle tenants) {
             return PrefixCache::create(static_cast<uint64_t>(integer_argument(
                                            num_blocks, "num_blocks", 1, PrefixCache::kMaxBlocks)),
                                        string_argument(policy, "policy"),
                                        tenants_argument(tenants));
           }),
           py::arg("num_blocks"), py::arg("policy") = "lru", py::arg("tenants") = py::none())
      .def_property_readonly("num_blocks", &PrefixCache::num_blocks)
      .def_property_readonly("policy", &PrefixCache::policy)
      .def(
          "match",
          [](const PrefixCache& self, py::handle hashes) {
            HashesArgument argument(hashes);
            return without_gil_if_long(self, argument.get().size(),
                                       [&] { return self.match(argument.get()); });
          },
          kMatchDoc, py::arg("hashes"))
      .def(
          "acquire",
          [](PrefixCache& self, py::handle hashes, py::handle request) {
            HashesArgument argument(hashes);
            RequestArgument info(request);
            return without_gil_if_long(self, argument.get().size(),
                                       [&] { return self.acquire(argument.get(), info.get()); });
          },
          kAcquireDoc, py::arg("hashes"), py::arg("request") = py::none())
      .def(
          "reserve",
          [](PrefixCache& self, py::handle hashes, py::handle request) {
            HashesArgument argument(hashes);
            RequestArgument info(request);
            return without_gil_if_long(self, argument.get().size(),
                                       [&] { return self.reserve(argument.get(), info.get()); });
          },
          kReserveDoc, py::arg("hashes"), py::arg("request") = py::none())
      .def(
          "finish",
          [](PrefixCache& self, py::handle request, py::handle output_tokens) {
            if (!py::isinstance<RequestInfo>(request)) {
              throw py::type_error("request must be a RequestInfo, got " + describe(request));
            }
            self.finish(
                request.cast<const RequestInfo&>(),
                static_cast<uint64_t>(integer_argument(output_tokens, "output_tokens", 0,
                                                       std::numeric_limits<int64_t>::max())));
          },
          kFinishDoc, py::arg("request"), py::arg("output_tokens") = 0)
      .def("stats", &PrefixCache::stats, "CacheStats: counts at this moment.")
      .def(
          "tenant_stats",
          [](const PrefixCache& self) {
            py::dict all;
            for (TenantStats& stats : self.tenant_stats()) {
              py::str name(stats.tenant);
              all[name] = py::cast(std::move(stats));
            }
            return all;
          },
          "dict[str, TenantStats]: counts by tenant at this moment; empty without tenants.")
      .def("check_invariants", &PrefixCache::check_invariants, kCheckDoc)
      .def("__repr__", [](const PrefixCache& self) {
        return "PrefixCache(num_blocks=" + std::to_string(self.num_blocks()) + ", policy='" +
               self.policy() + "')";
      });
}

}  // namespace kvcore::bindings
