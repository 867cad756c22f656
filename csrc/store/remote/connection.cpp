#include "store/remote/connection.h"

#include <netinet/in.h>
#include <netinet/tcp.h>
#include <sys/epoll.h>
#include <sys/socket.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <utility>

#include "common/check.h"

namespace kvcore {
namespace {

// What is received at a time is still in the core's cache when its checksum is taken. To send so
// little at a time costs more than it saves.
constexpr size_t kReceiveBytes = 256 << 10;
constexpr size_t kSendBytes = 4 << 20;
constexpr int kReceivesATurn = 8;
constexpr size_t kMaxPlaces = 1024;  // IOV_MAX
// A server that has not sent what it owes for so long is another one now, or none.
constexpr std::chrono::seconds kLongestDrain{10};

void set(int fd, int level, int option, int value) {
  setsockopt(fd, level, option, &value, sizeof(value));
}

}  // namespace

MakeLine tcp_lines() {
  return [](const ServerAddress& address) { return std::make_unique<Connection>(address); };
}

void Connection::open() {
  KV_CHECK(state_ == State::kClosed);
  last_progress_ = Clock::now();
  socket_ = File(socket(address_.storage.ss_family, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0));
  if (!socket_.is_open()) return;
  set(fd(), IPPROTO_TCP, TCP_NODELAY, 1);
  const int result =
      connect(fd(), reinterpret_cast<const sockaddr*>(&address_.storage), address_.bytes);
  if (result == 0) {
    state_ = State::kIdle;
  } else if (errno == EINPROGRESS) {
    state_ = State::kConnecting;
  } else {
    socket_ = File();
  }
}

void Connection::close() {
  socket_ = File();
  state_ = State::kClosed;
}

void Connection::retire() {
  if (state_ != State::kDraining) close();
}

Request Connection::abandon() {
  KV_CHECK(state_ == State::kBusy);
  Request request = *std::exchange(request_, std::nullopt);
  if (sent_bytes_ == 0 && head_received_ == 0) {
    state_ = State::kIdle;
    return request;
  }
  state_ = State::kDraining;
  // What was not sent can not be sent any more: the server learns that no more comes, and closes.
  drains_to_end_ = !is_sent();
  if (drains_to_end_) shutdown(fd(), SHUT_WR);
  return request;
}

void Connection::start(Request request) {
  KV_CHECK(state_ == State::kIdle);
  request_.emplace(std::move(request));
  kind_ = request_->kind;
  value_bytes_ = request_->value_bytes();
  head_out_ = wire::encode(*request_);
  total_bytes_ = head_out_.size() + (request_->is_write() ? value_bytes_ : 0);
  sent_bytes_ = 0;
  head_in_ = {};
  head_received_ = 0;
  value_received_ = 0;
  checksum_.begin();
  state_ = State::kBusy;
  last_progress_ = Clock::now();
}

uint32_t Connection::wanted_events() const noexcept {
  switch (state_) {
    case State::kClosed:
    case State::kEnding:
      return 0;
    case State::kConnecting:
      return EPOLLOUT;
    case State::kIdle:
      return EPOLLIN;  // the end of the connection, or what nobody asked for
    case State::kDraining:
      return EPOLLIN;
    case State::kBusy:
      break;
  }
  return is_sent() ? EPOLLIN : EPOLLIN | EPOLLOUT;
}

bool Connection::waits_for_server() const noexcept {
  return state_ == State::kConnecting || state_ == State::kBusy || state_ == State::kDraining;
}

Clock::time_point Connection::latest_end() const noexcept {
  return state_ == State::kDraining ? last_progress_ + kLongestDrain : Clock::time_point::max();
}

std::optional<Line::Finished> Connection::on_ready(uint32_t events) {
  if (state_ == State::kConnecting) {
    int error = 0;
    socklen_t bytes = sizeof(error);
    getsockopt(fd(), SOL_SOCKET, SO_ERROR, &error, &bytes);
    if (error != 0 || (events & (EPOLLERR | EPOLLHUP)) != 0) {
      close();
    } else {
      state_ = State::kIdle;
      last_progress_ = Clock::now();
    }
    return std::nullopt;
  }
  if (state_ == State::kIdle) {
    close();
    return std::nullopt;
  }
  if (state_ == State::kClosed) return std::nullopt;
  if (state_ == State::kDraining) {
    drain_some();
    return std::nullopt;
  }
  if ((events & EPOLLOUT) != 0 && send_some() == Step::kBroken) {
    // What the server said before it broke off may be in the socket.
    events |= EPOLLIN;
  }
  if ((events & (EPOLLIN | EPOLLERR | EPOLLHUP)) == 0) return std::nullopt;
  for (int i = 0; i < kReceivesATurn; ++i) {
    const Step step = receive_some();
    if (step == Step::kBroken) {
      close();
      return fail();
    }
    if (is_head_whole()) {
      const auto reply = wire::reply_of(*request_, head_in_);
      // What was read behind a miss was no answer.
      const bool has_surplus = head_received_ > wire::head_bytes(kind_, head_in_, head_received_);
      if (!reply || has_surplus) return fail();
      if (reply->answer != Answer::kDone || kind_ != Request::Kind::kGet) return finish(*reply);
      if (value_received_ == value_bytes_) return finish(*reply);
    }
    if (step == Step::kBlocked) return std::nullopt;
  }
  return std::nullopt;
}

bool Connection::is_head_whole() const noexcept {
  return head_received_ >= wire::kCodeBytes &&
         head_received_ >= wire::head_bytes(kind_, head_in_, head_received_);
}

// Reads to nowhere.
void Connection::drain_some() {
  static thread_local std::array<std::byte, 64 << 10> nowhere;
  for (int turns_left = kReceivesATurn;; --turns_left) {
    const bool needs_head = !drains_to_end_ && !is_head_whole();
    std::byte* to = nowhere.data();
    size_t bytes = nowhere.size();
    if (needs_head) {
      to = reinterpret_cast<std::byte*>(&head_in_) + head_received_;
      bytes = wire::head_bytes(kind_, head_in_, head_received_) - head_received_;
    } else if (!drains_to_end_) {
      if (!wire::is_answer(kind_, head_in_)) return close();
      const bool has_value = kind_ == Request::Kind::kGet && wire::is_done(head_in_);
      const uint64_t left = has_value ? head_in_.number - value_received_ : 0;
      if (left == 0) {
        if (has_value && head_in_.number > wire::kMaxValueBytes) return close();
        state_ = State::kIdle;
        return;
      }
      bytes = std::min<uint64_t>(bytes, left);
    }
    // Only when it is known that more is to come: nobody would be woken for nothing.
    if (turns_left == 0) return;
    const ssize_t received = recv(fd(), to, bytes, MSG_DONTWAIT);
    if (received < 0 && (errno == EAGAIN || errno == EWOULDBLOCK || errno == EINTR)) return;
    if (received <= 0) return close();
    last_progress_ = Clock::now();
    (needs_head ? head_received_ : value_received_) += static_cast<size_t>(received);
  }
}

Connection::Step Connection::send_some() {
  while (!is_sent()) {
    places_.clear();
    const uint64_t of_head = head_out_.size() - std::min<uint64_t>(sent_bytes_, head_out_.size());
    if (of_head > 0) places_.push_back({head_out_.data() + head_out_.size() - of_head, of_head});
    if (request_->is_write()) rest_of_value(sent_bytes_ + of_head - head_out_.size(), kSendBytes);
    msghdr message{};
    message.msg_iov = places_.data();
    message.msg_iovlen = places_.size();
    const ssize_t sent = sendmsg(fd(), &message, MSG_NOSIGNAL | MSG_DONTWAIT);
    if (sent < 0) {
      if (errno == EINTR) continue;
      return errno == EAGAIN || errno == EWOULDBLOCK ? Step::kBlocked : Step::kBroken;
    }
    sent_bytes_ += static_cast<uint64_t>(sent);
    last_progress_ = Clock::now();
    take_checksum(of_head, static_cast<size_t>(sent));
  }
  acknowledge_quickly();
  return Step::kGoOn;
}

Connection::Step Connection::receive_some() {
  places_.clear();
  const size_t head_bytes = wire::head_bytes(request_->kind, head_in_, head_received_);
  const bool has_value = request_->kind == Request::Kind::kGet;
  // The head of an answer with a value is read as a whole and with what comes behind it; of another
  // no byte more than there is.
  const size_t head_wanted = (has_value ? wire::kHeadBytes : head_bytes) - head_received_;
  if (head_wanted > 0) {
    places_.push_back({reinterpret_cast<std::byte*>(&head_in_) + head_received_, head_wanted});
  }
  if (has_value) rest_of_value(value_received_, kReceiveBytes);
  if (places_.empty()) return Step::kGoOn;
  msghdr message{};
  message.msg_iov = places_.data();
  message.msg_iovlen = places_.size();
  const ssize_t received = recvmsg(fd(), &message, MSG_DONTWAIT);
  if (received < 0) {
    return errno == EAGAIN || errno == EWOULDBLOCK || errno == EINTR ? Step::kBlocked
                                                                     : Step::kBroken;
  }
  if (received == 0) return Step::kBroken;
  last_progress_ = Clock::now();
  const size_t of_head = std::min(static_cast<size_t>(received), head_wanted);
  head_received_ += of_head;
  value_received_ += static_cast<size_t>(received) - of_head;
  take_checksum(head_wanted, static_cast<size_t>(received));
  if (value_received_ < value_bytes_) acknowledge_quickly();
  return Step::kGoOn;
}

// Where the next bytes of the value are, from a place in it on.
void Connection::rest_of_value(uint64_t skip, size_t limit) {
  for (const auto& piece : request_->pieces) {
    const uint64_t skipped = std::min<uint64_t>(skip, piece.size());
    skip -= skipped;
    if (skipped == piece.size()) continue;
    const size_t bytes = std::min<size_t>(piece.size() - skipped, limit);
    places_.push_back({piece.data() + skipped, bytes});
    limit -= bytes;
    if (limit == 0 || places_.size() == kMaxPlaces) break;
  }
}

// Of so many bytes that went to or came from the places, but for those of a head.
void Connection::take_checksum(size_t head_bytes, size_t bytes) {
  for (const iovec& place : places_) {
    const size_t here = std::min(bytes, place.iov_len);
    const bool is_head = head_bytes > 0;
    if (!is_head) checksum_.add({static_cast<const std::byte*>(place.iov_base), here});
    head_bytes = 0;
    bytes -= here;
  }
}

// Linux acknowledges two full segments at once, and less after 40 ms: a server that has sent the
// head of a small value alone waits for that. Of a large one, it can send the sooner what is next.
void Connection::acknowledge_quickly() {
  if (request_->kind != Request::Kind::kGet) return;
  set(fd(), IPPROTO_TCP, TCP_QUICKACK, 1);
}

std::optional<Line::Finished> Connection::finish(Reply reply) {
  if (reply.answer == Answer::kDone) {
    if (!is_sent()) return fail();  // to a request that it had not
    reply.checksum = checksum_.value();
  }
  Finished finished{.request = *std::exchange(request_, std::nullopt), .reply = reply};
  state_ = State::kIdle;
  if (!is_sent()) close();  // a value that there is no room for; the server closes as well
  return finished;
}

// The answer makes no sense, or there is none any more.
std::optional<Line::Finished> Connection::fail() {
  Finished finished{.request = {}, .reply = {.answer = Answer::kFailed}};
  if (state_ == State::kClosed) {
    finished.request = *std::exchange(request_, std::nullopt);
  } else {
    // A value of another size can be read to its end; whatever else this is, nobody can tell where
    // it ends.
    const bool is_value = kind_ == Request::Kind::kGet && wire::is_done(head_in_) && is_sent() &&
                          head_in_.number > value_received_ &&
                          head_in_.number <= wire::kMaxAnswerBytes;
    finished.request = abandon();
    if (!is_value) close();
  }
  return finished;
}

}  // namespace kvcore
