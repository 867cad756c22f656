#pragma once

#include <cstdint>
#include <memory>
#include <utility>
#include <vector>

#include "table/span.h"

namespace kvcore {

class PrefixCache;

// Pins a committed prefix, for a request or, by pin(), for as long as it lives; gives it back when
// it dies. Move-only. The block ids stay good until then. Thread safe.
class Lease {
 public:
  Lease(Lease&& other) noexcept = default;
  Lease& operator=(Lease&&) = delete;
  ~Lease() { release(); }

  const std::vector<BlockId>& block_ids() const noexcept { return block_ids_; }

  // Another lease of the same blocks, none when this one was released; no use, and no pin that
  // counts.
  Lease share() const noexcept;

  // Idempotent.
  void release() noexcept;

 private:
  friend class PrefixCache;
  explicit Lease(std::shared_ptr<PrefixCache> cache) : cache_(std::move(cache)) {}

  std::shared_ptr<PrefixCache> cache_;
  SpanId last_ = kRootSpan;  // kRootSpan: nothing is pinned (any more)
  bool counts_ = false;      // it is a pin, whose blocks count towards the bound
  std::vector<BlockId> block_ids_;
};

// What reserve() answers for each block of a chain.
enum class BlockState : uint8_t {
  kNew,       // an id to fill: yours to write and commit
  kPresent,   // committed already
  kInFlight,  // another reservation is writing it
  kBypassed,  // no room
};

// Places for the blocks that a request brings. Move-only; what is not committed when it dies is
// given back. Thread safe.
class Reservation {
 public:
  Reservation(Reservation&& other) noexcept = default;
  Reservation& operator=(Reservation&&) = delete;
  ~Reservation() { abort(); }

  const std::vector<BlockState>& states() const noexcept { return states_; }
  // The new blocks: positions in the chain, and the ids to fill.
  const std::vector<uint32_t>& new_positions() const noexcept { return new_positions_; }
  const std::vector<BlockId>& block_ids() const noexcept { return block_ids_; }
  // What was evicted to make room, descendants first. The ids may be among those to fill.
  const std::vector<BlockHash>& evicted_hashes() const noexcept { return evicted_hashes_; }
  const std::vector<BlockId>& evicted_ids() const noexcept { return evicted_ids_; }

  // Publishes the first `count` new blocks; the rest stays in flight. False, and nothing is done,
  // unless what was committed before <= count <= the new blocks, and it is still open.
  bool commit(size_t count) noexcept;
  // Gives back all that is not committed, and closes it. Idempotent.
  void abort() noexcept;

  size_t num_committed() const noexcept;
  bool is_open() const noexcept;

 private:
  friend class PrefixCache;
  explicit Reservation(std::shared_ptr<PrefixCache> cache) : cache_(std::move(cache)) {}

  // New blocks that follow each other: the span that ends them, and how many they are. Spans in
  // between may be split by others; going up from the last one finds them all.
  struct Piece {
    SpanId last;
    uint32_t blocks;
  };

  std::shared_ptr<PrefixCache> cache_;
  std::vector<BlockState> states_;
  std::vector<uint32_t> new_positions_;
  std::vector<BlockId> block_ids_;
  std::vector<BlockHash> evicted_hashes_;
  std::vector<BlockId> evicted_ids_;
  std::vector<Piece> pieces_;
  size_t committed_ = 0;
  bool open_ = true;
};

}  // namespace kvcore
