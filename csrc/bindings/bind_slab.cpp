#include <optional>
#include <string>

#include "bindings/arguments.h"
#include "bindings/register.h"
#include "bindings/waiting.h"
#include "slab/host_slab.h"

namespace kvcore::bindings {
namespace {

constexpr const char* kPinningCapsule = "kvcore.pinning";

HugePages huge_pages_argument(py::handle object) {
  const std::string name = string_argument(object, "huge_pages");
  if (name == "off") return HugePages::kOff;
  if (name == "try") return HugePages::kTry;
  if (name == "require") return HugePages::kRequire;
  throw py::value_error("huge_pages must be 'off', 'try' or 'require', got " + describe(object));
}

HostSlabOptions size_arguments(py::handle num_blocks, py::handle block_bytes) {
  HostSlabOptions options;
  options.num_blocks =
      static_cast<uint64_t>(integer_argument(num_blocks, "num_blocks", 1, HostSlab::kMaxBlocks));
  options.block_bytes =
      static_cast<uint64_t>(integer_argument(block_bytes, "block_bytes", 1, HostSlab::kMaxBytes));
  return options;
}

uint32_t threads_argument(py::handle threads) {
  return static_cast<uint32_t>(integer_argument(threads, "threads", 1, HostSlab::kMaxThreads));
}

std::shared_ptr<HostSlab> make_slab(py::handle num_blocks, py::handle block_bytes,
                                    py::handle huge_pages, py::handle numa_node, py::handle threads,
                                    py::handle fd) {
  HostSlabOptions options = size_arguments(num_blocks, block_bytes);
  options.huge_pages = huge_pages_argument(huge_pages);
  if (!numa_node.is_none()) {
    options.numa_node = static_cast<uint32_t>(integer_argument(numa_node, "numa_node", 0, 1023));
  }
  options.threads = threads_argument(threads);
  if (fd.is_none()) {
    const Waiting waiting;
    return std::make_shared<HostSlab>(options);
  }
  const auto file = static_cast<int>(integer_argument(fd, "fd", 0, INT32_MAX));
  const Waiting waiting;
  return std::make_shared<HostSlab>(options, file);
}

void populate(HostSlab& self, py::handle threads) {
  const uint32_t count = threads_argument(threads);
  const Waiting waiting;
  self.populate(count);
}

// Bytes as they lie there; the array keeps the slab.
py::array bytes_of(py::object self) {
  const auto& slab = self.cast<const HostSlab&>();
  return py::array(
      py::dtype::of<uint8_t>(),
      {static_cast<py::ssize_t>(slab.num_blocks()), static_cast<py::ssize_t>(slab.block_bytes())},
      {static_cast<py::ssize_t>(slab.stride_bytes()), py::ssize_t{1}}, slab.data(), self);
}

void pin(HostSlab& self, py::capsule pinning) {
  if (pinning.name() == nullptr || std::string(pinning.name()) != kPinningCapsule) {
    throw py::type_error("pinning must be a capsule of a module that drives a device");
  }
  const Pinning& calls = *pinning.get_pointer<Pinning>();
  const Waiting waiting;
  self.pin(calls);
}

}  // namespace

void register_slab(py::module_& module) {
  py::class_<HostSlab, std::shared_ptr<HostSlab>>(
      module, "HostMemory", py::is_final(), py::release_gil_before_calling_cpp_dtor(),
      "The memory of a slab on the host; kvcore.slabs has what is for users.")
      .def(py::init(&make_slab), py::arg("num_blocks"), py::arg("block_bytes"), py::kw_only(),
           py::arg("huge_pages") = "try", py::arg("numa_node") = py::none(), py::arg("threads") = 1,
           py::arg("fd") = py::none())
      .def_static(
          "bytes_of",
          [](py::handle num_blocks, py::handle block_bytes) {
            return HostSlab::bytes_of(size_arguments(num_blocks, block_bytes));
          },
          "Bytes that such a slab takes.", py::arg("num_blocks"), py::arg("block_bytes"))
      .def_property_readonly("num_blocks", &HostSlab::num_blocks)
      .def_property_readonly("block_bytes", &HostSlab::block_bytes)
      .def_property_readonly("stride_bytes", &HostSlab::stride_bytes)
      .def_property_readonly("bytes", &HostSlab::bytes)
      .def_property_readonly("is_pinned", &HostSlab::is_pinned)
      .def("numpy", &bytes_of, "uint8[num_blocks, block_bytes], no copy.")
      .def("populate", &populate, "Brings in the pages of a file's memory.", py::arg("threads"))
      .def("pin", &pin, "Registers the memory with a device.", py::arg("pinning"));
}

}  // namespace kvcore::bindings
