#include "evict/contest.h"

#include <array>
#include <random>
#include <string>
#include <vector>

#include "cache/prefix_cache.h"
#include "doctest/doctest.h"
#include "evict/shadow_cache.h"

namespace kvcore {
namespace {

using Chain = std::vector<BlockHash>;

BlockHash random_hash(std::mt19937_64& random) {
  BlockHash hash;
  for (uint8_t& byte : hash.bytes) byte = static_cast<uint8_t>(random());
  return hash;
}

// Chains that grow, part and stop anywhere; some come again.
Chain next_chain(std::mt19937_64& random, std::vector<Chain>& known) {
  Chain chain;
  if (!known.empty() && random() % 2 == 0) chain = known[random() % known.size()];
  chain.resize(chain.size() - random() % (chain.size() / 4 + 1));
  for (uint64_t more = random() % 20; more > 0; --more) chain.push_back(random_hash(random));
  known.push_back(chain);
  if (known.size() > 30) known.erase(known.begin());
  return chain;
}

TEST_CASE("a shadow cache keeps its books, whatever the policy") {
  for (std::string_view policy : policy_names()) {
    CAPTURE(policy);
    ShadowCache cache(policy, 200);
    std::mt19937_64 random(1);
    std::vector<Chain> known;
    for (int i = 0; i < 1500; ++i) {
      Chain chain = next_chain(random, known);
      RequestInfo request;
      Use use{request, int64_t{i} * 1'000'000};
      CHECK(cache.serve(chain, use) <= chain.size());
      if (i % 3 != 0) cache.finish(use, random() % 1000);
      cache.check_invariants();
    }
  }
}

TEST_CASE("a shadow cache finds what a prefix cache finds") {
  for (std::string_view policy : policy_names()) {
    CAPTURE(policy);
    ShadowCache shadow(policy, 100);
    auto cache = PrefixCache::create(100, std::string(policy));
    std::mt19937_64 random(3);
    std::vector<Chain> known;
    for (int i = 0; i < 1500; ++i) {
      const Chain chain = next_chain(random, known);
      RequestInfo request{.arrival_us = int64_t{i} * 1'000'000};
      const Use use{request, *request.arrival_us};
      const size_t found = cache->acquire(chain, request).block_ids().size();
      Reservation reservation = cache->reserve(chain, request);
      reservation.commit(reservation.block_ids().size());
      cache->finish(request, 100);
      REQUIRE(shadow.serve(chain, use) == found);
      shadow.finish(use, 100);
    }
  }
}

TEST_CASE("a shadow cache that grows smaller still takes what is asked for again") {
  for (std::string_view policy : policy_names()) {
    if (policy == "slru") continue;  // it keeps the bound of what it was made for
    CAPTURE(policy);
    ShadowCache cache(policy, 100);
    std::mt19937_64 random(2);
    Chain blocks;
    for (int i = 0; i < 120; ++i) blocks.push_back(random_hash(random));
    auto serve = [&](int i) {
      RequestInfo request;
      return cache.serve({&blocks[static_cast<size_t>(i)], 1}, {request, 0});
    };
    for (int i = 0; i < 300; ++i) serve(i % 100);
    cache.resize(50);
    uint32_t found = 0;
    for (int i = 0; i < 4000; ++i)
      found += i < 3000 ? 0 * serve(100 + i % 20) : serve(100 + i % 20);
    CHECK(found > 900);
    cache.check_invariants();
  }
}

// A few prompts that come again and again, among many that never do.
struct Scans {
  std::mt19937_64 random{7};
  std::vector<Chain> hot;

