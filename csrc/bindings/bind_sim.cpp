#include <limits>
#include <string>
#include <vector>

#include "bindings/arguments.h"
#include "bindings/register.h"
#include "bindings/waiting.h"
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

py::array_t<uint64_t> lru_hits(py::handle block_ids, py::handle offsets) {
  const RequestsArgument requests(block_ids, offsets);
  std::vector<uint64_t> hits;
  {
    const Waiting waiting;
    hits = lru_hit_blocks(requests.get());
  }
  return py::array_t<uint64_t>(static_cast<py::ssize_t>(hits.size()), hits.data());
}

}  // namespace

void register_sim(py::module_& module) {
  py::class_<OptimalReplay>(module, "OptimalReplay", py::is_final(), kOptimalDoc)
      .def(py::init([](py::handle block_ids, py::handle offsets) {
             const RequestsArgument requests(block_ids, offsets);
             const Waiting waiting;
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
              const Waiting waiting;
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
}

}  // namespace kvcore::bindings
