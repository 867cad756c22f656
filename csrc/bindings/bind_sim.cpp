#include <cmath>
#include <limits>
#include <string>
#include <vector>

#include "bindings/arguments.h"
#include "bindings/register.h"
#include "sim/miss_ratio_curve.h"
#include "sim/optimal.h"
#include "sim/stack_distance.h"

namespace kvcore::bindings {
namespace {

// A C-contiguous, one-dimensional array of T, borrowed until this dies.
template <typename T>
class ArrayArgument {
 public:
  ArrayArgument(py::handle object, const char* argument, const char* allowed)
      : buffer_(object, argument, allowed) {
    const Py_buffer& view = buffer_.view();
    const std::string_view format = view.format == nullptr ? "B" : view.format;
    const bool is_t =
        view.itemsize == sizeof(T) &&
        (std::is_signed_v<T> ? format == "l" || format == "q" : format == "I" || format == "L");
    if (view.ndim != 1 || !is_t) {
      throw py::type_error(std::string(argument) + " must be " + allowed + ", got " +
                           describe(object));
    }
    values_ = {static_cast<const T*>(view.buf), static_cast<size_t>(view.shape[0])};
  }
  std::span<const T> get() const { return values_; }

 private:
  Buffer buffer_;
  std::span<const T> values_;
};

class RequestsArgument {
 public:
  RequestsArgument(py::handle block_ids, py::handle offsets)
      : block_ids_(block_ids, "block_ids", "a C-contiguous uint32[num_blocks] array"),
        offsets_(offsets, "offsets", "a C-contiguous int64[num_requests + 1] array") {}
  // Takes a pass over all blocks: call it without the GIL.
  Requests get() const { return {block_ids_.get(), offsets_.get()}; }

 private:
  ArrayArgument<uint32_t> block_ids_;
  ArrayArgument<int64_t> offsets_;
};

constexpr const char* kOptimalDoc =
    R"(What the best possible prefix cache finds in a trace; kvcore.sim.optimum wraps it.)";

constexpr const char* kCurveDoc =
    R"(LRU's hit ratio at every capacity, estimated online from a sample of the blocks.

Keep one alive beside an engine and show it each request's chain; it then tells what a cache of
another size would find. Blocks are sampled by their hashes; those near hot roots are counted
exactly.

Parameters
----------
sample_ratio : float
    The rate that sampling may fall to, above 0 and at most 1. It starts at 1 and is halved as the
    sample grows.
min_sample_blocks : int
    Blocks that the sample keeps at least before its rate falls, 1 to 2**20. At the lowest rate the
    blocks that were not used for longest are forgotten, and reuse farther than about
    ``2 * min_sample_blocks / sample_ratio`` blocks counts as a miss.
seed : int
    Which blocks are sampled; 0 to 2**63 - 1.

Raises
------
TypeError, ValueError
    An argument of any method has the wrong type, shape or value; the message names it and what is
    allowed, and nothing has changed.

Notes
-----
Thread safe, also without the GIL: one lock. Memory is bounded by `min_sample_blocks`, at the
default about 3 MB. Up to `min_sample_blocks` different blocks the curve is exact (distances above
256 blocks to 0.8 %).

Source: SHARDS (Waldspurger et al., FAST 2015), changed for chains.

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
    The whole chain of its blocks, from its start. C-contiguous.)";

constexpr const char* kHitRatioDoc = R"(What LRU with room for `capacity` blocks finds.

Parameters
----------
capacity : int
    Blocks, from 0.

Returns
-------
float
    Blocks in cached prefixes over blocks asked for since the start, 0 to 1; 0 before the first
    request. Never falls as `capacity` grows.)";

py::array_t<uint64_t> lru_hits(py::handle block_ids, py::handle offsets) {
  const RequestsArgument requests(block_ids, offsets);
  std::vector<uint64_t> hits;
  {
    py::gil_scoped_release release;
    hits = lru_hit_blocks(requests.get());
  }
  return py::array_t<uint64_t>(static_cast<py::ssize_t>(hits.size()), hits.data());
}

