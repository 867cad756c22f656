#include <netinet/in.h>
#include <netinet/tcp.h>
#include <pybind11/stl.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <sys/uio.h>

#include <array>
#include <cerrno>
#include <cstring>
#include <stdexcept>
#include <string>
#include <utility>
#include <vector>

#include "bindings/arguments.h"
#include "bindings/register.h"
#include "bindings/waiting.h"
#include "common/file.h"
#include "store/remote/wire.h"

namespace kvcore::bindings {
namespace {

// What a server gives and takes at best, for benchmarks: values moved between it and addresses by a
// loop that does nothing else. One value in flight a connection; no checksum, no deadline, and an
// answer that is not the expected one ends it.
class RawSockets {
 public:
  RawSockets(const std::string& host, uint16_t port, uint32_t connections)
      : epoll_(epoll_create1(EPOLL_CLOEXEC)), lines_(connections) {
    if (!epoll_.is_open()) throw_errno("cannot make an epoll");
    const ServerAddress address(host, port);
    for (uint32_t i = 0; i < connections; ++i) {
      File& socket = lines_[i].socket;
      socket = File(::socket(address.storage.ss_family, SOCK_STREAM | SOCK_CLOEXEC, 0));
      if (!socket.is_open() ||
          connect(socket.fd(), reinterpret_cast<const sockaddr*>(&address.storage),
                  address.bytes) != 0) {
        throw_errno("cannot connect");
      }
      set(socket, TCP_NODELAY);
      epoll_event event{.events = EPOLLIN, .data = {.u32 = i}};
      if (epoll_ctl(epoll_.fd(), EPOLL_CTL_ADD, socket.fd(), &event) != 0) throw_errno("epoll_ctl");
    }
  }

  void run(Request::Kind kind, const std::vector<std::string>& keys,
           std::span<const uint64_t> addresses, uint64_t bytes) {
    next_ = 0;
    size_t done = 0;
    auto begin = [&](Line& line) {
      if (next_ == keys.size()) return;
      auto* value = addresses.empty() ? nullptr : reinterpret_cast<std::byte*>(addresses[next_]);
      Request request{.kind = kind, .keys = {keys[next_]}};
      if (kind != Request::Kind::kRemove) request.pieces.emplace_back(value, bytes);
      ++next_;
      line.request = wire::encode(request);
      line.value = value;
      line.sent = line.received = 0;
      send_some(line, kind, bytes);
    };
    for (Line& line : lines_) begin(line);
    std::array<epoll_event, 64> events;
    while (done < keys.size()) {
      const int count = epoll_wait(epoll_.fd(), events.data(), events.size(), -1);
      for (int i = 0; i < count; ++i) {
        Line& line = lines_[events[i].data.u32];
        if ((events[i].events & EPOLLOUT) != 0) send_some(line, kind, bytes);
        if ((events[i].events & ~EPOLLOUT) != 0 && receive_some(line, kind, bytes)) {
          ++done;
          begin(line);
        }
      }
    }
  }

 private:
  struct Line {
    File socket{};
    std::string request{};
    std::byte* value = nullptr;
    uint64_t sent = 0, received = 0;
    wire::Head head{};
    bool waits_to_send = false;
  };

  static void set(const File& socket, int option) {
    const int one = 1;
    setsockopt(socket.fd(), IPPROTO_TCP, option, &one, sizeof(one));
  }

  void send_some(Line& line, Request::Kind kind, uint64_t bytes) {
    const uint64_t total = line.request.size() + (kind == Request::Kind::kPut ? bytes : 0);
    while (line.sent < total) {
      const uint64_t of_request = std::min<uint64_t>(line.sent, line.request.size());
      std::array<iovec, 2> places{
          {{line.request.data() + of_request, line.request.size() - of_request},
           {line.value + (line.sent - of_request),
            total - line.request.size() - (line.sent - of_request)}}};
      msghdr message{};
      message.msg_iov = places.data();
      message.msg_iovlen = places.size();
      const ssize_t sent = sendmsg(line.socket.fd(), &message, MSG_NOSIGNAL | MSG_DONTWAIT);
      if (sent < 0 && errno != EAGAIN) throw_errno("cannot send");
      if (sent < 0) break;
      line.sent += static_cast<uint64_t>(sent);
    }
    const bool waits = line.sent < total;
    if (waits != std::exchange(line.waits_to_send, waits)) {
      epoll_event event{.events = waits ? EPOLLIN | EPOLLOUT : EPOLLIN,
                        .data = {.u32 = static_cast<uint32_t>(&line - lines_.data())}};
      epoll_ctl(epoll_.fd(), EPOLL_CTL_MOD, line.socket.fd(), &event);
    }
    if (kind == Request::Kind::kGet) set(line.socket, TCP_QUICKACK);
  }

