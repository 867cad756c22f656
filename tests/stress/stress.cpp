// kvcore_stress SECONDS HOST:PORT...: threads use two stores on these servers, of two copies each,
// while somebody injures the servers (stress.py), the list of servers changes and stores are
// closed. Prints counts as JSON. Exit status 1 where a byte was wrong, memory was touched that was
// given back, a call was late beyond kMostLate, or the stores were not well again at the end.

#include <algorithm>
#include <array>
#include <atomic>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <mutex>
#include <random>
#include <string>
#include <thread>
#include <vector>

#include "common/check.h"
#include "store/remote/connection.h"
#include "store/remote/line_transport.h"
#include "store/remote/remote_store.h"
#include "store/remote/rendezvous.h"

namespace kvcore {
namespace {

using namespace std::chrono_literals;

constexpr uint64_t kBlockBytes = 20'000;
constexpr uint32_t kChunkBlocks = 8;
constexpr uint64_t kMostBlocks = 64;
constexpr uint64_t kHotChains = 40;
constexpr int kThreads = 4;
// Sanitizers make all of it ten times as slow, and the machine is shared.
constexpr Clock::duration kMostLate = 2s;
constexpr Clock::duration kRecovery = 30s;
constexpr std::byte kOwn{0x5a};  // what memory is full of that is no store's

struct Latest {
  void note(Clock::duration late) {
    auto seen = most.load();
    while (seen < late.count() && !most.compare_exchange_weak(seen, late.count())) continue;
  }
  double ms() const {
    return std::chrono::duration<double, std::milli>(Clock::duration(most)).count();
  }
  bool is_within() const { return most <= kMostLate.count(); }

  std::atomic<Clock::rep> most{0};
};

enum class Call : uint8_t { kPut, kGet, kContains, kRemove };
constexpr std::array kCallNames{"put", "get", "contains", "remove"};
constexpr std::array kOutcomeNames{"pending",   "done",   "miss",     "corrupt",
                                   "timed_out", "failed", "cancelled"};

struct Report {
  std::array<std::array<std::atomic<uint64_t>, kOutcomeNames.size()>, kCallNames.size()> keys{};
  std::array<std::atomic<uint64_t>, kCallNames.size()> calls{};
  std::atomic<uint64_t> matches{0}, matched{0}, cancels{0}, server_changes{0}, closes{0};
  std::atomic<uint64_t> verified_bytes{0}, wrong_blocks{0}, touched{0}, never_quiet{0};
  Latest late, late_quiet, long_close;
  std::atomic<bool> has_recovered{false};

  bool is_well() const {
    uint64_t pending = 0;
    for (const auto& outcomes : keys) pending += outcomes[0];
    return wrong_blocks == 0 && touched == 0 && never_quiet == 0 && pending == 0 &&
           late.is_within() && late_quiet.is_within() && long_close.is_within() && has_recovered;
  }
  void print() const {
    std::printf("{\n");
    for (size_t call = 0; call < kCallNames.size(); ++call) {
      std::printf(" \"%s\": {\"calls\": %lu", kCallNames[call], calls[call].load());
      for (size_t i = 0; i < kOutcomeNames.size(); ++i) {
        if (keys[call][i] > 0) std::printf(", \"%s\": %lu", kOutcomeNames[i], keys[call][i].load());
      }
      std::printf("},\n");
    }
    std::printf(" \"match\": {\"calls\": %lu, \"blocks\": %lu},\n", matches.load(), matched.load());
    std::printf(" \"cancels\": %lu, \"server_changes\": %lu, \"closes\": %lu,\n", cancels.load(),
                server_changes.load(), closes.load());
    std::printf(" \"verified_bytes\": %lu, \"wrong_blocks\": %lu, \"touched\": %lu,\n",
                verified_bytes.load(), wrong_blocks.load(), touched.load());
    std::printf(" \"never_quiet\": %lu, \"late_ms\": %.1f, \"late_quiet_ms\": %.1f,\n",
                never_quiet.load(), late.ms(), late_quiet.ms());
    std::printf(" \"longest_close_ms\": %.1f, \"has_recovered\": %s, \"is_well\": %s\n}\n",
                long_close.ms(), has_recovered ? "true" : "false", is_well() ? "true" : "false");
  }
};

// --- Chains, and what their blocks hold ---

uint64_t mix(uint64_t number) {  // SplitMix64
  number += 0x9e3779b97f4a7c15;
  number = (number ^ number >> 30) * 0xbf58476d1ce4e5b9;
  number = (number ^ number >> 27) * 0x94d049bb133111eb;
  return number ^ number >> 31;
}

struct Chain {
  Chain(uint64_t number, size_t first, size_t length) {
    for (size_t i = first; i < first + length; ++i) {
      const uint64_t words[2]{mix(number << 16 | i), mix(~number)};
      BlockHash& hash = hashes.emplace_back();
      std::memcpy(hash.bytes.data(), words, sizeof(words));
      positions.push_back(static_cast<uint32_t>(i));
    }
  }
  Keys keys() const { return {hashes, positions}; }
  Keys loose_keys() const { return hashes; }

