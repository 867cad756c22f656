#pragma once

#include <memory>
#include <span>
#include <string_view>
#include <vector>

#include "evict/policy.h"
#include "table/block_table.h"

namespace kvcore {

// What a prefix cache of a policy and a size would find, without blocks: one request after the
// other, each from its start to its end. Owns its table and its policy. A request costs what it
// does in a PrefixCache, less the ids, leases and reservations. Not thread safe.
class ShadowCache {
 public:
  // `policy` is a name that make_policy knows.
  ShadowCache(std::string_view policy, uint32_t num_blocks);

  // Serves a request; answers how many of the chain's blocks it found.
  uint32_t serve(std::span<const BlockHash> chain, const Use& use) noexcept;
  void finish(const Use& use, uint64_t output_tokens) noexcept {
    policy_->finish(use, output_tokens);
  }

  // Holds so many, at most what it was made for, from the next miss on.
  void resize(uint32_t num_blocks) noexcept { num_blocks_ = num_blocks; }

  uint32_t num_blocks() const noexcept { return num_blocks_; }
  uint32_t used_blocks() const noexcept { return used_; }
  size_t bytes() const noexcept { return table_.bytes() + policy_->bytes(); }
  void check_invariants() const;

 private:
  uint32_t walk(std::span<const BlockHash> chain) noexcept;
  uint32_t make_room(uint32_t wanted) noexcept;
  void remove(SpanId id) noexcept;

  uint32_t num_blocks_;
  BlockTable table_;
  std::unique_ptr<EvictionPolicy> policy_;
  std::vector<SpanId> path_;  // of the request at hand
  uint32_t used_ = 0;         // blocks
};

}  // namespace kvcore
