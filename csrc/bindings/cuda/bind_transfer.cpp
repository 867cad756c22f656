#include <chrono>
#include <string>

#include "bindings/arguments.h"
#include "bindings/cuda/register.h"
#include "copy/cuda/cuda_transfer.h"

namespace kvcore::bindings {
namespace {

constexpr int64_t kMaxInt = INT64_MAX;
constexpr int64_t kMaxCount = UINT32_MAX;
constexpr double kLongestWaitS = 1e9;
// Enqueuing so many steps of one launch each takes less than 100 us and keeps the GIL.
constexpr uint32_t kFewSteps = 8;

constexpr const char* kTransferDoc = R"(Copies of blocks by a CUDA device, made once and used often.

Numbers and addresses alone: `kvcore.cuda` derives them from tensors. `owner` is kept alive until
all copies are done.)";

template <typename T>
std::span<const T> array_argument(py::handle object, const char* argument) {
  if (!py::isinstance<py::array_t<T, py::array::c_style>>(object) ||
      py::reinterpret_borrow<py::array>(object).ndim() != 1) {
    throw py::type_error(std::string(argument) + " must be a C-contiguous uint" +
                         std::to_string(8 * sizeof(T)) + "[n] array, got " + describe(object));
  }
  auto array = py::reinterpret_borrow<py::array_t<T, py::array::c_style>>(object);
  return {array.data(), static_cast<size_t>(array.size())};
}

std::optional<DevicePath> path_argument(py::handle object) {
  if (object.is_none()) return std::nullopt;
  const std::string name = string_argument(object, "path");
  if (auto path = parse_device_path(name)) return path;
  throw py::value_error(
      "path must be None or one of 'load_store', 'bulk', 'batch', 'staged', got " +
      describe(object));
}

Direction direction_argument(py::handle object) {
  const std::string name = string_argument(object, "direction");
  if (name == "gather") return Direction::kGather;
  if (name == "scatter") return Direction::kScatter;
  throw py::value_error("direction must be 'gather' or 'scatter', got " + describe(object));
}

cudaStream_t stream_argument(py::handle object) {
  return reinterpret_cast<cudaStream_t>(integer_argument(object, "stream", 0, kMaxInt));
}

template <typename T>
T integer(py::handle object, const char* argument, int64_t low, int64_t high) {
  return static_cast<T>(integer_argument(object, argument, low, high));
}

std::unique_ptr<CudaTransfer> make_transfer(py::handle, std::shared_ptr<CudaDevice> device,
                                            py::handle plane_bases, py::handle num_layers,
                                            py::handle num_paged_blocks, py::handle paged_stride,
                                            py::handle run_bytes, py::handle slab,
                                            py::handle slab_block_bytes, py::handle num_slab_blocks,
                                            py::handle block_ids, py::handle slab_blocks,
                                            py::handle path, py::handle max_thread_blocks) {
  const auto bases = array_argument<uint64_t>(plane_bases, "plane_bases");
  PagedLayout layout({bases.begin(), bases.end()},
                     integer<uint32_t>(num_layers, "num_layers", 1, kMaxCount),
                     integer<uint32_t>(num_paged_blocks, "num_paged_blocks", 1, kMaxCount),
                     integer<uint64_t>(paged_stride, "paged_stride", 0, kMaxInt),
                     integer<uint64_t>(run_bytes, "run_bytes", 1, kMaxInt));
  const SlabSpan span{
      .data = integer<uint64_t>(slab, "slab", 1, kMaxInt),
      .block_bytes = integer<uint64_t>(slab_block_bytes, "slab_block_bytes", 1, kMaxInt),
      .num_blocks = integer<uint32_t>(num_slab_blocks, "num_slab_blocks", 1, kMaxCount)};
  TransferPlan plan(std::move(layout), span, array_argument<uint32_t>(block_ids, "block_ids"),
                    array_argument<uint32_t>(slab_blocks, "slab_blocks"));
  const auto wanted = path_argument(path);
  const auto blocks = integer<uint32_t>(max_thread_blocks, "max_thread_blocks", 0, 1 << 20);
  py::gil_scoped_release release;
  return std::make_unique<CudaTransfer>(std::move(device), std::move(plan), wanted, blocks);
}

std::unique_ptr<CudaHandle> copy(CudaTransfer& self, py::handle direction, py::handle stream,
                                 py::handle layers_a_step) {
  const Direction way = direction_argument(direction);
  const cudaStream_t on = stream_argument(stream);
  const uint32_t layers = self.plan().layout().num_layers();
  const auto step = integer<uint32_t>(layers_a_step, "layers_a_step", 1, kMaxCount);
  const bool one_launch_a_step =
      self.path() == DevicePath::kLoadStore || self.path() == DevicePath::kBulk;
  if (one_launch_a_step && layers / step <= kFewSteps) return self.copy(way, on, step);
  py::gil_scoped_release release;
  return self.copy(way, on, step);
}

bool wait(const CudaHandle& self, py::handle timeout_s) {
  const double seconds = number_argument(timeout_s, "timeout_s");
  if (!(seconds >= 0 && seconds <= kLongestWaitS)) {
    throw py::value_error("timeout_s must be from 0 to 1e9, got " + describe(timeout_s));
  }
  const auto until =
      std::chrono::steady_clock::now() +
      std::chrono::duration_cast<std::chrono::nanoseconds>(std::chrono::duration<double>(seconds));
  py::gil_scoped_release release;
  return self.wait(until);
}

void wait_layer(const CudaHandle& self, py::handle layer, py::handle stream) {
  self.wait_layer(integer<uint32_t>(layer, "layer", 0, self.num_layers() - 1),
                  stream_argument(stream));
}

}  // namespace

