#include "store/remote/line_transport.h"

#include <sys/epoll.h>
#include <sys/eventfd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <utility>

#include "common/check.h"

namespace kvcore {
namespace {

constexpr uint64_t kWake = ~uint64_t{0};
// When it ends: for answers that nobody wants any more, and processes that were killed.
constexpr std::chrono::seconds kLastWait{1};

uint64_t tag_of(ServerId server, uint32_t line) {
  return uint64_t{static_cast<uint32_t>(server)} << 32 | line;
}

}  // namespace

LineTransport::LineTransport(MakeLine make_line, const ServerOptions& options)
    : make_line_(std::move(make_line)),
      options_(options),
      epoll_(epoll_create1(EPOLL_CLOEXEC)),
      wake_(eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK)) {
  if (!epoll_.is_open() || !wake_.is_open()) throw_errno("cannot make an epoll");
  epoll_event event{.events = EPOLLIN, .data = {.u64 = kWake}};
  if (epoll_ctl(epoll_.fd(), EPOLL_CTL_ADD, wake_.fd(), &event) != 0) throw_errno("epoll_ctl");
  thread_ = std::thread([this] { run(); });
}

LineTransport::~LineTransport() { stop(); }

ServerId LineTransport::add_server(const ServerAddress& address) {
  const ServerId id{next_server_++};
  auto watch = [this, id](int fd, bool is_new, uint32_t events, uint32_t line) {
    epoll_event event{.events = events, .data = {.u64 = tag_of(id, line)}};
    KV_CHECK(epoll_ctl(epoll_.fd(), is_new ? EPOLL_CTL_ADD : EPOLL_CTL_MOD, fd, &event) == 0);
  };
  servers_.emplace(id,
                   std::make_unique<ServerQueue>(address, make_line_, options_, std::move(watch)));
  return id;
}

void LineTransport::remove_server(ServerId server) {
  const auto found = servers_.find(server);
  if (found == servers_.end()) return;
  // Whoever is told may submit to it once more, and is refused.
  auto node = servers_.extract(found);
  node.mapped()->retire();
  node.mapped()->answer();
  if (node.mapped()->has_lines_to_end()) leaving_.emplace(server, std::move(node.mapped()));
}

bool LineTransport::post(std::function<void()> task) {
  {
    std::lock_guard lock(mutex_);
    if (is_stopping_) return false;
    tasks_.push_back(std::move(task));
    if (tasks_.size() > 1) return true;
  }
  const uint64_t one = 1;
  [[maybe_unused]] const ssize_t written = write(wake_.fd(), &one, sizeof(one));
  return true;
}

void LineTransport::submit(ServerId server, Request request) {
  const auto found = servers_.find(server);
  if (found != servers_.end()) return found->second->submit(std::move(request));
  orphans_.push_back(std::move(request.finish));
}

ServerStats LineTransport::stats(ServerId server) const {
  const auto found = servers_.find(server);
  return found == servers_.end() ? ServerStats{.is_well = false} : found->second->stats();
}

void LineTransport::stop() {
  std::lock_guard stopping(stop_mutex_);
  if (!thread_.joinable()) return;
  {
    std::lock_guard lock(mutex_);
    is_stopping_ = true;
  }
  const uint64_t one = 1;
  [[maybe_unused]] const ssize_t written = write(wake_.fd(), &one, sizeof(one));
  thread_.join();
}

int LineTransport::wait_ms(Clock::time_point now) const {
  Clock::time_point next = Clock::time_point::max();
  for (const auto& [id, server] : servers_) next = std::min(next, server->next_check());
  if (next == Clock::time_point::max()) return -1;
  if (next <= now) return 0;
  const auto ms = std::chrono::ceil<std::chrono::milliseconds>(next - now).count();
  return static_cast<int>(std::min<int64_t>(ms, 60'000));
}

// Waits until something can be read or written, and does that.
void LineTransport::wait(int longest_ms) {
  std::array<epoll_event, 64> events;
  const int count = epoll_wait(epoll_.fd(), events.data(), events.size(), longest_ms);
  KV_CHECK(count >= 0 || errno == EINTR);
  for (const epoll_event& event :
       std::span(events).first(static_cast<size_t>(std::max(count, 0)))) {
    if (event.data.u64 == kWake) continue;
    const ServerId id{static_cast<uint32_t>(event.data.u64 >> 32)};
    for (const auto* servers : {&servers_, &leaving_}) {
      const auto found = servers->find(id);
      if (found == servers->end()) continue;
      found->second->on_ready(static_cast<uint32_t>(event.data.u64), event.events);
    }
  }
}

void LineTransport::run() {
  bool is_stopping = false;
  while (!is_stopping) {
    wait(wait_ms(Clock::now()));
    std::erase_if(leaving_, [](const auto& entry) { return !entry.second->has_lines_to_end(); });
    is_stopping = do_tasks();
    while (answer_all(Clock::now())) continue;
  }
  // What was under way is answered, and what comes of that fails.
  while (!servers_.empty()) remove_server(servers_.begin()->first);
  while (answer_all(Clock::now())) continue;
  for (const auto until = Clock::now() + kLastWait; !leaving_.empty() && Clock::now() < until;) {
    wait(/*longest_ms=*/10);
    std::erase_if(leaving_, [](const auto& entry) { return !entry.second->has_lines_to_end(); });
  }
  for (const auto& [id, server] : leaving_) server->leave_open();
}

bool LineTransport::answer_all(Clock::time_point now) {
  bool has_answered = !orphans_.empty();
  for (auto& finish : std::exchange(orphans_, {})) finish({});
  for (const auto& [id, server] : servers_) has_answered |= server->check(now);
  return has_answered;
}

// Whether it is time to stop, when all that was posted before is done.
bool LineTransport::do_tasks() {
  std::vector<std::function<void()>> tasks;
  bool is_stopping;
  {
    std::lock_guard lock(mutex_);
    tasks.swap(tasks_);
    is_stopping = is_stopping_;
    uint64_t count;
    [[maybe_unused]] const ssize_t read_bytes = read(wake_.fd(), &count, sizeof(count));
  }
  for (auto& task : tasks) task();
  return is_stopping;
}

}  // namespace kvcore
