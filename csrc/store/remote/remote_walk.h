#pragma once

#include <array>
#include <memory>
#include <vector>

#include "store/batch.h"
#include "store/remote/chunks.h"
#include "store/remote/remote_context.h"

namespace kvcore {

// One call about chunks that may be there: to get, to ask for, or to remove them. Goes along the
// chain, many chunks at a time. Of each place the largest chunk is tried first, then its halves; of
// each chunk its servers, one after the other. Ends behind the first block that is not there.
//
// On the transport's thread alone; lives as long as it has requests under way.
class RemoteWalk : public std::enable_shared_from_this<RemoteWalk> {
 public:
  enum class Purpose : uint8_t { kGet, kAsk, kRemove };

  // Destinations for kGet alone.
  RemoteWalk(RemoteContext& context, Purpose purpose, std::shared_ptr<Batch> batch, Keys keys,
             std::span<std::byte* const> destinations);

  void start();

 private:
  // A chunk that is looked for, in a run of the keys.
  struct Place {
    Run run;
    Chunk chunk;
  };
  struct Target {
    Place place;
    BlockHash name;
    std::vector<ServerId> servers{};
    size_t server = 0;             // the one that is asked now
    bool is_from_memory = false;   // nobody was asked for the record
    bool is_corrupt = false;       // on some server
    bool is_removed = false;       // from some server
    Answer worst = Answer::kMiss;  // of those asked
  };

  void go_on();
  void look(const Place& place);
  void split(const Place& place);
  bool knows_part_of(const Place& place) const;
  void ask(std::shared_ptr<Target> target);
  void found(std::shared_ptr<Target> target, const KnownChunk& chunk);
  void get(std::shared_ptr<Target> target, const KnownChunk& chunk);
  void got(std::shared_ptr<Target> target, const KnownChunk& chunk, const Reply& reply);
  void remove(std::shared_ptr<Target> target, const KnownChunk& chunk);
  void repair(const Target& target);
  void ask_next(std::shared_ptr<Target> target);
  void end(const Place& place, Outcome outcome);
  void give_up(const Target& target);
  void submit(const Target& target, Request request);
  Clock::time_point deadline_of(const Target& target) const;
  const BlockHash& name_of(const Place& place) const;

  RemoteContext& context_;
  const Purpose purpose_;
  const std::shared_ptr<Batch> batch_;
  const std::vector<BlockHash> hashes_;
  const std::vector<std::byte*> destinations_;
  const bool is_chain_;
  std::vector<Place> windows_;
  size_t next_window_ = 0;
  uint32_t under_way_ = 0;
  uint64_t missing_from_ = ~uint64_t{0};  // position
};

}  // namespace kvcore
