#include "hash/block_hasher.h"

#define OPENSSL_SUPPRESS_DEPRECATED  // EVP allocates, and costs more than the digest of a block
#include <openssl/sha.h>

#define XXH_INLINE_ALL
#include <bit>
#include <cstring>
#include <stdexcept>
#include <string>

#include "xxhash/xxhash.h"

namespace kvcore {
namespace {

constexpr size_t kParentBytes = sizeof(BlockHash);

// A message up to this long is put together on the stack and digested in one piece, which is
// faster than in pieces up to about here.
constexpr size_t kBufferedTokenBytes = 1024 * sizeof(uint32_t);

// Digests of one fixed message length. The padding is made once, so that each digest is an update
// by whole 64-byte blocks; SHA256_Final, which pads, would cost as much as a third of a block.
class Sha256Digest {
 public:
  explicit Sha256Digest(size_t token_bytes) noexcept : token_bytes_(token_bytes) {
    SHA256_Init(&context_);
    std::memcpy(initial_, context_.h, sizeof(initial_));

    const size_t bytes = kParentBytes + token_bytes;
    padding_bytes_ = 64 - (bytes + 8) % 64 + 8;
    padding_[0] = 0x80;
    for (size_t i = 0; i < 8; ++i) {
      padding_[padding_bytes_ - 1 - i] = static_cast<uint8_t>(uint64_t{bytes} * 8 >> 8 * i);
    }
    if (is_buffered()) std::memcpy(message_ + bytes, padding_, padding_bytes_);
  }

  BlockHash operator()(const BlockHash& parent, const uint32_t* tokens) noexcept {
    std::memcpy(context_.h, initial_, sizeof(initial_));
    if (is_buffered()) {
      std::memcpy(message_, &parent, kParentBytes);
      std::memcpy(message_ + kParentBytes, tokens, token_bytes_);
      SHA256_Update(&context_, message_, kParentBytes + token_bytes_ + padding_bytes_);
    } else {
      SHA256_Update(&context_, &parent, kParentBytes);
      SHA256_Update(&context_, tokens, token_bytes_);
      SHA256_Update(&context_, padding_, padding_bytes_);
    }
    return digest();
  }

 private:
  bool is_buffered() const noexcept { return token_bytes_ <= kBufferedTokenBytes; }

  BlockHash digest() const noexcept {
    BlockHash hash;
    for (size_t i = 0; i < sizeof(hash) / 4; ++i) {
      const uint32_t word = __builtin_bswap32(context_.h[i]);
      std::memcpy(hash.bytes.data() + 4 * i, &word, 4);
    }
    return hash;
  }

  size_t token_bytes_;
  size_t padding_bytes_;
  SHA256_CTX context_;
  uint32_t initial_[8];
  uint8_t padding_[72] = {};
  alignas(64) uint8_t message_[kParentBytes + kBufferedTokenBytes + sizeof(padding_)];
};

// kTokenBytes known to the compiler takes a third off the time of a short block.
template <size_t kTokenBytes = std::dynamic_extent>
class Xxh3Digest {
 public:
  explicit Xxh3Digest(size_t token_bytes) noexcept : token_bytes_(token_bytes) {}

  BlockHash operator()(const BlockHash& parent, const uint32_t* tokens) noexcept {
    const size_t token_bytes = kTokenBytes == std::dynamic_extent ? token_bytes_ : kTokenBytes;
    if (token_bytes <= kBufferedTokenBytes) {
      std::memcpy(message_, &parent, kParentBytes);
      std::memcpy(message_ + kParentBytes, tokens, token_bytes);
      return canonical(XXH3_128bits(message_, kParentBytes + token_bytes));
    }
    XXH3_state_t state;
    XXH3_128bits_reset(&state);
    XXH3_128bits_update(&state, &parent, kParentBytes);
    XXH3_128bits_update(&state, tokens, token_bytes);
    return canonical(XXH3_128bits_digest(&state));
  }

 private:
  static BlockHash canonical(XXH128_hash_t value) noexcept {
    XXH128_canonical_t digest;
    XXH128_canonicalFromHash(&digest, value);
    return std::bit_cast<BlockHash>(digest);
  }

  size_t token_bytes_;
  alignas(64) uint8_t message_[kParentBytes + kBufferedTokenBytes];
};

template <typename Digest>
void hash_chain(Digest&& digest, BlockHash parent, const uint32_t* tokens, size_t block_tokens,
                std::span<BlockHash> hashes) noexcept {
  for (BlockHash& hash : hashes) {
    hash = parent = digest(parent, tokens);
    tokens += block_tokens;
  }
}

}  // namespace

std::optional<HashAlgorithm> hash_algorithm_named(std::string_view name) noexcept {
  if (name == "sha256") return HashAlgorithm::kSha256;
  if (name == "xxh3_128") return HashAlgorithm::kXxh3_128;
  return std::nullopt;
}

BlockHasher::BlockHasher(size_t block_tokens, HashAlgorithm algorithm, const BlockHash& seed)
    : block_tokens_(block_tokens), algorithm_(algorithm), seed_(seed) {
  if (block_tokens < 1 || block_tokens > kMaxBlockTokens) {
    throw std::invalid_argument("block_tokens must be in 1.." + std::to_string(kMaxBlockTokens) +
                                ", got " + std::to_string(block_tokens));
  }
}

void BlockHasher::hash(const BlockHash& parent, std::span<const uint32_t> tokens,
                       std::span<BlockHash> hashes) const noexcept {
  constexpr size_t kUsualTokenBytes = 16 * sizeof(uint32_t);
  const size_t token_bytes = block_tokens_ * sizeof(uint32_t);
  const auto chain = [&](auto&& digest) {
    hash_chain(digest, parent, tokens.data(), block_tokens_, hashes);
  };
  if (algorithm_ == HashAlgorithm::kSha256) {
    chain(Sha256Digest(token_bytes));
  } else if (token_bytes == kUsualTokenBytes) {
    chain(Xxh3Digest<kUsualTokenBytes>(token_bytes));
  } else {
    chain(Xxh3Digest<>(token_bytes));
  }
}

}  // namespace kvcore
