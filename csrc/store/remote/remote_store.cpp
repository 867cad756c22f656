#include "store/remote/remote_store.h"

#include <algorithm>
#include <bit>
#include <future>
#include <stdexcept>
#include <utility>

#include "common/check.h"
#include "store/remote/remote_save.h"
#include "store/remote/remote_walk.h"

namespace kvcore {
namespace {

constexpr uint64_t kMaxChunkBytes = uint64_t{1} << 30;

const RemoteOptions& checked(const RemoteOptions& options) {
  const uint64_t most = kMaxChunkBytes / options.block_bytes;
  if (!std::has_single_bit(options.chunk_blocks) || options.chunk_blocks > most) {
    throw std::invalid_argument("chunk_blocks must be a power of two up to " +
                                std::to_string(most) + ", got " +
                                std::to_string(options.chunk_blocks));
  }
  return options;
}

}  // namespace

RemoteStore::RemoteStore(const RemoteOptions& options, std::unique_ptr<Transport> transport)
    : options_(checked(options)),
      context_(std::make_unique<RemoteContext>(options_, std::move(transport))) {}

void RemoteStore::set_servers(const std::vector<NamedServer>& servers,
                              std::shared_ptr<const Placement> placement) {
  context_->transport->post([this, servers, placement = std::move(placement)] {
    std::map<std::string, Known> rest = std::exchange(by_name_, {});
    context_->servers.clear();
    for (const NamedServer& server : servers) {
      const auto known = rest.find(server.name);
      const bool stays = known != rest.end() && known->second.address == server.address;
      const ServerId id =
          stays ? known->second.id : context_->transport->add_server(server.address);
      if (stays) rest.erase(known);
      by_name_.emplace(server.name, Known{server.address, id});
      context_->servers.push_back(id);
    }
    context_->placement = placement;
    for (const auto& [name, known] : rest) context_->transport->remove_server(known.id);
  });
}

std::shared_ptr<Batch> RemoteStore::get_into(Keys keys, std::span<std::byte* const> destinations,
                                             Deadline deadline) {
  auto batch = std::make_shared<Batch>(keys.size(), deadline);
  {
    std::lock_guard lock(context_->stats_mutex);
    context_->stats.gets += keys.size();
  }
  auto walk =
      std::make_shared<RemoteWalk>(*context_, RemoteWalk::Purpose::kGet, batch, keys, destinations);
  post(batch, Outcome::kMiss, [walk] { walk->start(); });
  return batch;
}

std::shared_ptr<Batch> RemoteStore::put_from(Keys keys, std::span<const std::byte* const> sources,
                                             Deadline deadline) {
  auto batch = std::make_shared<Batch>(keys.size(), deadline);
  const size_t admitted = admit(keys.size());
  {
    std::lock_guard lock(context_->stats_mutex);
    context_->stats.puts += keys.size();
  }
  for (size_t key = admitted; key < keys.size(); ++key) {
    context_->count(batch->decide(key, Outcome::kMiss));
  }
  batch->let_go(keys.size() - admitted);
  if (admitted == 0) return batch;
  const Keys first(keys.hashes.first(admitted),
                   keys.positions.empty() ? keys.positions : keys.positions.first(admitted));
  context_->queued_bytes += context_->chunk_bytes(static_cast<uint32_t>(admitted));
  auto save = std::make_shared<RemoteSave>(*context_, batch, first, sources.first(admitted));
  const bool is_open = context_->transport->post([save] { save->start(); });
  if (!is_open) {
    for (size_t key = 0; key < admitted; ++key) {
      context_->count(batch->decide(key, Outcome::kFailed));
    }
    batch->let_go(admitted);
  }
  return batch;
}

// What a slow server can not take in time is left out at the end, where the least hangs on it.
size_t RemoteStore::admit(size_t num_keys) const {
  uint64_t most = options_.max_queued_bytes;
  if (const double rate = context_->write_rate; rate > 0) {
    const std::chrono::duration<double> delay = options_.max_queue_delay;
    most = std::min(most, static_cast<uint64_t>(rate * delay.count()));
  }
  const uint64_t queued = context_->queued_bytes;
  const uint64_t room = most > queued ? most - queued : 0;
  return std::min<uint64_t>(num_keys, room / options_.block_bytes);
}

std::shared_ptr<Batch> RemoteStore::contains(Keys keys, Deadline deadline) {
  auto batch = std::make_shared<Batch>(keys.size(), deadline);
  auto walk = std::make_shared<RemoteWalk>(*context_, RemoteWalk::Purpose::kAsk, batch, keys,
                                           std::span<std::byte* const>());
  post(batch, Outcome::kMiss, [walk] { walk->start(); });
  return batch;
}

std::shared_ptr<Batch> RemoteStore::remove(Keys keys, Deadline deadline) {
  auto batch = std::make_shared<Batch>(keys.size(), deadline);
  auto walk = std::make_shared<RemoteWalk>(*context_, RemoteWalk::Purpose::kRemove, batch, keys,
                                           std::span<std::byte* const>());
  post(batch, Outcome::kFailed, [walk] { walk->start(); });
  return batch;
}

void RemoteStore::post(const std::shared_ptr<Batch>& batch, Outcome closed,
                       std::function<void()> task) {
  if (context_->transport->post(std::move(task))) return;
  for (size_t key = 0; key < batch->num_keys(); ++key) batch->decide(key, closed);
  batch->let_go(batch->num_keys());
}

size_t RemoteStore::match(Keys keys) const {
  if (context_->is_closing) return 0;
  const KnownChunks& known = context_->known;
  if (keys.positions.empty()) {
    size_t matched = 0;
    while (matched < keys.size() && known.find(keys[matched])) ++matched;
    return matched;
  }
  if (keys.size() == 0) return 0;
  const Run run = runs_of(keys.positions).front();
  uint64_t at = run.begin;
  // The largest known chunk that has this block takes it on to where that ends.
  auto end_of_known = [&]() -> uint64_t {
    for (uint32_t blocks = options_.chunk_blocks; blocks > 0; blocks /= 2) {
      const uint64_t end = (at / blocks + 1) * blocks;
      if (!run.contains(end - 1)) continue;
      const auto chunk = known.find(keys[run.key_of(end - 1)]);
      if (chunk && chunk->num_blocks == blocks) return end;
    }
    return at;
  };
  for (uint64_t end; at < run.end && (end = end_of_known()) > at;) at = end;
  return at - run.begin;
}

StoreStats RemoteStore::stats() const {
  std::lock_guard lock(context_->stats_mutex);
  StoreStats stats = context_->stats;
  stats.num_values = context_->known.size();
  return stats;
}

std::map<std::string, ServerStats> RemoteStore::server_stats() const {
  std::promise<std::map<std::string, ServerStats>> promise;
  auto all = promise.get_future();
  const bool is_open = context_->transport->post([this, &promise] {
    std::map<std::string, ServerStats> stats;
    for (const auto& [name, known] : by_name_) {
      stats.emplace(name, context_->transport->stats(known.id));
    }
    promise.set_value(std::move(stats));
  });
  if (!is_open) return {};
  return all.get();
}

void RemoteStore::close() {
  context_->is_closing = true;
  context_->transport->stop();
}

}  // namespace kvcore
