#pragma once

#include <cstdint>
#include <deque>
#include <mutex>
#include <optional>
#include <unordered_map>

#include "common/types.h"
#include "store/checksum.h"
#include "store/remote/transport.h"

namespace kvcore {

// What a record says, on which server, and when it was read or written. The nonce is that of this
// server's copy alone: a copy that another server is only being sent would end it when it is read.
struct KnownChunk {
  ServerId server{};
  uint64_t nonce = 0;
  Checksum checksum{};
  uint32_t num_blocks = 1;
  Clock::time_point learnt{};
};

// The chunks that a process knows of, by the hash of their last block; what was learnt first is
// forgotten first. A promise of nothing: servers forget as well. Thread safe; a leaf.
class KnownChunks {
 public:
  explicit KnownChunks(size_t most) : most_(most) {}

  std::optional<KnownChunk> find(const BlockHash& hash) const {
    std::lock_guard lock(mutex_);
    const auto found = chunks_.find(hash);
    if (found == chunks_.end()) return std::nullopt;
    return found->second;
  }
  void learn(const BlockHash& hash, const KnownChunk& chunk) {
    std::lock_guard lock(mutex_);
    if (chunks_.insert_or_assign(hash, chunk).second) order_.push_back(hash);
    while (order_.size() > most_) {
      chunks_.erase(order_.front());
      order_.pop_front();
    }
  }
  // Forgets it, unless something newer is known than that nonce.
  void forget(const BlockHash& hash, uint64_t nonce) {
    std::lock_guard lock(mutex_);
    const auto found = chunks_.find(hash);
    if (found != chunks_.end() && found->second.nonce == nonce) chunks_.erase(found);
  }
  size_t size() const {
    std::lock_guard lock(mutex_);
    return chunks_.size();
  }

 private:
  struct Digest {
    size_t operator()(const BlockHash& hash) const noexcept { return hash.low(); }
  };

  const size_t most_;
  mutable std::mutex mutex_;
  std::unordered_map<BlockHash, KnownChunk, Digest> chunks_;
  std::deque<BlockHash> order_;  // may name what was forgotten since
};

}  // namespace kvcore