  Chain next() {
    if (hot.empty()) {
      for (int i = 0; i < 40; ++i) {
        hot.emplace_back();
        for (int j = 0; j < 10; ++j) hot.back().push_back(random_hash(random));
      }
    }
    if (random() % 3 == 0) return hot[random() % hot.size()];
    Chain scan;
    for (int j = 0; j < 10; ++j) scan.push_back(random_hash(random));
    return scan;
  }
};

// Blocks found in the second half of `requests` requests; with `less`, by a cache that soon grows
// smaller.
uint64_t found_by(std::string_view policy, int requests, bool check, uint32_t less = 0) {
  ShadowCache cache(policy, 500);
  Scans scans;
  uint64_t found = 0;
  for (int i = 0; i < requests; ++i) {
    if (less != 0 && i == 1000) cache.resize(less);
    RequestInfo request;
    Use use{request, int64_t{i} * 100'000};
    uint32_t blocks = cache.serve(scans.next(), use);
    if (i >= requests / 2) found += blocks;
    cache.finish(use, 100);
    if (check && i % 50 == 0) cache.check_invariants();
  }
  return found;
}

TEST_CASE("auto moves to the policy that finds more, and stays with it") {
  const uint64_t fifo = found_by("fifo", 60'000, false), lru2 = found_by("lru2", 60'000, false);
  REQUIRE(lru2 > fifo * 3 / 2);
  CHECK(found_by("auto:fifo+lru2", 60'000, true) > lru2 * 97 / 100);
  CHECK(found_by("auto:lru2+fifo", 60'000, true) > lru2 * 97 / 100);
  CHECK(found_by("auto:fifo+lru+arc+s3fifo+lru2+hazard", 60'000, true) > lru2 * 97 / 100);
}

// Prompts that are asked for a few times, and then never again.
struct Waves {
  std::mt19937_64 random{8};
  std::vector<Chain> lately;

  Chain next() {
    if (lately.size() < 30 || random() % 4 == 0) {
      if (lately.size() == 30) lately.erase(lately.begin());
      lately.emplace_back();
      for (int j = 0; j < 10; ++j) lately.back().push_back(random_hash(random));
    }
    return lately[random() % lately.size()];
  }
};

// Blocks found in the second half of each part of a load that changes.
std::array<uint64_t, 3> found_in_parts(std::string_view policy) {
  ShadowCache cache(policy, 500);
  Scans scans;
  Waves waves;
  std::array<uint64_t, 3> found{};
  for (int i = 0; i < 120'000; ++i) {
    const int part = i < 60'000 ? 0 : i < 90'000 ? 1 : 2;
    RequestInfo request;
    Use use{request, int64_t{i} * 100'000};
    uint32_t blocks = cache.serve(part == 1 ? scans.next() : waves.next(), use);
    if (i % 30'000 >= 15'000) found[static_cast<size_t>(part)] += blocks;
  }
  return found;
}

TEST_CASE("auto follows a load that changes, and back") {
  const auto lru = found_in_parts("lru"), lru2 = found_in_parts("lru2");
  const auto both = found_in_parts("auto:lru+lru2");
  for (size_t part = 0; part < both.size(); ++part) {
    CAPTURE(part);
    CHECK(both[part] > std::max(lru[part], lru2[part]) * 97 / 100);
  }
}

// Shows a contest what its first policy would find, however the contest goes on.
class Watched {
 public:
  Watched(const std::vector<std::string>& policies, uint32_t num_blocks)
      : contest(policies, num_blocks), cache_(policies[0], num_blocks), table_(16) {}

  void ask(const Chain& chain, int64_t now_us, bool vacant = false) {
    RequestInfo request;
    const Use use{request, now_us};
    const uint32_t found = cache_.serve(chain, use);
    const std::span<const BlockHash> hashes = chain;
    if (found == 0) return contest.observe(table_, {}, hashes, use);
    const SpanId id = table_.append(kRootSpan, hashes.first(found), {});
    table_[id].vacant = vacant;
    contest.observe(table_, {&id, 1}, hashes.subspan(found), use);
    table_.remove(id);
  }

  Contest contest;

 private:
  ShadowCache cache_;
  BlockTable table_;
};

TEST_CASE("two that are equally good never change places, but for what is vacant") {
  for (bool vacant : {false, true}) {
    CAPTURE(vacant);
    Watched watched({"lru", "lru"}, 4000);
    std::mt19937_64 random(9);
    std::vector<Chain> prompts(400);
    for (Chain& prompt : prompts) {
      for (int j = 0; j < 40; ++j) prompt.push_back(random_hash(random));
    }
    bool moves = false;
    for (int i = 0; i < 30'000; ++i) {
      const size_t pick = std::min(random() % prompts.size(), random() % prompts.size());
      watched.ask(prompts[pick], int64_t{i} * 100'000, vacant);
      moves |= watched.contest.champion() != 0;
    }
    CHECK(watched.contest.sampled() > 20);
    CHECK(moves == vacant);
  }
}

TEST_CASE("chains that grow are sampled at the same places") {
  Watched watched({"fifo", "lru"}, 1500);
  std::mt19937_64 random(10);
  std::vector<Chain> chats(60);
  bool moves = false;
  for (int i = 0; i < 20'000; ++i) {
    Chain& chat = chats[std::min({random() % 60, random() % 60, random() % 60})];
    if (chat.size() > 80) chat.clear();
    for (uint64_t more = random() % 7 + 1; more > 0; --more) chat.push_back(random_hash(random));
    watched.ask(chat, int64_t{i} * 100'000);
    moves |= watched.contest.champion() != 0;
  }
  CHECK(moves);
}

TEST_CASE("auto in a part of a cache compares what others would find in that part") {
  const uint64_t lru = found_by("lru", 20'000, false, 300);
  const uint64_t fifo = found_by("fifo", 20'000, false, 300);
  REQUIRE(found_by("fifo", 20'000, false) > lru);
  REQUIRE(fifo < lru * 95 / 100);
  CHECK(found_by("auto:lru+fifo", 20'000, true, 300) > lru * 99 / 100);
}

TEST_CASE("auto among unknown policies, or among none, is none") {
  BlockTable table(16);
  for (std::string_view name :
       {"auto:", "auto:lru+", "auto:lru+none", "auto:auto", "auto:+lru", "auto:lru,fifo"}) {
    CAPTURE(name);
    CHECK(make_policy(name, table, 10) == nullptr);
  }
}

}  // namespace
}  // namespace kvcore
