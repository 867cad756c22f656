#include <algorithm>
#include <limits>
#include <random>
#include <stdexcept>
#include <thread>
#include <vector>

#include "chains.h"
#include "doctest/doctest.h"
#include "evict/policy.h"
#include "sim/miss_ratio_curve.h"

namespace kvcore {
namespace {

using testing::chain_of;
using testing::random_tokens;

CurveOptions options_of(std::string_view policy) {
  CurveOptions options{
      .sample_ratio = 0.05, .min_sample_blocks = 40, .policy = std::string(policy)};
  if (policy != "lru") options.capacities = {1, 10, 40, 60, 400, 1500};
  return options;
}

TEST_CASE("the sample of a chain is a chain, and a lower rate takes some of it") {
  const std::vector<BlockHash> chain = chain_of(std::vector<uint32_t>(2000, 0));
  ChainSample sample(3);
  sample.take(chain);
  std::vector<uint32_t> before(chain.size());
  for (uint32_t i = 0; i < before.size(); ++i) before[i] = i;
  for (double rate : {1.0, 0.5, 0.1, 0.1, 0.01}) {
    sample.narrow(rate);
    std::vector<uint32_t> positions;
    for (size_t i = 0; i < sample.hashes().size(); ++i) {
      positions.push_back(sample.position(i));
      REQUIRE(sample.hashes()[i] == chain[sample.position(i)]);
    }
    CHECK(std::ranges::is_sorted(positions));
    CHECK(std::ranges::includes(before, positions));
    CHECK(static_cast<double>(positions.size()) == doctest::Approx(2000 * rate).epsilon(0.4));
    before = positions;
  }
}

TEST_CASE("the curve of any policy keeps its books, whatever it is shown") {
  for (std::string_view policy : policy_names()) {
    CAPTURE(policy);
    MissRatioCurve curve(options_of(policy));
    std::mt19937_64 random(5);
    for (int i = 0; i < 1500; ++i) {
      std::vector<BlockHash> chain = chain_of(random_tokens(random, 40));
      if (random() % 20 == 0) std::ranges::shuffle(chain, random);  // no chain at all
      if (random() % 20 == 0) chain.insert(chain.end(), chain.begin(), chain.end());
      RequestInfo request{.session = {}, .arrival_us = int64_t{i} * 100'000};
      curve.update(chain, request);
      if (i % 3 != 0) curve.finish(request, random() % 1000);
      if (i % 50 == 0) curve.check_invariants();
    }
    CHECK(curve.stats().rate >= 0.05);
    for (uint64_t capacity = 0; capacity < 2000; capacity += 3) {
      REQUIRE(curve.hit_ratio(capacity) >= 0);
      REQUIRE(curve.hit_ratio(capacity) <= 1);
    }
  }
}

TEST_CASE("a curve refuses wrong settings") {
  auto refuses = [](auto change) {
    CurveOptions options = options_of("arc");
    change(options);
    CHECK_THROWS_AS(MissRatioCurve{options}, std::invalid_argument);
  };
  for (double ratio : {0.0, -1.0, 1.5, std::numeric_limits<double>::quiet_NaN()}) {
    refuses([&](CurveOptions& options) { options.sample_ratio = ratio; });
  }
  refuses([](CurveOptions& options) { options.min_sample_blocks = 0; });
  refuses([](CurveOptions& options) { options.min_sample_blocks = (1 << 20) + 1; });
  refuses([](CurveOptions& options) { options.policy = "none"; });
  refuses([](CurveOptions& options) { options.policy = "lru"; });
  refuses([](CurveOptions& options) { options.capacities = {}; });
  refuses([](CurveOptions& options) { options.capacities = {0, 1}; });
  refuses([](CurveOptions& options) { options.capacities = {2, 2}; });
  refuses([](CurveOptions& options) { options.capacities.assign(65, 1); });
  refuses([](CurveOptions& options) { options.capacities = {1 << 30}; });
}

TEST_CASE("threads share a curve") {
  for (std::string_view policy : {"lru", "hazard"}) {
    MissRatioCurve curve(options_of(policy));
    std::vector<std::thread> threads;
    for (uint64_t seed = 0; seed < 4; ++seed) {
      threads.emplace_back([&curve, seed] {
        std::mt19937_64 random(seed);
        for (int i = 0; i < 500; ++i) {
          const RequestInfo request;
          curve.update(chain_of(random_tokens(random, 20)), request);
          curve.finish(request, 10);
          CHECK(curve.hit_ratio(100) <= 1);
          CHECK(curve.stats().memory_bytes > 0);
        }
      });
    }
    for (std::thread& thread : threads) thread.join();
    curve.check_invariants();
    CHECK(curve.stats().blocks > 0);
  }
}

}  // namespace
}  // namespace kvcore
