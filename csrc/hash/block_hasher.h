#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>
#include <string_view>

#include "common/types.h"

namespace kvcore {

enum class HashAlgorithm : uint8_t {
  kSha256,    // truncated to 128 bits; no tenant can find another's blocks by a collision
  kXxh3_128,  // ten times faster, not collision resistant: for a trusted single tenant
};

std::optional<HashAlgorithm> hash_algorithm_named(std::string_view name) noexcept;

// Names token blocks: the message of a block is the hash of the block before it (for the first,
// the namespace's seed), then its tokens as little-endian uint32; its hash is the message's
// digest. So a hash names all tokens from the start of the chain, and every machine, process and
// rank computes the same one. Owns nothing but its parameters.
//
// Thread safety: immutable. Invariants: 1 <= block_tokens <= kMaxBlockTokens.
// Complexity: one digest of 16 + 4 * block_tokens bytes a block, nothing allocated. One chain is
// sequential: SHA-256 runs at the latency of its rounds.
// Source: vLLM's chained block hashes (kv_cache_utils.hash_block_tokens); SHA-256 is FIPS 180-4,
// computed by OpenSSL; XXH3 is Y. Collet's xxHash, with the canonical (big-endian) digest.
class BlockHasher {
 public:
  static constexpr size_t kMaxBlockTokens = 65536;

  // Throws std::invalid_argument unless block_tokens is in range.
  BlockHasher(size_t block_tokens, HashAlgorithm algorithm, const BlockHash& seed);

  size_t block_tokens() const noexcept { return block_tokens_; }
  HashAlgorithm algorithm() const noexcept { return algorithm_; }
  const BlockHash& seed() const noexcept { return seed_; }

  // The number of whole blocks; a partial last block has no hash.
  size_t num_blocks(size_t num_tokens) const noexcept { return num_tokens / block_tokens_; }

  // Writes the hashes of the first hashes.size() blocks of `tokens`, which must hold them. The
  // first block follows the one named `parent`, or starts a chain when that is seed().
  void hash(const BlockHash& parent, std::span<const uint32_t> tokens,
            std::span<BlockHash> hashes) const noexcept;

 private:
  size_t block_tokens_;
  HashAlgorithm algorithm_;
  BlockHash seed_;
};

}  // namespace kvcore
