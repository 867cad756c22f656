#pragma once

#include <chrono>
#include <cstdint>
#include <deque>
#include <functional>
#include <memory>
#include <optional>
#include <random>
#include <string>
#include <vector>

#include "store/remote/line.h"

namespace kvcore {

struct ServerOptions {
  uint32_t connections = 4;  // lines to it
  // A server that has requests and says nothing for so long is given up.
  Clock::duration stall = std::chrono::milliseconds(50);
  // From when a server was given up to the first probe; doubled up to the last, and jittered.
  Clock::duration first_probe = std::chrono::milliseconds(100);
  Clock::duration last_probe = std::chrono::seconds(5);
};

// One server as its clients see it: a queue of requests, reads before writes; lines, opened as they
// are needed; and a circuit breaker. A server is given up when it cannot be connected to, or has
// requests and says nothing for `stall`. Then all its requests fail, and those that come fail
// at once, until it answers something: what it still owed, or, asked now and then, whether a key
// exists.
//
// Used by one thread. Answers are given from check() and answer() alone, and may submit more.
class ServerQueue {
 public:
  // What to wait for on the descriptor of a line; `is_new`: it was not waited for before.
  using Watch = std::function<void(int fd, bool is_new, uint32_t events, uint32_t line)>;

  ServerQueue(const ServerAddress& address, const MakeLine& make_line, const ServerOptions& options,
              Watch watch);

  void submit(Request request);
  void on_ready(uint32_t line, uint32_t events);
  // Does all that can be done now. To be called after all else, and at next_check(). False when
  // there was nothing to answer.
  bool check(Clock::time_point now);
  // The last part of check(): gives the answers that there are.
  bool answer();
  Clock::time_point next_check() const noexcept;
  // Nobody asks any more: fails all, and every line goes as soon as it may.
  void retire();
  bool has_lines_to_end() const noexcept;
  // The end of this process ends what is left.
  void leave_open();
  bool is_well() const noexcept { return breaker_ == Breaker::kClosed; }
  ServerStats stats() const;

 private:
  enum class Breaker : uint8_t { kClosed, kOpen, kProbing };
  struct Place {
    std::unique_ptr<Line> line;
    int watched_fd = -1;  // none
    uint32_t watched_events = 0;
    Clock::time_point started{};  // of the request under way
  };

  void close();
  void give_up(Clock::time_point now);
  void put_off_probe(Clock::time_point now);
  void start_probe(Clock::time_point now);
  void check_probe(Clock::time_point now);
  void recover();
  void end_overdue(Clock::time_point now);
  void expire(Clock::time_point now);
  void start_requests(Clock::time_point now);
  std::optional<Request> next_request(Clock::time_point now);
  void start(Place& place, Request request, Clock::time_point now);
  void abandon(Place& place, Answer answer);
  void on_ready(Place& place, uint32_t events);
  void end(Place& place);
  void watch(Place& place);
  bool is_over(const Request& request, Clock::time_point now) const;
  Clock::time_point impatient_at() const;
  Clock::time_point stalls_at() const;
  std::optional<Clock::time_point> silent_since() const;  // while it is waited for
  bool is_waiting_for_server() const;

  const ServerOptions options_;
  const Watch watch_;
  std::vector<Place> places_;
  std::deque<Request> reads_, writes_;
  uint32_t turn_ = 0;
  // Of the queue; none is before, nor has less.
  Clock::time_point next_expiry_ = Clock::time_point::max();
  Clock::duration least_patience_ = Clock::duration::max();
  Clock::time_point waiting_since_{};     // for the server; a word from it counts as well
  std::vector<Line::Finished> finished_;  // to be answered
  Breaker breaker_ = Breaker::kClosed;
  bool has_failed_to_connect_ = false;
  bool has_shown_life_ = false;  // since it was given up
  size_t probing_place_ = 0;
  uint32_t failures_in_a_row_ = 0;
  Clock::duration probe_delay_{};
  Clock::time_point next_probe_{};
  std::minstd_rand random_;
  ServerStats stats_;
};

}  // namespace kvcore
