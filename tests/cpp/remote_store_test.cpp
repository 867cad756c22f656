#include "store/remote/remote_store.h"

#include <arpa/inet.h>
#include <netinet/in.h>
#include <sys/socket.h>
#include <unistd.h>

#include <atomic>
#include <map>
#include <random>
#include <set>
#include <thread>

#include "doctest/doctest.h"
#include "store/remote/connection.h"
#include "store/remote/line_transport.h"
#include "store/remote/rendezvous.h"

namespace kvcore {
namespace {

using namespace std::chrono_literals;

// Answers puts and gets as InfiniStore does, from a map; sometimes breaks off. Sanitizers watch the
// client; what the real server does, the Python tests see.
class SmallServer {
 public:
  explicit SmallServer(uint32_t breaks_one_in = 0) : breaks_one_in_(breaks_one_in) {
    listener_ = socket(AF_INET, SOCK_STREAM, 0);
    sockaddr_in address{};
    address.sin_family = AF_INET;
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    REQUIRE(bind(listener_, reinterpret_cast<sockaddr*>(&address), sizeof(address)) == 0);
    REQUIRE(listen(listener_, 64) == 0);
    socklen_t bytes = sizeof(address);
    getsockname(listener_, reinterpret_cast<sockaddr*>(&address), &bytes);
    port_ = ntohs(address.sin_port);
    accepts_ = std::thread([this] { accept_all(); });
  }
  ~SmallServer() {
    shutdown(listener_, SHUT_RDWR);
    accepts_.join();
    close(listener_);
    {
      std::lock_guard lock(mutex_);
      for (int fd : open_) shutdown(fd, SHUT_RDWR);
    }
    for (std::thread& thread : threads_) thread.join();
  }
  uint16_t port() const { return port_; }

 private:
  void accept_all() {
    for (int fd; (fd = accept(listener_, nullptr, nullptr)) >= 0;) {
      {
        std::lock_guard lock(mutex_);
        open_.insert(fd);
      }
      threads_.emplace_back([this, fd] { serve(fd); });
    }
  }

  static bool receive(int fd, void* to, size_t bytes) {
    auto* at = static_cast<char*>(to);
    while (bytes > 0) {
      const ssize_t received = recv(fd, at, bytes, 0);
      if (received <= 0) return false;
      at += received;
      bytes -= static_cast<size_t>(received);
    }
    return true;
  }
  static bool answer(int fd, const std::string& bytes) {
    size_t sent = 0;
    while (sent < bytes.size()) {
      const ssize_t count = send(fd, bytes.data() + sent, bytes.size() - sent, MSG_NOSIGNAL);
      if (count <= 0) return false;
      sent += static_cast<size_t>(count);
    }
    return true;
  }
  static uint32_t word_at(const std::string& bytes, size_t at) {
    uint32_t word;
    std::memcpy(&word, bytes.data() + at, sizeof(word));
    return word;
  }
  static std::string word(uint32_t number) {
    return {reinterpret_cast<const char*>(&number), sizeof(number)};
  }

