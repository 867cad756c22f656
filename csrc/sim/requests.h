#pragma once

#include <cstddef>
#include <cstdint>
#include <span>

namespace kvcore {

// The requests of a trace, one after the other, each a chain of block ids from its root. Ids are
// dense, and one id stands for one prefix: it has the same block before it wherever it occurs, so
// no request holds it twice.
//
// Borrows both arrays; immutable, so safe to share between threads.
class Requests {
 public:
  // Request i has block_ids[offsets[i] .. offsets[i + 1]). Throws std::invalid_argument that names
  // the argument, the value and what is allowed. One pass.
  Requests(std::span<const uint32_t> block_ids, std::span<const int64_t> offsets);

  uint32_t size() const noexcept { return static_cast<uint32_t>(offsets_.size() - 1); }
  size_t num_blocks() const noexcept { return block_ids_.size(); }
  uint32_t num_unique_blocks() const noexcept { return num_unique_blocks_; }

  std::span<const uint32_t> operator[](uint32_t request) const noexcept {
    const auto begin = static_cast<size_t>(offsets_[request]);
    return block_ids_.subspan(begin, static_cast<size_t>(offsets_[request + 1]) - begin);
  }

 private:
  std::span<const uint32_t> block_ids_;
  std::span<const int64_t> offsets_;
  uint32_t num_unique_blocks_ = 0;
};

}  // namespace kvcore
