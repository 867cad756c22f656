#include "store/remote/tcp_server.h"

#include <sys/epoll.h>

#include <algorithm>
#include <utility>

#include "common/check.h"

namespace kvcore {
namespace {

// Of connections that break or of answers that make no sense, one after the other.
constexpr uint32_t kFailuresToGiveUp = 8;
constexpr const char* kProbeKey = "kvcore-probe";
// A server that has not sent what it owes for so long is another one now, or none.
constexpr std::chrono::seconds kLongestDrain{10};

}  // namespace

TcpServer::TcpServer(const ServerAddress& address, const TcpOptions& options, Watch watch)
    : address_(address),
      options_(options),
      watch_(std::move(watch)),
      lines_(options.connections),
      probe_delay_(options.first_probe),
      random_(std::random_device()()) {}

void TcpServer::submit(Request request) {
  KV_CHECK(wire::is_sendable(request));
  if (breaker_ != Breaker::kClosed) {
    ++stats_.refused;
    finished_.push_back({std::move(request), {.answer = Answer::kFailed}});
    return;
  }
  next_expiry_ = std::min(next_expiry_, request.deadline);
  (request.is_write() ? writes_ : reads_).push_back(std::move(request));
}

void TcpServer::on_ready(uint32_t line, uint32_t events) {
  take(lines_[line], lines_[line].connection.on_ready(events));
}

// After something happened on a line.
void TcpServer::take(Line& line, std::optional<Connection::Finished> finished) {
  using State = Connection::State;
  const bool was_connecting = (line.watched_events & EPOLLIN) == 0;
  if (line.connection.state() == State::kClosed) {
    line.is_watched = false;
    stats_.last_loss = Clock::now();
    if (was_connecting) has_failed_to_connect_ = true;
  } else if (line.connection.state() == State::kIdle) {
    if (was_connecting) {
      ++stats_.connects;
    } else {
      has_shown_life_ = true;
    }
  }
  if (!finished) return watch(line);
  failures_in_a_row_ = finished->reply.answer == Answer::kFailed ? failures_in_a_row_ + 1 : 0;
  if (finished->request.finish) {  // not a probe
    const Request& request = finished->request;
    if (finished->reply.answer == Answer::kDone) {
      const uint64_t bytes = request.value_bytes();
      (request.is_write() ? stats_.sent_bytes : stats_.received_bytes) += bytes;
    }
    const std::chrono::duration<double, std::micro> latency = Clock::now() - line.started;
    stats_.latency_us += (latency.count() - stats_.latency_us) / (stats_.requests < 8 ? 2.0 : 16.0);
    finished_.push_back(*std::move(finished));
  }
  watch(line);
}

bool TcpServer::check(Clock::time_point now) {
  end_long_drains(now);
  if (breaker_ == Breaker::kOpen && has_shown_life_) recover();
  if (breaker_ == Breaker::kOpen && now >= next_probe_) start_probe(now);
  if (breaker_ == Breaker::kProbing) check_probe(now);
  if (breaker_ == Breaker::kClosed) {
    expire(now);
    const bool is_lost = has_failed_to_connect_ || failures_in_a_row_ >= kFailuresToGiveUp;
    if (is_lost || now >= stalls_at()) {
      give_up(now);
    } else {
      start_requests(now);
    }
  }
  if (finished_.empty()) return false;
  for (auto& [request, reply] : std::exchange(finished_, {})) {
    switch (reply.answer) {
      case Answer::kFailed:
        ++stats_.failed;
        break;
      case Answer::kTimedOut:
        ++stats_.timed_out;
        break;
      default:
        ++stats_.requests;
    }
    request.finish(reply);
  }
  return true;
}

Clock::time_point TcpServer::next_check() const noexcept {
  Clock::time_point next = Clock::time_point::max();
  for (const Line& line : lines_) {
    const auto state = line.connection.state();
    if (state == Connection::State::kBusy && breaker_ == Breaker::kClosed) {
      next = std::min(next, line.connection.request().deadline);
    } else if (state == Connection::State::kDraining) {
      next = std::min(next, line.connection.last_progress() + kLongestDrain);
    }
  }
  if (breaker_ == Breaker::kOpen) return std::min(next, next_probe_);
  return std::min({next, next_expiry_, stalls_at()});
}

bool TcpServer::is_waiting_for_server() const {
  return std::ranges::any_of(lines_, [](const Line& line) {
    const auto state = line.connection.state();
    return state == Connection::State::kConnecting || state == Connection::State::kBusy ||
           state == Connection::State::kDraining;
  });
}

Clock::time_point TcpServer::stalls_at() const {
  if (!is_waiting_for_server()) return Clock::time_point::max();
  Clock::time_point last = waiting_since_;
  for (const Line& line : lines_) last = std::max(last, line.connection.last_progress());
  return last + options_.stall;
}

void TcpServer::give_up(Clock::time_point now) {
  ++stats_.give_ups;
  close();
  has_shown_life_ = false;
  put_off_probe(now);
}

void TcpServer::put_off_probe(Clock::time_point now) {
  breaker_ = Breaker::kOpen;
  // Many clients lose a server at once; they shall not all come back at once.
  std::uniform_real_distribution<double> jitter(0.75, 1.25);
  next_probe_ = now + std::chrono::duration_cast<Clock::duration>(probe_delay_ * jitter(random_));
  probe_delay_ = std::min(2 * probe_delay_, options_.last_probe);
}

void TcpServer::recover() {
  waiting_since_ = Clock::now();
  stats_.last_loss = Clock::now();  // whoever answers now may have been started since
  breaker_ = Breaker::kClosed;
  probe_delay_ = options_.first_probe;
}

void TcpServer::close() {
  for (Line& line : lines_) {
    if (line.connection.state() == Connection::State::kBusy) abandon(line, Answer::kFailed);
    if (line.connection.state() == Connection::State::kConnecting) {
      line.connection.close();
      line.is_watched = false;
    }
  }
  for (auto* queue : {&reads_, &writes_}) {
    for (Request& request : *queue) {
      finished_.push_back({std::move(request), {.answer = Answer::kFailed}});
    }
    queue->clear();
  }
  next_expiry_ = Clock::time_point::max();
  has_failed_to_connect_ = false;
  failures_in_a_row_ = 0;
}

bool TcpServer::is_draining() const noexcept {
  return std::ranges::any_of(lines_, [](const Line& line) {
    return line.connection.state() == Connection::State::kDraining;
  });
}

void TcpServer::leave_open() {
  for (Line& line : lines_) {
    if (line.connection.state() == Connection::State::kDraining) line.connection.leave_open();
  }
}

void TcpServer::end_long_drains(Clock::time_point now) {
  for (Line& line : lines_) {
    if (line.connection.state() == Connection::State::kDraining &&
        now >= line.connection.last_progress() + kLongestDrain) {
      line.connection.close();
      line.is_watched = false;
    }
  }
}

void TcpServer::start_probe(Clock::time_point now) {
  using State = Connection::State;
  auto with = [this](State state) {
    return std::ranges::find_if(lines_,
                                [&](const Line& line) { return line.connection.state() == state; });
  };
  auto line = with(State::kIdle);
  if (line == lines_.end()) line = with(State::kClosed);
  if (line == lines_.end()) return put_off_probe(now);  // it owes answers on all of them
  breaker_ = Breaker::kProbing;
  waiting_since_ = now;
  probing_line_ = static_cast<size_t>(line - lines_.begin());
  if (line->connection.state() == State::kIdle) return;
  line->connection.open(reinterpret_cast<const sockaddr*>(&address_.storage), address_.bytes);
  watch(*line);
}

void TcpServer::check_probe(Clock::time_point now) {
  Line& line = lines_[probing_line_];
  if (has_shown_life_) return recover();
  if (line.connection.state() == Connection::State::kIdle) {
    start(line, {.kind = Request::Kind::kContains, .keys = {kProbeKey}}, now);
  }
  if (line.connection.state() == Connection::State::kClosed || now >= stalls_at()) {
    close();
    put_off_probe(now);
  }
}

void TcpServer::expire(Clock::time_point now) {
  for (Line& line : lines_) {
    if (line.connection.state() == Connection::State::kBusy &&
        now >= line.connection.request().deadline) {
      abandon(line, Answer::kTimedOut);
    }
  }
  if (now < next_expiry_) return;
  next_expiry_ = Clock::time_point::max();
  for (auto* queue : {&reads_, &writes_}) {
    std::deque<Request> rest;
    for (Request& request : *queue) {
      if (now >= request.deadline) {
        finished_.push_back({std::move(request), {.answer = Answer::kTimedOut}});
      } else {
        next_expiry_ = std::min(next_expiry_, request.deadline);
        rest.push_back(std::move(request));
      }
    }
    *queue = std::move(rest);
  }
}

void TcpServer::start_requests(Clock::time_point now) {
  for (Line& line : lines_) {
    if (reads_.empty() && writes_.empty()) return;
    if (line.connection.state() == Connection::State::kClosed) {
      if (!is_waiting_for_server()) waiting_since_ = now;
      line.connection.open(reinterpret_cast<const sockaddr*>(&address_.storage), address_.bytes);
      has_failed_to_connect_ |= line.connection.state() == Connection::State::kClosed;
      watch(line);
    }
    if (line.connection.state() != Connection::State::kIdle) continue;
    if (std::optional<Request> request = next_request(now)) start(line, *std::move(request), now);
  }
}

// Every fourth turn goes to a write, so that they come to an end.
std::optional<Request> TcpServer::next_request(Clock::time_point now) {
  while (!reads_.empty() || !writes_.empty()) {
    const bool is_write = !writes_.empty() && (reads_.empty() || ++turn_ % 4 == 0);
    auto& queue = is_write ? writes_ : reads_;
    Request request = std::move(queue.front());
    queue.pop_front();
    if (now < request.deadline && (!request.is_wanted || request.is_wanted())) return request;
    finished_.push_back({std::move(request), {.answer = Answer::kTimedOut}});
  }
  return std::nullopt;
}

void TcpServer::start(Line& line, Request request, Clock::time_point now) {
  if (!is_waiting_for_server()) waiting_since_ = now;
  line.started = now;
  line.connection.start(std::move(request));
  take(line, line.connection.on_ready(EPOLLOUT));
}

void TcpServer::abandon(Line& line, Answer answer) {
  Request request = line.connection.abandon();
  if (request.finish) finished_.push_back({std::move(request), {.answer = answer}});
  watch(line);
}

void TcpServer::watch(Line& line) {
  const uint32_t events = line.connection.wanted_events();
  if (events == 0 || (line.is_watched && events == line.watched_events)) return;
  const auto index = static_cast<uint32_t>(&line - lines_.data());
  watch_(line.connection.fd(), !line.is_watched, events, index);
  line.is_watched = true;
  line.watched_events = events;
}

ServerStats TcpServer::stats() const {
  ServerStats stats = stats_;
  stats.is_well = is_well();
  return stats;
}

}  // namespace kvcore
