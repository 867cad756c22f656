#include "store/remote/aibrix_slots.h"

#include <algorithm>
#include <map>
#include <set>
#include <span>
#include <stdexcept>
#include <string>
#include <vector>

#include "doctest/doctest.h"
#include "farmhash/farmhash64.h"

namespace kvcore {
namespace {

using Range = AibrixSlots::Range;

std::string key_of(size_t number) { return "key-" + std::to_string(number); }

uint64_t hash_of(const std::string& key) { return farmhash::Hash64(key.data(), key.size()); }

std::vector<uint32_t> placed(const AibrixSlots& slots, const std::string& key, size_t wanted) {
  std::vector<uint32_t> servers(wanted);
  servers.resize(slots.place({}, key, servers));
  return servers;
}

// AIBrix's own way: every slot of every range in one list, sorted by its number.
std::vector<uint32_t> sorted_list(const std::vector<Range>& ranges) {
  std::vector<std::pair<uint32_t, uint32_t>> list;
  for (const Range& range : ranges) {
    for (uint32_t slot = range.first; slot <= range.last; ++slot) {
      list.emplace_back(slot, range.server);
    }
  }
  std::ranges::stable_sort(list, {}, [](const auto& slot) { return slot.first; });
  std::vector<uint32_t> servers;
  for (const auto& [slot, server] : list) servers.push_back(server);
  return servers;
}

void check_is_sorted_list(const std::vector<Range>& ranges, uint32_t num_servers) {
  const AibrixSlots slots(ranges, num_servers);
  const std::vector<uint32_t> list = sorted_list(ranges);
  REQUIRE(slots.num_slots() == list.size());
  for (size_t i = 0; i < 3000; ++i) {
    const std::string key = key_of(i);
    REQUIRE(placed(slots, key, 1).at(0) == list[hash_of(key) % list.size()]);
  }
}

// By the packages cityhash 0.4.10 (compiled for SSE4.2) and pyfarmhash 0.5.1 (without): both of one
// mind below 512 bytes. fingerprint64 of 64 and 65 bytes is 4226431515964725 and
// 18101669290602532278.
TEST_CASE("FarmHash64 is the package's") {
  const std::map<size_t, uint64_t> known{
      {0, 11160318154034397263u},   {3, 3979540680440595841u},   {7, 10810953559526984053u},
      {16, 15579719139305551062u},  {20, 11285650485701139020u}, {32, 11543571239247179175u},
      {40, 10492591793107839961u},  {64, 11749958740528950955u}, {65, 4336488094666402724u},
      {80, 9149877703473816527u},   {96, 17483232634962023279u}, {97, 16273921335851542289u},
      {200, 5850749971184008558u},  {256, 1157472962730208475u}, {257, 13742786080421242675u},
      {400, 13149036644267528864u}, {511, 9941534569220861720u},
  };
  for (const auto& [length, hash] : known) {
    std::string key;
    for (size_t i = 0; i < length; ++i) key.push_back(static_cast<char>((i * 37 + 11) % 256));
    CHECK(hash_of(key) == hash);
  }
}

TEST_CASE("a key has the server that AIBrix gives it") {
  check_is_sorted_list({{0, 0, 1364}, {1, 1365, 2729}, {2, 2730, 4095}}, 3);
  // In any order, scattered, of one slot each.
  std::vector<Range> scattered;
  for (uint32_t slot = 0; slot < 4096; ++slot) {
    const uint32_t at = slot * 1237 % 4096;
    scattered.push_back({at * 7 % 5, at, at});
  }
  check_is_sorted_list(scattered, 5);
}

TEST_CASE("slots that nobody has, or two, are as in AIBrix's list") {
  check_is_sorted_list({{0, 0, 100}, {1, 200, 300}, {0, 301, 4000}}, 2);
  check_is_sorted_list({{0, 0, 2000}, {1, 1000, 4095}, {2, 1500, 1600}}, 3);
  check_is_sorted_list({{1, 1000, 4095}, {0, 0, 2000}}, 2);
}

TEST_CASE("a range that goes round is that of its server, and so is what nobody has") {
  // Of server 2 the watcher has forgotten 1000 to 1999.
  const std::vector<Range> written{{0, 50, 999}, {1, 2000, 4000}, {2, 4001, 49}};
  const std::vector<Range> meant{
      {2, 0, 49}, {0, 50, 999}, {2, 1000, 1999}, {1, 2000, 4000}, {2, 4001, 4095}};
  const AibrixSlots slots(written, 3);
  const std::vector<uint32_t> list = sorted_list(meant);
  REQUIRE(slots.num_slots() == 4096);
  for (size_t i = 0; i < 3000; ++i) {
    const std::string key = key_of(i);
    REQUIRE(placed(slots, key, 1).at(0) == list[hash_of(key) % 4096]);
  }
}

TEST_CASE("two ranges that go round leave gaps alone") {
  CHECK(AibrixSlots(std::vector<Range>{{0, 4000, 9}, {1, 4090, 9}}, 2).num_slots() == 106 + 16);
}

TEST_CASE("copies are on the servers that come next, each once") {
  const AibrixSlots slots(std::vector<Range>{{0, 0, 9}, {1, 10, 19}, {0, 20, 29}, {2, 30, 39}}, 4);
  const std::map<uint32_t, std::vector<uint32_t>> by_run{
      {0, {0, 1, 2}}, {1, {1, 0, 2}}, {2, {0, 2, 1}}, {3, {2, 0, 1}}};
  std::set<uint32_t> seen;
  for (size_t i = 0; i < 500; ++i) {
    const std::string key = key_of(i);
    const auto run = static_cast<uint32_t>(hash_of(key) % 40 / 10);
    seen.insert(run);
    CHECK(placed(slots, key, 3) == by_run.at(run));
    const std::span first_two = std::span(by_run.at(run)).first(2);
    CHECK(std::ranges::equal(placed(slots, key, 2), first_two));
    CHECK(placed(slots, key, 9).size() == 3);  // the fourth has no slots
  }
  CHECK(seen.size() == 4);
}

TEST_CASE("without slots nobody has anything") {
  const AibrixSlots slots({}, 2);
  CHECK(placed(slots, "key", 2).empty());
}

TEST_CASE("slots that cannot be are refused") {
  CHECK_THROWS_AS(AibrixSlots(std::vector<Range>{{2, 0, 1}}, 2), std::invalid_argument);
  CHECK_THROWS_AS(AibrixSlots(std::vector<Range>{{0, 0, 1 << 20}}, 1), std::invalid_argument);
  const std::vector<Range> many(3, Range{0, 0, (1 << 20) - 2});
  CHECK_THROWS_AS(AibrixSlots(many, 1), std::invalid_argument);
}

}  // namespace
}  // namespace kvcore
