#pragma once

#include <cstdint>
#include <span>

#include "common/types.h"

namespace kvcore {

// Turns an engine's own block hashes, of any length, into ours: SHA-256 of a fold seed and the
// engine's bytes, truncated to 128 bits. The fold seed is itself a digest of the namespace's seed,
// so a folded hash and the hash of a token block never come from the same message, and one
// engine's hashes never mix between namespaces. Folding adds no chain: what an engine's hash names
// (a block alone, or all of a prefix) its fold names too.
//
// Thread safety: immutable. Complexity: one digest of 16 + engine_hash.size() bytes, nothing
// allocated.
class Fold {
 public:
  explicit Fold(const BlockHash& namespace_seed) noexcept;

  BlockHash operator()(std::span<const uint8_t> engine_hash) const noexcept;

 private:
  BlockHash seed_;
};

}  // namespace kvcore
