#include <limits>
#include <string>
#include <vector>

#include "bindings/arguments.h"
#include "bindings/gil.h"
#include "bindings/register.h"
#include "bindings/request_argument.h"
#include "cache/prefix_cache.h"
#include "sim/miss_ratio_curve.h"

namespace kvcore::bindings {
namespace {

constexpr const char* kCurveDoc =
    R"(A policy's hit ratio against capacity, estimated online from a sample of the blocks.

Keep one alive beside an engine and show it each request's chain; it then tells what a cache of
another size or policy would find. Blocks are sampled by their hashes; those near hot roots are
counted exactly.

Parameters
----------
sample_ratio : float
    The rate that sampling may fall to, above 0 and at most 1. LRU's starts at 1 and is halved as
    the sample grows.
min_sample_blocks : int
    Blocks that a sample keeps at least before its rate is below 1, 1 to 2**20. At the lowest rate
    LRU's blocks that were not used for longest are forgotten, and reuse farther than about
    ``2 * min_sample_blocks / sample_ratio`` blocks counts as a miss.
seed : int
    Which blocks are sampled; 0 to 2**63 - 1.
policy : str
    What `PrefixCache` takes.
capacities : sequence of int, optional
    For every policy but ``"lru"``, which has all capacities: 1 to 64 numbers of blocks, rising
    strictly. Each is a small cache of its own, which serves ``max(sample_ratio, min(1,
    min_sample_blocks / capacity))`` of the blocks; together with a LRU one where that is below 1.
    The largest times `sample_ratio` is at most 2**20.

Raises
------
TypeError, ValueError
    An argument of any method has the wrong type, shape or value; the message names it and what is
    allowed, and nothing has changed.

Notes
-----
Thread safe, also without the GIL: one lock. Memory is bounded: for LRU by `min_sample_blocks`, at
the default about 3 MB; a capacity adds what metadata two caches of its sample take.

LRU's curve is exact up to `min_sample_blocks` different blocks (distances above 256 blocks to
0.8 %), that of other policies at capacities up to `min_sample_blocks`.

Source: SHARDS (Waldspurger et al., FAST 2015) and miniature simulation (the same, ATC 2017),
changed for chains.

Examples
--------
>>> import numpy as np
>>> curve = MissRatioCurve()
>>> chain = np.arange(48, dtype=np.uint8).reshape(3, 16)
>>> curve.update(chain)
>>> curve.update(chain)
>>> curve.hit_ratio(3)
0.5)";

constexpr const char* kUpdateDoc = R"(Shows one request.

Parameters
----------
hashes : uint8[n, 16]
    The whole chain of its blocks, from its start. C-contiguous.
request : RequestInfo, optional
    For policies that learn from requests; may be the same object that a cache is given.)";

constexpr const char* kFinishDoc = R"(Ends a request, for policies that learn from its answer.

Parameters
----------
request : RequestInfo
    As it was given to `update`.
output_tokens : int
    Tokens that it generated.)";

constexpr const char* kHitRatioDoc = R"(What the policy with room for `capacity` blocks finds.

Parameters
----------
capacity : int
    Blocks, from 0.

Returns
-------
float
    Blocks in cached prefixes over blocks asked for since the start, 0 to 1; 0 before the first
    request. LRU's never falls as `capacity` grows; that of others may, since with more room they
    may find less. Theirs is linear between their capacities, from 0 at 0 on, and stays what it is
    at the largest.)";

std::vector<uint32_t> capacities_argument(py::handle object) {
  std::vector<uint32_t> capacities;
  if (object.is_none()) return capacities;
  if (!py::isinstance<py::sequence>(object) || py::isinstance<py::str>(object)) {
    throw py::type_error("capacities must be a sequence of int or None, got " + describe(object));
  }
  for (py::handle item : object) {
    const std::string name = "capacities[" + std::to_string(capacities.size()) + "]";
    capacities.push_back(
        static_cast<uint32_t>(integer_argument(item, name.c_str(), 1, PrefixCache::kMaxBlocks)));
  }
  return capacities;
}

std::unique_ptr<MissRatioCurve> make_curve(py::handle sample_ratio, py::handle min_sample_blocks,
                                           py::handle seed, py::handle policy,
                                           py::handle capacities) {
  return std::make_unique<MissRatioCurve>(CurveOptions{
      .sample_ratio = number_argument(sample_ratio, "sample_ratio"),
      .min_sample_blocks = static_cast<uint64_t>(integer_argument(
          min_sample_blocks, "min_sample_blocks", 1, MissRatioCurve::kMaxSampleBlocks)),
      .seed = static_cast<uint64_t>(
          integer_argument(seed, "seed", 0, std::numeric_limits<int64_t>::max())),
      .policy = string_argument(policy, "policy"),
      .capacities = capacities_argument(capacities)});
}

}  // namespace

void register_curve(py::module_& module) {
  py::class_<MissRatioCurve>(module, "MissRatioCurve", py::is_final(), kCurveDoc)
      .def(py::init(&make_curve), py::arg("sample_ratio") = 0.01,
           py::arg("min_sample_blocks") = 8192, py::arg("seed") = 0, py::kw_only(),
           py::arg("policy") = "lru", py::arg("capacities") = py::none())
      .def(
          "update",
          [](MissRatioCurve& self, py::handle hashes, py::handle request) {
            const HashesArgument argument(hashes);
            const RequestArgument info(request);
            const size_t work = argument.get().size() * (1 + self.num_capacities());
            without_gil_if_long(self, work, [&] { self.update(argument.get(), info.get()); });
          },
          kUpdateDoc, py::arg("hashes"), py::arg("request") = py::none())
      .def(
          "finish",
          [](MissRatioCurve& self, py::handle request, py::handle output_tokens) {
            const RequestInfo& info = finished_request(request);
            const uint64_t tokens = output_tokens_argument(output_tokens);
            without_gil_if_long(self, 0, [&] { self.finish(info, tokens); });
          },
          kFinishDoc, py::arg("request"), py::arg("output_tokens") = 0)
      .def(
          "hit_ratio",
          [](const MissRatioCurve& self, py::handle capacity) {
            const auto blocks = static_cast<uint64_t>(
                integer_argument(capacity, "capacity", 0, std::numeric_limits<int64_t>::max()));
            return without_gil_if_long(self, 0, [&] { return self.hit_ratio(blocks); });
          },
          kHitRatioDoc, py::arg("capacity"))
      .def_property_readonly(
          "num_blocks", [](const MissRatioCurve& self) { return self.stats().blocks; },
          "int: blocks asked for since the start.")
      .def_property_readonly(
          "sampled_blocks", [](const MissRatioCurve& self) { return self.stats().sampled_blocks; },
          "int: blocks in LRU's sample, or in the small caches of another policy.")
      .def_property_readonly(
          "rate", [](const MissRatioCurve& self) { return self.stats().rate; },
          "float: share of the blocks that is sampled now; for the largest of the capacities.")
      .def_property_readonly(
          "memory_bytes", [](const MissRatioCurve& self) { return self.stats().memory_bytes; },
          "int: bytes that it holds.")
      .def("__repr__", [](const MissRatioCurve& self) {
        const MissRatioCurve::Stats stats = self.stats();
        return "MissRatioCurve(num_blocks=" + std::to_string(stats.blocks) +
               ", sampled_blocks=" + std::to_string(stats.sampled_blocks) + ")";
      });
}

}  // namespace kvcore::bindings
