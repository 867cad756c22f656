#include <array>
#include <string>
#include <string_view>

#include "common/check.h"
#include "input.h"
#include "store/checksum.h"
#include "store/envelope.h"
#include "store/remote/names.h"
#include "store/remote/remote_context.h"
#include "store/remote/wire.h"
#include "targets.h"

namespace kvcore {
namespace {

using Envelope = std::array<std::byte, kEnvelopeBytes>;
constexpr size_t kChecksumAt = 112;
// Where an envelope says what is the same in all of a namespace: magic, version, size, namespace.
constexpr size_t kSameBytes = 32;

bool is_same(const EnvelopeNote& one, const EnvelopeNote& other) {
  return one.hash == other.hash && one.payload_bytes == other.payload_bytes &&
         one.payload_checksum == other.payload_checksum && one.num_blocks == other.num_blocks &&
         one.nonce == other.nonce;
}

// What can be read says all that there is: written again, it is the same bytes.
void check_read(const Envelope& envelope, const Fingerprint& fingerprint) {
  const auto note = read_envelope(ConstEnvelopeSpan(envelope), fingerprint);
  if (!note) return;
  Envelope again;
  write_envelope(again, fingerprint, *note);
  KV_CHECK(again == envelope);
}

void check_round_trip(const EnvelopeNote& note, const Fingerprint& fingerprint, Input& in) {
  Envelope envelope;
  write_envelope(envelope, fingerprint, note);
  const auto read = read_envelope(ConstEnvelopeSpan(envelope), fingerprint);
  KV_CHECK(read && is_same(*read, note));
  BlockHash hash;
  const bool is_block =
      read_envelope(ConstEnvelopeSpan(envelope), fingerprint, note.payload_bytes, hash);
  KV_CHECK(is_block == (note.num_blocks == 1) && (!is_block || hash == note.hash));
  Fingerprint other = fingerprint;
  other[in.byte() % other.size()] ^= static_cast<uint8_t>(1 + in.byte() % 255);
  KV_CHECK(!read_envelope(ConstEnvelopeSpan(envelope), other));

  // No bit may turn.
  const size_t bit = in.number<uint16_t>() % (8 * kEnvelopeBytes);
  envelope[bit / 8] ^= std::byte(1 << bit % 8);
  KV_CHECK(!read_envelope(ConstEnvelopeSpan(envelope), fingerprint));
  // Whoever seals again what he changed is believed, where it is of this namespace and version.
  const Checksum checksum = checksum_of(std::span(envelope).first(kChecksumAt));
  std::ranges::copy(checksum, envelope.begin() + kChecksumAt);
  const bool is_read = read_envelope(ConstEnvelopeSpan(envelope), fingerprint).has_value();
  if (bit / 8 < kSameBytes) KV_CHECK(!is_read);
  if (bit / 8 >= kSameBytes && bit / 8 < 76) KV_CHECK(is_read);
  check_read(envelope, fingerprint);
}

void check_seal(const BlockHash& hash, const Fingerprint& fingerprint, Input& in) {
  std::string payload = in.text(in.byte());
  Envelope envelope;
  seal(envelope, fingerprint, hash, std::as_bytes(std::span(payload)));
  KV_CHECK(
      verify(ConstEnvelopeSpan(envelope), fingerprint, hash, std::as_bytes(std::span(payload))));
  BlockHash other = hash;
  other.bytes[in.byte() % other.bytes.size()] ^= 1;
  KV_CHECK(
      !verify(ConstEnvelopeSpan(envelope), fingerprint, other, std::as_bytes(std::span(payload))));
  if (!payload.empty()) {
    payload[in.byte() % payload.size()] ^= 1;
    KV_CHECK(
        !verify(ConstEnvelopeSpan(envelope), fingerprint, hash, std::as_bytes(std::span(payload))));
  }
}

// Whether a record is one that this store could have written, of any numbers.
void check_record(const EnvelopeNote& note, Input& in) {
  RemoteOptions options;
  options.chunk_blocks = 1u << in.byte() % 11;
  options.block_bytes = 1 + in.byte() % 64;  // the context has memory for a chunk
  options.most_known = 1;
  const RemoteContext context(options, nullptr);
  bool is_one = false;
  for (uint32_t blocks = 1; blocks <= options.chunk_blocks; blocks *= 2) {
    is_one |= note.num_blocks == blocks && note.payload_bytes == blocks * options.block_bytes;
  }
  KV_CHECK(context.is_chunk(note, note.hash) == is_one);
  EnvelopeNote fitting = note;
  fitting.num_blocks = 1u << in.byte() % 32;
  fitting.payload_bytes = fitting.num_blocks * options.block_bytes;
  KV_CHECK(context.is_chunk(fitting, note.hash) == (fitting.num_blocks <= options.chunk_blocks));
  BlockHash other = note.hash;
  other.bytes[in.byte() % other.bytes.size()] ^= 1;
  KV_CHECK(!context.is_chunk(fitting, other));
}

template <typename Bytes>
void check_hex(std::string_view hex, const Bytes& bytes) {
  KV_CHECK(hex.size() == 2 * bytes.size());
  for (size_t i = 0; i < bytes.size(); ++i) {
    KV_CHECK(std::stoul(std::string(hex.substr(2 * i, 2)), nullptr, 16) == bytes[i]);
  }
}

// Names tell all that they are made of, and a server can take them.
void check_names(const EnvelopeNote& note, const Fingerprint& scope) {
  const std::string record = names::record_key(scope, note.hash);
  const std::string value = names::value_key(scope, note.hash, note.nonce);
  KV_CHECK(record.size() == 65 && value.size() == 82 && value.starts_with(record + "/"));
  KV_CHECK(wire::is_key(record) && wire::is_key(value));
  check_hex(std::string_view(record).substr(0, 32), scope);
  KV_CHECK(record[32] == '/');
  check_hex(std::string_view(record).substr(33), note.hash.bytes);
  std::array<uint8_t, 8> nonce;
  std::memcpy(nonce.data(), &note.nonce, nonce.size());
  check_hex(std::string_view(value).substr(66), nonce);
}

}  // namespace

void fuzz_envelope(std::span<const uint8_t> bytes) {
  Input in(bytes);
  Fingerprint fingerprint;
  in.take(fingerprint.data(), fingerprint.size());
  Envelope envelope{};
  Input raw = in;
  raw.take(envelope.data(), envelope.size());
  check_read(envelope, fingerprint);

  EnvelopeNote note;
  in.take(note.hash.bytes.data(), note.hash.bytes.size());
  in.take(note.payload_checksum.data(), note.payload_checksum.size());
  note.payload_bytes = in.number<uint64_t>();
  note.num_blocks = in.number<uint32_t>();
  note.nonce = in.number<uint64_t>();
  check_round_trip(note, fingerprint, in);
  check_record(note, in);
  check_names(note, fingerprint);
  check_seal(note.hash, fingerprint, in);
}

}  // namespace kvcore
