#include "sim/optimal.h"

#include <algorithm>
#include <limits>
#include <queue>
#include <span>

namespace kvcore {
namespace {

constexpr uint32_t kNever = std::numeric_limits<uint32_t>::max();

}  // namespace

OptimalReplay::OptimalReplay(const Requests& requests) : num_pieces_(requests.size()) {
  std::vector<uint32_t> next_use(requests.num_unique_blocks(), kNever);
  for (uint32_t request = requests.size(); request-- > 0;) {
    const size_t first = pieces_.size();
    for (uint32_t block : requests[request]) {
      const uint32_t next = next_use[block];
      next_use[block] = request;
      if (pieces_.size() == first || pieces_.back().next_use != next) pieces_.push_back({next, 0});
      ++pieces_.back().blocks;
    }
    num_pieces_[request] = static_cast<uint32_t>(pieces_.size() - first);
  }
  std::ranges::reverse(pieces_);
}

OptimalCounts OptimalReplay::run(uint64_t num_blocks) const {
  OptimalCounts counts;
  // Blocks by the request that asks next; what is left when it comes are its hits.
  std::vector<uint32_t>& cached = counts.hit_blocks;
  cached.resize(num_pieces_.size());
  std::priority_queue<uint32_t> next_uses;  // all to come with cached blocks, and some past
  uint64_t idle = 0;                        // cached blocks that nobody asks for again
  uint64_t used = 0;
  uint64_t inserted = 0;
  const Piece* piece = pieces_.data();
  for (uint32_t request = 0; request < num_pieces_.size(); ++request) {
    const std::span<const Piece> pieces(piece, num_pieces_[request]);
    piece += pieces.size();

    const uint32_t hits = cached[request];
    used -= hits;
    for (const auto& [next_use, blocks] : pieces) {
      used += blocks;
      if (next_use == kNever) {
        idle += blocks;
      } else {
        if (cached[next_use] == 0) next_uses.push(next_use);
        cached[next_use] += blocks;
      }
    }

    const uint64_t excess = used > num_blocks ? used - num_blocks : 0;
    const uint64_t idle_leaving = std::min(idle, excess);
    idle -= idle_leaving;
    used -= excess;
    for (uint64_t rest = excess - idle_leaving; rest > 0;) {
      uint32_t& latest = cached[next_uses.top()];
      const auto leaving = static_cast<uint32_t>(std::min<uint64_t>(latest, rest));
      latest -= leaving;
      rest -= leaving;
      if (latest == 0) next_uses.pop();
    }

    // Of idle blocks those that have just come leave first: they are bypassed, not evicted.
    uint64_t stayed = 0;
    for (const auto& [next_use, blocks] : pieces) {
      stayed += next_use == kNever ? blocks - std::min<uint64_t>(blocks, idle_leaving)
                                   : std::min(blocks, cached[next_use]);
    }
    inserted += stayed > hits ? stayed - hits : 0;
  }
  counts.evictions = inserted - used;
  return counts;
}

}  // namespace kvcore
