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
    if (was_connecting) has_failed_to_connect_ = true;
  } else if (was_connecting && line.connection.state() == State::kIdle) {
    ++stats_.connects;
  }
  if (!finished) return watch(line);
  failures_in_a_row_ =
      finished->reply.answer == Answer::kFailed ? failures_in_a_row_ + 1 : 0;
  if (breaker_ == Breaker::kProbing) {
    has_answered_probe_ = finished->reply.answer == Answer::kDone;
    return watch(line);
  }
  const Request& request = finished->request;
  if (finished->reply.answer == Answer::kDone) {
    const uint64_t bytes = request.value_bytes();
    (request.is_write() ? stats_.sent_bytes : stats_.received_bytes) += bytes;
  }
  const std::chrono::duration<double, std::micro> latency = Clock::now() - line.started;
  stats_.latency_us += (latency.count() - stats_.latency_us) / (stats_.requests < 8 ? 2.0 : 16.0);
  finished_.push_back(*std::move(finished));
  watch(line);
}

bool TcpServer::check(Clock::time_point now) {
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
      case Answer::kFailed: ++stats_.failed; break;
      case Answer::kTimedOut: ++stats_.timed_out; break;
      default: ++stats_.requests;
    }
    request.finish(reply);
  }
  return true;
}

Clock::time_point TcpServer::next_check() const noexcept {
  if (breaker_ == Breaker::kOpen) return next_probe_;
  Clock::time_point next = std::min(next_expiry_, stalls_at());
  if (breaker_ == Breaker::kProbing) return next;
  for (const Line& line : lines_) {
    if (line.connection.state() == Connection::State::kBusy) {
      next = std::min(next, line.connection.request().deadline);
    }
  }
  return next;
}

bool TcpServer::is_waiting_for_server() const {
  return std::ranges::any_of(lines_, [](const Line& line) {
    const auto state = line.connection.state();
    return state == Connection::State::kConnecting || state == Connection::State::kBusy;
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
  breaker_ = Breaker::kOpen;
  // Many clients lose a server at once; they shall not all come back at once.
  std::uniform_real_distribution<double> jitter(0.75, 1.25);
  next_probe_ = now + std::chrono::duration_cast<Clock::duration>(probe_delay_ * jitter(random_));
  probe_delay_ = std::min(2 * probe_delay_, options_.last_probe);
}

void TcpServer::close() {
  for (Line& line : lines_) close(line, Answer::kFailed);
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

void TcpServer::start_probe(Clock::time_point now) {
  breaker_ = Breaker::kProbing;
  has_answered_probe_ = false;
  waiting_since_ = now;
  Line& line = lines_.front();
  line.connection.open(reinterpret_cast<const sockaddr*>(&address_.storage), address_.bytes);
  watch(line);
}

void TcpServer::check_probe(Clock::time_point now) {
  Line& line = lines_.front();
  if (has_answered_probe_) {
    breaker_ = Breaker::kClosed;
    probe_delay_ = options_.first_probe;
    return;
  }
  if (line.connection.state() == Connection::State::kClosed || now >= stalls_at()) {
    return give_up(now);
  }
  if (line.connection.state() == Connection::State::kIdle) {
    start(line, {.kind = Request::Kind::kContains, .keys = {kProbeKey}, .finish = {}}, now);
  }
}

void TcpServer::expire(Clock::time_point now) {
  for (Line& line : lines_) {
    if (line.connection.state() == Connection::State::kBusy &&
        now >= line.connection.request().deadline) {
      close(line, Answer::kTimedOut);
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

void TcpServer::close(Line& line, Answer answer) {
  line.is_watched = false;
  std::optional<Request> request = line.connection.close();
  if (request && request->finish) finished_.push_back({*std::move(request), {.answer = answer}});
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
