#include <map>
#include <set>
#include <unordered_map>

#include "chains.h"
#include "doctest/doctest.h"
#include "table/block_table.h"

namespace kvcore {
namespace {

using testing::chain_of;
using testing::random_tokens;

TEST_CASE("a size class holds what it is asked for and wastes at most an eighth") {
  for (uint32_t blocks = 1; blocks <= kMaxSpanBlocks; ++blocks) {
    uint32_t capacity = RunPool::capacity(RunPool::class_for(blocks));
    CHECK(capacity >= blocks);
    CHECK((capacity - blocks) * 8 <= blocks + 7);
    if (blocks > 1) CHECK(RunPool::class_for(blocks - 1) <= RunPool::class_for(blocks));
  }
}

TEST_CASE("runs never overlap and their memory is used again") {
  constexpr uint32_t kBlockBytes = 20;
  RunPool pool(kBlockBytes);
  std::mt19937_64 random(1);
  std::multimap<uint32_t, std::byte*> runs;  // blocks -> run
  for (int round = 0; round < 20'000; ++round) {
    if (runs.size() < 300 && random() % 2 == 0) {
      uint32_t blocks = 1 + random() % (random() % 8 == 0 ? kMaxSpanBlocks : 40);
      auto* run = static_cast<std::byte*>(pool.allocate(RunPool::class_for(blocks)));
      std::fill_n(run, blocks * kBlockBytes, std::byte(blocks % 251));
      runs.emplace(blocks, run);
    } else if (!runs.empty()) {
      auto it = std::next(runs.begin(), static_cast<long>(random() % runs.size()));
      auto [blocks, run] = *it;
      REQUIRE(std::all_of(run, run + blocks * kBlockBytes,
                          [&](std::byte byte) { return byte == std::byte(blocks % 251); }));
      pool.release(it->second);
      runs.erase(it);
    }
  }
  for (auto& [blocks, run] : runs) pool.release(run);
  CHECK(pool.num_runs() == 0);
  CHECK(pool.bytes() <= 16 * (256 << 10));
}

TEST_CASE("the index agrees with a map while it grows and shrinks") {
  SpanIndex index;
  std::unordered_multimap<uint32_t, SpanId> model;
  std::mt19937_64 random(2);
  uint32_t next = 1;
  auto check = [&] {
    index.check_invariants();
    REQUIRE(index.size() == model.size());
    for (auto& [tag, span] : model) {
      REQUIRE(index.find(tag, [&](SpanId id) { return id == span; }) == span);
    }
  };
  for (size_t target : {10, 5000, 300, 20'000, 0}) {
    while (model.size() != target) {
      if (model.size() < target) {
        // Many equal tags, many that share a segment.
        uint32_t tag = random() % 4 == 0 ? static_cast<uint32_t>(random() % 50) << 20
                                         : static_cast<uint32_t>(random());
        if (model.count(tag) < 300) {
          index.insert(tag, SpanId{next});
          model.emplace(tag, SpanId{next++});
        }
      } else {
        auto victim = *model.begin();
        SpanId moved{next++};
        index.replace(victim.first, victim.second, moved);
        index.erase(victim.first, moved);
        model.erase(model.begin());
      }
    }
    check();
  }
}

// The table, with spans made and cut at random, beside a set of block hashes.
TEST_CASE("the table finds exactly the blocks that a set of blocks holds") {
  for (uint64_t seed = 0; seed < 30; ++seed) {
    std::mt19937_64 random(seed);
    BlockTable table(10'000);
    std::map<std::array<uint8_t, 16>, BlockId> model;
    uint32_t next_id = 0;
    for (int round = 0; round < 300; ++round) {
      auto hashes = chain_of(random_tokens(random, 40));
      std::vector<SpanId> path;
      size_t covered = 0;
      for (SpanId at = kRootSpan;;) {
        auto [id, blocks] = table.step(at, std::span(hashes).subspan(covered));
        if (id == kRootSpan) break;
        for (uint32_t i = 0; i < blocks; ++i) {
          REQUIRE(model.at(hashes[covered + i].bytes) == table.block_ids(id)[i]);
        }
        covered += blocks;
        bool whole = blocks == table[id].length;
        path.push_back(at = whole ? id : table.split(id, blocks));
        if (!whole) break;
      }
      size_t expected = 0;
      while (expected < hashes.size() && model.contains(hashes[expected].bytes)) ++expected;
      REQUIRE(covered == expected);

      if (random() % 2 == 0 && covered < hashes.size()) {
        std::vector<BlockId> ids;
        for (size_t i = covered; i < hashes.size(); ++i) {
          ids.push_back(BlockId{next_id});
          model[hashes[i].bytes] = BlockId{next_id++};
        }
        SpanId parent = path.empty() ? kRootSpan : path.back();
        SpanId id = table.append(parent, std::span(hashes).subspan(covered), ids);
        table[id].filled = table[id].length;
      } else if (!path.empty() && table[path.back()].holds == 0) {
        SpanId leaf = path.back();
        uint32_t blocks = 1 + static_cast<uint32_t>(random() % table[leaf].length);
        for (BlockHash hash : table.hashes(leaf).last(blocks)) model.erase(hash.bytes);
        blocks == table[leaf].length ? table.remove(leaf) : table.trim(leaf, blocks);
      }
      table.check_invariants();
    }
  }
}

TEST_CASE("hashes that are no chain cannot confuse the table") {
  BlockTable table(100);
  auto hashes = chain_of({0, 1, 2, 3});
  std::vector<BlockHash> same_head_elsewhere{hashes[2], hashes[0]};
  std::vector<BlockId> ids{BlockId{0}, BlockId{1}, BlockId{2}, BlockId{3}};
  SpanId first = table.append(kRootSpan, std::span(hashes).first(2), std::span(ids).first(2));
  SpanId below = table.append(first, std::span(hashes).subspan(2), std::span(ids).subspan(2));
  CHECK(table.step(kRootSpan, same_head_elsewhere).span == kRootSpan);
  SpanId root_twin = table.append(kRootSpan, same_head_elsewhere, std::span(ids).first(2));
  CHECK(table.step(kRootSpan, same_head_elsewhere).span == root_twin);
  CHECK(table.step(first, std::span(hashes).subspan(2)).span == below);
  // The record of a child that was walked last, used again elsewhere with the same hash.
  SpanId last = table.append(first, std::span(hashes).first(1), std::span(ids).first(1));
  table.remove(last);
  REQUIRE(table.append(below, std::span(hashes).first(1), std::span(ids).first(1)) == last);
  CHECK(table.step(first, std::span(hashes).first(1)).span == kRootSpan);
  table.check_invariants();
}

}  // namespace
}  // namespace kvcore
