#include "store/envelope.h"

#include <bit>
#include <cstring>

#define XXH_INLINE_ALL
#include "xxhash/xxhash.h"

namespace kvcore {
namespace {

static_assert(std::endian::native == std::endian::little);

constexpr std::array<char, 8> kMagic{'k', 'v', 'c', 'o', 'r', 'e', '\1', '\n'};
constexpr uint32_t kVersion = 1;

using Checksum = std::array<std::byte, 16>;

struct Fields {
  std::array<char, 8> magic = kMagic;
  uint32_t version = kVersion;
  uint32_t envelope_bytes = kEnvelopeBytes;
  Fingerprint fingerprint{};
  BlockHash hash{};
  uint64_t payload_bytes = 0;
  Checksum payload_checksum{};
  std::array<std::byte, 40> zeros{};
  Checksum checksum{};
};
static_assert(sizeof(Fields) == kEnvelopeBytes && offsetof(Fields, checksum) == 112);

Checksum checksum_of(std::span<const std::byte> bytes) noexcept {
  const XXH128_hash_t digest = XXH3_128bits(bytes.data(), bytes.size());
  XXH128_canonical_t canonical;
  XXH128_canonicalFromHash(&canonical, digest);
  Checksum checksum;
  static_assert(sizeof(canonical) == sizeof(checksum));
  std::memcpy(&checksum, &canonical, sizeof(checksum));
  return checksum;
}

Checksum checksum_of(const Fields& fields) noexcept {
  return checksum_of(std::as_bytes(std::span(&fields, 1)).first(offsetof(Fields, checksum)));
}

// False unless the envelope is what seal() made for this namespace and size.
bool read_fields(ConstEnvelopeSpan envelope, const Fingerprint& fingerprint, uint64_t payload_bytes,
                 Fields& fields) noexcept {
  std::memcpy(&fields, envelope.data(), sizeof(fields));
  const Fields expected;
  return fields.magic == expected.magic && fields.version == expected.version &&
         fields.envelope_bytes == expected.envelope_bytes && fields.fingerprint == fingerprint &&
         fields.payload_bytes == payload_bytes && fields.zeros == expected.zeros &&
         fields.checksum == checksum_of(fields);
}

}  // namespace

void seal(EnvelopeSpan envelope, const Fingerprint& fingerprint, const BlockHash& hash,
          std::span<const std::byte> payload) noexcept {
  Fields fields;
  fields.fingerprint = fingerprint;
  fields.hash = hash;
  fields.payload_bytes = payload.size();
  fields.payload_checksum = checksum_of(payload);
  fields.checksum = checksum_of(fields);
  std::memcpy(envelope.data(), &fields, sizeof(fields));
}

bool read_envelope(ConstEnvelopeSpan envelope, const Fingerprint& fingerprint,
                   uint64_t payload_bytes, BlockHash& hash) noexcept {
  Fields fields;
  if (!read_fields(envelope, fingerprint, payload_bytes, fields)) return false;
  hash = fields.hash;
  return true;
}

bool verify(ConstEnvelopeSpan envelope, const Fingerprint& fingerprint, const BlockHash& hash,
            std::span<const std::byte> payload) noexcept {
  Fields fields;
  return read_fields(envelope, fingerprint, payload.size(), fields) && fields.hash == hash &&
         fields.payload_checksum == checksum_of(payload);
}

}  // namespace kvcore
