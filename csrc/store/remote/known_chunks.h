#pragma once

#include <cstdint>
#include <deque>
#include <mutex>
#include <optional>
#include <unordered_map>
#include <utility>

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
    return found->second.chunk;
  }
  void learn(const BlockHash& hash, const KnownChunk& chunk) {
    std::lock_guard lock(mutex_);
    const auto [place, is_new] = chunks_.try_emplace(hash);
    place->second.chunk = chunk;
    if (is_new) order_.emplace_back(hash, place->second.number = next_++);
    while (chunks_.size() > most_ || order_.size() > 2 * most_) {
      const auto oldest = chunks_.find(order_.front().first);
      const bool is_stale =
          oldest == chunks_.end() || oldest->second.number != order_.front().second;
      if (!is_stale) chunks_.erase(oldest);
      order_.pop_front();
    }
  }
  // Forgets it, unless something newer is known than that nonce.
  void forget(const BlockHash& hash, uint64_t nonce) {
    std::lock_guard lock(mutex_);
    const auto found = chunks_.find(hash);
    if (found != chunks_.end() && found->second.chunk.nonce == nonce) chunks_.erase(found);
  }
  size_t size() const {
    std::lock_guard lock(mutex_);
    return chunks_.size();
  }

 private:
  struct Digest {
    size_t operator()(const BlockHash& hash) const noexcept { return hash.low(); }
  };

  struct Entry {
    KnownChunk chunk;
    uint64_t number = 0;  // in the order of learning
  };

  const size_t most_;
  mutable std::mutex mutex_;
  std::unordered_map<BlockHash, Entry, Digest> chunks_;
  // May name what was forgotten since, and perhaps learnt again, under another number.
  std::deque<std::pair<BlockHash, uint64_t>> order_;
  uint64_t next_ = 0;
};

}  // namespace kvcore
