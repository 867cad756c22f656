#include "store/remote/remote_walk.h"

#include <algorithm>
#include <array>
#include <utility>

#include "store/remote/remote_refill.h"
#include "store/remote/remote_save.h"

namespace kvcore {
namespace {

// Enough for all connections; more would only be asked in vain behind the end of a chain. While
// nothing is found, few are.
constexpr uint32_t kMostUnderWay = 32;
constexpr uint32_t kFirstUnderWay = 8;

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
      is_chain_(!keys.positions.empty()),
      most_blocks_(is_chain_ ? context.options.chunk_blocks : 1),
      limit_(is_chain_ ? kFirstUnderWay : kMostUnderWay) {
  for (const Run& run : runs_of_keys(keys)) {
    for (uint64_t at = run.begin; at < run.end;) {
      const uint64_t end = std::min(run.end, (at / most_blocks_ + 1) * most_blocks_);
      parts_.push_back({.run = run, .at = at, .end = end});
      at = end;
    }
  }
}

void RemoteWalk::go_on() {
  while (under_way_ < limit_ && next_part_ < parts_.size()) {
    advance(std::make_shared<Cursor>(parts_[next_part_++]));
  }
}

void RemoteWalk::advance(const Shared& cursor) {
  if (cursor->at == cursor->end) return;
  if (cursor->at > missing_from_ && purpose_ != Purpose::kRemove) {
    return end(cursor, cursor->end, Outcome::kMiss);
  }
  if (!take_known(cursor)) try_size(cursor, most_blocks_);
}

bool RemoteWalk::take_known(const Shared& cursor) {
  for (uint32_t blocks = most_blocks_; blocks > 0; blocks /= 2) {
    const Chunk chunk = chunk_around(cursor->at, blocks);
    if (!cursor->run.contains(chunk.end() - 1)) continue;
    const BlockHash& name = hashes_[cursor->run.key_of(chunk.end() - 1)];
    const auto known = context_.recall(name);
    if (!known || known->num_blocks != blocks) continue;
    cursor->chunk = chunk;
    cursor->name = name;
    cursor->servers = context_.servers_of(name);
    const auto server = std::ranges::find(cursor->servers, known->server);
    cursor->server = static_cast<size_t>(server - cursor->servers.begin());
    cursor->is_from_memory = true;
    cursor->worst = Answer::kMiss;
    found(cursor, *known);
    return true;
  }
  return false;
}

// Whoever does not know the hash of its last block can not ask for a chunk.
void RemoteWalk::try_size(const Shared& cursor, uint32_t num_blocks) {
  for (; num_blocks > 0; num_blocks /= 2) {
    const Chunk chunk = chunk_around(cursor->at, num_blocks);
    if (!cursor->run.contains(chunk.end() - 1)) continue;
    cursor->chunk = chunk;
    cursor->name = hashes_[cursor->run.key_of(chunk.end() - 1)];
    // It is known that a smaller one has that name.
    if (const auto known = context_.recall(cursor->name); known && known->num_blocks < num_blocks) {
      continue;
    }
    cursor->servers = context_.servers_of(cursor->name);
    cursor->server = 0;
    cursor->worst = Answer::kMiss;
    cursor->was_hurried = cursor->is_last_round = false;
    if (!cursor->servers.empty()) return ask(cursor);
  }
  const Outcome outcome = cursor->at < cursor->removed_until ? Outcome::kDone
                          : cursor->is_corrupt               ? Outcome::kCorrupt
                                                             : Outcome::kMiss;
  end(cursor, cursor->at + 1, outcome);
}

void RemoteWalk::ask(const Shared& cursor) {
  auto record = std::make_shared<std::array<std::byte, kEnvelopeBytes>>();
  Request request{.kind = Request::Kind::kGet,
                  .keys = {names::record_key(context_.options.scope, cursor->name)},
                  .pieces = {std::span(*record)}};
  request.finish = [this, cursor, record](const Reply& reply) {
    if (reply.answer == Answer::kDone) {
      const auto note = read_envelope(ConstEnvelopeSpan(*record), context_.options.scope);
      if (note && context_.is_chunk(*note, cursor->name)) {
        const KnownChunk chunk{.server = cursor->servers[cursor->server],
                               .nonce = note->nonce,
                               .checksum = note->payload_checksum,
                               .num_blocks = note->num_blocks,
                               .learnt = Clock::now()};
        context_.known.learn(cursor->name, chunk);
        refill_others(*cursor, chunk);
        limit_ = std::min(limit_ + 2, kMostUnderWay);
        // Chunks of several sizes may end with that block.
        const Chunk there{cursor->chunk.end() - note->num_blocks, note->num_blocks};
        if (there.begin <= cursor->at) {
          cursor->chunk = there;
          return found(cursor, chunk);
        }
      } else {
        context_.count_corrupt();
      }
    } else {
      note(*cursor, reply.answer);
    }
    ask_next(cursor);
  };
  submit(*cursor, std::move(request));
}

void RemoteWalk::ask_next(const Shared& cursor) {
  if (std::exchange(cursor->is_from_memory, false)) {
    // It may have been lost there and written anew since.
    return try_size(cursor, most_blocks_);
  }
  if (++cursor->server < cursor->servers.size()) return ask(cursor);
  if (cursor->was_hurried && !cursor->is_last_round) {
    // Nobody else has it: whoever was late may have it all the same.
    cursor->is_last_round = true;
    cursor->server = 0;
    cursor->worst = Answer::kMiss;
    return ask(cursor);
  }
  give_up(cursor);
}

// What a server answered that has it not.
void RemoteWalk::note(Cursor& cursor, Answer answer) {
  cursor.worst = std::max(cursor.worst, answer);
  cursor.was_hurried |= answer == Answer::kTimedOut && purpose_ != Purpose::kRemove;
}

// All servers were asked.
void RemoteWalk::give_up(const Shared& cursor) {
  const uint64_t chunk_end = std::min(cursor->chunk.end(), cursor->end);
  if (cursor->worst != Answer::kMiss)
    return end(cursor, chunk_end, context_.outcome_of(cursor->worst));
  try_size(cursor, cursor->chunk.num_blocks / 2);
}

void RemoteWalk::found(const Shared& cursor, const KnownChunk& chunk) {
  switch (purpose_) {
    case Purpose::kGet:
      return get(cursor, chunk);
    case Purpose::kAsk:
      return end(cursor, cursor->chunk.end(), Outcome::kDone);
    case Purpose::kRemove:
      context_.known.forget(cursor->name, chunk.nonce);
      return remove(cursor, chunk, [cursor](const Reply& reply) {
        if (reply.answer == Answer::kDone) cursor->removed_until = cursor->chunk.end();
        if (reply.answer != Answer::kDone) cursor->worst = std::max(cursor->worst, reply.answer);
      });
  }
}

void RemoteWalk::get(const Shared& cursor, const KnownChunk& chunk) {
  Request request{.kind = Request::Kind::kGet,
                  .keys = context_.keys_of(cursor->name, chunk.nonce, chunk.num_blocks)};
  const uint64_t block_bytes = context_.options.block_bytes;
  for (uint64_t at = cursor->chunk.begin; at < cursor->chunk.end(); ++at) {
    const bool is_wanted = at >= cursor->at && at < cursor->end;
    std::byte* to = is_wanted ? destinations_[cursor->run.key_of(at)]
                              : context_.scratch.data() + (at - cursor->chunk.begin) * block_bytes;
    request.pieces.emplace_back(to, block_bytes);
  }
  request.finish = [this, cursor, chunk](const Reply& reply) { got(cursor, chunk, reply); };
  submit_parts(std::move(request), [&](Request part) { submit(*cursor, std::move(part)); });
}

void RemoteWalk::got(const Shared& cursor, const KnownChunk& chunk, const Reply& reply) {
  if (reply.answer == Answer::kDone && reply.checksum == chunk.checksum) {
    if (cursor->server > 0 && !cursor->is_from_memory && cursor->worst == Answer::kMiss) {
      repair(*cursor);
    }
    return end(cursor, cursor->chunk.end(), Outcome::kDone);
  }
  if (reply.answer != Answer::kDone) note(*cursor, reply.answer);
  // What is not there is not there; a server that is late may have it the next time.
  if (reply.answer == Answer::kDone || reply.answer == Answer::kMiss) {
    context_.known.forget(cursor->name, chunk.nonce);
  }
  if (reply.answer != Answer::kDone) return ask_next(cursor);
  cursor->is_corrupt = true;
  context_.count_corrupt();
  // Nobody shall come upon it again, nor this walk.
  remove(cursor, chunk, [](const Reply&) {});
}

// From the server that it was found on; the next one is asked for its own.
void RemoteWalk::remove(const Shared& cursor, const KnownChunk& chunk,
                        std::function<void(const Reply&)> then) {
  Request request{.kind = Request::Kind::kRemove,
                  .keys = context_.keys_of(cursor->name, chunk.nonce, chunk.num_blocks)};
  request.keys.push_back(names::record_key(context_.options.scope, cursor->name));
  request.finish = [this, cursor, then = std::move(then)](const Reply& reply) {
    then(reply);
    ask_next(cursor);
  };
  submit(*cursor, std::move(request));
}

// An earlier server has lost what a later one still has: it gets it back, from a copy, since the
// memory is the caller's again.
void RemoteWalk::repair(const Cursor& cursor) {
  if (cursor.chunk.begin < cursor.at || cursor.chunk.end() > cursor.end) return;
  std::vector<std::byte> copy;
  for (uint64_t at = cursor.chunk.begin; at < cursor.chunk.end(); ++at) {
    const std::byte* from = destinations_[cursor.run.key_of(at)];
    copy.insert(copy.end(), from, from + context_.options.block_bytes);
  }
  repair_servers(context_, std::span(cursor.servers).first(cursor.server), cursor.name,
                 cursor.chunk.num_blocks, std::move(copy));
}

// Those behind were not asked, and of those before some may not have answered in time. Where all
// before have said that they lost it, what is read is given to them from memory: see repair().
void RemoteWalk::refill_others(const Cursor& cursor, const KnownChunk& chunk) {
  if (purpose_ == Purpose::kRemove) return;
  const std::span<const ServerId> servers(cursor.servers);
  if (purpose_ == Purpose::kAsk || cursor.worst != Answer::kMiss) {
    refill_servers(context_, cursor.name, chunk, servers.first(cursor.server));
  }
  refill_servers(context_, cursor.name, chunk, servers.subspan(cursor.server + 1));
}

// Decides the blocks up to a position, and goes on from there.
void RemoteWalk::end(const Shared& cursor, uint64_t end, Outcome outcome) {
  end = std::min(end, cursor->end);
  if (outcome != Outcome::kDone && is_chain_) missing_from_ = std::min(missing_from_, cursor->at);
  const uint64_t count = end - cursor->at;
  for (; cursor->at < end; ++cursor->at) {
    const Outcome standing = batch_->decide(cursor->run.key_of(cursor->at), outcome);
    if (purpose_ == Purpose::kGet) context_.count(standing);
  }
  if (purpose_ == Purpose::kGet && outcome == Outcome::kDone) context_.count_read(count);
  batch_->let_go(count);
  advance(cursor);
}

void RemoteWalk::submit(const Cursor& cursor, Request request) {
  ++under_way_;
  request.deadline = batch_->deadline();
  // The last server has all the time that there is, and in the last round each.
  const bool is_last = cursor.is_last_round || cursor.server + 1 == cursor.servers.size();
  if (!is_last) request.patience = context_.options.patience;
  request.is_wanted = [batch = batch_, key = cursor.run.key_of(cursor.at)] {
    return batch->is_wanted(key);
  };
  request.finish = [self = shared_from_this(),
                    then = std::move(request.finish)](const Reply& reply) {
    --self->under_way_;
    then(reply);
    self->go_on();
  };
  context_.transport->submit(cursor.servers[cursor.server], std::move(request));
}

}  // namespace kvcore
