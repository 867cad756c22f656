#include <algorithm>
#include <list>

#include "chains.h"
#include "doctest/doctest.h"
#include "evict/ghost_lists.h"

namespace kvcore {
namespace {

using testing::chain_of;

struct Ghost {
  BlockHash hash;
  GhostLists::Which which;
  uint64_t value;
};

// Block by block; oldest first.
struct Model {
  std::list<Ghost> ghosts;

  auto find(const BlockHash& hash) {
    return std::find_if(ghosts.begin(), ghosts.end(), [&](auto& g) { return g.hash == hash; });
  }
  void add(GhostLists::Which which, std::span<const BlockHash> blocks, uint64_t value) {
    for (size_t i = blocks.size(); i-- > 0;) ghosts.push_back({blocks[i], which, value});
  }
  void drop_oldest(GhostLists::Which which, uint32_t blocks) {
    for (auto it = ghosts.begin(); blocks > 0;) {
      it->which == which ? (it = ghosts.erase(it), --blocks) : (++it, blocks);
    }
  }
  uint32_t size(GhostLists::Which which) const {
    return static_cast<uint32_t>(
        std::count_if(ghosts.begin(), ghosts.end(), [&](auto& g) { return g.which == which; }));
  }
};

TEST_CASE("ghosts agree with a list of single blocks") {
  std::mt19937_64 random(7);
  for (int life = 0; life < 40; ++life) {
    uint32_t limit = 1 + random() % 400;
    GhostLists ghosts(3 * limit + 2 * kMaxSpanBlocks + 2);
    Model model;
    for (uint64_t round = 1; round < 300; ++round) {
      std::vector<uint32_t> tokens(1 + random() % (round % 50 == 0 ? 2 * kMaxSpanBlocks + 1 : 60));
      for (uint32_t& token : tokens) token = random() % 24 == 0;
      std::vector<BlockHash> chain = chain_of(tokens);
      std::span<const BlockHash> rest = chain;
      // What a policy does: what comes is no ghost any more; later, the tail leaves again.
      for (size_t i = 0; i < rest.size();) {
        GhostLists::Hit hit = ghosts.take(rest.subspan(i));
        REQUIRE((hit.blocks == 0) == (model.find(rest[i]) == model.ghosts.end()));
        for (uint32_t end = static_cast<uint32_t>(i) + hit.blocks; i < end; ++i) {
          auto ghost = model.find(rest[i]);
          REQUIRE(ghost != model.ghosts.end());
          CHECK(ghost->which == hit.which);
          CHECK(ghost->value == hit.value);
          model.ghosts.erase(ghost);
        }
        i += hit.blocks == 0;
      }
      auto which = random() % 2 == 0 ? GhostLists::kFirst : GhostLists::kSecond;
      std::span<const BlockHash> tail = rest.last(random() % (rest.size() + 1));
      ghosts.add(which, tail, round);
      model.add(which, tail, round);
      for (auto list : {GhostLists::kFirst, GhostLists::kSecond}) {
        REQUIRE(ghosts.size(list) == model.size(list));
        uint32_t excess = model.size(list) > limit ? model.size(list) - limit : 0;
        ghosts.drop_oldest(list, excess);
        model.drop_oldest(list, excess);
      }
      ghosts.check_invariants();
    }
  }
}

TEST_CASE("a run that goes on as it began is trimmed, not lost") {
  const std::vector<BlockHash> chain = chain_of(std::vector<uint32_t>{1, 2});
  const std::vector<BlockHash> repeats{chain[0], chain[0], chain[1]};  // no chain at all
  GhostLists ghosts(10);
  ghosts.add(GhostLists::kFirst, repeats, 5);
  CHECK(ghosts.take(chain).blocks == 1);
  ghosts.check_invariants();
  CHECK(ghosts.size(GhostLists::kFirst) == 2);
  CHECK(ghosts.take(chain).blocks == 2);
  CHECK(ghosts.size(GhostLists::kFirst) == 0);
}

TEST_CASE("two runs never begin with the same block") {
  const std::vector<BlockHash> chain = chain_of(std::vector<uint32_t>{1, 2});
  GhostLists ghosts(10);
  ghosts.add(GhostLists::kFirst, chain, 5);
  ghosts.add(GhostLists::kFirst, {&chain[1], 1}, 6);  // no chain at all
  CHECK(ghosts.take({chain.data(), 1}).blocks == 1);
  CHECK(ghosts.size(GhostLists::kFirst) == 1);
  ghosts.check_invariants();
}

TEST_CASE("ghosts tell hashes apart by any bit") {
  for (size_t bit = 0; bit < 8 * sizeof(BlockHash); ++bit) {
    CAPTURE(bit);
    BlockHash there{}, other{};
    other.bytes[bit / 8] ^= static_cast<uint8_t>(1 << bit % 8);
    GhostLists ghosts(10);
    ghosts.add(GhostLists::kFirst, {&there, 1}, 1);
    CHECK(ghosts.take({&other, 1}).blocks == 0);
    CHECK(ghosts.take({&there, 1}).blocks == 1);
  }
}

TEST_CASE("a ghost costs four bytes, a run of them a record and a slot") {
  constexpr uint32_t kRuns = 10'000, kLength = 100;
  GhostLists ghosts(size_t{kRuns} * kLength);
  std::mt19937_64 random(8);
  std::vector<BlockHash> run(kLength);
  for (uint32_t i = 0; i < kRuns; ++i) {
    for (BlockHash& hash : run) {
      for (uint8_t& byte : hash.bytes) byte = static_cast<uint8_t>(random());
    }
    ghosts.add(GhostLists::kFirst, run, i);
  }
  CHECK(ghosts.size(GhostLists::kFirst) == kRuns * kLength);
  CHECK(ghosts.bytes() < size_t{kRuns} * (kLength * 9 / 2 + 64) + (512 << 10));
}

}  // namespace
}  // namespace kvcore
