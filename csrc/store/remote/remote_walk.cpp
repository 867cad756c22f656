#include "store/remote/remote_walk.h"

#include <algorithm>
#include <utility>

#include "store/remote/remote_save.h"

namespace kvcore {
namespace {

// Enough for all connections; more would only be asked in vain behind the end of a chain.
constexpr uint32_t kMostUnderWay = 32;

std::vector<Run> runs_of_keys(Keys keys) {
  if (!keys.positions.empty()) return runs_of(keys.positions);
  std::vector<Run> runs;
  for (size_t key = 0; key < keys.size(); ++key) runs.push_back({key, 0, 1});
  return runs;
}

}  // namespace

RemoteWalk::RemoteWalk(RemoteContext& context, Purpose purpose, std::shared_ptr<Batch> batch,
                       Keys keys, std::span<std::byte* const> destinations)
    : context_(context),
      purpose_(purpose),
      batch_(std::move(batch)),
      hashes_(keys.hashes.begin(), keys.hashes.end()),
      destinations_(destinations.begin(), destinations.end()),
      is_chain_(!keys.positions.empty()) {
  const uint32_t most = is_chain_ ? context_.options.chunk_blocks : 1;
  for (const Run& run : runs_of_keys(keys)) {
    for (const Chunk& window : windows_of(run, most)) windows_.push_back({run, window});
  }
}

void RemoteWalk::start() { go_on(); }

void RemoteWalk::go_on() {
  while (under_way_ < kMostUnderWay && next_window_ < windows_.size()) {
    const Place& place = windows_[next_window_++];
    const bool is_behind = std::max(place.run.begin, place.chunk.begin) > missing_from_;
    if (is_behind && purpose_ != Purpose::kRemove) {
      end(place, Outcome::kMiss);
    } else {
      look(place);
    }
  }
}

const BlockHash& RemoteWalk::name_of(const Place& place) const {
  return hashes_[place.run.key_of(place.chunk.end() - 1)];
}

void RemoteWalk::look(const Place& place) {
  if (!place.run.overlaps(place.chunk)) return;
  // Whoever does not know the hash of its last block can not ask for a chunk.
  if (!place.run.contains(place.chunk.end() - 1)) return split(place);
  auto target = std::make_shared<Target>(Target{.place = place, .name = name_of(place)});
  target->servers = context_.servers_of(target->name);
  if (target->servers.empty()) return end(place, Outcome::kMiss);
  const auto known = context_.known.find(target->name);
  if (known && known->num_blocks == place.chunk.num_blocks &&
      Clock::now() - known->learnt < context_.options.record_age) {
    const auto server = std::ranges::find(target->servers, known->server);
    if (server != target->servers.end()) {
      target->server = static_cast<size_t>(server - target->servers.begin());
      target->is_from_memory = true;
      return found(std::move(target), *known);
    }
  }
  if (!known && knows_part_of(place)) return split(place);
  ask(std::move(target));
}

void RemoteWalk::split(const Place& place) {
  if (place.chunk.num_blocks == 1) return end(place, Outcome::kMiss);
  look({place.run, place.chunk.first_half()});
  look({place.run, place.chunk.second_half()});
}

// Then nobody wrote all of it in one piece, as far as can be told.
bool RemoteWalk::knows_part_of(const Place& place) const {
  if (place.chunk.num_blocks == 1) return false;
  for (const Chunk& half : {place.chunk.first_half(), place.chunk.second_half()}) {
    const Place part{place.run, half};
    if (place.run.contains(half.end() - 1) && context_.known.find(name_of(part))) return true;
    if (knows_part_of(part)) return true;
  }
  return false;
}

void RemoteWalk::ask(std::shared_ptr<Target> target) {
  auto record = std::make_shared<std::array<std::byte, kEnvelopeBytes>>();
  Request request{.kind = Request::Kind::kGet,
                  .keys = {names::record_key(context_.options.scope, target->name)},
                  .pieces = {std::span(*record)}};
  request.finish = [this, target, record](const Reply& reply) {
    if (reply.answer == Answer::kDone) {
      const auto note = read_envelope(ConstEnvelopeSpan(*record), context_.options.scope);
      const uint32_t num_blocks = target->place.chunk.num_blocks;
      if (note && note->hash == target->name && note->num_blocks == num_blocks &&
          note->payload_bytes == context_.chunk_bytes(num_blocks)) {
        const KnownChunk chunk{.server = target->servers[target->server],
                               .nonce = note->nonce,
                               .checksum = note->payload_checksum,
                               .num_blocks = num_blocks,
                               .learnt = Clock::now()};
        context_.known.learn(target->name, chunk);
        return found(target, chunk);
      }
      std::lock_guard lock(context_.stats_mutex);
      ++context_.stats.corrupt;
    } else {
      target->worst = std::max(target->worst, reply.answer);
    }
    ask_next(target);
  };
  submit(*target, std::move(request));
}

void RemoteWalk::ask_next(std::shared_ptr<Target> target) {
  if (std::exchange(target->is_from_memory, false)) {
    // It may have been lost there and written anew since.
    target->server = 0;
    target->worst = Answer::kMiss;
    return ask(std::move(target));
  }
  if (++target->server < target->servers.size()) return ask(std::move(target));
  give_up(*target);
}

void RemoteWalk::found(std::shared_ptr<Target> target, const KnownChunk& chunk) {
  switch (purpose_) {
    case Purpose::kGet: return get(std::move(target), chunk);
    case Purpose::kAsk: return end(target->place, Outcome::kDone);
    case Purpose::kRemove: return remove(std::move(target), chunk);
  }
}

void RemoteWalk::get(std::shared_ptr<Target> target, const KnownChunk& chunk) {
  Request request{
      .kind = Request::Kind::kGet,
      .keys = {names::value_key(context_.options.scope, target->name, chunk.nonce)}};
  const Place& place = target->place;
  for (uint64_t at = place.chunk.begin; at < place.chunk.end(); ++at) {
    std::byte* to = place.run.contains(at) ? destinations_[place.run.key_of(at)]
                                           : context_.scratch.data();
    request.pieces.emplace_back(to, context_.options.block_bytes);
  }
  request.finish = [this, target, chunk](const Reply& reply) { got(target, chunk, reply); };
  submit(*target, std::move(request));
}

void RemoteWalk::got(std::shared_ptr<Target> target, const KnownChunk& chunk, const Reply& reply) {
  if (reply.answer == Answer::kDone && reply.checksum == chunk.checksum) {
    if (target->server > 0 && target->worst == Answer::kMiss) repair(*target);
    return end(target->place, Outcome::kDone);
  }
  context_.known.forget(target->name, chunk.nonce);
  if (reply.answer == Answer::kDone) {
    target->is_corrupt = true;
    {
      std::lock_guard lock(context_.stats_mutex);
      ++context_.stats.corrupt;
    }
    // Nobody else shall come upon it.
    Request removal{.kind = Request::Kind::kRemove,
                    .keys = {names::record_key(context_.options.scope, target->name),
                             names::value_key(context_.options.scope, target->name, chunk.nonce)},
                    .deadline = batch_->deadline(),
                    .finish = [](const Reply&) {}};
    context_.transport->submit(target->servers[target->server], std::move(removal));
  } else {
    target->worst = std::max(target->worst, reply.answer);
  }
  ask_next(std::move(target));
}

// On the server that it was found on; other servers are asked for theirs.
void RemoteWalk::remove(std::shared_ptr<Target> target, const KnownChunk& chunk) {
  context_.known.forget(target->name, chunk.nonce);
  Request request{.kind = Request::Kind::kRemove,
                  .keys = {names::record_key(context_.options.scope, target->name),
                           names::value_key(context_.options.scope, target->name, chunk.nonce)}};
  request.finish = [this, target](const Reply& reply) {
    target->is_removed |= reply.answer == Answer::kDone;
    if (reply.answer != Answer::kDone) target->worst = std::max(target->worst, reply.answer);
    ask_next(target);
  };
  submit(*target, std::move(request));
}

// An earlier server has lost what a later one still has: it gets it back, from a copy, since the
// memory is the caller's again.
void RemoteWalk::repair(const Target& target) {
  const Place& place = target.place;
  if (place.chunk.begin < place.run.begin || place.chunk.end() > place.run.end) return;
  std::vector<std::byte> copy;
  for (uint64_t at = place.chunk.begin; at < place.chunk.end(); ++at) {
    const std::byte* from = destinations_[place.run.key_of(at)];
    copy.insert(copy.end(), from, from + context_.options.block_bytes);
  }
  repair_servers(context_, std::span(target.servers).first(target.server), target.name,
                 place.chunk.num_blocks, std::move(copy));
}

void RemoteWalk::end(const Place& place, Outcome outcome) {
  const uint64_t begin = std::max(place.run.begin, place.chunk.begin);
  const uint64_t end = std::min(place.run.end, place.chunk.end());
  if (outcome != Outcome::kDone && is_chain_) missing_from_ = std::min(missing_from_, begin);
  for (uint64_t at = begin; at < end; ++at) {
    const Outcome standing = batch_->decide(place.run.key_of(at), outcome);
    if (purpose_ != Purpose::kGet) continue;
    context_.count(standing);
    if (outcome != Outcome::kDone) continue;
    std::lock_guard lock(context_.stats_mutex);
    context_.stats.read_bytes += context_.options.block_bytes;
  }
  batch_->let_go(end - begin);
}

// All servers were asked.
void RemoteWalk::give_up(const Target& target) {
  if (target.is_removed && target.worst == Answer::kMiss) return end(target.place, Outcome::kDone);
  if (target.is_corrupt) return end(target.place, Outcome::kCorrupt);
  if (target.worst == Answer::kMiss) return split(target.place);
  end(target.place, outcome_of(target.worst));
}

void RemoteWalk::submit(const Target& target, Request request) {
  ++under_way_;
  request.deadline = deadline_of(target);
  const uint64_t first = std::max(target.place.run.begin, target.place.chunk.begin);
  request.is_wanted = [batch = batch_, key = target.place.run.key_of(first)] {
    return batch->is_wanted(key);
  };
  request.finish = [self = shared_from_this(),
                    then = std::move(request.finish)](const Reply& reply) {
    --self->under_way_;
    then(reply);
    self->go_on();
  };
  context_.transport->submit(target.servers[target.server], std::move(request));
}

// The last server has all the time that there is.
Clock::time_point RemoteWalk::deadline_of(const Target& target) const {
  if (target.server + 1 == target.servers.size()) return batch_->deadline();
  return std::min(batch_->deadline(), Clock::now() + context_.options.patience);
}

}  // namespace kvcore
