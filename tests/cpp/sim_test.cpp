#include <algorithm>
#include <array>
#include <bit>
#include <list>
#include <map>
#include <numeric>
#include <random>
#include <stdexcept>

#include "chains.h"
#include "doctest/doctest.h"
#include "evict/shadow_cache.h"
#include "sim/fenwick_tree.h"
#include "sim/hit_histogram.h"
#include "sim/lru_curve.h"
#include "sim/optimal.h"
#include "sim/stack_distance.h"

namespace kvcore {
namespace {

using testing::chain_of;

// Requests over a random tree of blocks.
struct RandomTrace {
  RandomTrace(uint64_t seed, size_t num_requests, size_t max_unique, size_t max_blocks) {
    std::mt19937_64 random(seed);
    std::map<std::pair<uint32_t, uint32_t>, uint32_t> names;
    for (size_t i = 0; i < num_requests; ++i) {
      uint32_t parent = ~0u;
      for (size_t left = random() % (max_blocks + 1); left > 0; --left) {
        const auto key = std::pair(parent, static_cast<uint32_t>(random() % 5 / 3));
        if (!names.contains(key) && names.size() == max_unique) break;
        parent = names.emplace(key, names.size()).first->second;
        block_ids.push_back(parent);
      }
      offsets.push_back(static_cast<int64_t>(block_ids.size()));
    }
  }
  Requests requests() const { return {block_ids, offsets}; }

