#include "bindings/plan_argument.h"

#include <span>
#include <string>

namespace kvcore::bindings {
namespace {

constexpr int64_t kMaxInt = INT64_MAX;
constexpr int64_t kMaxCount = UINT32_MAX;

// Hands out each argument once.
class Arguments {
 public:
  explicit Arguments(const py::kwargs& given) : given_(given) {}

  py::object take(const char* name) {
    if (!given_.contains(name)) throw py::type_error(std::string(name) + " is missing");
    ++taken_;
    return given_[name];
  }
  template <typename T>
  T integer(const char* name, int64_t low, int64_t high) {
    return static_cast<T>(integer_argument(take(name), name, low, high));
  }
  template <typename T>
  std::span<const T> array(const char* name) {
    const py::object object = take(name);
    if (!py::isinstance<py::array_t<T, py::array::c_style>>(object) ||
        py::reinterpret_borrow<py::array>(object).ndim() != 1) {
      throw py::type_error(std::string(name) + " must be a C-contiguous uint" +
                           std::to_string(8 * sizeof(T)) + "[n] array, got " + describe(object));
    }
    // `given_` keeps it alive.
    const auto array = py::reinterpret_borrow<py::array_t<T, py::array::c_style>>(object);
    return {array.data(), static_cast<size_t>(array.size())};
  }
  void check_all_taken() const {
    if (taken_ != given_.size()) throw py::type_error("there is an argument that no plan takes");
  }

 private:
  const py::kwargs& given_;
  size_t taken_ = 0;
};

}  // namespace

TransferPlan plan_argument(const py::kwargs& numbers, std::shared_ptr<const RunCodec> codec) {
  Arguments given(numbers);
  const auto bases = given.array<uint64_t>("plane_bases");
  const auto num_layers = given.integer<uint32_t>("num_layers", 1, kMaxCount);
  const auto num_paged_blocks = given.integer<uint32_t>("num_paged_blocks", 1, kMaxCount);
  const auto paged_stride = given.integer<uint64_t>("paged_stride", 0, kMaxInt);
  const auto run_bytes = given.integer<uint64_t>("run_bytes", 1, kMaxInt);
  const SlabSpan slab{.data = given.integer<uint64_t>("slab", 1, kMaxInt),
                      .block_bytes = given.integer<uint64_t>("slab_block_bytes", 1, kMaxInt),
                      .num_blocks = given.integer<uint32_t>("num_slab_blocks", 1, kMaxCount)};
  const auto block_ids = given.array<uint32_t>("block_ids");
  const auto slab_blocks = given.array<uint32_t>("slab_blocks");
  given.check_all_taken();
  return TransferPlan(PagedLayout({bases.begin(), bases.end()}, num_layers, num_paged_blocks,
                                  paged_stride, run_bytes),
                      slab, block_ids, slab_blocks, std::move(codec));
}

}  // namespace kvcore::bindings
