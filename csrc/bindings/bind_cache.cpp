#include <limits>
#include <optional>

#include "bindings/arguments.h"
#include "bindings/gil.h"
#include "bindings/register.h"
#include "bindings/request_argument.h"
#include "bindings/tenants_argument.h"
#include "cache/prefix_cache.h"

namespace kvcore::bindings {
namespace {

constexpr const char* kStatsDoc = R"(Counts of a cache at one moment.

num_blocks, free_blocks, used_blocks, in_flight_blocks (reserved, not committed), num_leases (and
pins), pinned_blocks (by `pin`), kept_blocks (by hints and `keep`), num_spans, evictions (blocks since the start), finished_requests, metadata_bytes.)";

constexpr const char* kCacheDoc =
    R"(Which prefixes are cached and where; decides, never moves a byte.

A prompt is a chain of block hashes; a block counts only with all blocks before it. `hashes` is
always a C-contiguous ``uint8[n, 16]`` array, as `BlockHasher` gives it.

Parameters
----------
num_blocks : int
    Blocks that there is room for; block ids are ``0 .. num_blocks - 1``.
policy : str
    Who leaves when there is no room: one of `POLICIES`, all of them prefix-aware. ``"auto"`` runs
    hazard and moves to another where that finds more; ``"auto:lru+s3fifo"`` chooses among these and
    starts with the first.
tenants : dict[str, TenantQuota], optional
    Who may have how much of it, by `RequestInfo.tenant`; guarantees are at most 1 together. Who is
    not named shares the account ``""``. Each tenant has an order of eviction of its own; a tenant
    within its guarantee never loses a block that it uses because others want room; what is unused
    is lent. A block that several use is charged to them in equal parts.
admission : str
    ``"all"``, or ``"second_use"``: when there is no room, blocks that were not asked for lately are
    bypassed, from the first such one on. Takes 16 to 32 bytes a block.
max_pinned : float
    Share of the cache that `pin` may hold, 0 to 1.
max_kept : float
    Share of the cache that hints (`RequestInfo.next_use_us`, `finish`, `keep`) may keep, 0 to 1;
    with 0 they are not heeded, and cost nothing.

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
    Tokens that it generated.
next_use_us : int, optional
    When its session is expected back, in microseconds of the clock of `RequestInfo.arrival_us`; as
    `RequestInfo.next_use_us`, which it replaces. The request's blocks are kept until then and a
    grace (10 s, or a quarter of the time until then if that is longer), or until a request of the
    same session comes. With `NEVER`, blocks that no other request has used leave first.

Raises
------
ValueError
    `next_use_us` is given, and the cache has ``max_kept=0``.)";

constexpr const char* kPinDoc = R"(Pins the committed blocks that a chain begins with; not a use.

They stay until the lease is released. At most `max_pinned` of the cache, a block that two pins hold
counted twice; what is above that is left out, as `Lease.num_blocks` tells.

Parameters
----------
hashes : uint8[n, 16]

Returns
-------
Lease)";

constexpr const char* kRetainDoc =
    R"(Pins the committed blocks that a chain begins with, without a bound; not a use.

For those who move bytes and let go soon, such as a write to the next tier.

Parameters
----------
hashes : uint8[n, 16]

Returns
-------
Lease)";

constexpr const char* kKeepDoc = R"(Keeps the committed blocks that a chain begins with, softly.

They leave only when nothing else can, or all that is kept exceeds `max_kept` of the cache: the
chain that is kept the longest first, of equals the oldest. A later call for the same chain replaces
the time; one in the past ends it.

Parameters
----------
hashes : uint8[n, 16]
until_us : int
    In microseconds of the clock of `RequestInfo.arrival_us`; `NEVER`: for good.

Returns
-------
int
    Blocks that are kept now, if they did not exceed the bound.

Raises
------
ValueError
    The cache has ``max_kept=0``.)";

constexpr const char* kCheckDoc = R"(Checks everything, block by block; for tests.

Raises
------
RuntimeError
    The cache is broken.)";