  std::vector<uint32_t> block_ids;
  std::vector<int64_t> offsets{0};
};

// Tries every set of blocks that a cache could keep after each request.
uint64_t most_hits(const Requests& requests, int num_blocks) {
  std::map<uint32_t, uint64_t> best{{0, 0}};  // cached set -> most hits so far
  for (uint32_t r = 0; r < requests.size(); ++r) {
    std::map<uint32_t, uint64_t> after;
    for (auto [cached, hits] : best) {
      uint32_t chain = 0;
      bool unbroken = true;
      for (uint32_t block : requests[r]) {
        unbroken = unbroken && (cached >> block & 1) != 0;
        hits += unbroken;
        chain |= 1u << block;
      }
      const uint32_t candidates = cached | chain;
      for (uint32_t kept = candidates;; kept = (kept - 1) & candidates) {
        if (std::popcount(kept) <= num_blocks) {
          uint64_t& most = after[kept];
          most = std::max(most, hits);
        }
        if (kept == 0) break;
      }
    }
    best = std::move(after);
  }
  uint64_t most = 0;
  for (auto [cached, hits] : best) most = std::max(most, hits);
  return most;
}

// LRU over single blocks, touched deepest first.
uint64_t lru_hits(const Requests& requests, size_t num_blocks) {
  std::list<uint32_t> stack;
  uint64_t hits = 0;
  for (uint32_t r = 0; r < requests.size(); ++r) {
    const auto chain = requests[r];
    for (uint32_t block : chain) {
      if (std::ranges::find(stack, block) == stack.end()) break;
      ++hits;
    }
    for (size_t i = chain.size(); i-- > 0;) {
      stack.remove(chain[i]);
      stack.push_front(chain[i]);
    }
    if (stack.size() > num_blocks) stack.resize(num_blocks);
  }
  return hits;
}

// Hashes of the chains of a trace.
std::vector<std::vector<BlockHash>> hashed(const Requests& requests) {
  std::vector<std::vector<BlockHash>> chains;
  for (uint32_t r = 0; r < requests.size(); ++r) {
    chains.push_back(chain_of({requests[r].begin(), requests[r].end()}));
  }
  return chains;
}

std::string error_of(const std::vector<uint32_t>& block_ids, const std::vector<int64_t>& offsets) {
  try {
    Requests(block_ids, offsets);
  } catch (const std::invalid_argument& error) {
    return error.what();
  }
  return "";
}

// Hits of all requests, and evictions.
std::pair<uint64_t, uint64_t> optimum(const OptimalReplay& optimal, uint64_t num_blocks) {
  const auto [hits, evictions] = optimal.run(num_blocks);
  return {std::accumulate(hits.begin(), hits.end(), uint64_t{0}), evictions};
}

TEST_CASE("requests refuse what is no trace") {
  CHECK(error_of({}, {0}).empty());
  CHECK(error_of({0, 1, 0, 1, 2}, {0, 2, 2, 5}).empty());
  CHECK(error_of({}, {}) == "offsets has 0 entries; allowed are 1 to 4294967294");
  CHECK(error_of({0}, {1, 1}) == "offsets[0] is 1; allowed are 0 to 0");
  CHECK(error_of({0}, {0, 2}) == "offsets[1] is 2; allowed are 0 to 1");
  CHECK(error_of({0, 1}, {0, 2, 1}) == "offsets[2] is 1; allowed are 2 to 2");
  CHECK(error_of({0, 1}, {0, -1, 2}) == "offsets[1] is -1; allowed are 0 to 2");
  CHECK(error_of({0, 1}, {0, 1}) == "offsets[1] is 1; the last must be the number of blocks, 2");
  CHECK(error_of({0, 7}, {0, 2}) == "block_ids[1] is 7; ids are dense, so allowed are 0 to 1");
  for (const auto& ids : {std::vector<uint32_t>{0, 1, 1}, {0, 0}, {0, 1, 0}}) {
    CHECK(error_of(ids, {0, static_cast<int64_t>(ids.size())}).find("stands for one prefix") !=
          std::string::npos);
  }
  CHECK(error_of({0, 1, 1, 0}, {0, 2, 4}).starts_with("block_ids[2] is 1; "));
}

TEST_CASE("the optimum is what the best of all choices reaches") {
  for (uint64_t seed = 0; seed < 300; ++seed) {
    const RandomTrace trace(seed, 7, 7, 5);
    const OptimalReplay optimal(trace.requests());
    for (int num_blocks = 0; num_blocks <= 6; ++num_blocks) {
      CAPTURE(seed);
      CAPTURE(num_blocks);
      REQUIRE(optimum(optimal, static_cast<uint64_t>(num_blocks)).first ==
              most_hits(trace.requests(), num_blocks));
    }
  }
}

TEST_CASE("the optimum finds no less than LRU and evicts only what it kept") {
  for (uint64_t seed = 0; seed < 50; ++seed) {
    const RandomTrace trace(seed, 100, 1000, 9);
    const Requests requests = trace.requests();
    const OptimalReplay optimal(requests);
    for (uint64_t num_blocks : {0u, 1u, 3u, 10u, 30u}) {
      const auto [hits, evictions] = optimum(optimal, num_blocks);
      CHECK(hits >= lru_hits(requests, num_blocks));
      CHECK(evictions <= requests.num_blocks() - hits);
    }
    const auto [hits, evictions] = optimum(optimal, requests.num_unique_blocks());
    CHECK(hits == requests.num_blocks() - requests.num_unique_blocks());
    CHECK(evictions == 0);
  }
}

TEST_CASE("evictions of the optimum, counted by hand") {
  const std::vector<int64_t> offsets{0, 1, 2, 3, 4};
  const auto run = [&](const std::vector<uint32_t>& block_ids, uint64_t num_blocks) {
    return optimum(OptimalReplay(Requests(block_ids, offsets)), num_blocks);
  };
  // 0 waits for its next use; the others are bypassed.
  CHECK(run({0, 1, 2, 0}, 1) == std::pair<uint64_t, uint64_t>(1, 0));
  CHECK(run({0, 1, 2, 0}, 3) == std::pair<uint64_t, uint64_t>(1, 0));
  // 0 leaves for 1, which is needed sooner; when 0 comes back it is bypassed.
  CHECK(run({0, 1, 1, 0}, 1) == std::pair<uint64_t, uint64_t>(1, 1));
  CHECK(run({0, 1, 1, 0}, 2) == std::pair<uint64_t, uint64_t>(2, 0));
  CHECK(run({0, 1, 1, 0}, 0) == std::pair<uint64_t, uint64_t>(0, 0));
}

TEST_CASE("hits of the optimum by request, counted by hand") {
  // 0 1 and 0 2 share 0; the third request asks for 0 1, the fourth for 0 2.
  const std::vector<uint32_t> block_ids{0, 1, 0, 2, 0, 1, 0, 2};
  const OptimalReplay optimal(Requests(block_ids, std::vector<int64_t>{0, 2, 4, 6, 8}));
  CHECK(optimal.run(0).hit_blocks == std::vector<uint32_t>{0, 0, 0, 0});
  CHECK(optimal.run(1).hit_blocks == std::vector<uint32_t>{0, 1, 1, 1});
  CHECK(optimal.run(2).hit_blocks == std::vector<uint32_t>{0, 1, 2, 1});
  CHECK(optimal.run(3).hit_blocks == std::vector<uint32_t>{0, 1, 2, 2});
}

TEST_CASE("the LRU curve is LRU at every capacity") {
  for (uint64_t seed = 0; seed < 100; ++seed) {
    const RandomTrace trace(seed, 60, 1000, 8);
    const Requests requests = trace.requests();
    const std::vector<uint64_t> hits = lru_hit_blocks(requests);
    REQUIRE(hits.size() == requests.num_unique_blocks() + size_t{1});
    for (size_t num_blocks = 0; num_blocks < hits.size(); ++num_blocks) {
      REQUIRE(hits[num_blocks] == lru_hits(requests, num_blocks));
    }
  }
}

TEST_CASE("the Fenwick tree sums what follows") {
  std::mt19937_64 random(1);
  FenwickTree<int64_t> tree(37);
  std::vector<int64_t> values(37);
  for (int round = 0; round < 500; ++round) {
    const size_t at = random() % values.size();
    const auto amount = static_cast<int64_t>(random() % 9) - 4;
    values[at] += amount;
    tree.add(at, amount);
    int64_t sum = 0;
    for (size_t i = values.size(); i-- > 0; sum += values[i]) REQUIRE(tree.sum_after(i) == sum);
  }
}

TEST_CASE("a histogram keeps small distances apart and spreads large ones") {
  HitHistogram hits;
  for (uint64_t distance = 1; distance <= 4096; ++distance) hits.add(distance, 1);
  for (uint64_t limit = 0; limit < 4096; ++limit) {
    CHECK(hits.sum_to(limit) == doctest::Approx(static_cast<double>(limit)));
  }
  hits.add(uint64_t{1} << 62, 1);
  CHECK(hits.sum_to(1 << 20) == doctest::Approx(4096));
  CHECK(hits.sum_to(~uint64_t{0}) == doctest::Approx(4097));
}

TEST_CASE("the curve of a whole sample is exact, however long it goes on") {
  for (uint64_t seed = 0; seed < 5; ++seed) {
    const RandomTrace trace(seed, 5000, 100, 12);
    const Requests requests = trace.requests();
    LruCurve curve(0.01, 64, seed);
    for (const auto& chain : hashed(requests)) curve.update(chain);
    CHECK(curve.rate() == 1);
    const std::vector<uint64_t> hits = lru_hit_blocks(requests);
    for (size_t num_blocks = 0; num_blocks < hits.size(); ++num_blocks) {
      const auto exact = static_cast<double>(hits[num_blocks]);
      REQUIRE(curve.hits(num_blocks) == doctest::Approx(exact).epsilon(1e-9));
    }
  }
}

// Prompts come up, are asked for some times and never again.
TEST_CASE("a sampled curve that has to forget stays near LRU") {
  constexpr std::array<uint32_t, 2> kCapacities{100, 200};
  std::array<double, 2> found{}, estimated{};
  for (uint64_t seed = 0; seed < 20; ++seed) {
    std::mt19937_64 random(seed);
    LruCurve curve(0.2, 64, seed);
    ShadowCache small("lru", kCapacities[0]), large("lru", kCapacities[1]);
    std::vector<std::vector<uint32_t>> prompts;
    for (uint32_t i = 1; i < 6000; ++i) {
      if (prompts.size() < 20 || random() % 4 == 0) {
        if (prompts.size() == 20) prompts.erase(prompts.begin());
        prompts.emplace_back(12, i);
      }
      std::vector<uint32_t> tokens = prompts[random() % prompts.size()];
      tokens.insert(tokens.end(), random() % 6, i);
      const std::vector<BlockHash> chain = chain_of(tokens);
      curve.update(chain);
      const RequestInfo request;
      found[0] += small.serve(chain, {request, i});
      found[1] += large.serve(chain, {request, i});
    }
    for (size_t i = 0; i < 2; ++i) estimated[i] += curve.hits(kCapacities[i]);
  }
  for (size_t i = 0; i < 2; ++i) CHECK(estimated[i] == doctest::Approx(found[i]).epsilon(0.02));
}

TEST_CASE("a sampled curve is bounded in memory and never falls, whatever it is shown") {
  for (uint64_t min_sample_blocks : {1u, 2u, 50u}) {
    for (double sample_ratio : {1.0, 0.2, 0.001}) {
      std::mt19937_64 random(min_sample_blocks);
      LruCurve curve(sample_ratio, min_sample_blocks, 3);
      for (int request = 0; request < 6000; ++request) {
        std::vector<uint32_t> tokens(random() % 40);
        for (uint32_t& token : tokens) token = random() % 8 == 0 ? random() % 50 : 0;
        std::vector<BlockHash> chain = chain_of(tokens);
        if (random() % 20 == 0) std::ranges::shuffle(chain, random);  // no chain at all
        if (random() % 20 == 0) chain.insert(chain.end(), chain.begin(), chain.end());
        curve.update(chain);
        REQUIRE(curve.sampled_blocks() <= 9 * min_sample_blocks / 4 + 1);  // a new root comes last
        REQUIRE(curve.root_blocks() <= std::max<uint64_t>(1, min_sample_blocks / 2));
        REQUIRE(curve.rate() >= sample_ratio);
      }
      CHECK(curve.bytes() < (1 << 17));
      double before = 0;
      for (uint64_t num_blocks = 0; num_blocks < 5000; num_blocks += 7) {
        const double hits = curve.hits(num_blocks);
        REQUIRE(hits >= before);
        before = hits;
      }
    }
  }
}

TEST_CASE("a chain longer than the sample") {
  LruCurve curve(1, 4, 0);
  const std::vector<BlockHash> chain = chain_of(std::vector<uint32_t>(1000, 1));
  for (int i = 0; i < 3; ++i) curve.update(chain);
  CHECK(curve.sampled_blocks() <= 9);
  CHECK(curve.hits(1000) <= 3000);
}

}  // namespace
}  // namespace kvcore
