#pragma once

#include <chrono>
#include <cstdint>
#include <deque>
#include <functional>
#include <optional>
#include <random>
#include <string>
#include <vector>

#include "store/remote/connection.h"

namespace kvcore {

struct TcpOptions {
  uint32_t connections = 4;  // to a server
  // A server that has requests and says nothing for so long is given up.
  Clock::duration stall = std::chrono::milliseconds(50);
  // From when a server was given up to the first probe; doubled up to the last, and jittered.
  Clock::duration first_probe = std::chrono::milliseconds(100);
  Clock::duration last_probe = std::chrono::seconds(5);
};

// One server as its clients see it: a queue of requests, reads before writes; connections, made as
// they are needed; and a circuit breaker. A server is given up when it cannot be connected to, or
// has requests and says nothing for `stall`. Then all its requests fail, and those that come fail
// at once, until it answers something: what it still owed, or, asked now and then, whether a key
// exists.
//
// Used by one thread. Answers are given from check() alone, which may submit more.
class TcpServer {
 public:
  // What to wait for on the socket of a line; `is_new`: it was not waited for before.
  using Watch = std::function<void(int fd, bool is_new, uint32_t events, uint32_t line)>;

  TcpServer(const ServerAddress& address, const TcpOptions& options, Watch watch);

  void submit(Request request);
  void on_ready(uint32_t line, uint32_t events);
  // Does all that can be done now. To be called after all else, and at next_check(). False when
  // there was nothing to answer.
  bool check(Clock::time_point now);
  Clock::time_point next_check() const noexcept;
  // Fails all, which check() then answers.
  void close();
  bool is_draining() const noexcept;
  // The end of the process closes what still drains.
  void leave_open();
  bool is_well() const noexcept { return breaker_ == Breaker::kClosed; }
  ServerStats stats() const;

 private:
  enum class Breaker : uint8_t { kClosed, kOpen, kProbing };
  struct Line {
    Connection connection{};
    bool is_watched = false;
    uint32_t watched_events = 0;
    Clock::time_point started{};  // of the request under way
  };

  void give_up(Clock::time_point now);
  void put_off_probe(Clock::time_point now);
  void start_probe(Clock::time_point now);
  void check_probe(Clock::time_point now);
  void recover();
  void end_long_drains(Clock::time_point now);
  void expire(Clock::time_point now);
  void start_requests(Clock::time_point now);
  std::optional<Request> next_request(Clock::time_point now);
  void start(Line& line, Request request, Clock::time_point now);
  void abandon(Line& line, Answer answer);
  void take(Line& line, std::optional<Connection::Finished> finished);
  void watch(Line& line);
  Clock::time_point stalls_at() const;
  bool is_waiting_for_server() const;

  const ServerAddress address_;
  const TcpOptions options_;
  const Watch watch_;
  std::vector<Line> lines_;
  std::deque<Request> reads_, writes_;
  uint32_t turn_ = 0;
  Clock::time_point next_expiry_ = Clock::time_point::max();  // of the queue; none is before
  Clock::time_point waiting_since_{};           // for the server; a word from it counts as well
  std::vector<Connection::Finished> finished_;  // to be answered
  Breaker breaker_ = Breaker::kClosed;
  bool has_failed_to_connect_ = false;
  bool has_shown_life_ = false;  // since it was given up
  size_t probing_line_ = 0;
  uint32_t failures_in_a_row_ = 0;
  Clock::duration probe_delay_{};
  Clock::time_point next_probe_{};
  std::minstd_rand random_;
  ServerStats stats_;
};

}  // namespace kvcore
