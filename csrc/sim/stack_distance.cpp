#include "sim/stack_distance.h"

#include <limits>
#include <numeric>
#include <span>

#include "sim/fenwick_tree.h"

namespace kvcore {
namespace {

constexpr uint32_t kNever = std::numeric_limits<uint32_t>::max();

}  // namespace

std::vector<uint64_t> lru_hit_blocks(const Requests& requests) {
  // Unsigned numbers that wrap: `hits` holds differences, and differences of those, until the end.
  std::vector<uint64_t> hits(requests.num_unique_blocks() + size_t{2});
  std::vector<uint32_t> last_use(requests.num_unique_blocks(), kNever);
  FenwickTree<uint64_t> blocks_by_last_use(requests.size());
  for (uint32_t request = 0; request < requests.size(); ++request) {
    const std::span<const uint32_t> chain = requests[request];
    for (size_t begin = 0, end = 0; begin < chain.size(); begin = end) {
      const uint32_t last = last_use[chain[begin]];
      while (end < chain.size() && last_use[chain[end]] == last) last_use[chain[end++]] = request;
      if (last == kNever) continue;
      // More recent are all of newer requests, of which `begin` blocks are in this chain by now.
      const uint64_t newer = blocks_by_last_use.sum_after(last) + begin;
      ++hits[newer + 1];
      --hits[newer + 1 + end - begin];
      blocks_by_last_use.add(last, begin - end);
    }
    // Only now, so that this request's own blocks do not count as newer.
    blocks_by_last_use.add(request, chain.size());
  }
  std::partial_sum(hits.begin(), hits.end(), hits.begin());
  std::partial_sum(hits.begin(), hits.end(), hits.begin());
  hits.pop_back();
  return hits;
}

}  // namespace kvcore
