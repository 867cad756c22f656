#include "store/remote/connection.h"

#include <netinet/in.h>
#include <poll.h>
#include <sys/epoll.h>
#include <sys/socket.h>

#include <array>
#include <cstring>
#include <thread>
#include <vector>

#include "doctest/doctest.h"

namespace kvcore {
namespace {

// A server that sends whatever it is told, to one client.
class Peer {
 public:
  Peer() : listener_(socket(AF_INET, SOCK_STREAM, 0)) {
    sockaddr_in address{};
    address.sin_family = AF_INET;
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    socklen_t bytes = sizeof(address);
    auto* any = reinterpret_cast<sockaddr*>(&address);
    REQUIRE(bind(listener_.fd(), any, bytes) == 0);
    REQUIRE(listen(listener_.fd(), 1) == 0);
    REQUIRE(getsockname(listener_.fd(), any, &bytes) == 0);
    port_ = ntohs(address.sin_port);
  }
  ServerAddress address() const { return {"127.0.0.1", port_}; }
  void accept() { client_ = File(::accept(listener_.fd(), nullptr, nullptr)); }
  void send_all(const std::vector<std::byte>& bytes) const {
    for (size_t sent = 0; sent < bytes.size();) {
      const ssize_t now = send(client_.fd(), &bytes[sent], bytes.size() - sent, MSG_NOSIGNAL);
      if (now <= 0) return;
      sent += static_cast<size_t>(now);
    }
  }

 private:
  File listener_, client_;
  uint16_t port_ = 0;
};

// Until nothing has come for a while.
void read_all(Connection& connection, int wait_ms) {
  pollfd ready{.fd = connection.fd(), .events = POLLIN, .revents = 0};
  while (connection.state() == Line::State::kDraining && poll(&ready, 1, wait_ms) > 0) {
    connection.on_ready(EPOLLIN);
  }
}

}  // namespace

TEST_CASE("a connection that has drained all is idle, wherever its turns ended") {
  using State = Line::State;
  Peer peer;
  Connection connection(peer.address());
  connection.open();
  peer.accept();
  if (connection.state() == State::kConnecting) connection.on_ready(EPOLLOUT);
  REQUIRE(connection.state() == State::kIdle);

  // A turn is eight reads: two of the head, and six of a value; or eight of a value.
  for (int trial = 0; trial < 200; ++trial) {
    const uint32_t value_bytes = (6 + trial % 3 * 8) * (64 << 10);
    std::vector<std::byte> answer(8 + value_bytes);
    const std::array<uint32_t, 2> head{200, value_bytes};
    std::memcpy(answer.data(), head.data(), sizeof(head));

    std::array<std::byte, 64> wanted;
    connection.start({.kind = Request::Kind::kGet, .keys = {"key"}, .pieces = {std::span(wanted)}});
    CHECK_FALSE(connection.on_ready(EPOLLOUT));
    connection.abandon();
    REQUIRE(connection.state() == State::kDraining);
    std::thread sender([&] { peer.send_all(answer); });
    read_all(connection, 200);
    const State state = connection.state();
    if (state != State::kIdle) connection.close();
    sender.join();
    REQUIRE(state == State::kIdle);
  }
}

}  // namespace kvcore