void register_miss_ratio_curve(py::module_& module) {
  py::class_<MissRatioCurve>(module, "MissRatioCurve", py::is_final(), kCurveDoc)
      .def(py::init([](py::handle sample_ratio, py::handle min_sample_blocks, py::handle seed) {
             constexpr int64_t kMax = std::numeric_limits<int64_t>::max();
             return std::make_unique<MissRatioCurve>(
                 number_argument(sample_ratio, "sample_ratio"),
                 static_cast<uint64_t>(integer_argument(min_sample_blocks, "min_sample_blocks", 1,
                                                        MissRatioCurve::kMaxMinSampleBlocks)),
                 static_cast<uint64_t>(integer_argument(seed, "seed", 0, kMax)));
           }),
           py::arg("sample_ratio") = 0.01, py::arg("min_sample_blocks") = 8192, py::arg("seed") = 0)
      .def(
          "update",
          [](MissRatioCurve& self, py::handle hashes) {
            const HashesArgument argument(hashes);
            self.update(argument.get());
          },
          kUpdateDoc, py::arg("hashes"))
      .def(
          "hit_ratio",
          [](const MissRatioCurve& self, py::handle capacity) {
            return self.hit_ratio(static_cast<uint64_t>(
                integer_argument(capacity, "capacity", 0, std::numeric_limits<int64_t>::max())));
          },
          kHitRatioDoc, py::arg("capacity"))
      .def_property_readonly(
          "num_blocks", [](const MissRatioCurve& self) { return self.stats().blocks; },
          "int: blocks asked for since the start.")
      .def_property_readonly(
          "sampled_blocks", [](const MissRatioCurve& self) { return self.stats().sampled_blocks; },
          "int: blocks in the sample.")
      .def_property_readonly(
          "rate", [](const MissRatioCurve& self) { return self.stats().rate; },
          "float: share of the blocks that is sampled now.")
      .def_property_readonly(
          "memory_bytes", [](const MissRatioCurve& self) { return self.stats().memory_bytes; },
          "int: bytes that it holds.")
      .def("__repr__", [](const MissRatioCurve& self) {
        const MissRatioCurve::Stats stats = self.stats();
        return "MissRatioCurve(num_blocks=" + std::to_string(stats.blocks) +
               ", sampled_blocks=" + std::to_string(stats.sampled_blocks) + ")";
      });
}

}  // namespace

void register_sim(py::module_& module) {
  py::class_<OptimalReplay>(module, "OptimalReplay", py::is_final(), kOptimalDoc)
      .def(py::init([](py::handle block_ids, py::handle offsets) {
             const RequestsArgument requests(block_ids, offsets);
             py::gil_scoped_release release;
             return std::make_unique<OptimalReplay>(requests.get());
           }),
           py::arg("block_ids"), py::arg("offsets"))
      .def(
          "run",
          [](const OptimalReplay& self, py::handle num_blocks) {
            const auto blocks = static_cast<uint64_t>(
                integer_argument(num_blocks, "num_blocks", 0, std::numeric_limits<int64_t>::max()));
            OptimalCounts counts;
            {
              py::gil_scoped_release release;
              counts = self.run(blocks);
            }
            const auto size = static_cast<py::ssize_t>(counts.hit_blocks.size());
            return std::pair(py::array_t<uint32_t>(size, counts.hit_blocks.data()),
                             counts.evictions);
          },
          "(hit blocks of each request, evictions) with room for so many blocks.",
          py::arg("num_blocks"));
  module.def("lru_hits", &lru_hits,
             "uint64[num_unique_blocks + 1]: blocks that LRU of each capacity finds.",
             py::arg("block_ids"), py::arg("offsets"));
  register_miss_ratio_curve(module);
}

}  // namespace kvcore::bindings
