#include <pybind11/stl.h>

#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "bindings/arguments.h"
#include "bindings/lent_batch.h"
#include "bindings/register.h"
#include "bindings/store_arguments.h"
#include "bindings/waiting.h"
#include "store/envelope.h"

namespace kvcore::bindings {
namespace {

// A batch as a store written in Python has it: decides its keys, uses their memory, lets go of it.
// What is not decided when this ends has failed, and all memory is let go, so that a store that
// lost track of a batch keeps nobody waiting. A key is of one thread at a time.
class BatchSource {
 public:
  BatchSource(std::vector<BlockHash> hashes, std::vector<std::byte*> places, uint64_t value_bytes,
              bool is_writable, Batch::Clock::time_point deadline, py::object owner)
      : hashes_(std::move(hashes)),
        places_(std::move(places)),
        value_bytes_(value_bytes),
        is_writable_(is_writable),
        is_lent_(hashes_.size(), 1),
        batch_(std::make_shared<Batch>(hashes_.size(), deadline)),
        owner_(std::move(owner)) {}
  ~BatchSource() {
    if (batch_ == nullptr) return;
    for (size_t key = 0; key < is_lent_.size(); ++key) {
      if (!is_lent(key)) continue;
      batch_->decide(key, Outcome::kFailed);
      batch_->let_go();
    }
  }
  BatchSource(BatchSource&&) = default;

  LentBatch batch() const { return {batch_, owner_}; }
  size_t num_keys() const { return hashes_.size(); }
  Batch& state() const { return *batch_; }
  const BlockHash& hash(size_t key) const { return hashes_[key]; }
  py::object owner() const { return owner_; }
  bool is_writable() const { return is_writable_; }
  bool is_lent(size_t key) const { return is_lent_[key] != 0; }

  size_t checked(py::handle key) const {
    const auto last = static_cast<int64_t>(num_keys()) - 1;
    return static_cast<size_t>(integer_argument(key, "key", 0, last));
  }
  // The memory of a key that was not let go.
  std::span<std::byte> memory(size_t key) const {
    if (places_.empty()) throw py::value_error("this batch has no memory");
    if (!is_lent(key)) {
      throw py::value_error("the memory of key " + std::to_string(key) + " was let go");
    }
    return {places_[key], value_bytes_};
  }
  void let_go(size_t key) {
    if (!is_lent(key)) {
      throw py::value_error("key " + std::to_string(key) + " was let go before");
    }
    is_lent_[key] = 0;
    batch_->let_go();
  }

