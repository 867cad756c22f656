#include "store/envelope.h"

#include <bit>
#include <cstring>

#include "store/checksum.h"

namespace kvcore {
namespace {

static_assert(std::endian::native == std::endian::little);

constexpr std::array<char, 8> kMagic{'k', 'v', 'c', 'o', 'r', 'e', '\1', '\n'};
constexpr uint32_t kVersion = 1;

struct Fields {
  std::array<char, 8> magic = kMagic;
  uint32_t version = kVersion;
  uint32_t envelope_bytes = kEnvelopeBytes;
  Fingerprint fingerprint{};
  BlockHash hash{};
  uint64_t payload_bytes = 0;
  Checksum payload_checksum{};
  uint32_t num_blocks = 1;
  std::array<std::byte, 4> zeros{};
  uint64_t nonce = 0;
  std::array<std::byte, 24> more_zeros{};
  Checksum checksum{};
};
static_assert(sizeof(Fields) == kEnvelopeBytes && offsetof(Fields, checksum) == 112);

Checksum checksum_of_fields(const Fields& fields) noexcept {
  return checksum_of(std::as_bytes(std::span(&fields, 1)).first(offsetof(Fields, checksum)));
}

}  // namespace

void write_envelope(EnvelopeSpan envelope, const Fingerprint& fingerprint,
                    const EnvelopeNote& note) noexcept {
  Fields fields;
  fields.fingerprint = fingerprint;
  fields.hash = note.hash;
  fields.payload_bytes = note.payload_bytes;
  fields.payload_checksum = note.payload_checksum;
  fields.num_blocks = note.num_blocks;
  fields.nonce = note.nonce;
  fields.checksum = checksum_of_fields(fields);
  std::memcpy(envelope.data(), &fields, sizeof(fields));
}

std::optional<EnvelopeNote> read_envelope(ConstEnvelopeSpan envelope,
                                          const Fingerprint& fingerprint) noexcept {
  Fields fields;
  std::memcpy(&fields, envelope.data(), sizeof(fields));
  const Fields expected;
  const bool is_whole =
      fields.magic == expected.magic && fields.version == expected.version &&
      fields.envelope_bytes == expected.envelope_bytes && fields.fingerprint == fingerprint &&
      fields.zeros == expected.zeros && fields.more_zeros == expected.more_zeros &&
      fields.checksum == checksum_of_fields(fields);
  if (!is_whole) return std::nullopt;
  return EnvelopeNote{.hash = fields.hash,
                      .payload_bytes = fields.payload_bytes,
                      .payload_checksum = fields.payload_checksum,
                      .num_blocks = fields.num_blocks,
                      .nonce = fields.nonce};
}

void seal(EnvelopeSpan envelope, const Fingerprint& fingerprint, const BlockHash& hash,
          std::span<const std::byte> payload) noexcept {
  write_envelope(envelope, fingerprint,
                 {.hash = hash,
                  .payload_bytes = payload.size(),
                  .payload_checksum = checksum_of(payload)});
}

bool read_envelope(ConstEnvelopeSpan envelope, const Fingerprint& fingerprint,
                   uint64_t payload_bytes, BlockHash& hash) noexcept {
  const auto note = read_envelope(envelope, fingerprint);
  if (!note || note->payload_bytes != payload_bytes || note->num_blocks != 1) return false;
  hash = note->hash;
  return true;
}

bool verify(ConstEnvelopeSpan envelope, const Fingerprint& fingerprint, const BlockHash& hash,
            std::span<const std::byte> payload) noexcept {
  const auto note = read_envelope(envelope, fingerprint);
  return note && note->hash == hash && note->num_blocks == 1 &&
         note->payload_bytes == payload.size() && note->payload_checksum == checksum_of(payload);
}

}  // namespace kvcore
