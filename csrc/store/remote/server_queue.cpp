#include "store/remote/server_queue.h"

#include <sys/epoll.h>

#include <algorithm>
#include <utility>

#include "common/check.h"
#include "store/remote/wire.h"

namespace kvcore {
namespace {

// Of connections that break or of answers that make no sense, one after the other.
constexpr uint32_t kFailuresToGiveUp = 8;
constexpr const char* kProbeKey = "kvcore-probe";

bool is_gone(Line::State state) {
  return state == Line::State::kClosed || state == Line::State::kEnding;
}

}  // namespace

ServerQueue::ServerQueue(const ServerAddress& address, const MakeLine& make_line,
                         const ServerOptions& options, Watch watch)
    : options_(options),
      watch_(std::move(watch)),
      places_(options.connections),
      probe_delay_(options.first_probe),
      random_(std::random_device()()) {
  for (Place& place : places_) {
    place.line = make_line(address);
    this->watch(place);
  }
}

void ServerQueue::submit(Request request) {
  KV_CHECK(wire::is_sendable(request));
  if (breaker_ != Breaker::kClosed) {
    ++stats_.refused;
    finished_.push_back({std::move(request), {.answer = Answer::kFailed}});
    return;
  }
  next_expiry_ = std::min(next_expiry_, request.deadline);
  least_patience_ = std::min(least_patience_, request.patience);
  (request.is_write() ? writes_ : reads_).push_back(std::move(request));
}

void ServerQueue::on_ready(uint32_t line, uint32_t events) { on_ready(places_[line], events); }

void ServerQueue::on_ready(Place& place, uint32_t events) {
  using State = Line::State;
  const State before = place.line->state();
  std::optional<Line::Finished> finished = place.line->on_ready(events);
  const State after = place.line->state();
  if (is_gone(after) && !is_gone(before)) {
    stats_.last_loss = Clock::now();
    if (before == State::kConnecting) has_failed_to_connect_ = true;
  } else if (after == State::kIdle && before == State::kConnecting) {
    ++stats_.connects;
  } else if (after == State::kIdle && before != State::kIdle) {
    has_shown_life_ = true;
  }
  watch(place);
  if (!finished) return;
  failures_in_a_row_ = finished->reply.answer == Answer::kFailed ? failures_in_a_row_ + 1 : 0;
  const Request& request = finished->request;
  if (!request.finish) return;  // a probe
  if (finished->reply.answer == Answer::kDone) {
    const uint64_t bytes = request.value_bytes();
    (request.is_write() ? stats_.sent_bytes : stats_.received_bytes) += bytes;
  }
  const std::chrono::duration<double, std::micro> latency = Clock::now() - place.started;
  stats_.latency_us += (latency.count() - stats_.latency_us) / (stats_.requests < 8 ? 2.0 : 16.0);
  finished_.push_back(*std::move(finished));
}

bool ServerQueue::check(Clock::time_point now) {
  end_overdue(now);
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
  return answer();
}

bool ServerQueue::answer() {
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

Clock::time_point ServerQueue::next_check() const noexcept {
  Clock::time_point next = Clock::time_point::max();
  for (const Place& place : places_) {
    next = std::min(next, place.line->latest_end());
    if (place.line->state() == Line::State::kBusy && breaker_ == Breaker::kClosed) {
      next = std::min(next, place.line->request().deadline);
    }
  }
  if (breaker_ == Breaker::kOpen) return std::min(next, next_probe_);
  return std::min({next, next_expiry_, impatient_at(), stalls_at()});
}

bool ServerQueue::is_waiting_for_server() const {
  return std::ranges::any_of(places_,
                             [](const Place& place) { return place.line->waits_for_server(); });
}

std::optional<Clock::time_point> ServerQueue::silent_since() const {
  if (!is_waiting_for_server()) return std::nullopt;
  Clock::time_point last = waiting_since_;
  for (const Place& place : places_) last = std::max(last, place.line->last_progress());
  return last;
}

Clock::time_point ServerQueue::stalls_at() const {
  const auto since = silent_since();
  return since ? *since + options_.stall : Clock::time_point::max();
}

Clock::time_point ServerQueue::impatient_at() const {
  const auto since = silent_since();
  Clock::duration patience = least_patience_;
  for (const Place& place : places_) {
    if (place.line->state() != Line::State::kBusy) continue;
    patience = std::min(patience, place.line->request().patience);
  }
  const bool has_none = !since || patience == Clock::duration::max();
  return has_none ? Clock::time_point::max() : *since + patience;
}

bool ServerQueue::is_over(const Request& request, Clock::time_point now) const {
  if (now >= request.deadline) return true;
  const auto since = silent_since();
  return since && now - *since >= request.patience;
}

void ServerQueue::give_up(Clock::time_point now) {
  ++stats_.give_ups;
  close();
  has_shown_life_ = false;
  put_off_probe(now);
}

void ServerQueue::put_off_probe(Clock::time_point now) {
  breaker_ = Breaker::kOpen;
  // Many clients lose a server at once; they shall not all come back at once.
  std::uniform_real_distribution<double> jitter(0.75, 1.25);
  next_probe_ = now + std::chrono::duration_cast<Clock::duration>(probe_delay_ * jitter(random_));
  probe_delay_ = std::min(2 * probe_delay_, options_.last_probe);
}

void ServerQueue::recover() {
  waiting_since_ = Clock::now();
  stats_.last_loss = Clock::now();  // whoever answers now may have been started since
  breaker_ = Breaker::kClosed;
  probe_delay_ = options_.first_probe;
}

// Fails all, which is answered later.
void ServerQueue::close() {
  for (Place& place : places_) {
    if (place.line->state() == Line::State::kBusy) abandon(place, Answer::kFailed);
    if (place.line->state() == Line::State::kConnecting) end(place);
  }
  for (auto* queue : {&reads_, &writes_}) {
    for (Request& request : *queue) {
      finished_.push_back({std::move(request), {.answer = Answer::kFailed}});
    }
    queue->clear();
  }
  next_expiry_ = Clock::time_point::max();
  least_patience_ = Clock::duration::max();
  has_failed_to_connect_ = false;
  failures_in_a_row_ = 0;
}

void ServerQueue::retire() {
  close();
  for (Place& place : places_) {
    if (place.line->state() != Line::State::kClosed) place.line->retire();
    watch(place);
  }
}

bool ServerQueue::has_lines_to_end() const noexcept {
  return std::ranges::any_of(
      places_, [](const Place& place) { return place.line->state() != Line::State::kClosed; });
}

void ServerQueue::leave_open() {
  for (Place& place : places_) place.line->leave_open();
}

void ServerQueue::end_overdue(Clock::time_point now) {
  for (Place& place : places_) {
    if (now < place.line->latest_end()) continue;
    has_failed_to_connect_ |= place.line->state() == Line::State::kConnecting;
    end(place);
  }
}

void ServerQueue::end(Place& place) {
  place.line->close();
  watch(place);
}

void ServerQueue::start_probe(Clock::time_point now) {
  using State = Line::State;
  auto with = [this](State state) {
    return std::ranges::find_if(places_,
                                [&](const Place& place) { return place.line->state() == state; });
  };
  auto place = with(State::kIdle);
  if (place == places_.end()) place = with(State::kClosed);
  if (place == places_.end()) return put_off_probe(now);  // it owes answers on all of them
  breaker_ = Breaker::kProbing;
  waiting_since_ = now;
  probing_place_ = static_cast<size_t>(place - places_.begin());
  if (place->line->state() == State::kIdle) return;
  place->line->open();
  watch(*place);
}

void ServerQueue::check_probe(Clock::time_point now) {
  Place& place = places_[probing_place_];
  if (has_shown_life_) return recover();
  if (place.line->state() == Line::State::kIdle) {
    start(place, {.kind = Request::Kind::kContains, .keys = {kProbeKey}}, now);
  }
  if (is_gone(place.line->state()) || now >= stalls_at()) {
    close();
    put_off_probe(now);
  }
}

void ServerQueue::expire(Clock::time_point now) {
  const bool is_impatient = now >= impatient_at();
  if (is_impatient || now >= next_expiry_) {
    next_expiry_ = Clock::time_point::max();
    least_patience_ = Clock::duration::max();
    for (auto* queue : {&reads_, &writes_}) {
      std::deque<Request> rest;
      for (Request& request : *queue) {
        if (is_over(request, now)) {
          finished_.push_back({std::move(request), {.answer = Answer::kTimedOut}});
        } else {
          next_expiry_ = std::min(next_expiry_, request.deadline);
          least_patience_ = std::min(least_patience_, request.patience);
          rest.push_back(std::move(request));
        }
      }
      *queue = std::move(rest);
    }
  }
  for (Place& place : places_) {
    if (place.line->state() == Line::State::kBusy && is_over(place.line->request(), now)) {
      abandon(place, Answer::kTimedOut);
    }
  }
}

void ServerQueue::start_requests(Clock::time_point now) {
  for (Place& place : places_) {
    if (reads_.empty() && writes_.empty()) return;
    if (place.line->state() == Line::State::kClosed) {
      if (!is_waiting_for_server()) waiting_since_ = now;
      place.line->open();
      has_failed_to_connect_ |= place.line->state() == Line::State::kClosed;
      watch(place);
    }
    if (place.line->state() != Line::State::kIdle) continue;
    if (std::optional<Request> request = next_request(now)) start(place, *std::move(request), now);
  }
}

// Every fourth turn goes to a write, so that they come to an end.
std::optional<Request> ServerQueue::next_request(Clock::time_point now) {
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

void ServerQueue::start(Place& place, Request request, Clock::time_point now) {
  if (!is_waiting_for_server()) waiting_since_ = now;
  place.started = now;
  place.line->start(std::move(request));
  on_ready(place, EPOLLOUT);
}

void ServerQueue::abandon(Place& place, Answer answer) {
  Request request = place.line->abandon();
  if (request.finish) finished_.push_back({std::move(request), {.answer = answer}});
  watch(place);
}

void ServerQueue::watch(Place& place) {
  const uint32_t events = place.line->wanted_events();
  if (events == 0) {
    place.watched_fd = -1;
    return;
  }
  const bool is_new = place.line->fd() != place.watched_fd;
  if (!is_new && events == place.watched_events) return;
  place.watched_fd = place.line->fd();
  place.watched_events = events;
  watch_(place.watched_fd, is_new, events, static_cast<uint32_t>(&place - places_.data()));
}

ServerStats ServerQueue::stats() const {
  ServerStats stats = stats_;
  stats.is_well = is_well();
  return stats;
}

}  // namespace kvcore
