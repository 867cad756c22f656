#include "copy/paged_layout.h"

#include <random>
#include <set>
#include <stdexcept>
#include <vector>

#include "doctest/doctest.h"

namespace kvcore {
namespace {

// Byte by byte.
bool share_a_byte(const std::vector<uint64_t>& bases, uint32_t blocks, uint64_t stride,
                  uint64_t run_bytes) {
  std::set<uint64_t> seen;
  for (uint64_t base : bases) {
    for (uint32_t block = 0; block < blocks; ++block) {
      for (uint64_t i = 0; i < run_bytes; ++i) {
        if (!seen.insert(base + block * stride + i).second) return true;
      }
    }
  }
  return false;
}

TEST_CASE("a layout is refused where, and only where, blocks share a byte") {
  std::mt19937 random(5);
  int refused = 0, taken = 0;
  for (int round = 0; round < 20000; ++round) {
    const uint32_t blocks = 1 + random() % 5;
    const uint64_t stride = random() % 24, run_bytes = 1 + random() % 8;
    std::vector<uint64_t> bases(1 + random() % 4);
    for (uint64_t& base : bases) base = 100 + random() % 120;
    bool is_refused = false;
    try {
      PagedLayout(bases, 1, blocks, stride, run_bytes);
    } catch (const std::invalid_argument&) {
      is_refused = true;
    }
    REQUIRE(is_refused == share_a_byte(bases, blocks, stride, run_bytes));
    ++(is_refused ? refused : taken);
  }
  CHECK(refused > 1000);
  CHECK(taken > 1000);
}

}  // namespace
}  // namespace kvcore
