#pragma once

#include <algorithm>
#include <atomic>
#include <bit>
#include <deque>
#include <memory>
#include <mutex>
#include <random>
#include <unordered_set>
#include <vector>

#include "store/remote/known_chunks.h"
#include "store/remote/placement.h"
#include "store/remote/transport.h"
#include "store/remote/value_parts.h"
#include "store/store.h"

namespace kvcore {

struct RemoteOptions {
  Fingerprint scope{};  // namespace, and how blocks are cut into chunks
  uint64_t block_bytes = 0;
  uint32_t chunk_blocks = 1;  // a power of two
  uint32_t replicas = 1;
  // What waits to be written; above, or above what can be written in max_queue_delay, the end of a
  // chain is left out.
  uint64_t max_queued_bytes = uint64_t{256} << 20;
  Clock::duration max_queue_delay = std::chrono::seconds(2);
  // After that a record is asked for again, so that the server does not forget it before its value.
  Clock::duration record_age = std::chrono::seconds(60);
  // How long one of several servers may say nothing before the next is asked.
  Clock::duration patience = std::chrono::milliseconds(20);
  size_t most_known = size_t{1} << 20;
};

// What walks and saves share. On the transport's thread alone, but for what is said to be safe.
struct RemoteContext {
  explicit RemoteContext(const RemoteOptions& options_, std::unique_ptr<Transport> transport_)
      : options(options_),
        transport(std::move(transport_)),
        known(options.most_known),
        scratch(options.chunk_blocks * options.block_bytes),
        nonces(std::random_device()() + (uint64_t{std::random_device()()} << 32)) {}

  // Where a chunk is: fails over from the first to the last. Empty where there is no server.
  std::vector<ServerId> servers_of(const BlockHash& name) const {
    if (placement == nullptr) return {};
    std::vector<uint32_t> numbers(std::min<size_t>(options.replicas, servers.size()));
    numbers.resize(placement->place(name, names::record_key(options.scope, name), numbers));
    std::vector<ServerId> found;
    for (uint32_t number : numbers) found.push_back(servers[number]);
    return found;
  }
  // What is known of a chunk, if that can be relied on.
  std::optional<KnownChunk> recall(const BlockHash& name) const {
    auto chunk = known.find(name);
    if (!chunk) return std::nullopt;
    if (Clock::now() - chunk->learnt >= options.record_age) return std::nullopt;
    const auto of_name = servers_of(name);
    if (std::ranges::find(of_name, chunk->server) == of_name.end()) return std::nullopt;
    // A copy that another server may have lost counts too: who asks again gives it back.
    const auto may_have_lost = [&](ServerId server) {
      return chunk->learnt <= transport->stats(server).last_loss;
    };
    if (std::ranges::any_of(of_name, may_have_lost)) return std::nullopt;
    return chunk;
  }
  // Whether a record is of a chunk that this store could have written.
  bool is_chunk(const EnvelopeNote& note, const BlockHash& name) const noexcept {
    return note.hash == name && std::has_single_bit(note.num_blocks) &&
           note.num_blocks <= options.chunk_blocks &&
           note.payload_bytes == chunk_bytes(note.num_blocks);
  }
  uint64_t chunk_bytes(uint32_t num_blocks) const { return num_blocks * options.block_bytes; }
  std::vector<std::string> keys_of(const BlockHash& name, uint64_t nonce,
                                   uint32_t num_blocks) const {
    return value_keys(options.scope, name, nonce, chunk_bytes(num_blocks));
  }

  void count(Outcome outcome) {  // of a key that was asked for or failed to be written; safe
    std::lock_guard lock(stats_mutex);
    stats.hits += outcome == Outcome::kDone;
    stats.misses += outcome == Outcome::kMiss;
    stats.timed_out += outcome == Outcome::kTimedOut;
    stats.failed += outcome == Outcome::kFailed;
  }

  // What an answer means for the keys that it is about.
  Outcome outcome_of(Answer answer) const noexcept {
    switch (answer) {
      case Answer::kDone:
        return Outcome::kDone;
      case Answer::kMiss:
      case Answer::kFull:
        return Outcome::kMiss;
      case Answer::kTimedOut:
        return Outcome::kTimedOut;
      case Answer::kFailed:
        break;
    }
    return is_closing ? Outcome::kCancelled : Outcome::kFailed;
  }
  void count_corrupt() {  // safe
    std::lock_guard lock(stats_mutex);
    ++stats.corrupt;
  }
  void count_read(uint64_t num_blocks) {  // safe
    std::lock_guard lock(stats_mutex);
    stats.read_bytes += chunk_bytes(static_cast<uint32_t>(num_blocks));
  }
  // A value was written that waited since then. Counts from the end of the one before it: many are
  // on their way at a time, and how long each was does not tell what all servers take together. The
  // first ones, which wait for connections, tell little: there is no rate before there are some.
  void note_write(uint64_t bytes, Clock::time_point since) {
    const auto now = Clock::now();
    const std::chrono::duration<double> took = now - std::max(since, last_write);
    last_write = now;
    const double per_byte = took.count() / static_cast<double>(bytes);
    writes = std::min(writes + 1, kWritesOfRate);
    write_seconds_per_byte += (per_byte - write_seconds_per_byte) / writes;
    if (writes == kWritesOfRate) write_rate = 1 / std::max(write_seconds_per_byte, 1e-12);
  }

  const RemoteOptions options;
  const std::unique_ptr<Transport> transport;
  KnownChunks known;  // safe
  std::vector<ServerId> servers;
  std::shared_ptr<const Placement> placement;
  // Takes what nobody wants: a chunk's bytes, each in its own place, since its checksum is taken
  // after some blocks of it came. Requests may share it, as each takes its own at once.
  std::vector<std::byte> scratch;
  std::mt19937_64 nonces;
  struct Digest {
    size_t operator()(const BlockHash& hash) const noexcept { return hash.low(); }
  };
  std::unordered_set<BlockHash, Digest> being_written;
  // A copy that a server is to get from another one; see remote_refill.h.
  struct Refill {
    BlockHash name;
    KnownChunk chunk;
    ServerId to;
  };
  std::deque<Refill> refills;
  uint32_t refills_under_way = 0;
  std::atomic<bool> is_closing{false};
  std::atomic<uint64_t> queued_bytes{0};  // safe
  std::atomic<double> write_rate{0};      // bytes a second, a moving average; 0: not known; safe
  static constexpr uint32_t kWritesOfRate = 16;
  uint32_t writes = 0;  // so many, or more
  double write_seconds_per_byte = 0;
  Clock::time_point last_write{};
  std::mutex stats_mutex;
  StoreStats stats;  // under it; safe
};

}  // namespace kvcore
