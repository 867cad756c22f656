#include "store/checksum.h"

#include <cstring>

#include "store/checksum_avx2.h"

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

void add_portably(void* state, const void* bytes, size_t num_bytes) {
  XXH3_128bits_update(static_cast<XXH3_state_t*>(state), bytes, num_bytes);
}

// Small ones are not worth the state.
constexpr size_t kSmallBytes = 4096;

const AddToXxh3 add_to_xxh3 = xxh3_avx2() != nullptr ? xxh3_avx2() : &add_portably;

}  // namespace

struct RunningChecksum::State {
  XXH3_state_t xxh3;
};

RunningChecksum::RunningChecksum() : state_(std::make_unique<State>()) { begin(); }
RunningChecksum::~RunningChecksum() = default;

void RunningChecksum::begin() noexcept { XXH3_128bits_reset(&state_->xxh3); }

void RunningChecksum::add(std::span<const std::byte> bytes) noexcept {
  add_to_xxh3(&state_->xxh3, bytes.data(), bytes.size());
}

Checksum RunningChecksum::value() const noexcept {
  return canonical(XXH3_128bits_digest(&state_->xxh3));
}

Checksum checksum_of(std::span<const std::byte> bytes) noexcept {
  if (bytes.size() <= kSmallBytes) return canonical(XXH3_128bits(bytes.data(), bytes.size()));
  RunningChecksum checksum;
  checksum.add(bytes);
  return checksum.value();
}

}  // namespace kvcore
