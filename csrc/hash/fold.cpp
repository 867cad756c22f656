#include "hash/fold.h"

#define OPENSSL_SUPPRESS_DEPRECATED  // EVP allocates
#include <openssl/sha.h>

#include <cstring>
#include <string_view>

namespace kvcore {
namespace {

constexpr std::string_view kFoldLabel = "kvcore.fold.v1";

template <typename First, typename Second>
BlockHash digest(const First& first, const Second& second) noexcept {
  SHA256_CTX context;
  SHA256_Init(&context);
  SHA256_Update(&context, first.data(), first.size());
  SHA256_Update(&context, second.data(), second.size());
  uint8_t bytes[SHA256_DIGEST_LENGTH];
  SHA256_Final(bytes, &context);
  BlockHash hash;
  std::memcpy(&hash, bytes, sizeof(hash));
  return hash;
}

}  // namespace

Fold::Fold(const BlockHash& namespace_seed) noexcept
    : seed_(digest(kFoldLabel, namespace_seed.bytes)) {}

BlockHash Fold::operator()(std::span<const uint8_t> engine_hash) const noexcept {
  return digest(seed_.bytes, engine_hash);
}

}  // namespace kvcore
