#pragma once

#include <array>
#include <cstdint>
#include <string>

#include "common/types.h"
#include "store/envelope.h"

// How a chunk is named in a store that others write to as well. Its bytes lie under a name that no
// other writer has, `<scope>/<hash>/<nonce>` (or several: value_parts.h); when they are there, a
// record of 128 bytes is put at
// `<scope>/<hash>`, an envelope that tells the nonce, the size and the checksum. Whoever reads asks
// for the record first.
namespace kvcore::names {

namespace detail {
template <typename Bytes>
void append_hex(std::string& out, const Bytes& bytes) {
  constexpr const char* kDigits = "0123456789abcdef";
  for (uint8_t byte : bytes) {
    out.push_back(kDigits[byte >> 4]);
    out.push_back(kDigits[byte & 15]);
  }
}
}  // namespace detail

// 65 characters.
inline std::string record_key(const Fingerprint& scope, const BlockHash& hash) {
  std::string key;
  key.reserve(82);
  detail::append_hex(key, scope);
  key.push_back('/');
  detail::append_hex(key, hash.bytes);
  return key;
}

// 82 characters.
inline std::string value_key(const Fingerprint& scope, const BlockHash& hash, uint64_t nonce) {
  std::string key = record_key(scope, hash);
  key.push_back('/');
  std::array<uint8_t, 8> bytes;
  for (size_t i = 0; i < bytes.size(); ++i) bytes[i] = static_cast<uint8_t>(nonce >> (8 * i));
  detail::append_hex(key, bytes);
  return key;
}

}  // namespace kvcore::names
