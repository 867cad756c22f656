#include "copy/host_copy.h"

#include <algorithm>
#include <array>
#include <cstdlib>
#include <cstring>
#include <span>
#include <stdexcept>
#include <string>

#include "copy/host_paths.h"

namespace kvcore {
namespace {

// A part of a run is cut in as many streams as there are when it has this many bytes for each.
constexpr uint64_t kLeastStreamBytes = 4096;

// Collects pieces of equal length until there are enough to copy side by side.
class Streams {
 public:
  explicit Streams(CopyStreams copy) : copy_(copy) {}
  ~Streams() { flush(); }

  void add(std::byte* to, const std::byte* from, uint64_t bytes) {
    if (count_ > 0 && bytes != bytes_) flush();
    bytes_ = bytes;
    to_[count_] = to;
    from_[count_] = from;
    if (++count_ == kStreams) {
      copy_(to_.data(), from_.data(), bytes_);
      count_ = 0;
    }
  }

 private:
  // Too few: each alone, in quarters.
  void flush() {
    for (uint32_t i = 0; i < count_; ++i) copy_in_quarters(to_[i], from_[i]);
    count_ = 0;
  }
  void copy_in_quarters(std::byte* to, const std::byte* from) {
    uint64_t done = 0;
    if (bytes_ >= kStreams * kLeastStreamBytes) {
      const uint64_t quarter = bytes_ / kStreams / 64 * 64;
      std::array<std::byte*, kStreams> tos;
      std::array<const std::byte*, kStreams> froms;
      for (uint32_t i = 0; i < kStreams; ++i) {
        tos[i] = to + i * quarter;
        froms[i] = from + i * quarter;
      }
      copy_(tos.data(), froms.data(), quarter);
      done = kStreams * quarter;
    }
    std::memcpy(to + done, from + done, bytes_ - done);
  }

  const CopyStreams copy_;
  std::array<std::byte*, kStreams> to_;
  std::array<const std::byte*, kStreams> from_;
  uint64_t bytes_ = 0;
  uint32_t count_ = 0;
};

void copy_portable(std::byte* const* to, const std::byte* const* from, uint64_t bytes) {
  for (uint32_t i = 0; i < kStreams; ++i) std::memcpy(to[i], from[i], bytes);
}

constexpr HostPath kPortable{"portable", &copy_portable, &copy_portable};

const HostPath& choose_path() {
  const std::span<const HostPath> native = native_paths();
  const char* wanted = std::getenv("KVCORE_CPU");
  if (wanted == nullptr || *wanted == '\0') return native.empty() ? kPortable : native.front();
  for (const HostPath& path : native) {
    if (path.name == wanted) return path;
  }
  if (kPortable.name == wanted) return kPortable;
  std::string allowed;
  for (const HostPath& path : native) allowed += std::string(path.name) + ", ";
  throw std::invalid_argument("KVCORE_CPU must be one of " + allowed +
                              "portable on this machine, got " + wanted);
}

}  // namespace

const HostPath& host_path() {
  static const HostPath& path = choose_path();
  return path;
}

void copy_on_host(const HostPath& path, const CopyView& view, Direction direction, uint64_t begin,
                  uint64_t end, bool streamed) {
  Streams streams(streamed ? path.streamed : path.cached);
  uint64_t run_number = begin / view.run_bytes;
  uint64_t offset = begin % view.run_bytes;
  auto block = static_cast<uint32_t>(run_number / view.num_planes);
  auto plane = static_cast<uint32_t>(run_number % view.num_planes);
  for (uint64_t at = begin; at < end; offset = 0) {
    const uint64_t bytes = std::min(view.run_bytes - offset, end - at);
    const Run run = run_of(view, block, plane);
    auto* paged = reinterpret_cast<std::byte*>(run.paged + offset);
    auto* slab = reinterpret_cast<std::byte*>(run.slab + offset);
    if (direction == Direction::kGather) {
      streams.add(slab, paged, bytes);
    } else {
      streams.add(paged, slab, bytes);
    }
    at += bytes;
    if (++plane == view.num_planes) plane = 0, ++block;
  }
}

void convert_on_host(const RunCodec& codec, const CopyView& view, Direction direction,
                     uint64_t begin, uint64_t end) {
  for (uint64_t number = begin; number < end; ++number) {
    const auto block = static_cast<uint32_t>(number / view.num_planes);
    const auto plane = static_cast<uint32_t>(number % view.num_planes);
    auto* paged = reinterpret_cast<std::byte*>(run_of(view, block, plane).paged);
    auto* slab = reinterpret_cast<std::byte*>(
        view.slab + view.slab_blocks[block] * view.slab_stride + plane * codec.slab_bytes());
    if (direction == Direction::kGather) {
      codec.encode(paged, slab);
    } else {
      codec.decode(slab, paged);
    }
  }
}

}  // namespace kvcore
