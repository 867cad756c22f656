#include <pybind11/native_enum.h>

#include <algorithm>
#include <cstring>
#include <iterator>
#include <string>
#include <utility>
#include <vector>

#include "bindings/arguments.h"
#include "bindings/lent_batch.h"
#include "bindings/register.h"
#include "bindings/store_arguments.h"
#include "bindings/waiting.h"
#include "store/disk_store.h"
#include "store/memory_store.h"

namespace kvcore::bindings {
namespace {

LentBatch get_into(Store& self, py::handle hashes, py::handle positions, uint64_t address,
                   uint64_t stride, uint64_t num_blocks, py::handle slab_blocks,
                   py::handle timeout_s, py::object owner) {
  const KeysArgument keys(hashes, positions);
  const auto places = places_of<std::byte>(keys.get().size(), address, stride, num_blocks,
                                           slab_blocks, /*must_differ=*/true);
  const auto deadline = deadline_argument(timeout_s);
  std::shared_ptr<Batch> batch;
  {
    const Waiting waiting;
    batch = self.get_into(keys.get(), places, deadline);
  }
  return LentBatch(std::move(batch), std::move(owner));
}

LentBatch put_from(Store& self, py::handle hashes, py::handle positions, uint64_t address,
                   uint64_t stride, uint64_t num_blocks, py::handle slab_blocks,
                   py::handle timeout_s, py::object owner) {
  const KeysArgument keys(hashes, positions);
  const auto places = places_of<const std::byte>(keys.get().size(), address, stride, num_blocks,
                                                 slab_blocks, /*must_differ=*/false);
  const auto deadline = deadline_argument(timeout_s);
  std::shared_ptr<Batch> batch;
  {
    const Waiting waiting;
    batch = self.put_from(keys.get(), places, deadline);
  }
  return LentBatch(std::move(batch), std::move(owner));
}

template <std::shared_ptr<Batch> (Store::*kCall)(Keys, Store::Deadline)>
LentBatch without_memory(Store& self, py::handle hashes, py::handle positions,
                         py::handle timeout_s) {
  const KeysArgument keys(hashes, positions);
  const auto deadline = deadline_argument(timeout_s);
  std::shared_ptr<Batch> batch;
  {
    const Waiting waiting;
    batch = (self.*kCall)(keys.get(), deadline);
  }
  return LentBatch(std::move(batch), py::none());
}

uint64_t bytes_argument(py::handle object, const char* name) {
  return static_cast<uint64_t>(integer_argument(object, name, 1, int64_t{1} << 50));
}

uint64_t value_bytes_argument(py::handle object) {
  return static_cast<uint64_t>(integer_argument(object, "value_bytes", 1, int64_t{1} << 31));
}

DiskIo io_argument(py::handle object) {
  const std::string name = string_argument(object, "io");
  if (name == "auto") return DiskIo::kAuto;
  if (name == "uring") return DiskIo::kUring;
  if (name == "threads") return DiskIo::kThreads;
  throw py::value_error("io must be 'auto', 'uring' or 'threads', got " + describe(object));
}

std::shared_ptr<DiskStore> new_disk_store(py::handle path, py::handle fingerprint,
                                          py::handle value_bytes, py::handle max_bytes, bool direct,
                                          bool syncs, py::handle depth, py::handle io) {
  const DiskStoreOptions options{
      .path = string_argument(path, "path"),
      .fingerprint = fingerprint_argument(fingerprint),
      .value_bytes = value_bytes_argument(value_bytes),
      .max_bytes = bytes_argument(max_bytes, "max_bytes"),
      .direct = direct,
      .syncs = syncs,
      .depth = static_cast<uint32_t>(integer_argument(depth, "depth", 1, 256)),
      .io = io_argument(io),
  };
  const Waiting waiting;
  return std::make_shared<DiskStore>(options);
}

void register_batch(py::module_& module) {
  py::native_enum<Outcome>(module, "Outcome", "enum.IntEnum", "What became of a key of a batch.")
      .value("PENDING", Outcome::kPending)
      .value("DONE", Outcome::kDone)
      .value("MISS", Outcome::kMiss)
      .value("CORRUPT", Outcome::kCorrupt)
      .value("TIMED_OUT", Outcome::kTimedOut)
      .value("FAILED", Outcome::kFailed)
      .value("CANCELLED", Outcome::kCancelled)
      .finalize();

  py::class_<LentBatch>(module, "Batch", R"(A batched call of a store, under way.

Keeps the memory that is lent to the store, also when it is dropped itself. Thread safe.)")
      .def(
          "wait",
          [](const LentBatch& self) {
            const Waiting waiting;
            self.get().wait();
          },
          "Waits until every key is decided, to the deadline at most.")
      .def_property_readonly(
          "outcomes",
          [](const LentBatch& self) {
            const std::vector<Outcome> outcomes = self.get().outcomes();
            py::array_t<uint8_t> array(static_cast<py::ssize_t>(outcomes.size()));
            std::memcpy(array.mutable_data(), outcomes.data(), outcomes.size());
            return array;
          },
          "uint8[n]: an `Outcome` for each key; none is pending once the deadline is over.")
      .def(
          "cancel", [](const LentBatch& self) { self.get().cancel(); },
          "Gives up what is not decided yet.")
      .def(
          "is_quiet", [](const LentBatch& self) { return self.get().is_quiet(); },
          "Whether the store has let go of all memory, which may be after the deadline.");
}

using Count = uint64_t StoreStats::*;
constexpr std::pair<const char*, Count> kCounts[] = {
    {"num_values", &StoreStats::num_values},
    {"used_bytes", &StoreStats::used_bytes},
    {"max_bytes", &StoreStats::max_bytes},
    {"evictions", &StoreStats::evictions},
    {"gets", &StoreStats::gets},
    {"hits", &StoreStats::hits},
    {"misses", &StoreStats::misses},
    {"corrupt", &StoreStats::corrupt},
    {"timed_out", &StoreStats::timed_out},
    {"failed", &StoreStats::failed},
    {"puts", &StoreStats::puts},
    {"written", &StoreStats::written},
    {"read_bytes", &StoreStats::read_bytes},
    {"written_bytes", &StoreStats::written_bytes},
};

StoreStats new_store_stats(const py::kwargs& counts) {
  StoreStats stats;
  for (const auto& [name, value] : counts) {
    const std::string text = string_argument(name, "name");
    const auto* const found =
        std::ranges::find(kCounts, text, [](const auto& count) { return count.first; });
    if (found == std::end(kCounts)) throw py::type_error("StoreStats has no " + text);
    stats.*found->second =
        static_cast<uint64_t>(integer_argument(value, found->first, 0, INT64_MAX));
  }
  return stats;
}

void register_store_stats(py::module_& module) {
  py::class_<StoreStats> stats(module, "StoreStats",
                               "What a store holds and did; counts are of keys.");
  stats.def(py::init(&new_store_stats));
  for (const auto& [name, count] : kCounts) stats.def_readonly(name, count);
}

}  // namespace

void register_stores(py::module_& module) {
  register_batch(module);
  register_store_stats(module);
  py::class_<Store, std::shared_ptr<Store>>(module, "StoreCore",
                                            py::release_gil_before_calling_cpp_dtor(),
                                            "kvcore.stores has what is for users.")
      .def_property_readonly("value_bytes", &Store::value_bytes)
      .def("get_into", &get_into)
      .def("put_from", &put_from)
      .def("contains", &without_memory<&Store::contains>)
      .def("remove", &without_memory<&Store::remove>)
      .def("match",
           [](const Store& self, py::handle hashes, py::handle positions) {
             const KeysArgument keys(hashes, positions);
             return self.match(keys.get());
           })
      .def("stats", &Store::stats)
      .def("close", [](Store& self) {
        const Waiting waiting;
        self.close();
      });
  py::class_<MemoryStore, Store, std::shared_ptr<MemoryStore>>(
      module, "MemoryStoreCore", py::release_gil_before_calling_cpp_dtor())
      .def(py::init([](py::handle fingerprint, py::handle value_bytes, py::handle max_bytes) {
        return std::make_shared<MemoryStore>(fingerprint_argument(fingerprint),
                                             value_bytes_argument(value_bytes),
                                             bytes_argument(max_bytes, "max_bytes"));
      }));
  py::class_<DiskStore, Store, std::shared_ptr<DiskStore>>(
      module, "DiskStoreCore", py::release_gil_before_calling_cpp_dtor())
      .def(py::init(&new_disk_store))
      .def_property_readonly("is_direct", &DiskStore::is_direct)
      .def_property_readonly("io", [](const DiskStore& self) {
        return self.io() == DiskIo::kUring ? "uring" : "threads";
      });
  module.def("is_uring_built", &is_uring_built, "Whether the build has io_uring.");
  module.def("has_uring", &has_uring, "Whether the build and the kernel have io_uring.");
}

}  // namespace kvcore::bindings
