#include "store/remote/remote_save.h"

#include <algorithm>
#include <array>
#include <utility>

namespace kvcore {
namespace {

constexpr std::chrono::seconds kRepairTimeout{5};
constexpr uint64_t kMostRepairBytes = 64 << 20;

}  // namespace

RemoteSave::RemoteSave(RemoteContext& context, std::shared_ptr<Batch> batch, Keys keys,
                       std::span<const std::byte* const> sources)
    : context_(context),
      batch_(std::move(batch)),
      hashes_(keys.hashes.begin(), keys.hashes.end()),
      sources_(sources.begin(), sources.end()) {
  if (keys.positions.empty()) {
    for (size_t key = 0; key < keys.size(); ++key) chunks_.push_back({{key, 0, 1}, {0, 1}});
  }
  for (const Run& run : runs_of(keys.positions)) {
    for (const Chunk& chunk : chunks_of(run, context_.options.chunk_blocks)) {
      chunks_.push_back({run, chunk});
    }
  }
}

void RemoteSave::start() {
  for (const auto& [run, chunk] : chunks_) save(run, chunk);
}

void RemoteSave::save(Run run, Chunk chunk) {
  auto piece = std::make_shared<Piece>(
      Piece{.run = run, .chunk = chunk, .name = hashes_[run.key_of(chunk.end() - 1)]});
  // A larger one that ends with the same block has it too.
  const auto known = context_.recall(piece->name);
  const bool is_known = known && known->num_blocks >= chunk.num_blocks;
  // Or somebody else is at it.
  if (is_known || context_.being_written.contains(piece->name)) return end(*piece, Outcome::kDone);
  const auto servers = context_.servers_of(piece->name);
  if (servers.empty() || looks_like_request(bytes_of(*piece))) return end(*piece, Outcome::kMiss);
  save_to(std::move(piece), servers);
}

void RemoteSave::save_to(std::shared_ptr<Piece> piece, std::span<const ServerId> servers) {
  context_.being_written.insert(piece->name);
  piece->servers_left = servers.size();
  for (const ServerId server : servers) ask(piece, server);
}

void RemoteSave::ask(const std::shared_ptr<Piece>& piece, ServerId server) {
  auto record = std::make_shared<std::array<std::byte, kEnvelopeBytes>>();
  Request request{.kind = Request::Kind::kGet,
                  .keys = {names::record_key(context_.options.scope, piece->name)},
                  .pieces = {std::span(*record)}};
  submit(*piece, server, std::move(request), [this, piece, server, record](const Reply& reply) {
    if (reply.answer == Answer::kMiss) return put_value(piece, server, /*is_again=*/false);
    if (reply.answer != Answer::kDone) return end_server(piece, reply.answer);
    const auto note = read_envelope(ConstEnvelopeSpan(*record), context_.options.scope);
    const bool has_it = note && context_.is_chunk(*note, piece->name) &&
                        note->num_blocks >= piece->chunk.num_blocks;
    if (!has_it) {
      return put_value(piece, server, /*is_again=*/false);
    }
    // The value may be gone where its record is not.
    Request question{.kind = Request::Kind::kContains,
                     .keys = context_.keys_of(piece->name, note->nonce, note->num_blocks)};
    const KnownChunk chunk{.server = server,
                           .nonce = note->nonce,
                           .checksum = note->payload_checksum,
                           .num_blocks = note->num_blocks,
                           .learnt = piece->begun};
    submit(*piece, server, std::move(question), [this, piece, server, chunk](const Reply& answer) {
      if (answer.answer != Answer::kDone) return end_server(piece, answer.answer);
      if (answer.number == 0) return put_value(piece, server, /*is_again=*/false);
      context_.known.learn(piece->name, chunk);
      end_server(piece, Answer::kDone);
    });
  });
}

// Each server has a name of its own for the value, and each attempt: nobody shall know the name of
// a value that a server is only being sent.
void RemoteSave::put_value(const std::shared_ptr<Piece>& piece, ServerId server, bool is_again) {
  const KnownChunk chunk{
      .server = server, .nonce = context_.nonces(), .num_blocks = piece->chunk.num_blocks};
  Request request{.kind = Request::Kind::kPut,
                  .keys = context_.keys_of(piece->name, chunk.nonce, chunk.num_blocks),
                  .pieces = bytes_of(*piece)};
  const auto begin = Clock::now();
  submit(*piece, server, std::move(request),
         [this, piece, chunk, is_again, begin](const Reply& reply) {
           if (reply.answer == Answer::kDone) {
             context_.note_write(context_.chunk_bytes(chunk.num_blocks), begin);
             KnownChunk written = chunk;
             written.checksum = reply.checksum;
             return put_record(piece, written);
           }
           if (reply.answer == Answer::kFailed && !is_again) {
             return put_value(piece, chunk.server, /*is_again=*/true);
           }
           end_server(piece, reply.answer);
         });
}

void RemoteSave::put_record(const std::shared_ptr<Piece>& piece, const KnownChunk& chunk) {
  auto record = std::make_shared<std::array<std::byte, kEnvelopeBytes>>();
  write_envelope(*record, context_.options.scope,
                 {.hash = piece->name,
                  .payload_bytes = context_.chunk_bytes(chunk.num_blocks),
                  .payload_checksum = chunk.checksum,
                  .num_blocks = chunk.num_blocks,
                  .nonce = chunk.nonce});
  Request request{.kind = Request::Kind::kPut,
                  .keys = {names::record_key(context_.options.scope, piece->name)},
                  .pieces = {std::span(*record)}};
  submit(*piece, chunk.server, std::move(request),
         [this, piece, chunk, record](const Reply& reply) {
           if (reply.answer == Answer::kDone) {
             KnownChunk known = chunk;
             known.learnt = piece->begun;
             context_.known.learn(piece->name, known);
             piece->is_written = true;
           }
           end_server(piece, reply.answer);
         });
}

void RemoteSave::end_server(const std::shared_ptr<Piece>& piece, Answer answer) {
  piece->is_there |= answer == Answer::kDone;
  if (answer != Answer::kDone) piece->worst = std::max(piece->worst, answer);
  if (--piece->servers_left > 0) return;
  context_.being_written.erase(piece->name);
  end(*piece, piece->is_there ? Outcome::kDone : context_.outcome_of(piece->worst));
}

void RemoteSave::end(const Piece& piece, Outcome outcome) {
  for (uint64_t at = piece.chunk.begin; at < piece.chunk.end(); ++at) {
    const Outcome standing = batch_->decide(piece.run.key_of(at), outcome);
    if (standing != Outcome::kDone) context_.count(standing);
  }
  const uint64_t bytes = context_.chunk_bytes(piece.chunk.num_blocks);
  context_.queued_bytes -= bytes;
  if (piece.is_written) {
    std::lock_guard lock(context_.stats_mutex);
    context_.stats.written += piece.chunk.num_blocks;
    context_.stats.written_bytes += bytes;
  }
  batch_->let_go(piece.chunk.num_blocks);
}

// Only read.
std::vector<std::span<std::byte>> RemoteSave::bytes_of(const Piece& piece) const {
  std::vector<std::span<std::byte>> bytes;
  for (uint64_t at = piece.chunk.begin; at < piece.chunk.end(); ++at) {
    auto* from = const_cast<std::byte*>(sources_[piece.run.key_of(at)]);
    bytes.emplace_back(from, context_.options.block_bytes);
  }
  return bytes;
}

void RemoteSave::submit(const Piece& piece, ServerId server, Request request,
                        std::function<void(const Reply&)> then) {
  request.deadline = batch_->deadline();
  request.is_wanted = [batch = batch_, key = piece.run.key_of(piece.chunk.begin)] {
    return batch->is_wanted(key);
  };
  request.finish = [self = shared_from_this(), then = std::move(then)](const Reply& reply) {
    then(reply);
  };
  submit_parts(std::move(request),
               [&](Request part) { context_.transport->submit(server, std::move(part)); });
}

void repair_servers(RemoteContext& context, std::span<const ServerId> servers,
                    const BlockHash& name, uint32_t num_blocks, std::vector<std::byte> bytes) {
  if (context.queued_bytes + bytes.size() > kMostRepairBytes) return;
  if (looks_like_request({bytes}) || context.being_written.contains(name)) return;
  context.queued_bytes += bytes.size();
  const std::vector<BlockHash> hashes(num_blocks, name);  // but for the last, nobody asks
  std::vector<const std::byte*> sources;
  for (size_t at = 0; at < bytes.size(); at += context.options.block_bytes) {
    sources.push_back(bytes.data() + at);
  }
  auto batch = std::make_shared<Batch>(num_blocks, Clock::now() + kRepairTimeout);
  auto save = std::make_shared<RemoteSave>(context, batch, hashes, sources);
  save->owned_ = std::move(bytes);
  save->save_to(std::make_shared<RemoteSave::Piece>(RemoteSave::Piece{
                    .run = {0, 0, num_blocks}, .chunk = {0, num_blocks}, .name = name}),
                servers);
}

}  // namespace kvcore
