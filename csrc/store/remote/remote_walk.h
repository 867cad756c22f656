#pragma once

#include <memory>
#include <vector>

#include "store/batch.h"
#include "store/remote/chunks.h"
#include "store/remote/remote_context.h"

namespace kvcore {

// One call about chunks that may be there: to get, to ask for, or to remove them. Goes along the
// chain, at many places at a time. At each place the largest chunk is tried first, then those of
// half the size; of each chunk its servers, one after the other. Ends behind the first block that
// is not there.
//
// On the transport's thread alone; lives as long as it has requests under way.
class RemoteWalk : public std::enable_shared_from_this<RemoteWalk> {
 public:
  enum class Purpose : uint8_t { kGet, kAsk, kRemove };

  // Destinations for kGet alone.
  RemoteWalk(RemoteContext& context, Purpose purpose, std::shared_ptr<Batch> batch, Keys keys,
             std::span<std::byte* const> destinations);

  void start() { go_on(); }

 private:
  // Goes through the part of a run that lies in one largest chunk.
  struct Cursor {
    Run run;
    uint64_t at = 0;   // position of the next block
    uint64_t end = 0;  // of the part
    // What is tried at this place.
    Chunk chunk{};
    BlockHash name{};
    std::vector<ServerId> servers{};
    size_t server = 0;             // the one that is asked now
    bool is_from_memory = false;   // nobody was asked for the record
    bool is_corrupt = false;       // on some server
    bool was_hurried = false;      // nobody waited for a server as long as there is time
    bool is_last_round = false;    // every server has all of it
    uint64_t removed_until = 0;    // position
    Answer worst = Answer::kMiss;  // of the servers' answers
  };
  using Shared = std::shared_ptr<Cursor>;

  void go_on();
  void advance(const Shared& cursor);
  bool take_known(const Shared& cursor);
  void try_size(const Shared& cursor, uint32_t num_blocks);
  void ask(const Shared& cursor);
  void ask_next(const Shared& cursor);
  void note(Cursor& cursor, Answer answer);
  void found(const Shared& cursor, const KnownChunk& chunk);
  void get(const Shared& cursor, const KnownChunk& chunk);
  void got(const Shared& cursor, const KnownChunk& chunk, const Reply& reply);
  void remove(const Shared& cursor, const KnownChunk& chunk,
              std::function<void(const Reply&)> then);
  void give_up(const Shared& cursor);
  void end(const Shared& cursor, uint64_t end, Outcome outcome);
  void repair(const Cursor& cursor);
  void refill_others(const Cursor& cursor, const KnownChunk& chunk);
  void submit(const Cursor& cursor, Request request);

  RemoteContext& context_;
  const Purpose purpose_;
  const std::shared_ptr<Batch> batch_;
  const std::vector<BlockHash> hashes_;
  const std::vector<std::byte*> destinations_;
  const bool is_chain_;
  const uint32_t most_blocks_;
  std::vector<Cursor> parts_;
  size_t next_part_ = 0;
  uint32_t under_way_ = 0;
  uint32_t limit_;                        // of it
  uint64_t missing_from_ = ~uint64_t{0};  // position
};

}  // namespace kvcore