  std::vector<BlockHash> hashes;
  std::vector<uint32_t> positions;
};

void write_block(std::byte* to, const BlockHash& hash, uint64_t flip) {
  for (uint64_t i = 0; i < kBlockBytes / 8; ++i) {
    const uint64_t word = (hash.low() + i * 0x9e3779b97f4a7c15) ^ flip;
    std::memcpy(to + 8 * i, &word, 8);
  }
}

bool is_block(const std::byte* at, const BlockHash& hash) {
  std::vector<std::byte> expected(kBlockBytes);
  write_block(expected.data(), hash, 0);
  return std::memcmp(at, expected.data(), kBlockBytes) == 0;
}

// --- Two nodes ---

class Nodes {
 public:
  explicit Nodes(const std::vector<std::string>& servers) : servers_(servers) {
    for (auto& store : stores_) store = make();
  }

  std::shared_ptr<RemoteStore> get(size_t node) {
    std::lock_guard lock(mutex_);
    return stores_[node];
  }
  // Who has it still may call it.
  void replace(size_t node, Report& report) {
    auto old = make();
    {
      std::lock_guard lock(mutex_);
      old.swap(stores_[node]);
    }
    const auto begin = Clock::now();
    old->close();
    report.long_close.note(Clock::now() - begin);
    ++report.closes;
  }
  void use(size_t node, std::vector<std::string> servers) {
    std::vector<NamedServer> named;
    std::vector<Rendezvous::Server> weighted;
    for (const std::string& server : servers) {
      const size_t colon = server.rfind(':');
      const auto port = static_cast<uint16_t>(std::stoi(server.substr(colon + 1)));
      named.push_back({server, ServerAddress(server.substr(0, colon), port)});
      weighted.push_back({server});
    }
    get(node)->set_servers(named, std::make_shared<Rendezvous>(weighted));
  }
  const std::vector<std::string>& servers() const { return servers_; }

 private:
  std::shared_ptr<RemoteStore> make() {
    const RemoteOptions options{.scope = {9},
                                .block_bytes = kBlockBytes,
                                .chunk_blocks = kChunkBlocks,
                                .replicas = 2,
                                .record_age = 5s,
                                .patience = 50ms};
    const ServerOptions tcp{
        .connections = 3, .stall = 300ms, .first_probe = 50ms, .last_probe = 500ms};
    return std::make_shared<RemoteStore>(options,
                                         std::make_unique<LineTransport>(tcp_lines(), tcp));
  }

  const std::vector<std::string> servers_;
  std::mutex mutex_;
  std::array<std::shared_ptr<RemoteStore>, 2> stores_;
};

// --- One thread ---

class Client {
 public:
  Client(Nodes& nodes, Report& report, uint64_t seed)
      : nodes_(nodes), report_(report), random_(seed), own_chain_(mix(seed) << 8) {}

  void play_until(Clock::time_point end) {
    while (Clock::now() < end) step();
  }

  // Whether all blocks of a chain that is new come back from the other node.
  bool is_all_there() {
    const Chain chain(++own_chain_, 0, 32);
    const auto written = call(Call::kPut, *nodes_.get(0), chain, chain.keys(), 5s, false);
    const auto read = call(Call::kGet, *nodes_.get(1), chain, chain.keys(), 5s, false);
    auto is_done = [](Outcome outcome) { return outcome == Outcome::kDone; };
    return std::ranges::all_of(written, is_done) && std::ranges::all_of(read, is_done);
  }

 private:
  uint64_t below(uint64_t end) { return random_() % end; }

  void step() {
    const auto store = nodes_.get(below(2));
    // Hot ones are found again; the others fill the servers.
    const uint64_t number = below(4) == 0 ? ++own_chain_ : below(kHotChains);
    const size_t first = below(3) == 0 ? below(20) : 0;
    const Chain chain(number, first, 1 + below(kMostBlocks));
    const Keys keys = below(16) == 0 ? chain.loose_keys() : chain.keys();
    const auto timeout = std::chrono::milliseconds(below(3) == 0 ? below(20) : below(1500));
    const bool cancels = below(12) == 0;
    const uint64_t what = below(100);
    if (what < 45) {
      call(Call::kPut, *store, chain, keys, timeout, cancels);
    } else if (what < 88) {
      call(Call::kGet, *store, chain, keys, timeout, cancels);
    } else if (what < 94) {
      call(Call::kContains, *store, chain, keys, timeout, cancels);
    } else if (what < 96) {
      call(Call::kRemove, *store, chain, keys, timeout, cancels);
    } else {
      const size_t matched = store->match(keys);
      KV_CHECK(matched <= keys.size());
      ++report_.matches;
      report_.matched += matched;
      store->stats();
      if (what == 99) store->server_stats();
    }
  }