void register_transfer(py::module_& module) {
  py::class_<CudaDevice, std::shared_ptr<CudaDevice>>(
      module, "Device", py::is_final(), py::release_gil_before_calling_cpp_dtor(),
      "A device's memory for arrays and rings of transfers; one a device will do.")
      .def(py::init([](py::handle number) {
             return std::make_shared<CudaDevice>(integer<int>(number, "number", 0, 1023));
           }),
           py::arg("number"))
      .def_property_readonly("number", &CudaDevice::number)
      .def_property_readonly("num_multiprocessors", &CudaDevice::num_multiprocessors)
      .def_property_readonly("has_bulk", &CudaDevice::has_bulk);
  py::class_<CudaHandle>(module, "Handle", py::is_final(),
                         py::release_gil_before_calling_cpp_dtor(), "A copy under way.")
      .def("done", &CudaHandle::is_done, "Whether all layers are in place.")
      .def("wait", &wait, "Waits for all layers; whether they are in place.", py::arg("timeout_s"))
      .def("wait_layer", &wait_layer, "Makes a stream wait for a layer; returns at once.",
           py::arg("layer"), py::arg("stream"));
  py::class_<CudaTransfer>(module, "Transfer", py::is_final(),
                           py::release_gil_before_calling_cpp_dtor(), kTransferDoc)
      .def(py::init(&make_transfer), py::keep_alive<1, 2>(), py::kw_only(), py::arg("owner"),
           py::arg("device"), py::arg("plane_bases"), py::arg("num_layers"),
           py::arg("num_paged_blocks"), py::arg("paged_stride"), py::arg("run_bytes"),
           py::arg("slab"), py::arg("slab_block_bytes"), py::arg("num_slab_blocks"),
           py::arg("block_ids"), py::arg("slab_blocks"), py::arg("path") = py::none(),
           py::arg("max_thread_blocks") = 0)
      .def("copy", &copy, "Enqueues a copy; one event every layers_a_step layers.",
           py::arg("direction"), py::arg("stream"), py::arg("layers_a_step"))
      .def_property_readonly("path", [](const CudaTransfer& self) { return name_of(self.path()); })
      .def_property_readonly("thread_blocks", &CudaTransfer::thread_blocks)
      .def_property_readonly("bytes", [](const CudaTransfer& self) { return self.plan().bytes(); });
}

}  // namespace kvcore::bindings