  void serve(int fd) {
    std::minstd_rand random(static_cast<unsigned>(fd));
    std::string head(9, '\0');
    while (receive(fd, head.data(), head.size())) {
      std::string body(word_at(head, 5), '\0');
      if (!receive(fd, body.data(), body.size())) break;
      if (breaks_one_in_ > 0 && random() % breaks_one_in_ == 0) break;
      if (!handle(fd, head[4], body)) break;
    }
    std::lock_guard lock(mutex_);
    open_.erase(fd);
    close(fd);
  }
  bool handle(int fd, char operation, const std::string& body) {
    if (operation == 'C') {
      std::lock_guard lock(mutex_);
      return answer(fd, word(200) + word(values_.contains(body) ? 0 : 1));
    }
    const uint32_t table = word_at(body, 0), field = table + 4;
    if (operation == 'X') {
      const size_t vector = field + word_at(body, field);
      uint32_t count = 0;
      std::lock_guard lock(mutex_);
      for (uint32_t i = 0; i < word_at(body, vector); ++i) {
        const size_t at = vector + 4 + 4 * i, text = at + word_at(body, at);
        count += static_cast<uint32_t>(values_.erase(body.substr(text + 4, word_at(body, text))));
      }
      return answer(fd, word(200) + word(count));
    }
    const size_t text = field + word_at(body, field);
    const std::string key = body.substr(text + 4, word_at(body, text));
    if (body[table + 12] == 'P') {
      std::string value(word_at(body, table + 8), '\0');
      if (!receive(fd, value.data(), value.size())) return false;
      std::lock_guard lock(mutex_);
      values_[key] = std::move(value);
      return answer(fd, word(200));
    }
    std::string value;
    {
      std::lock_guard lock(mutex_);
      const auto found = values_.find(key);
      if (found == values_.end()) return answer(fd, word(404));
      value = found->second;
    }
    return answer(fd, word(200) + word(static_cast<uint32_t>(value.size())) + value);
  }

  const uint32_t breaks_one_in_;
  int listener_ = -1;
  uint16_t port_ = 0;
  std::mutex mutex_;
  std::map<std::string, std::string> values_;
  std::set<int> open_;
  std::vector<std::thread> threads_;
  std::thread accepts_;
};

constexpr uint64_t kBlockBytes = 1000;

std::unique_ptr<RemoteStore> new_store(const std::vector<const SmallServer*>& servers,
                                       uint32_t replicas) {
  RemoteOptions options{.scope = {7}, .block_bytes = kBlockBytes, .chunk_blocks = 8};
  options.replicas = replicas;
  ServerOptions tcp;
  tcp.stall = 5s;
  tcp.first_probe = 1ms;
  tcp.last_probe = 2ms;
  auto store =
      std::make_unique<RemoteStore>(options, std::make_unique<LineTransport>(tcp_lines(), tcp));
  std::vector<NamedServer> named;
  std::vector<Rendezvous::Server> weighted;
  for (const SmallServer* server : servers) {
    named.push_back({std::to_string(server->port()), {"127.0.0.1", server->port()}});
    weighted.push_back({named.back().name});
  }
  store->set_servers(named, std::make_shared<Rendezvous>(weighted));
  return store;
}

struct Chain {
  Chain(uint64_t number, size_t length) {
    for (size_t i = 0; i < length; ++i) {
      const uint64_t words[2]{number * 1000 + i, ~number};
      BlockHash hash;
      std::memcpy(hash.bytes.data(), words, sizeof(words));
      hashes.push_back(hash);
      positions.push_back(static_cast<uint32_t>(i));
    }
  }
  std::vector<std::byte> expected() const {
    std::vector<std::byte> bytes;
    for (const BlockHash& hash : hashes) {
      bytes.insert(bytes.end(), kBlockBytes, static_cast<std::byte>(hash.low() * 31));
    }
    return bytes;
  }
  Keys keys() const { return {hashes, positions}; }

