#pragma once

#include <algorithm>
#include <functional>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "bindings/arguments.h"
#include "store/store.h"

namespace kvcore::bindings {

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

// Where the blocks of a slab are, one for each key.
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

}  // namespace kvcore::bindings
