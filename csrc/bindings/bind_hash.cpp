#include <algorithm>
#include <deque>
#include <optional>

#include "bindings/arguments.h"
#include "bindings/register.h"
#include "bindings/waiting.h"
#include "hash/block_hasher.h"
#include "hash/fold.h"

namespace kvcore::bindings {
namespace {

// The `tokens` argument: what _tokens.pack returns.
class TokensArgument {
 public:
  explicit TokensArgument(py::handle object) : buffer_(object, "tokens", kAllowed) {
    const Py_buffer& view = buffer_.view();
    if (view.ndim != 1 || view.format == nullptr || std::string_view(view.format) != "I") {
      throw py::type_error(std::string("tokens must be ") + kAllowed + ", got " + describe(object));
    }
    tokens_ = {static_cast<const uint32_t*>(view.buf), static_cast<size_t>(view.shape[0])};
  }
  std::span<const uint32_t> get() const { return tokens_; }

 private:
  static constexpr const char* kAllowed = "a C-contiguous uint32[n] buffer";

  Buffer buffer_;
  std::span<const uint32_t> tokens_;
};

// The `engine_hashes` argument: a sequence of bytes-like objects, borrowed until this dies.
class EngineHashesArgument {
 public:
  explicit EngineHashesArgument(py::handle object) : items_(snapshot(object)) {
    hashes_.reserve(items_.size());
    for (const py::handle item : items_) {
      const auto hash = PyBytes_Check(item.ptr()) ? bytes_of(item) : borrowed_from(item);
      if (hash.empty()) throw py::value_error(next_name() + " must not be empty");
      hashes_.push_back(hash);
    }
  }
  std::span<const std::span<const uint8_t>> get() const { return hashes_; }

 private:
  // A tuple of our own, since another thread may change a list meanwhile.
  static py::tuple snapshot(py::handle object) {
    PyObject* items = PySequence_Tuple(object.ptr());
    if (items == nullptr) {
      PyErr_Clear();
      throw py::type_error("engine_hashes must be a sequence of bytes-like objects, got " +
                           describe(object));
    }
    return py::reinterpret_steal<py::tuple>(items);
  }
  static std::span<const uint8_t> bytes_of(py::handle bytes) {
    return {reinterpret_cast<const uint8_t*>(PyBytes_AS_STRING(bytes.ptr())),
            static_cast<size_t>(PyBytes_GET_SIZE(bytes.ptr()))};
  }
  std::span<const uint8_t> borrowed_from(py::handle item) {
    const Buffer& buffer =
        buffers_.emplace_back(item, next_name().c_str(), "a C-contiguous bytes-like object");
    return {static_cast<const uint8_t*>(buffer.view().buf), static_cast<size_t>(buffer.view().len)};
  }
  std::string next_name() const { return "engine_hashes[" + std::to_string(hashes_.size()) + "]"; }

  py::tuple items_;
  std::deque<Buffer> buffers_;
  std::vector<std::span<const uint8_t>> hashes_;
};

// Releases the GIL for a call that will take longer than about 100 us; taking it back from a busy
// thread can cost milliseconds, so a shorter one keeps it.
class LongCall {
 public:
  explicit LongCall(size_t estimated_ns) {
    if (estimated_ns > 100'000) waiting_.emplace();
  }

 private:
  std::optional<Waiting> waiting_;
};

constexpr size_t kFoldNs = 100;

// As measured, roughly: a SHA-256 takes 45 ns for each 64 bytes.
size_t block_ns(const BlockHasher& hasher) {
  const size_t message_bytes = sizeof(BlockHash) + hasher.block_tokens() * sizeof(uint32_t);
  return hasher.algorithm() == HashAlgorithm::kSha256 ? (message_bytes + 72) / 64 * 45
                                                      : 5 + message_bytes / 16;
}

py::array_t<uint8_t> extend(const BlockHasher& hasher, std::span<const BlockHash> hashes,
                            std::span<const uint32_t> tokens) {
  const size_t num_blocks = hasher.num_blocks(tokens.size());
  py::array_t<uint8_t> result = new_hash_array(hashes.size() + num_blocks);
  const std::span<BlockHash> rows = rows_of(result);
  std::ranges::copy(hashes, rows.begin());
  {
    const LongCall call(num_blocks * block_ns(hasher));
    hasher.hash(hashes.empty() ? hasher.seed() : hashes.back(), tokens,
                rows.subspan(hashes.size()));
  }
  return result;
}

py::array_t<uint8_t> fold(std::span<const std::span<const uint8_t>> engine_hashes,
                          const BlockHash& seed) {
  py::array_t<uint8_t> result = new_hash_array(engine_hashes.size());
  const std::span<BlockHash> rows = rows_of(result);
  {
    const LongCall call(engine_hashes.size() * kFoldNs);
    std::ranges::transform(engine_hashes, rows.begin(), Fold(seed));
  }
  return result;
}

BlockHash seed_argument(std::string_view seed) {
  BlockHash hash;
  if (seed.size() != sizeof(hash)) {
    throw py::value_error("seed must be 16 bytes, got " + std::to_string(seed.size()));
  }
  std::ranges::copy(seed, hash.bytes.begin());
  return hash;
}

BlockHasher new_hasher(size_t block_tokens, std::string_view algorithm, const py::bytes& seed) {
  const std::optional<HashAlgorithm> known = hash_algorithm_named(algorithm);
  if (!known) {
    throw py::value_error("algorithm must be 'sha256' or 'xxh3_128', got '" +
                          std::string(algorithm) + "'");
  }
  return BlockHasher(block_tokens, *known, seed_argument(seed));
}

}  // namespace

void register_hash(py::module_& module) {
  py::class_<BlockHasher>(module, "BlockHasher", py::is_final(),
                          "Chained hashes of packed tokens; kvcore.BlockHasher wraps it.")
      .def(py::init(&new_hasher), py::arg("block_tokens"), py::arg("algorithm"), py::arg("seed"))
      .def(
          "hash",
          [](const BlockHasher& self, py::handle tokens) {
            return extend(self, {}, TokensArgument(tokens).get());
          },
          py::arg("tokens"))
      .def(
          "extend",
          [](const BlockHasher& self, py::handle hashes, py::handle more_tokens) {
            return extend(self, HashesArgument(hashes).get(), TokensArgument(more_tokens).get());
          },
          py::arg("hashes"), py::arg("more_tokens"));

  module.def(
      "fold",
      [](py::handle engine_hashes, const py::bytes& seed) {
        return fold(EngineHashesArgument(engine_hashes).get(), seed_argument(seed));
      },
      py::arg("engine_hashes"), py::arg("seed"));
}

}  // namespace kvcore::bindings
