#include "store/remote/process_line.h"

#include <netdb.h>
#include <sys/epoll.h>
#include <sys/socket.h>

#include <algorithm>
#include <cstring>
#include <utility>

#include "common/check.h"
#include "store/remote/wire.h"

namespace kvcore {
namespace {

// Python is loaded, the server is connected to, and memory is registered.
constexpr std::chrono::seconds kLongestStart{10};
constexpr std::chrono::seconds kLongestDrain{1};
// What is copied at a time is in the core's cache when its checksum is taken.
constexpr size_t kSliceBytes = 64 << 10;

constexpr size_t kKeysAt = wire::kMaxValueBytes;
constexpr size_t kPagesBytes = kKeysAt + (2 << 20);
static_assert(wire::kMaxKeys * (wire::kMaxKeyBytes + 1) <= kPagesBytes - kKeysAt);

// What is said to rdma_line.py, and what it says.
struct Question {
  uint32_t kind;
  uint32_t keys_at, keys_bytes;
  uint32_t value_bytes;
};
enum Code : uint32_t { kIsDone, kIsMiss, kIsFull, kIsRefused, kIsReady };

std::vector<std::string> with_server(std::vector<std::string> command,
                                     const ServerAddress& address) {
  std::array<char, NI_MAXHOST> host{};
  std::array<char, NI_MAXSERV> port{};
  KV_CHECK(getnameinfo(reinterpret_cast<const sockaddr*>(&address.storage), address.bytes,
                       host.data(), host.size(), port.data(), port.size(),
                       NI_NUMERICHOST | NI_NUMERICSERV) == 0);
  command.insert(command.end(), {std::to_string(getpid()), host.data(), port.data()});
  return command;
}

}  // namespace

MakeLine process_lines(std::vector<std::string> command) {
  return [command = std::move(command)](const ServerAddress& address) {
    return std::make_unique<ProcessLine>(command, address);
  };
}

// Begins at once, since it takes a while.
ProcessLine::ProcessLine(std::vector<std::string> command, const ServerAddress& address)
    : command_(with_server(std::move(command), address)) {
  open();
}

void ProcessLine::open() {
  KV_CHECK(state_ == State::kClosed);
  last_progress_ = Clock::now();
  int ends[2];
  if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, ends) != 0) return;
  socket_ = File(ends[0]);
  const File its_end(ends[1]);
  try {
    pages_ = SharedPages(kPagesBytes);
    process_ = ChildProcess(command_, std::array{its_end.fd(), pages_.fd()});
  } catch (const std::system_error&) {
    socket_ = File();
    return;
  }
  state_ = State::kConnecting;
}

void ProcessLine::start(Request request) {
  KV_CHECK(state_ == State::kIdle);
  KV_CHECK(wire::is_sendable(request));
  request_.emplace(std::move(request));
  is_asked_ = false;
  state_ = State::kBusy;
  last_progress_ = Clock::now();
}

Request ProcessLine::abandon() {
  KV_CHECK(state_ == State::kBusy);
  state_ = is_asked_ ? State::kDraining : State::kIdle;
  return *std::exchange(request_, std::nullopt);
}

void ProcessLine::close() {
  KV_CHECK(state_ != State::kBusy);
  if (state_ != State::kClosed && state_ != State::kEnding) kill();
}

void ProcessLine::kill() {
  process_.kill();
  socket_ = File();
  state_ = State::kEnding;
}

int ProcessLine::fd() const noexcept {
  return state_ == State::kEnding ? process_.fd() : socket_.fd();
}

uint32_t ProcessLine::wanted_events() const noexcept {
  if (state_ == State::kClosed) return 0;
  return state_ == State::kBusy && !is_asked_ ? EPOLLIN | EPOLLOUT : EPOLLIN;
}

Clock::time_point ProcessLine::latest_end() const noexcept {
  if (state_ == State::kConnecting) return last_progress_ + kLongestStart;
  if (state_ == State::kDraining) return last_progress_ + kLongestDrain;
  return Clock::time_point::max();
}

