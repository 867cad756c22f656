#include <chrono>
#include <string>

#include "bindings/arguments.h"
#include "bindings/cuda/register.h"
#include "bindings/plan_argument.h"
#include "bindings/waiting.h"
#include "copy/cuda/cuda_transfer.h"

namespace kvcore::bindings {
namespace {

constexpr int64_t kMaxInt = INT64_MAX;
// Enqueuing so many steps of one launch each takes less than 100 us and keeps the GIL.
constexpr uint32_t kFewSteps = 8;

constexpr const char* kTransferDoc = R"(Copies of blocks by a CUDA device, made once and used often.

Takes the numbers of a plan by name. `owner` keeps the memory of both sides; it is let go after
copies under way, for which the end of a transfer waits.)";

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
                                            py::handle path, py::handle max_thread_blocks,
                                            const py::kwargs& numbers) {
  TransferPlan plan = plan_argument(numbers);
  const auto wanted = path_argument(path);
  const auto blocks = integer<uint32_t>(max_thread_blocks, "max_thread_blocks", 0, 1 << 20);
  const Waiting waiting;
  return std::make_unique<CudaTransfer>(std::move(device), std::move(plan), wanted, blocks);
}

std::unique_ptr<CudaHandle> copy(CudaTransfer& self, py::handle direction, py::handle stream,
                                 py::handle layers_a_step) {
  const Direction way = direction_argument(direction);
  const cudaStream_t on = stream_argument(stream);
  const uint32_t layers = self.plan().layout().num_layers();
  const auto step = integer<uint32_t>(layers_a_step, "layers_a_step", 1, UINT32_MAX);
  const bool one_launch_a_step =
      self.path() == DevicePath::kLoadStore || self.path() == DevicePath::kBulk;
  if (one_launch_a_step && layers / step <= kFewSteps) return self.copy(way, on, step);
  const Waiting waiting;
  return self.copy(way, on, step);
}

uint32_t layer_argument(const CudaHandle& self, py::handle layer) {
  return integer<uint32_t>(layer, "layer", 0, self.num_layers() - 1);
}

bool wait(const CudaHandle& self, py::handle timeout_s) {
  const auto until = deadline_argument(timeout_s);
  const Waiting waiting;
  return self.wait(until);
}

bool wait_layer(const CudaHandle& self, py::handle layer, py::handle timeout_s) {
  const uint32_t number = layer_argument(self, layer);
  const auto until = deadline_argument(timeout_s);
  const Waiting waiting;
  return self.wait_layer(number, until);
}

void hold_stream(const CudaHandle& self, py::handle stream, py::handle layer) {
  self.hold(stream_argument(stream), layer_argument(self, layer));
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
  py::class_<DeviceMemory>(module, "Memory", py::is_final(),
                           py::release_gil_before_calling_cpp_dtor(), "Memory of a device.")
      .def(py::init([](std::shared_ptr<CudaDevice> device, py::handle bytes) {
             const auto size = integer<size_t>(bytes, "bytes", 1, kMaxInt);
             const Waiting waiting;
             return std::make_unique<DeviceMemory>(std::move(device), size);
           }),
           py::arg("device"), py::arg("bytes"))
      .def_property_readonly("address", &DeviceMemory::address);
  py::class_<CudaHandle>(module, "Handle", py::is_final(),
                         py::release_gil_before_calling_cpp_dtor(), "A copy under way.")
      .def("done", &CudaHandle::is_done, "Whether all layers are in place.")
      .def("wait", &wait, "Waits for all layers; whether they are in place.", py::arg("timeout_s"))
      .def("wait_layer", &wait_layer, "Waits for a layer; whether it is in place.",
           py::arg("layer"), py::arg("timeout_s"))
      .def("hold_stream", &hold_stream, "Makes a stream wait for a layer; returns at once.",
           py::arg("stream"), py::arg("layer"));
  py::class_<CudaTransfer>(module, "Transfer", py::is_final(),
                           py::release_gil_before_calling_cpp_dtor(), kTransferDoc)
      .def(py::init(&make_transfer), py::keep_alive<1, 2>(), py::kw_only(), py::arg("owner"),
           py::arg("device"), py::arg("path"), py::arg("max_thread_blocks"))
      .def("copy", &copy, "Enqueues a copy; one event every layers_a_step layers.",
           py::arg("direction"), py::arg("stream"), py::arg("layers_a_step"))
      .def_property_readonly("path", [](const CudaTransfer& self) { return name_of(self.path()); })
      .def_property_readonly("thread_blocks", &CudaTransfer::thread_blocks)
      .def_property_readonly("bytes", [](const CudaTransfer& self) { return self.plan().bytes(); });
}

}  // namespace kvcore::bindings
