#include "store/remote/connection.h"

#include <netinet/in.h>
#include <netinet/tcp.h>
#include <sys/epoll.h>
#include <sys/socket.h>

#include <algorithm>
#include <cerrno>
#include <utility>

#include "common/check.h"

namespace kvcore {
namespace {

// What is received at a time is still in the core's cache when its checksum is taken.
constexpr size_t kReceiveBytes = 256 << 10;
constexpr int kReceivesATurn = 8;
// Linux acknowledges two full segments at once, and less after 40 ms; a server that has sent the
// head alone waits for that. Larger values have full segments.
constexpr uint64_t kSmallValueBytes = 128 << 10;
constexpr size_t kMaxPlaces = 1024;  // IOV_MAX

void set(int fd, int level, int option, int value) {
  setsockopt(fd, level, option, &value, sizeof(value));
}

}  // namespace

void Connection::open(const sockaddr* address, uint32_t address_bytes) {
  KV_CHECK(state_ == State::kClosed);
  last_progress_ = Clock::now();
  socket_ = File(socket(address->sa_family, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0));
  if (!socket_.is_open()) return;
  set(fd(), IPPROTO_TCP, TCP_NODELAY, 1);
  const int result = connect(fd(), address, address_bytes);
  if (result == 0) {
    state_ = State::kIdle;
  } else if (errno == EINPROGRESS) {
    state_ = State::kConnecting;
  } else {
    socket_ = File();
  }
}

std::optional<Request> Connection::close() {
  // What the kernel has not sent yet is not worth sending.
  if (socket_.is_open()) {
    const linger at_once{.l_onoff = 1, .l_linger = 0};
    setsockopt(fd(), SOL_SOCKET, SO_LINGER, &at_once, sizeof(at_once));
  }
  socket_ = File();
  state_ = State::kClosed;
  return std::exchange(request_, std::nullopt);
}

void Connection::start(Request request) {
  KV_CHECK(state_ == State::kIdle);
  request_.emplace(std::move(request));
  value_bytes_ = request_->value_bytes();
  head_out_ = wire::encode(*request_);
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
    case State::kClosed: return 0;
    case State::kConnecting: return EPOLLOUT;
    case State::kIdle: return EPOLLIN;  // the end of the connection, or what nobody asked for
    case State::kBusy: break;
  }
  const uint64_t total = head_out_.size() + (request_->is_write() ? value_bytes_ : 0);
  return sent_bytes_ < total ? EPOLLIN | EPOLLOUT : EPOLLIN;
}

std::optional<Connection::Finished> Connection::on_ready(uint32_t events) {
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
  if ((events & EPOLLOUT) != 0 && send_some() == Step::kBroken) {
    // What the server said before it broke off may be in the socket.
    events |= EPOLLIN;
  }
  if ((events & (EPOLLIN | EPOLLERR | EPOLLHUP)) == 0) return std::nullopt;
  for (int i = 0; i < kReceivesATurn; ++i) {
    const Step step = receive_some();
    if (step == Step::kBroken) return fail(Answer::kFailed);
    if (head_received_ >= wire::kCodeBytes &&
        head_received_ == wire::head_bytes(request_->kind, head_in_, head_received_)) {
      const auto reply = wire::reply_of(*request_, head_in_);
      if (!reply) return fail(Answer::kFailed);
      if (reply->answer != Answer::kDone) return finish(*reply);
      if (request_->kind != Request::Kind::kGet) return finish(*reply);
      if (value_received_ == value_bytes_) return finish(*reply);
    }
    if (step == Step::kBlocked) return std::nullopt;
  }
  return std::nullopt;
}

Connection::Step Connection::send_some() {
  const uint64_t total = head_out_.size() + (request_->is_write() ? value_bytes_ : 0);
  while (sent_bytes_ < total) {
    places_.clear();
    uint64_t skip = sent_bytes_;
    auto add = [&](char* data, size_t bytes) {
      const uint64_t skipped = std::min<uint64_t>(skip, bytes);
      skip -= skipped;
      if (skipped < bytes && places_.size() < kMaxPlaces) {
        places_.push_back({data + skipped, bytes - skipped});
      }
    };
    add(head_out_.data(), head_out_.size());
    if (request_->is_write()) {
      for (const auto& piece : request_->pieces) {
        add(reinterpret_cast<char*>(piece.data()), piece.size());
      }
    }
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
  if (has_value) rest_of_value(places_, kReceiveBytes);
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
  auto left = static_cast<size_t>(received);
  const size_t of_head = std::min(left, head_wanted);
  head_received_ += of_head;
  left -= of_head;
  value_received_ += left;
  for (size_t i = head_wanted > 0 ? 1 : 0; left > 0; ++i) {
    const size_t bytes = std::min(left, places_[i].iov_len);
    checksum_.add({static_cast<const std::byte*>(places_[i].iov_base), bytes});
    left -= bytes;
  }
  if (value_received_ < value_bytes_) acknowledge_quickly();
  return Step::kGoOn;
}

size_t Connection::rest_of_value(std::vector<iovec>& places, size_t limit) const {
  uint64_t skip = value_received_;
  size_t total = 0;
  for (const auto& piece : request_->pieces) {
    const uint64_t skipped = std::min<uint64_t>(skip, piece.size());
    skip -= skipped;
    if (skipped == piece.size()) continue;
    const size_t bytes = std::min<size_t>(piece.size() - skipped, limit - total);
    places.push_back({piece.data() + skipped, bytes});
    total += bytes;
    if (total == limit || places.size() == kMaxPlaces) break;
  }
  return total;
}

void Connection::acknowledge_quickly() {
  if (request_->kind != Request::Kind::kGet || value_bytes_ > kSmallValueBytes) return;
  set(fd(), IPPROTO_TCP, TCP_QUICKACK, 1);
}

std::optional<Connection::Finished> Connection::finish(Reply reply) {
  // A code that came before the whole request was sent, or with bytes behind it that nobody asked
  // for, leaves the connection in no state to go on.
  const uint64_t total = head_out_.size() + (request_->is_write() ? value_bytes_ : 0);
  const bool is_whole = sent_bytes_ == total;
  if (!is_whole && reply.answer == Answer::kDone) return fail(Answer::kFailed);
  if (reply.answer == Answer::kDone) reply.checksum = checksum_.value();
  const bool is_clean = is_whole && head_received_ <= wire::kHeadBytes &&
                        (reply.answer == Answer::kDone || value_received_ == 0) &&
                        (reply.answer != Answer::kMiss || head_received_ == wire::kCodeBytes);
  Finished finished{.request = std::move(*request_), .reply = reply};
  request_.reset();
  state_ = State::kIdle;
  if (!is_clean) close();
  return finished;
}

std::optional<Connection::Finished> Connection::fail(Answer answer) {
  std::optional<Request> request = close();
  if (!request) return std::nullopt;
  return Finished{.request = std::move(*request), .reply = {.answer = answer}};
}

}  // namespace kvcore