bool second_use(py::handle admission) {
  const std::string name = string_argument(admission, "admission");
  if (name == "all" || name == "second_use") return name == "second_use";
  throw py::value_error("admission must be one of all, second_use, got " + describe(admission));
}

int64_t time_argument(py::handle object, const char* argument, const PrefixCache& cache) {
  const int64_t time_us = integer_argument(object, argument, 0, kNever);
  if (cache.heeds_hints()) return time_us;
  throw py::value_error(std::string(argument) + " needs a cache with max_kept above 0");
}

void register_stats(py::module_& module) {
  py::class_<CacheStats>(module, "CacheStats", kStatsDoc)
      .def_readonly("num_blocks", &CacheStats::num_blocks)
      .def_readonly("free_blocks", &CacheStats::free_blocks)
      .def_readonly("in_flight_blocks", &CacheStats::in_flight_blocks)
      .def_readonly("num_leases", &CacheStats::num_leases)
      .def_readonly("pinned_blocks", &CacheStats::pinned_blocks)
      .def_readonly("kept_blocks", &CacheStats::kept_blocks)
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
  module.attr("NEVER") = kNever;

  py::class_<PrefixCache, std::shared_ptr<PrefixCache>>(module, "PrefixCache", kCacheDoc)
      .def(py::init([](py::handle num_blocks, py::handle policy, py::handle tenants,
                       py::handle admission, py::handle max_pinned, py::handle max_kept) {
             return PrefixCache::create(static_cast<uint64_t>(integer_argument(
                                            num_blocks, "num_blocks", 1, PrefixCache::kMaxBlocks)),
                                        string_argument(policy, "policy"),
                                        {.tenants = tenants_argument(tenants),
                                         .second_use = second_use(admission),
                                         .max_pinned = number_argument(max_pinned, "max_pinned"),
                                         .max_kept = number_argument(max_kept, "max_kept")});
           }),
           py::arg("num_blocks"), py::arg("policy") = "auto", py::arg("tenants") = py::none(),
           py::kw_only(), py::arg("admission") = "all", py::arg("max_pinned") = 0.5,
           py::arg("max_kept") = 0.0)
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
          [](PrefixCache& self, py::handle request, py::handle output_tokens,
             py::handle next_use_us) {
            const RequestInfo& info = finished_request(request);
            const uint64_t tokens = output_tokens_argument(output_tokens);
            std::optional<int64_t> next_us;
            if (!next_use_us.is_none()) next_us = time_argument(next_use_us, "next_use_us", self);
            without_gil_if_long(self, 0, [&] { self.finish(info, tokens, next_us); });
          },
          kFinishDoc, py::arg("request"), py::arg("output_tokens") = 0,
          py::arg("next_use_us") = py::none())
      .def(
          "pin",
          [](PrefixCache& self, py::handle hashes) {
            HashesArgument argument(hashes);
            return without_gil_if_long(self, argument.get().size(),
                                       [&] { return self.pin(argument.get()); });
          },
          kPinDoc, py::arg("hashes"))
      .def(
          "retain",
          [](PrefixCache& self, py::handle hashes) {
            HashesArgument argument(hashes);
            return without_gil_if_long(self, argument.get().size(),
                                       [&] { return self.retain(argument.get()); });
          },
          kRetainDoc, py::arg("hashes"))
      .def(
          "keep",
          [](PrefixCache& self, py::handle hashes, py::handle until_us) {
            HashesArgument argument(hashes);
            const int64_t time_us = time_argument(until_us, "until_us", self);
            return without_gil_if_long(self, argument.get().size(),
                                       [&] { return self.keep(argument.get(), time_us); });
          },
          kKeepDoc, py::arg("hashes"), py::arg("until_us"))
      .def(
          "stats",
          [](const PrefixCache& self) {
            return without_gil_if_long(self, 0, [&] { return self.stats(); });
          },
          "CacheStats: counts at this moment.")
      .def(
          "tenant_stats",
          [](const PrefixCache& self) {
            py::dict all;
            for (TenantStats& stats :
                 without_gil_if_long(self, 0, [&] { return self.tenant_stats(); })) {
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
