#include "store/checksum.h"

#include <cstring>

#define XXH_INLINE_ALL
#include "xxhash/xxhash.h"

namespace kvcore {
namespace {

Checksum canonical(XXH128_hash_t digest) noexcept {
  XXH128_canonical_t bytes;
  XXH128_canonicalFromHash(&bytes, digest);
  Checksum checksum;
  static_assert(sizeof(bytes) == sizeof(checksum));
  std::memcpy(&checksum, &bytes, sizeof(checksum));
  return checksum;
}

}  // namespace

struct RunningChecksum::State {
  XXH3_state_t xxh3;
};

RunningChecksum::RunningChecksum() : state_(std::make_unique<State>()) { begin(); }
RunningChecksum::~RunningChecksum() = default;

void RunningChecksum::begin() noexcept { XXH3_128bits_reset(&state_->xxh3); }

void RunningChecksum::add(std::span<const std::byte> bytes) noexcept {
  XXH3_128bits_update(&state_->xxh3, bytes.data(), bytes.size());
}

Checksum RunningChecksum::value() const noexcept {
  return canonical(XXH3_128bits_digest(&state_->xxh3));
}

Checksum checksum_of(std::span<const std::byte> bytes) noexcept {
  return canonical(XXH3_128bits(bytes.data(), bytes.size()));
}

}  // namespace kvcore
