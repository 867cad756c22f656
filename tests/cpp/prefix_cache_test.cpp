#include "cache/prefix_cache.h"

#include <memory>
#include <thread>

#include "chains.h"
#include "doctest/doctest.h"

namespace kvcore {
namespace {

using testing::chain_of;
using testing::random_tokens;

// One caller's life: leases and reservations that come, are committed in parts, and go.
void live(const std::shared_ptr<PrefixCache>& cache, uint64_t seed, int rounds, bool check) {
  std::mt19937_64 random(seed);
  std::vector<std::unique_ptr<Lease>> leases;
  std::vector<std::unique_ptr<Reservation>> reservations;
  for (int round = 0; round < rounds; ++round) {
    auto hashes = chain_of(random_tokens(random, 60));
    RequestInfo request{.tenant = std::string(1, "abc"[random() % 3]),
                        .session = std::string(1, "stu"[random() % 3])};
    size_t pick = reservations.empty() ? 0 : random() % reservations.size();
    switch (random() % 10) {
      case 0:
        (void)cache->match(hashes);
        break;
      case 1:
      case 2: {
        Lease lease = cache->acquire(hashes, request);
        if (random() % 2 == 0) leases.push_back(std::make_unique<Lease>(std::move(lease)));
        break;
      }
      case 3:
      case 4: {
        Lease lease = cache->acquire(hashes, request);
        Reservation reservation = cache->reserve(hashes, request);
        for (size_t i = 0; i < lease.block_ids().size(); ++i) {
          REQUIRE(reservation.states()[i] == BlockState::kPresent);
        }
        REQUIRE(reservation.new_positions().size() == reservation.block_ids().size());
        reservations.push_back(std::make_unique<Reservation>(std::move(reservation)));
        break;
      }
      case 5: {
        if (reservations.empty()) break;
        size_t all = reservations[pick]->block_ids().size();
        size_t committed = reservations[pick]->num_committed();
        REQUIRE(reservations[pick]->commit(committed + random() % (all - committed + 1)));
        break;
      }
      case 6:
        if (!reservations.empty()) {
          size_t all = reservations[pick]->block_ids().size();
          if (random() % 2 == 0) REQUIRE(reservations[pick]->commit(all));
          std::swap(reservations[pick], reservations.back());
          reservations.pop_back();
        }
        break;
      case 7:
        leases.push_back(std::make_unique<Lease>(cache->pin(hashes)));
        break;
      case 8:
        (void)cache->keep(hashes, random() % 2 == 0 ? kNever : round * 100'000);
        break;
      default:
        if (!leases.empty()) leases.erase(leases.begin());
    }
    if (leases.size() > 6) leases.erase(leases.begin());
    if (reservations.size() > 6) reservations.erase(reservations.begin());
    const std::optional<int64_t> next_use_us[] = {std::nullopt, kNever,
                                                  round * 100'000 + 5'000'000};
    cache->finish(request, 1, next_use_us[random() % 3]);
    if (check) cache->check_invariants();
  }
}

// Each on or off.
CacheOptions some_options(uint64_t bits) {
  CacheOptions options;
  if (bits % 2 != 0) options.tenants = {{"a", {.guarantee = 0.3}}, {"b", {.ceiling = 0.5}}};
  if (bits % 4 > 1) options.max_kept = 0.5;
  if (bits % 8 > 3) options.second_use = true;
  return options;
}

void check_all_given_back(const PrefixCache& cache) {
  cache.check_invariants();
  CHECK(cache.stats().in_flight_blocks == 0);
  CHECK(cache.stats().num_leases == 0);
}

TEST_CASE("invariants hold after every call") {
  for (std::string_view policy : policy_names()) {
    for (uint64_t seed = 0; seed < 60; ++seed) {
      auto cache = PrefixCache::create(1 + seed * 2, std::string(policy), some_options(seed));
      live(cache, seed, 200, true);
      check_all_given_back(*cache);
    }
  }
}

TEST_CASE("threads hammer one cache") {
  for (std::string_view policy : policy_names()) {
    auto cache = PrefixCache::create(200, std::string(policy), some_options(7));
    std::vector<std::thread> threads;
    for (uint64_t seed = 0; seed < 4; ++seed) {
      threads.emplace_back([&cache, seed] { live(cache, seed, 2000, false); });
    }
    for (std::thread& thread : threads) thread.join();
    check_all_given_back(*cache);
  }
}

TEST_CASE("leases and reservations outlive their cache's last owner") {
  auto cache = PrefixCache::create(10, "lru");
  auto hashes = chain_of({1, 2, 3, 4, 5, 6});
  RequestInfo request;
  Reservation reservation = cache->reserve(hashes, request);
  REQUIRE(reservation.commit(3));
  Lease lease = cache->acquire(hashes, request);
  cache.reset();
  CHECK(lease.block_ids().size() == 3);
  CHECK(reservation.commit(6));
}

TEST_CASE("what was asked for before counts from the first block on") {
  AskedBefore asked(1);
  const BlockHash chain[] = {{{0}}, {{1}}, {{2}}};
  const BlockHash in_its_place[] = {{{1, 0, 0, 0, 0, 0, 0, 0, 9}}};
  CHECK(asked.ask(chain) == 0);
  CHECK(asked.ask(chain) == 3);
  CHECK(asked.ask(in_its_place) == 0);  // the second block is forgotten
  CHECK(asked.ask(chain) == 1);
  CHECK(asked.ask(chain) == 3);
}

TEST_CASE("what is asked for wrongly is named") {
  CHECK_THROWS_WITH_AS(PrefixCache::create(0, "lru"),
                       "num_blocks must be from 1 to 1073741824, got 0", std::invalid_argument);
  CHECK_THROWS_WITH_AS(PrefixCache::create(1, "best"),
                       doctest::Contains("policy must be one of lru, "), std::invalid_argument);
}

}  // namespace
}  // namespace kvcore
