#pragma once

#include <cstdint>
#include <span>
#include <vector>

namespace kvcore {

// An engine's paged KV cache, all its layers, reduced to planes (see layout.h). Owns no memory of
// the cache: the engine keeps it as long as anything copies. Immutable.
class PagedLayout {
 public:
  // Planes come layer after layer, equally many a layer. Throws std::invalid_argument naming
  // `layers` when there are no bytes, the layers differ, or two blocks share a byte. O(planes log
  // planes), and O(planes^2) where the planes of several layers lie between each other's blocks.
  PagedLayout(std::vector<uint64_t> plane_bases, uint32_t num_layers, uint32_t num_blocks,
              uint64_t block_stride, uint64_t run_bytes);

  std::span<const uint64_t> plane_bases() const noexcept { return plane_bases_; }
  uint32_t num_planes() const noexcept { return static_cast<uint32_t>(plane_bases_.size()); }
  uint32_t num_layers() const noexcept { return num_layers_; }
  uint32_t planes_a_layer() const noexcept { return num_planes() / num_layers_; }
  uint32_t num_blocks() const noexcept { return num_blocks_; }
  uint64_t block_stride() const noexcept { return block_stride_; }
  uint64_t run_bytes() const noexcept { return run_bytes_; }
  uint64_t block_bytes() const noexcept { return num_planes() * run_bytes_; }
  // From the first byte of a plane to its last.
  uint64_t plane_bytes() const noexcept { return (num_blocks_ - 1) * block_stride_ + run_bytes_; }

 private:
  bool planes_overlap() const;

  std::vector<uint64_t> plane_bases_;
  uint32_t num_layers_;
  uint32_t num_blocks_;
  uint64_t block_stride_;
  uint64_t run_bytes_;
};

}  // namespace kvcore