std::optional<Line::Finished> ProcessLine::on_ready(uint32_t events) {
  if (state_ == State::kClosed) return std::nullopt;
  if (state_ == State::kEnding) {
    if (process_.has_ended()) state_ = State::kClosed;
    return std::nullopt;
  }
  if (state_ == State::kBusy && !is_asked_ && !ask()) return fail();
  if ((events & ~uint32_t{EPOLLOUT}) == 0) return std::nullopt;
  Message message;
  const ssize_t received = recv(fd(), &message, sizeof(message), MSG_DONTWAIT | MSG_TRUNC);
  if (received < 0 && (errno == EAGAIN || errno == EWOULDBLOCK || errno == EINTR)) {
    return std::nullopt;
  }
  if (received != sizeof(message)) return fail();
  last_progress_ = Clock::now();
  switch (state_) {
    case State::kConnecting:
      if (message.code != kIsReady) return fail();
      state_ = State::kIdle;
      return std::nullopt;
    case State::kDraining:
      state_ = State::kIdle;
      return std::nullopt;
    case State::kBusy:
      if (const auto reply = reply_of(message)) return finish(*reply);
      return fail();
    default:
      return fail();  // nobody has asked
  }
}

// Whether the process could be asked for what is under way.
bool ProcessLine::ask() {
  const std::span<std::byte> keys = pages_.bytes().subspan(kKeysAt);
  size_t keys_bytes = 0;
  for (const std::string& key : request_->keys) {
    if (keys_bytes > 0) keys[keys_bytes++] = std::byte{'\n'};
    std::memcpy(&keys[keys_bytes], key.data(), key.size());
    keys_bytes += key.size();
  }
  checksum_.begin();
  if (request_->is_write()) {
    std::byte* to = pages_.bytes().data();
    for (std::span<std::byte> piece : request_->pieces) {
      for (; !piece.empty(); piece = piece.subspan(std::min(kSliceBytes, piece.size()))) {
        const auto slice = piece.first(std::min(kSliceBytes, piece.size()));
        std::memcpy(to, slice.data(), slice.size());
        checksum_.add(slice);
        to += slice.size();
      }
    }
  }
  const Question question{.kind = static_cast<uint32_t>(request_->kind),
                          .keys_at = kKeysAt,
                          .keys_bytes = static_cast<uint32_t>(keys_bytes),
                          .value_bytes = static_cast<uint32_t>(request_->value_bytes())};
  is_asked_ = true;
  last_progress_ = Clock::now();
  return send(fd(), &question, sizeof(question), MSG_NOSIGNAL | MSG_DONTWAIT) == sizeof(question);
}

void ProcessLine::copy_out() {
  const std::byte* from = pages_.bytes().data();
  for (std::span<std::byte> piece : request_->pieces) {
    for (; !piece.empty(); piece = piece.subspan(std::min(kSliceBytes, piece.size()))) {
      const auto slice = piece.first(std::min(kSliceBytes, piece.size()));
      std::memcpy(slice.data(), from, slice.size());
      checksum_.add(slice);  // of what is kept, as the process may still write
      from += slice.size();
    }
  }
}

// Nothing where it makes no sense.
std::optional<Reply> ProcessLine::reply_of(const Message& message) {
  const Request::Kind kind = request_->kind;
  const size_t most =
      kind == Request::Kind::kGet || kind == Request::Kind::kPut ? 0 : request_->keys.size();
  switch (message.code) {
    case kIsDone:
      if (message.number > most) return std::nullopt;
      if (kind == Request::Kind::kGet) copy_out();
      return Reply{
          .answer = Answer::kDone, .number = message.number, .checksum = checksum_.value()};
    case kIsMiss:
      if (kind != Request::Kind::kGet) return std::nullopt;
      return Reply{.answer = Answer::kMiss};
    case kIsFull:
      if (kind != Request::Kind::kPut) return std::nullopt;
      return Reply{.answer = Answer::kFull};
    case kIsRefused:
      return Reply{.answer = Answer::kFailed};
    default:
      return std::nullopt;
  }
}

std::optional<Line::Finished> ProcessLine::finish(Reply reply) {
  state_ = State::kIdle;
  return Finished{.request = *std::exchange(request_, std::nullopt), .reply = reply};
}

// The process has ended, or makes no sense.
std::optional<Line::Finished> ProcessLine::fail() {
  kill();
  if (!request_) return std::nullopt;
  return Finished{.request = *std::exchange(request_, std::nullopt),
                  .reply = {.answer = Answer::kFailed}};
}

}  // namespace kvcore
