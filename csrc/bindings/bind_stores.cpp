#include <pybind11/native_enum.h>

#include <algorithm>
#include <functional>
#include <mutex>
#include <optional>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "bindings/arguments.h"
#include "bindings/register.h"
#include "bindings/waiting.h"
#include "store/disk_store.h"
#include "store/memory_store.h"

namespace kvcore::bindings {
namespace {

// Memory whose batch nobody holds any more, while a store still has it. Nobody waits for that: it
// is let go when the next one comes.
class Forgotten {
 public:
  void add(std::shared_ptr<Batch> batch, py::object owner) {
    std::lock_guard lock(mutex_);
    all_.emplace_back(std::move(batch), std::move(owner));
  }
  void let_go() {
    std::vector<Entry> quiet;  // ends after the lock: an owner's end may call anything
    std::lock_guard lock(mutex_);
    const auto rest =
        std::ranges::partition(all_, [](const Entry& entry) { return !entry.first->is_quiet(); });
    std::ranges::move(rest, std::back_inserter(quiet));
    all_.erase(rest.begin(), rest.end());
  }

 private:
  using Entry = std::pair<std::shared_ptr<Batch>, py::object>;
  std::mutex mutex_;
  std::vector<Entry> all_;
};

// Never destroyed: at the end of a process memory may still be lent.
Forgotten& forgotten() {
  static Forgotten* const all = new Forgotten;
  return *all;
}

// A batch as Python has it, with the owner of the memory that is lent to the store.
class LentBatch {
 public:
  LentBatch(std::shared_ptr<Batch> batch, py::object owner)
      : batch_(std::move(batch)), owner_(std::move(owner)) {
    forgotten().let_go();
  }
  LentBatch(LentBatch&&) = default;
  ~LentBatch() {
    if (batch_ != nullptr && !batch_->is_quiet()) {
      forgotten().add(std::move(batch_), std::move(owner_));
    }
  }
  Batch& get() const { return *batch_; }

 private:
  std::shared_ptr<Batch> batch_;
  py::object owner_;
};

using Clock = Batch::Clock;

template <typename Byte>
std::vector<Byte*> places_of(size_t count, uint64_t address, uint64_t stride, uint64_t num_blocks,
                             py::handle slab_blocks, bool must_differ) {
  const Buffer buffer(slab_blocks, "slab_blocks", "uint32[n]");
  const auto& view = buffer.view();
  const std::span ids(static_cast<const uint32_t*>(view.buf),
                      static_cast<size_t>(view.len) / sizeof(uint32_t));
  if (ids.size() != count) {
    throw py::value_error("slab_blocks must be as many as hashes, " + std::to_string(count) +
                          ", got " + std::to_string(ids.size()));
  }
  std::vector<uint32_t> sorted(ids.begin(), ids.end());
  std::ranges::sort(sorted);
  if (!sorted.empty() && sorted.back() >= num_blocks) {
    throw py::value_error("slab_blocks must be below the slab's " + std::to_string(num_blocks) +
                          " blocks, got " + std::to_string(sorted.back()));
  }
  if (const auto twice = std::ranges::adjacent_find(sorted); must_differ && twice != sorted.end()) {
    throw py::value_error("slab_blocks must differ, got " + std::to_string(*twice) + " twice");
  }
  std::vector<Byte*> places;
  places.reserve(ids.size());
  for (uint32_t id : ids) places.push_back(reinterpret_cast<Byte*>(address + id * stride));
  return places;
}

// Hashes, and where in their chain the blocks are.
class KeysArgument {
 public:
  KeysArgument(py::handle hashes, py::handle positions) : hashes_(hashes) {
    if (positions.is_none()) return;
    const auto& view = positions_.emplace(positions, "positions", "uint32[n]").view();
    rising_ = {static_cast<const uint32_t*>(view.buf),
               static_cast<size_t>(view.len) / sizeof(uint32_t)};
    if (rising_.size() != hashes_.get().size()) {
      throw py::value_error("positions must be as many as hashes, " +
                            std::to_string(hashes_.get().size()) + ", got " +
                            std::to_string(rising_.size()));
    }
    const auto fall = std::ranges::adjacent_find(rising_, std::greater_equal<>());
    if (fall != rising_.end()) {
      throw py::value_error("positions must rise, got " + std::to_string(fall[1]) + " after " +
                            std::to_string(fall[0]));
    }
  }
  Keys get() const { return {hashes_.get(), rising_}; }

 private:
  HashesArgument hashes_;
  std::optional<Buffer> positions_;
  std::span<const uint32_t> rising_;
};

LentBatch get_into(Store& self, py::handle hashes, py::handle positions, uint64_t address,
                   uint64_t stride, uint64_t num_blocks, py::handle slab_blocks,
                   py::handle timeout_s, py::object owner) {
  const KeysArgument keys(hashes, positions);
  const auto places = places_of<std::byte>(keys.get().size(), address, stride, num_blocks,
                                           slab_blocks, /*must_differ=*/true);
  const auto deadline = deadline_argument(timeout_s);
  std::shared_ptr<Batch> batch;
  {
    py::gil_scoped_release release;
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
    py::gil_scoped_release release;
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
    py::gil_scoped_release release;
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
  py::gil_scoped_release release;
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

void register_store_stats(py::module_& module) {
  py::class_<StoreStats>(module, "StoreStats", "What a store holds and did; counts are of keys.")
      .def_readonly("num_values", &StoreStats::num_values)
      .def_readonly("used_bytes", &StoreStats::used_bytes)
      .def_readonly("max_bytes", &StoreStats::max_bytes)
      .def_readonly("evictions", &StoreStats::evictions)
      .def_readonly("gets", &StoreStats::gets)
      .def_readonly("hits", &StoreStats::hits)
      .def_readonly("misses", &StoreStats::misses)
      .def_readonly("corrupt", &StoreStats::corrupt)
      .def_readonly("timed_out", &StoreStats::timed_out)
      .def_readonly("failed", &StoreStats::failed)
      .def_readonly("puts", &StoreStats::puts)
      .def_readonly("written", &StoreStats::written)
      .def_readonly("read_bytes", &StoreStats::read_bytes)
      .def_readonly("written_bytes", &StoreStats::written_bytes);
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
        py::gil_scoped_release release;
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
