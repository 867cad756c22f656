#pragma once

#include <functional>
#include <memory>
#include <optional>
#include <span>
#include <vector>

#include "store/batch.h"
#include "store/remote/chunks.h"
#include "store/remote/remote_context.h"

namespace kvcore {

// Writes the chunks of one call, each to all of its servers: the value under a name that nobody
// else has, and, when the server has it whole, the record that names it. A server that has a record
// already is left as it is. On the transport's thread alone; lives as long as it has requests under
// way.
class RemoteSave : public std::enable_shared_from_this<RemoteSave> {
 public:
  RemoteSave(RemoteContext& context, std::shared_ptr<Batch> batch, Keys keys,
             std::span<const std::byte* const> sources);

  void start();

 private:
  struct Piece {
    Run run;
    Chunk chunk;
    BlockHash name;
    // What is known is as old as that: a server that failed may be back, empty, before others
    // answer.
    Clock::time_point begun = Clock::now();
    size_t servers_left = 0;
    bool is_written = false;  // to one server at least
    bool is_there = false;    // on one server at least
    Answer worst = Answer::kMiss;
  };

  friend void repair_servers(RemoteContext& context, std::span<const ServerId> servers,
                             const BlockHash& name, uint32_t num_blocks,
                             std::vector<std::byte> bytes);

  void save(Run run, Chunk chunk);
  void save_to(std::shared_ptr<Piece> piece, std::span<const ServerId> servers);
  void ask(const std::shared_ptr<Piece>& piece, ServerId server);
  void put_value(const std::shared_ptr<Piece>& piece, ServerId server, bool is_again);
  void put_record(const std::shared_ptr<Piece>& piece, const KnownChunk& chunk);
  void end_server(const std::shared_ptr<Piece>& piece, Answer answer);
  void end(const Piece& piece, Outcome outcome);
  std::vector<std::span<std::byte>> bytes_of(const Piece& piece) const;
  // Of all parts of a value, if it has several.
  void submit(const Piece& piece, ServerId server, Request request,
              std::function<void(const Reply&)> then);

  RemoteContext& context_;
  const std::shared_ptr<Batch> batch_;
  const std::vector<BlockHash> hashes_;
  const std::vector<const std::byte*> sources_;
  std::vector<std::pair<Run, Chunk>> chunks_;
  std::vector<std::byte> owned_;  // of a repair: what the sources lie in
};

// Gives servers what they lost.
void repair_servers(RemoteContext& context, std::span<const ServerId> servers,
                    const BlockHash& name, uint32_t num_blocks, std::vector<std::byte> bytes);

}  // namespace kvcore