 private:
  std::vector<BlockHash> hashes_;
  std::vector<std::byte*> places_;  // none, or one for each key
  uint64_t value_bytes_;
  bool is_writable_;
  std::vector<uint8_t> is_lent_;
  std::shared_ptr<Batch> batch_;
  py::object owner_;
};

BatchSource without_memory(py::handle hashes, py::handle positions, py::handle timeout_s) {
  const KeysArgument keys(hashes, positions);
  const auto all = keys.get().hashes;
  return {{all.begin(), all.end()}, {}, 0, false, deadline_argument(timeout_s), py::none()};
}

template <bool kIsWritable>
BatchSource with_memory(py::handle hashes, py::handle positions, uint64_t address, uint64_t stride,
                        uint64_t num_blocks, py::handle slab_blocks, py::handle timeout_s,
                        py::object owner, uint64_t value_bytes) {
  const KeysArgument keys(hashes, positions);
  const auto all = keys.get().hashes;
  auto places = places_of<std::byte>(all.size(), address, stride, num_blocks, slab_blocks,
                                     /*must_differ=*/kIsWritable);
  return {{all.begin(), all.end()},     std::move(places), value_bytes, kIsWritable,
          deadline_argument(timeout_s), std::move(owner)};
}

py::bytes bytes_of(const BlockHash& hash) {
  return {reinterpret_cast<const char*>(&hash), sizeof(hash)};
}

py::list hashes_argument(py::handle hashes, py::handle positions) {
  const KeysArgument keys(hashes, positions);
  py::list list;
  for (const BlockHash& hash : keys.get().hashes) list.append(bytes_of(hash));
  return list;
}

py::memoryview memory_view(const BatchSource& self, py::handle key) {
  const auto memory = self.memory(self.checked(key));
  const auto* const data = reinterpret_cast<const uint8_t*>(memory.data());
  if (!self.is_writable()) {
    return py::memoryview(borrowed_array<uint8_t>(data, memory.size(), self.owner()));
  }
  return py::memoryview(
      py::array_t<uint8_t>(static_cast<py::ssize_t>(memory.size()), data, self.owner()));
}

py::bytes seal_value(const BatchSource& self, py::handle key_object, py::handle fingerprint) {
  const size_t key = self.checked(key_object);
  const auto namespace_of = fingerprint_argument(fingerprint);
  const auto payload = self.memory(key);
  std::array<std::byte, kEnvelopeBytes> envelope;
  {
    const Waiting waiting;
    seal(envelope, namespace_of, self.hash(key), payload);
  }
  return {reinterpret_cast<const char*>(envelope.data()), envelope.size()};
}

bool verify_value(const BatchSource& self, py::handle key_object, py::handle fingerprint,
                  py::handle envelope) {
  const size_t key = self.checked(key_object);
  const auto namespace_of = fingerprint_argument(fingerprint);
  const auto payload = self.memory(key);
  const Buffer buffer(envelope, "envelope", "128 bytes");
  if (buffer.view().len != kEnvelopeBytes) {
    throw py::value_error("envelope must be 128 bytes, got " + std::to_string(buffer.view().len));
  }
  const ConstEnvelopeSpan view(static_cast<const std::byte*>(buffer.view().buf), kEnvelopeBytes);
  const Waiting waiting;
  return verify(view, namespace_of, self.hash(key), payload);
}

Outcome decide(const BatchSource& self, py::handle key, Outcome outcome) {
  if (outcome == Outcome::kPending)
    throw py::value_error("outcome must be a decision, got PENDING");
  const size_t checked = self.checked(key);
  if (!self.is_lent(checked)) {
    throw py::value_error("key " + std::to_string(checked) + " was let go before");
  }
  return self.state().decide(checked, outcome);
}

}  // namespace

void register_batch_source(py::module_& module) {
  py::class_<BatchSource>(module, "BatchSource",
                          R"(A batch as a store written in Python has it.

Each key is decided and then let go of, once; what is left when this object ends has FAILED.)")
      .def_static("asking", &without_memory)
      .def_static("reading", &with_memory<true>)
      .def_static("writing", &with_memory<false>)
      .def_property_readonly("batch", &BatchSource::batch, "What the caller gets.")
      .def_property_readonly("num_keys", &BatchSource::num_keys)
      .def(
          "hash",
          [](const BatchSource& self, py::handle key) {
            return bytes_of(self.hash(self.checked(key)));
          },
          "16 bytes")
      .def(
          "is_wanted",
          [](const BatchSource& self, py::handle key) {
            return self.state().is_wanted(self.checked(key));
          },
          "Whether there is still something to do for a key.")
      .def("decide", &decide, "Returns what stands, which may be an earlier decision.")
      .def(
          "let_go", [](BatchSource& self, py::handle key) { self.let_go(self.checked(key)); },
          "The store has done with a key's memory. ValueError: it had before.")
      .def(
          "cancel", [](const BatchSource& self) { self.state().cancel(); },
          "Gives up what is not decided yet.")
      .def("memory", &memory_view,
           "The bytes of a key's block, as a memoryview; to write to where the batch reads.")
      .def(
          "address",
          [](const BatchSource& self, py::handle key) {
            return reinterpret_cast<uintptr_t>(self.memory(self.checked(key)).data());
          },
          "Where that memory is. It is there until the key is let go.")
      .def("seal", &seal_value, "The envelope of a key's value, of what its memory has now.")
      .def("verify", &verify_value,
           "Whether an envelope is that of a key's value, as its memory has it now.");
  module.def("hashes_argument", &hashes_argument,
             "Hashes as a list of 16 bytes each; TypeError, ValueError: they are none.");
}

}  // namespace kvcore::bindings
