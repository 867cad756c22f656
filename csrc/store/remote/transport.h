#pragma once

#include <sys/socket.h>

#include <chrono>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <functional>
#include <span>
#include <string>
#include <vector>

#include "store/checksum.h"

namespace kvcore {

using Clock = std::chrono::steady_clock;

// What became of a request.
enum class Answer : uint8_t {
  kDone,
  kMiss,      // a value to get is not there
  kFull,      // no room for a value to put
  kTimedOut,  // the request's deadline came first, or its patience ended
  kFailed,    // the server is not there, broke off, or made no sense
};

// Done, with what the server said: for kContains 1 or 0, for kMatch how many keys from the first on
// are there, for kRemove how many were.
struct Reply {
  Answer answer = Answer::kFailed;
  uint32_t number = 0;
  Checksum checksum{};  // of a value that was got or put
};

// One thing that one server is asked for.
struct Request {
  enum class Kind : uint8_t { kGet, kPut, kContains, kMatch, kRemove };

  Kind kind = Kind::kGet;
  std::vector<std::string> keys;  // one, but for kMatch and kRemove; see wire.h for what is allowed
  // Of a value: memory one after the other. A value of another size is a failure of the server's.
  std::vector<std::span<std::byte>> pieces{};  // only read, for kPut
  Clock::time_point deadline{};
  // Of a question that another server could answer as well: when this one has said nothing for so
  // long, to anybody, it is answered kTimedOut. A server that is only busy is waited for.
  Clock::duration patience = Clock::duration::max();
  // Whether it is still worth beginning; none: always.
  std::function<bool()> is_wanted{};
  // Called once, on the transport's thread. The memory of the pieces is free by then, whatever
  // came.
  std::function<void(const Reply&)> finish{};

  bool is_write() const noexcept { return kind == Kind::kPut; }
  uint64_t value_bytes() const noexcept {
    uint64_t bytes = 0;
    for (const auto& piece : pieces) bytes += piece.size();
    return bytes;
  }
};

enum class ServerId : uint32_t {};

// Where a server is, in numbers.
struct ServerAddress {
  // An IPv4 or IPv6 address and a port. Throws std::invalid_argument naming `host`.
  ServerAddress(const std::string& host, uint16_t port);
  friend bool operator==(const ServerAddress& a, const ServerAddress& b) noexcept {
    return a.bytes == b.bytes && std::memcmp(&a.storage, &b.storage, a.bytes) == 0;
  }

  sockaddr_storage storage{};
  socklen_t bytes = 0;
};

struct ServerStats {
  bool is_well = true;
  uint64_t requests = 0;        // that were answered
  uint64_t failed = 0;          // for whatever reason
  uint64_t timed_out = 0;       // before they were answered
  uint64_t refused = 0;         // of the failed: at once, because the server was given up
  uint64_t connects = 0;        // connections made
  uint64_t give_ups = 0;        // times that it was given up
  uint64_t sent_bytes = 0;      // of values
  uint64_t received_bytes = 0;  // of values
  double latency_us = 0;        // moving average, of requests that were answered
  // When a connection ended, or it was found well again, last: it may be another one since, and
  // empty.
  Clock::time_point last_loss{};
};

// Carries requests to servers, on a thread of its own, several at a time. Nothing waits beyond its
// deadline; a server that has said nothing for a while is left alone until a probe finds it well,
// and what is asked of it meanwhile fails at once.
class Transport {
 public:
  virtual ~Transport() = default;

  // From any thread: has a task done on the transport's thread, after those posted before. False
  // when it has stopped; the task is not done then.
  virtual bool post(std::function<void()> task) = 0;

  // From its own thread alone.
  // Ids are never used again.
  virtual ServerId add_server(const ServerAddress& address) = 0;
  // Fails what is under way there.
  virtual void remove_server(ServerId server) = 0;
  virtual void submit(ServerId server, Request request) = 0;
  virtual ServerStats stats(ServerId server) const = 0;

  // From any thread: fails what is under way, then ends the thread. Idempotent.
  virtual void stop() = 0;
};

}  // namespace kvcore
