#pragma once

#include <chrono>
#include <concepts>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>

#include "common/types.h"
#include "store/batch.h"

namespace kvcore {

// What a call is about: blocks of one chain, in its order, and where in it they are; or, without
// positions, blocks of no chain. Borrows both.
struct Keys {
  Keys(std::span<const BlockHash> hashes_, std::span<const uint32_t> positions_)
      : hashes(hashes_), positions(positions_) {}
  template <std::convertible_to<std::span<const BlockHash>> Hashes>
  Keys(const Hashes& hashes_) : hashes(hashes_) {}

  size_t size() const noexcept { return hashes.size(); }
  const BlockHash& operator[](size_t key) const { return hashes[key]; }

  std::span<const BlockHash> hashes;
  std::span<const uint32_t> positions;  // none, or as many as hashes and rising
};

struct StoreStats {
  uint64_t num_values = 0;
  uint64_t used_bytes = 0;
  uint64_t max_bytes = 0;
  uint64_t evictions = 0;
  // Keys that were asked for, and what became of them; cancelled ones are in none of these.
  uint64_t gets = 0;
  uint64_t hits = 0;
  uint64_t misses = 0;
  uint64_t corrupt = 0;    // found on the way, also where it was too late for the caller
  uint64_t timed_out = 0;  // gets and puts
  uint64_t failed = 0;     // gets and puts
  uint64_t puts = 0;
  uint64_t written = 0;  // of the puts: they were not there before
  uint64_t read_bytes = 0;
  uint64_t written_bytes = 0;
};

// Where blocks live outside of the slabs: one namespace, values of one size, each named by the hash
// of its block. A store may forget a value at any time and never gives a byte that was not put:
// every value lies in an envelope (envelope.h) that is verified before the outcome is a hit.
//
// All calls return at once; the work is done by the store's own threads, and the batch tells what
// became of each key. Keys without positions are independent: one that fails takes no other with it.
// Of a chain, what comes after a block that is not there may be given up as well. A key that is put
// again is not written again. No callback, no lock that a caller can hold. Thread safe.
//
// Destroying a store closes it.
class Store {
 public:
  using Deadline = Batch::Clock::time_point;

  virtual ~Store() = default;

  // Reads values of value_bytes() into places of that size. What was there is lost even where the
  // outcome is not a hit.
  virtual std::shared_ptr<Batch> get_into(Keys keys,
                                          std::span<std::byte* const> destinations,
                                          Deadline deadline) = 0;
  virtual std::shared_ptr<Batch> put_from(Keys keys,
                                          std::span<const std::byte* const> sources,
                                          Deadline deadline) = 0;
  // kDone where a value is there, as far as the store knows without reading it, else kMiss.
  virtual std::shared_ptr<Batch> contains(Keys keys, Deadline deadline) = 0;
  virtual std::shared_ptr<Batch> remove(Keys keys, Deadline deadline) = 0;

  // How many values, from the first key on, are there as far as the store knows without asking
  // anybody. Does no input or output; a promise of nothing.
  virtual size_t match(Keys keys) const = 0;

  virtual uint64_t value_bytes() const noexcept = 0;
  virtual StoreStats stats() const = 0;

  // Cancels what is under way and waits until its memory is free. Later calls find nothing, and
  // what is put fails. Idempotent.
  virtual void close() = 0;
};

}  // namespace kvcore