  std::vector<BlockHash> hashes;
  std::vector<uint32_t> positions;
};

void play(RemoteStore& store, uint64_t seed, int steps) {
  std::mt19937_64 random(seed);
  for (int step = 0; step < steps; ++step) {
    const Chain chain(random() % 6, 1 + random() % 40);
    std::vector<std::byte> memory = chain.expected();
    std::vector<std::byte*> places;
    for (size_t i = 0; i < chain.hashes.size(); ++i) {
      places.push_back(memory.data() + i * kBlockBytes);
    }
    const auto deadline = Clock::now() + (step % 7 == 0 ? 500us : 20s);
    if (random() % 2 == 0) {
      const std::vector<const std::byte*> sources(places.begin(), places.end());
      auto put = store.put_from(chain.keys(), sources, deadline);
      if (step % 5 == 0) put->cancel();
      put->wait();
      REQUIRE(put->wait_quiet(Clock::now() + 20s));
      continue;
    }
    const auto expected = memory;
    std::ranges::fill(memory, std::byte{0xA5});
    auto get = store.get_into(chain.keys(), places, deadline);
    get->wait();
    const auto outcomes = get->outcomes();
    REQUIRE(get->wait_quiet(Clock::now() + 20s));
    for (size_t i = 0; i < outcomes.size(); ++i) {
      if (outcomes[i] != Outcome::kDone) continue;
      REQUIRE(std::equal(places[i], places[i] + kBlockBytes, expected.begin() + i * kBlockBytes));
    }
    store.match(chain.keys());
    if (step % 11 == 0) store.remove(chain.keys(), deadline)->wait();
    if (step % 13 == 0) store.server_stats();
  }
}

TEST_CASE("threads and stores share servers") {
  SmallServer one, other;
  auto first = new_store({&one, &other}, 1), second = new_store({&one, &other}, 2);
  std::vector<std::jthread> threads;
  for (uint64_t seed = 0; seed < 4; ++seed) {
    threads.emplace_back([&, seed] { play(seed % 2 == 0 ? *first : *second, seed, 60); });
  }
}

TEST_CASE("threads survive servers that break off") {
  SmallServer one(20), other(20);
  auto store = new_store({&one, &other}, 2);
  std::vector<std::jthread> threads;
  for (uint64_t seed = 0; seed < 2; ++seed) {
    threads.emplace_back([&, seed] { play(*store, 10 + seed, 60); });
  }
}

TEST_CASE("threads of a store may be stopped in the middle") {
  SmallServer server;
  for (int round = 0; round < 5; ++round) {
    auto store = new_store({&server}, 1);
    const Chain chain(100, 100);
    auto memory = chain.expected();
    std::vector<const std::byte*> sources;
    for (size_t i = 0; i < 100; ++i) sources.push_back(memory.data() + i * kBlockBytes);
    auto put = store->put_from(chain.keys(), sources, Clock::now() + 20s);
    std::this_thread::sleep_for(200us * round);
    store->close();
    CHECK(put->is_quiet());
    for (Outcome outcome : put->outcomes()) CHECK(outcome != Outcome::kPending);
    auto late = store->put_from(chain.keys(), sources, Clock::now() + 20s);
    CHECK(late->outcomes().front() == Outcome::kFailed);
  }
}

TEST_CASE("a server that has another address is another server") {
  SmallServer one, other;
  auto store = new_store({}, 1);
  const Chain chain(7, 5);
  auto memory = chain.expected();
  std::vector<std::byte*> places;
  for (size_t i = 0; i < 5; ++i) places.push_back(memory.data() + i * kBlockBytes);
  const std::vector<const std::byte*> sources(places.begin(), places.end());
  const auto placement = std::make_shared<Rendezvous>(std::vector<Rendezvous::Server>{{"name"}});
  auto first_outcome = [&](const std::shared_ptr<Batch>& batch) {
    batch->wait();
    return batch->outcomes().front();
  };
  auto put = [&] {
    return first_outcome(store->put_from(chain.keys(), sources, Clock::now() + 20s));
  };
  auto get = [&] {
    return first_outcome(store->get_into(chain.keys(), places, Clock::now() + 20s));
  };
  store->set_servers({{"name", {"127.0.0.1", one.port()}}}, placement);
  CHECK(put() == Outcome::kDone);
  CHECK(get() == Outcome::kDone);
  store->set_servers({{"name", {"127.0.0.1", other.port()}}}, placement);
  CHECK(get() == Outcome::kMiss);
  CHECK(put() == Outcome::kDone);
  CHECK(get() == Outcome::kDone);
  CHECK(store->server_stats().size() == 1);
}

}  // namespace
}  // namespace kvcore
