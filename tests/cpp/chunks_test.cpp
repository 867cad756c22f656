#include "store/remote/chunks.h"

#include <array>
#include <cmath>
#include <cstring>
#include <numeric>
#include <string>
#include <vector>

#include "doctest/doctest.h"
#include "store/remote/known_chunks.h"
#include "store/remote/rendezvous.h"

namespace kvcore {
namespace {

TEST_CASE("runs are what follows each other") {
  const std::vector<uint32_t> positions{3, 4, 5, 9, 11, 12};
  const auto runs = runs_of(positions);
  REQUIRE(runs.size() == 3);
  CHECK((runs[0].key == 0 && runs[0].begin == 3 && runs[0].end == 6));
  CHECK((runs[1].key == 3 && runs[1].begin == 9 && runs[1].end == 10));
  CHECK((runs[2].key == 4 && runs[2].begin == 11 && runs[2].end == 13));
  CHECK(runs[2].key_of(12) == 5);
  CHECK(runs_of({}).empty());
}

TEST_CASE("chunks cut a run at borders that all agree on") {
  for (uint64_t begin = 0; begin < 40; ++begin) {
    for (uint64_t end = begin + 1; end < 80; ++end) {
      uint64_t at = begin;
      for (const Chunk& chunk : chunks_of({0, begin, end}, 16)) {
        REQUIRE(chunk.begin == at);
        REQUIRE(chunk.begin % chunk.num_blocks == 0);
        REQUIRE(chunk.num_blocks <= 16);
        REQUIRE(chunk_around(chunk.end() - 1, chunk.num_blocks).begin == chunk.begin);
        // It could not be larger.
        const uint64_t twice = 2 * uint64_t{chunk.num_blocks};
        const bool fits = at % twice == 0 && at + twice <= end && twice <= 16;
        REQUIRE_FALSE(fits);
        at = chunk.end();
      }
      REQUIRE(at == end);
    }
  }
}

BlockHash name_of(uint64_t number) {
  BlockHash name;
  uint64_t words[2]{number * 0x9e3779b97f4a7c15, number};
  std::memcpy(name.bytes.data(), words, sizeof(words));
  return name;
}

std::vector<uint32_t> places(const Rendezvous& placement, uint32_t count) {
  std::vector<uint32_t> servers(count);
  for (uint32_t i = 0; i < count; ++i) {
    REQUIRE(placement.place(name_of(i), "", std::span(&servers[i], 1)) == 1);
  }
  return servers;
}

BlockHash hash_of(uint8_t number) {
  BlockHash hash;
  hash.bytes[0] = number;
  return hash;
}

TEST_CASE("what is forgotten and learnt again is new") {
  KnownChunks known(3);
  for (uint64_t nonce = 0; nonce < 50; ++nonce) {
    known.learn(hash_of(1), {.nonce = nonce});
    if (nonce < 49) known.forget(hash_of(1), nonce);
  }
  known.learn(hash_of(2), {});
  known.learn(hash_of(3), {});
  CHECK(known.size() == 3);
  CHECK(known.find(hash_of(1))->nonce == 49);
  known.learn(hash_of(1), {.nonce = 50});  // it stays the oldest
  known.learn(hash_of(4), {});
  CHECK(known.size() == 3);
  CHECK_FALSE(known.find(hash_of(1)));
  CHECK(known.find(hash_of(2)));
  known.forget(hash_of(2), /*nonce=*/1);  // another one's
  CHECK(known.find(hash_of(2)));
}

TEST_CASE("rendezvous gives each server its share") {
  constexpr uint32_t kCount = 40'000;
  std::array<double, 3> counts{};
  const Rendezvous placement({{"a", 1.0}, {"b", 2.0}, {"c", 5.0}});
  for (uint32_t server : places(placement, kCount)) ++counts[server];
  CHECK(counts[0] / kCount == doctest::Approx(0.125).epsilon(0.06));
  CHECK(counts[1] / kCount == doctest::Approx(0.25).epsilon(0.05));
  CHECK(counts[2] / kCount == doctest::Approx(0.625).epsilon(0.03));
}

TEST_CASE("a fourth server takes a quarter, and from all; one that goes leaves the rest alone") {
  constexpr uint32_t kCount = 40'000;
  const auto three = places(Rendezvous({{"a"}, {"b"}, {"c"}}), kCount);
  const auto four = places(Rendezvous({{"a"}, {"b"}, {"c"}, {"d"}}), kCount);
  std::array<uint32_t, 3> from{};
  for (uint32_t i = 0; i < kCount; ++i) {
    if (four[i] == 3) {
      ++from[three[i]];
    } else {
      REQUIRE(four[i] == three[i]);
    }
  }
  const uint32_t moved = std::accumulate(from.begin(), from.end(), 0u);
  CHECK(moved < kCount * 27 / 100);
  CHECK(moved > kCount * 23 / 100);
  for (uint32_t count : from) CHECK(count > kCount * 7 / 100);
}

TEST_CASE("replicas are on different servers, and the first stays the first") {
  const Rendezvous placement({{"a"}, {"b"}, {"c"}, {"d"}});
  for (uint32_t i = 0; i < 1000; ++i) {
    std::array<uint32_t, 6> servers;
    REQUIRE(placement.place(name_of(i), "", servers) == 4);
    for (size_t n = 0; n < 4; ++n) {
      for (size_t m = 0; m < n; ++m) REQUIRE(servers[n] != servers[m]);
    }
    std::array<uint32_t, 2> two;
    REQUIRE(placement.place(name_of(i), "", two) == 2);
    REQUIRE((two[0] == servers[0] && two[1] == servers[1]));
  }
  CHECK(Rendezvous({}).place(name_of(1), "", std::span<uint32_t>()) == 0);
}

TEST_CASE("where chunks are is the same on all machines") {
  const auto servers = places(Rendezvous({{"10.0.0.1:22345"}, {"10.0.0.2:22345"}, {"c", 0.5}}), 24);
  std::string digits;
  for (uint32_t server : servers) digits += static_cast<char>('0' + server);
  CHECK(digits == "010010122100010000120210");
}

}  // namespace
}  // namespace kvcore
