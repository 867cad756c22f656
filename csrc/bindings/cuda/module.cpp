#include <cuda_runtime_api.h>

#include <string>

#include "bindings/arguments.h"
#include "bindings/cuda/register.h"
#include "bindings/exceptions.h"
#include "bindings/waiting.h"
#include "copy/cuda/pointer_place.h"
#include "copy/cuda/resources.h"
#include "slab/pinning.h"

namespace kvcore::bindings {
namespace {

constexpr int64_t kMaxInt = INT64_MAX;

int driver_version() {
  int version = 0;
  return cudaDriverGetVersion(&version) == cudaSuccess ? version : 0;
}

// On a machine without a device or driver this is where it shows.
py::object why_unavailable() {
  int count = 0;
  const cudaError_t error = cudaGetDeviceCount(&count);
  if (error == cudaSuccess && count > 0) return py::none();
  cudaGetLastError();
  if (driver_version() == 0) return py::str("there is no NVIDIA driver");
  return py::str(error == cudaSuccess ? "there is no CUDA device" : cudaGetErrorString(error));
}

py::list devices() {
  py::list list;
  int count = 0;
  if (cudaGetDeviceCount(&count) != cudaSuccess) {
    cudaGetLastError();
    return list;
  }
  for (int i = 0; i < count; ++i) {
    cudaDeviceProp properties;
    KV_CUDA(cudaGetDeviceProperties(&properties, i));
    py::dict device;
    device["name"] = std::string(properties.name);
    device["compute_capability"] =
        std::to_string(properties.major) + "." + std::to_string(properties.minor);
    device["multiprocessors"] = properties.multiProcessorCount;
    device["memory_bytes"] = properties.totalGlobalMem;
    list.append(std::move(device));
  }
  return list;
}

uint64_t address_argument(py::handle object) {
  return static_cast<uint64_t>(integer_argument(object, "address", 1, kMaxInt));
}

void pin(py::handle address, py::handle bytes) {
  auto* data = reinterpret_cast<void*>(address_argument(address));
  const auto size = static_cast<size_t>(integer_argument(bytes, "bytes", 1, kMaxInt));
  const Waiting waiting;
  KV_CUDA(cudaHostRegister(data, size, cudaHostRegisterPortable | cudaHostRegisterMapped));
}

void unpin(py::handle address) {
  auto* data = reinterpret_cast<void*>(address_argument(address));
  const Waiting waiting;
  KV_CUDA(cudaHostUnregister(data));
}

const char* answer(cudaError_t error) {
  if (error == cudaSuccess) return nullptr;
  cudaGetLastError();
  return cudaGetErrorString(error);
}

constexpr kvcore::Pinning kPinning{
    [](void* data, size_t bytes) {
      return answer(
          cudaHostRegister(data, bytes, cudaHostRegisterPortable | cudaHostRegisterMapped));
    },
    [](void* data) { return answer(cudaHostUnregister(data)); },
};

}  // namespace
}  // namespace kvcore::bindings

PYBIND11_MODULE(_cuda, module, pybind11::mod_gil_not_used()) {
  using namespace kvcore::bindings;
  module.doc() = "kvcore's CUDA module; kvcore.cuda says whether there is a device for it.";
  pybind11::register_local_exception_translator(&translate);
  module.attr("ARCHITECTURES") = KVCORE_CUDA_ARCHITECTURES;
  module.attr("RUNTIME_VERSION") = CUDART_VERSION;
  module.def("why_unavailable", &why_unavailable, "Why no device can be used, or None.");
  module.def("driver_version", &driver_version, "As CUDA counts, 13000 for 13.0; 0 without one.");
  module.def("devices", &devices, "A dict for each device.");
  module.def(
      "describe_place",
      [](py::handle address) {
        return kvcore::describe(kvcore::place_of(address_argument(address)));
      },
      "Whose memory an address is.", py::arg("address"));
  module.def("pin", &pin, "Pins pages of host memory, for all devices.", py::arg("address"),
             py::arg("bytes"));
  module.def("unpin", &unpin, "Undoes pin().", py::arg("address"));
  module.attr("pinning") = py::capsule(&kPinning, "kvcore.pinning");
  register_transfer(module);
}