  std::vector<Outcome> call(Call what, RemoteStore& store, const Chain& chain, Keys keys,
                            Clock::duration timeout, bool cancels) {
    const bool moves = what == Call::kPut || what == Call::kGet;
    lend(moves ? keys.size() : 0);
    std::vector<std::byte*> places;
    for (size_t i = 0; moves && i < keys.size(); ++i) {
      places.push_back(memory_.data() + i * kBlockBytes);
      write_block(places.back(), keys[i], what == Call::kGet ? ~uint64_t{0} : 0);
    }
    const auto deadline = Clock::now() + timeout;
    const auto batch = begin(what, store, keys, places, deadline);
    if (cancels) {
      std::this_thread::sleep_for(std::chrono::microseconds(below(3000)));
      batch->cancel();
      ++report_.cancels;
    }
    batch->wait();
    report_.late.note(Clock::now() - deadline);
    const auto outcomes = batch->outcomes();
    ++report_.calls[static_cast<size_t>(what)];
    for (Outcome outcome : outcomes) {
      ++report_.keys[static_cast<size_t>(what)][static_cast<size_t>(outcome)];
    }
    if (what == Call::kGet) verify(chain, outcomes);
    if (!batch->wait_quiet(deadline + 30s)) ++report_.never_quiet;
    report_.late_quiet.note(Clock::now() - deadline);
    take_back();
    return outcomes;
  }

  static std::shared_ptr<Batch> begin(Call what, RemoteStore& store, Keys keys,
                                      const std::vector<std::byte*>& places,
                                      Clock::time_point deadline) {
    switch (what) {
      case Call::kPut:
        return store.put_from(keys, std::vector<const std::byte*>(places.begin(), places.end()),
                              deadline);
      case Call::kGet:
        return store.get_into(keys, places, deadline);
      case Call::kContains:
        return store.contains(keys, deadline);
      case Call::kRemove:
        return store.remove(keys, deadline);
    }
    KV_CHECK(false);
  }

  void verify(const Chain& chain, const std::vector<Outcome>& outcomes) {
    for (size_t i = 0; i < outcomes.size(); ++i) {
      if (outcomes[i] != Outcome::kDone) continue;
      if (!is_block(memory_.data() + i * kBlockBytes, chain.hashes[i])) ++report_.wrong_blocks;
      report_.verified_bytes += kBlockBytes;
    }
  }

  // What was given back is either not touched any more, or not there any more, which sanitizers
  // see.
  void lend(size_t blocks) {
    if (!std::ranges::all_of(memory_, [](std::byte byte) { return byte == kOwn; })) {
      ++report_.touched;
    }
    memory_.resize(std::max(memory_.size(), blocks * kBlockBytes));
  }
  void take_back() {
    if (below(2) == 0) memory_ = {};
    std::ranges::fill(memory_, kOwn);
  }

  Nodes& nodes_;
  Report& report_;
  std::mt19937_64 random_;
  uint64_t own_chain_;
  std::vector<std::byte> memory_;
};

void change_servers(Nodes& nodes, Report& report, Clock::time_point end) {
  std::mt19937_64 random(99);
  for (int round = 0; Clock::now() < end; ++round) {
    std::this_thread::sleep_for(std::chrono::milliseconds(200 + random() % 800));
    const size_t node = random() % 2;
    if (round % 6 == 5) nodes.replace(node, report);
    auto servers = nodes.servers();
    std::ranges::shuffle(servers, random);
    if (random() % 3 == 0) servers.resize(1 + random() % servers.size());
    nodes.use(node, servers);
    ++report.server_changes;
  }
}

int run(int seconds, const std::vector<std::string>& servers) {
  Report report;
  Nodes nodes(servers);
  for (size_t node : {0, 1}) nodes.use(node, servers);
  const auto end = Clock::now() + std::chrono::seconds(seconds);
  {
    std::vector<std::jthread> threads;
    for (uint64_t seed = 1; seed <= kThreads; ++seed) {
      threads.emplace_back([&, seed] { Client(nodes, report, seed).play_until(end); });
    }
    threads.emplace_back([&] { change_servers(nodes, report, end); });
  }
  for (size_t node : {0, 1}) nodes.use(node, servers);
  Client last(nodes, report, 1000);
  const auto until = Clock::now() + kRecovery;
  while (!(report.has_recovered = last.is_all_there()) && Clock::now() < until) continue;
  for (size_t node : {0, 1}) nodes.replace(node, report);
  report.print();
  return report.is_well() ? 0 : 1;
}

}  // namespace
}  // namespace kvcore

int main(int count, char** arguments) {
  const int seconds = count < 3 ? 0 : std::atoi(arguments[1]);
  if (seconds <= 0) {
    std::fprintf(stderr, "usage: kvcore_stress SECONDS HOST:PORT...\n");
    return 2;
  }
  return kvcore::run(seconds, {arguments + 2, arguments + count});
}
