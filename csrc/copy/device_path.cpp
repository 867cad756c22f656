#include "copy/device_path.h"

#include <algorithm>
#include <array>
#include <bit>
#include <utility>

#include "copy/copy_body.h"

namespace kvcore {
namespace {

constexpr std::array<std::pair<DevicePath, std::string_view>, 4> kNames{{
    {DevicePath::kLoadStore, "load_store"},
    {DevicePath::kBulk, "bulk"},
    {DevicePath::kBatch, "batch"},
    {DevicePath::kStaged, "staged"},
}};

}  // namespace

std::optional<DevicePath> parse_device_path(std::string_view name) noexcept {
  for (const auto& [path, its_name] : kNames) {
    if (its_name == name) return path;
  }
  return std::nullopt;
}

std::string_view name_of(DevicePath path) noexcept {
  return kNames[static_cast<size_t>(path)].second;
}

bool is_possible(DevicePath path, const CopyTraits& traits) noexcept {
  switch (path) {
    case DevicePath::kLoadStore:
      return true;
    case DevicePath::kBulk:
      return traits.has_bulk && traits.word_bytes >= kBulkAlignment;
    case DevicePath::kBatch:
      return true;
    case DevicePath::kStaged:
      return traits.host_slab;
  }
  return false;
}

DevicePath choose_path(const CopyTraits& traits) noexcept {
  if (!traits.host_slab) return DevicePath::kLoadStore;
  if (traits.run_bytes >= kThresholds.batch_run_bytes) return DevicePath::kBatch;
  if (traits.bytes > kThresholds.zero_copy_bytes) return DevicePath::kStaged;
  return is_possible(DevicePath::kBulk, traits) ? DevicePath::kBulk : DevicePath::kLoadStore;
}

uint32_t word_bytes_of(const CopyView& view) noexcept {
  uint64_t bits = view.slab | view.slab_stride | view.paged_stride | view.run_bytes;
  for (uint32_t plane = 0; plane < view.num_planes; ++plane) bits |= view.plane_bases[plane];
  const int zeros = std::countr_zero(bits);
  return zeros >= 4 ? 16 : zeros >= 2 ? 4 : 1;
}

Pieces pieces_of(const CopyView& view) {
  Pieces pieces;
  pieces.first_of_plane.reserve(size_t{view.num_planes} + 1);
  pieces.all.reserve(size_t{view.num_planes} * view.num_blocks);
  for (uint32_t plane = 0; plane < view.num_planes; ++plane) {
    pieces.first_of_plane.push_back(pieces.all.size());
    for (uint32_t i = 0; i < view.num_blocks; ++i) {
      const Run run = run_of(view, i, plane);
      if (i > 0) {
        Piece& last = pieces.all.back();
        if (last.paged + last.bytes == run.paged && last.slab + last.bytes == run.slab) {
          last.bytes += view.run_bytes;
          continue;
        }
      }
      pieces.all.push_back({run.paged, run.slab, view.run_bytes});
    }
  }
  pieces.first_of_plane.push_back(pieces.all.size());
  return pieces;
}

std::vector<Chunk> chunks_of(uint32_t num_planes, uint32_t num_blocks, uint64_t run_bytes,
                             uint64_t first_bytes, uint64_t chunk_bytes) {
  std::vector<Chunk> chunks;
  auto runs_that_fit = [&] {
    return std::max<uint64_t>(1, (chunks.empty() ? first_bytes : chunk_bytes) / run_bytes);
  };
  uint32_t block = 0, plane = 0;
  while (block < num_blocks) {
    const uint64_t runs = runs_that_fit();
    if (plane == 0 && runs >= num_planes) {
      const auto blocks =
          static_cast<uint32_t>(std::min<uint64_t>(runs / num_planes, num_blocks - block));
      chunks.push_back({0, num_planes, block, blocks});
      block += blocks;
    } else {
      const auto planes = static_cast<uint32_t>(std::min<uint64_t>(runs, num_planes - plane));
      chunks.push_back({plane, planes, block, 1});
      plane += planes;
      if (plane == num_planes) ++block, plane = 0;
    }
  }
  return chunks;
}

}  // namespace kvcore