  // Whether the answer is whole.
  static bool receive_some(Line& line, Request::Kind kind, uint64_t bytes) {
    const bool is_get = kind == Request::Kind::kGet;
    const uint64_t head_bytes = kind == Request::Kind::kPut ? wire::kCodeBytes : wire::kHeadBytes;
    const uint64_t of_head = std::min(line.received, head_bytes);
    std::array<iovec, 2> places{
        {{reinterpret_cast<std::byte*>(&line.head) + of_head, head_bytes - of_head},
         {line.value + (line.received - of_head), is_get ? bytes - (line.received - of_head) : 0}}};
    msghdr message{};
    message.msg_iov = places.data();
    message.msg_iovlen = places.size();
    const ssize_t received = recvmsg(line.socket.fd(), &message, MSG_DONTWAIT);
    if (received < 0 && errno == EAGAIN) return false;
    if (received <= 0) throw std::runtime_error("the server closed the connection");
    line.received += static_cast<uint64_t>(received);
    if (line.received < head_bytes) return false;
    if (!wire::is_done(line.head) || (is_get && line.head.number != bytes)) {
      throw std::runtime_error("the server answered " + std::to_string(line.head.code));
    }
    if (line.received == head_bytes + (is_get ? bytes : 0)) return true;
    if (is_get) set(line.socket, TCP_QUICKACK);
    return false;
  }

  File epoll_;
  std::vector<Line> lines_;
  size_t next_ = 0;
};

std::span<const uint64_t> addresses(const Buffer& buffer) {
  return {static_cast<const uint64_t*>(buffer.view().buf),
          static_cast<size_t>(buffer.view().len) / sizeof(uint64_t)};
}

void run(RawSockets& self, Request::Kind kind, const std::vector<std::string>& keys,
         py::handle places, uint64_t bytes) {
  const Buffer buffer(places, "addresses", "uint64[n]");
  if (bytes == 0 || bytes > wire::kMaxValueBytes) {
    throw py::value_error("bytes must be from 1 to " + std::to_string(wire::kMaxValueBytes) +
                          ", got " + std::to_string(bytes));
  }
  if (addresses(buffer).size() != keys.size()) {
    throw py::value_error("addresses must be as many as keys");
  }
  const Waiting waiting;
  self.run(kind, keys, addresses(buffer), bytes);
}

}  // namespace

void register_raw_sockets(py::module_& module) {
  py::class_<RawSockets>(module, "RawSockets", "For `kvcore bench store`: the limit of a server.")
      .def(py::init<const std::string&, uint16_t, uint32_t>(), py::arg("host"), py::arg("port"),
           py::arg("connections"), py::call_guard<Waiting>())
      .def(
          "get",
          [](RawSockets& self, const std::vector<std::string>& keys, py::handle addresses,
             uint64_t bytes) { run(self, Request::Kind::kGet, keys, addresses, bytes); },
          py::arg("keys"), py::arg("addresses"), py::arg("bytes"))
      .def(
          "put",
          [](RawSockets& self, const std::vector<std::string>& keys, py::handle addresses,
             uint64_t bytes) { run(self, Request::Kind::kPut, keys, addresses, bytes); },
          py::arg("keys"), py::arg("addresses"), py::arg("bytes"))
      .def(
          "remove",
          [](RawSockets& self, const std::vector<std::string>& keys) {
            self.run(Request::Kind::kRemove, keys, {}, 0);
          },
          py::arg("keys"), py::call_guard<Waiting>());
}

}  // namespace kvcore::bindings
