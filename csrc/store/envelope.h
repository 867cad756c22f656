#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>

#include "common/types.h"
#include "store/checksum.h"

namespace kvcore {

// Which namespace a value is of; see kvcore.Namespace.fingerprint.
using Fingerprint = std::array<uint8_t, 16>;

// What stands in front of a value wherever it leaves the process, so that whoever reads it back can
// tell that it is whole and is what he asked for. Little-endian:
//
//   0    8  magic                "kvcore\1\n"
//   8    4  version              1
//   12   4  bytes of the envelope
//   16  16  fingerprint of the namespace
//   32  16  hash of the block
//   48   8  bytes of the payload
//   56  16  XXH3-128 of the payload
//   72   4  blocks that the payload has
//   76   4  zeros
//   80   8  nonce of the value that this speaks of; see remote/names.h
//   88  24  zeros
//   112 16  XXH3-128 of bytes 0 to 112
//
// Against accidents, not against attackers: who can write the store can seal what he likes.
inline constexpr size_t kEnvelopeBytes = 128;
using EnvelopeSpan = std::span<std::byte, kEnvelopeBytes>;
using ConstEnvelopeSpan = std::span<const std::byte, kEnvelopeBytes>;

// What an envelope says.
struct EnvelopeNote {
  BlockHash hash{};  // of the last block
  uint64_t payload_bytes = 0;
  Checksum payload_checksum{};
  uint32_t num_blocks = 1;
  uint64_t nonce = 0;
};

void write_envelope(EnvelopeSpan envelope, const Fingerprint& fingerprint,
                    const EnvelopeNote& note) noexcept;
// None unless the envelope is whole and of this namespace.
std::optional<EnvelopeNote> read_envelope(ConstEnvelopeSpan envelope,
                                          const Fingerprint& fingerprint) noexcept;

// Of one block, in front of its bytes.
void seal(EnvelopeSpan envelope, const Fingerprint& fingerprint, const BlockHash& hash,
          std::span<const std::byte> payload) noexcept;

// Whether an envelope is whole and names a value of this namespace and size; whose, goes to `hash`.
bool read_envelope(ConstEnvelopeSpan envelope, const Fingerprint& fingerprint,
                   uint64_t payload_bytes, BlockHash& hash) noexcept;

// Whether an envelope is that of this value, byte for byte.
bool verify(ConstEnvelopeSpan envelope, const Fingerprint& fingerprint, const BlockHash& hash,
            std::span<const std::byte> payload) noexcept;

}  // namespace kvcore
