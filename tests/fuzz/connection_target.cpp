#include <linux/sockios.h>
#include <poll.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <sys/un.h>

#include <array>
#include <optional>
#include <vector>

#include "common/check.h"
#include "input.h"
#include "store/remote/connection.h"
#include "targets.h"

namespace kvcore {
namespace {

using Kind = Request::Kind;
using State = Connection::State;

constexpr size_t kGuardBytes = 16;
constexpr std::byte kGuard{0x5a};
constexpr size_t kMostBytes = 1 << 20;  // of an input's answers together
constexpr int kMostCommands = 300;

// What a server's bytes say, judged without a word of the code that is tested.
struct Verdict {
  enum class Is : uint8_t { kUnfinished, kAnswer, kOtherSize, kNonsense };
  Is is = Is::kUnfinished;
  Answer answer = Answer::kFailed;
  uint32_t number = 0;
  uint64_t bytes = 0;  // of all of it
};

uint32_t word_at(std::string_view said, size_t at) {
  uint32_t word;
  std::memcpy(&word, said.data() + at, sizeof(word));
  return word;
}

Verdict judge(const Request& request, std::string_view said) {
  using Is = Verdict::Is;
  const uint64_t count = request.keys.size(), value_bytes = request.value_bytes();
  if (said.size() < 4) return {};
  const uint32_t code = word_at(said, 0);
  if (code == 404 && request.kind == Kind::kGet) return {Is::kAnswer, Answer::kMiss, 0, 4};
  if (code == 507 && request.kind == Kind::kPut) return {Is::kAnswer, Answer::kFull, 0, 4};
  if (code != 200) return {Is::kNonsense};
  if (request.kind == Kind::kPut) return {Is::kAnswer, Answer::kDone, 0, 4};
  if (said.size() < 8) return {};
  const uint32_t number = word_at(said, 4);
  switch (request.kind) {
    case Kind::kGet:
      if (number != value_bytes) {
        return {number <= 1u << 31 ? Is::kOtherSize : Is::kNonsense, {}, number, 8u + number};
      }
      if (said.size() - 8 < number) return {};
      return {Is::kAnswer, Answer::kDone, number, 8u + number};
    case Kind::kContains:
      if (number > 1) return {Is::kNonsense};
      return {Is::kAnswer, Answer::kDone, number == 0 ? 1u : 0u, 8};
    case Kind::kMatch:
      if (number != ~0u && number >= count) return {Is::kNonsense};
      return {Is::kAnswer, Answer::kDone, number == ~0u ? 0 : number + 1, 8};
    case Kind::kRemove:
      if (number > count) return {Is::kNonsense};
      return {Is::kAnswer, Answer::kDone, number, 8};
    case Kind::kPut:
      break;
  }
  return {Is::kNonsense};
}

// The same of a request that was given up: how much it asked for, nobody knows any more.
Verdict judge_drained(Kind kind, std::string_view said) {
  using Is = Verdict::Is;
  if (said.size() < 4) return {};
  const uint32_t code = word_at(said, 0);
  const uint32_t refusal = kind == Kind::kGet ? 404 : kind == Kind::kPut ? 507 : 200;
  if (code != 200) return {code == refusal ? Is::kAnswer : Is::kNonsense, {}, 0, 4};
  if (kind == Kind::kPut) return {Is::kAnswer, {}, 0, 4};
  if (said.size() < 8) return {};
  if (kind != Kind::kGet) return {Is::kAnswer, {}, 0, 8};
  const uint32_t number = word_at(said, 4);
  if (number > 1u << 31) return {Is::kNonsense};
  if (said.size() - 8 < number) return {};
  return {Is::kAnswer, {}, number, 8u + number};
}

// Bytes that differ, for values.
const std::string& pattern() {
  static const std::string kBytes = [] {
    std::string bytes(512 << 10, '\0');
    for (size_t i = 0; i < bytes.size(); ++i) bytes[i] = static_cast<char>(i * 7 + (i >> 8));
    return bytes;
  }();
  return kBytes;
}

// The memory of one request: its pieces, with guards around each.
class Memory {
 public:
  Memory(const std::vector<size_t>& piece_bytes, size_t variant) {
    size_t bytes = kGuardBytes;
    for (size_t piece : piece_bytes) bytes += piece + kGuardBytes;
    bytes_.assign(bytes, kGuard);
    size_t at = kGuardBytes, from = variant;
    for (size_t piece : piece_bytes) {
      pieces_.push_back(std::span(bytes_).subspan(at, piece));
      if (piece > 0) std::memcpy(pieces_.back().data(), pattern().data() + from, piece);
      from += piece;
      at += piece + kGuardBytes;
    }
  }

  const std::vector<std::span<std::byte>>& pieces() const { return pieces_; }
  std::string value() const {
    std::string value;
    for (const auto& piece : pieces_) {
      value.append(reinterpret_cast<const char*>(piece.data()), piece.size());
    }
    return value;
  }
  bool is_value(std::string_view value) const {
    for (const auto& piece : pieces_) {
      if (piece.size() > value.size()) return false;
      if (!piece.empty() && std::memcmp(piece.data(), value.data(), piece.size()) != 0)
        return false;
      value.remove_prefix(piece.size());
    }
    return value.empty();
  }
  void check_guards() const {
    std::array<std::byte, kGuardBytes> guard;
    guard.fill(kGuard);
    const std::byte* at = bytes_.data();
    KV_CHECK(std::memcmp(at, guard.data(), kGuardBytes) == 0);
    for (const auto& piece : pieces_) {
      at += kGuardBytes + piece.size();
      KV_CHECK(std::memcmp(at, guard.data(), kGuardBytes) == 0);
    }
  }

 private:
  std::vector<std::byte> bytes_;
  std::vector<std::span<std::byte>> pieces_;
};

// Sockets of this process, which know of no port. What TCP does besides (a connect that takes time)
// the other tests see.
class Listener {
 public:
  Listener() : socket_(socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0)) {
    const sockaddr_un any{.sun_family = AF_UNIX, .sun_path = {}};
    // Without a path, the kernel finds a name.
    KV_CHECK(bind(socket_.fd(), reinterpret_cast<const sockaddr*>(&any), sizeof(sa_family_t)) == 0);
    KV_CHECK(listen(socket_.fd(), 4) == 0);
    address_.bytes = sizeof(address_.storage);
    auto* address = reinterpret_cast<sockaddr*>(&address_.storage);
    KV_CHECK(getsockname(socket_.fd(), address, &address_.bytes) == 0);
  }
  static Listener& only() {
    static Listener listener;
    return listener;
  }
  const ServerAddress& address() const { return address_; }
  File connect(Connection& connection) {
    connection.open();
    KV_CHECK(connection.state() == State::kIdle);
    File peer(accept4(socket_.fd(), nullptr, nullptr, SOCK_CLOEXEC | SOCK_NONBLOCK));
    KV_CHECK(peer.is_open());
    return peer;
  }

 private:
  File socket_;
  ServerAddress address_{"127.0.0.1", 0};
};

size_t unread_bytes(const File& socket) {
  int bytes = 0;
  KV_CHECK(ioctl(socket.fd(), SIOCINQ, &bytes) == 0);
  return static_cast<size_t>(bytes);
}

// A connection, what the server has said on it, and what must be true of both.
class Session {
 public:
  explicit Session(std::span<const uint8_t> bytes) : in_(bytes) {}

  void run() {
    for (int i = 0; i < kMostCommands && !in_.is_empty(); ++i) {
      if (do_command()) check();
    }
    // Nothing is under way when the server has gone.
    if (connection_.state() == State::kClosed) return;
    end_peer();
    settle();
    KV_CHECK(connection_.state() == State::kClosed && !request_);
  }

 private:
  // Whether the client did something.
  bool do_command() {
    const uint8_t command = in_.byte();
    switch (command % 10) {
      case 0:
        start();
        return true;
      case 1:
        say(in_.text(in_.byte()));
        return false;
      case 2:
        say_head();
        return false;
      case 3:
        say(std::string(in_.number<uint16_t>(), static_cast<char>(in_.byte())));
        return false;
      case 4:
        answer(in_.byte());
        return false;
      case 5:
        return turn(command >= 128 ? POLLIN | POLLHUP : POLLIN | POLLOUT | POLLHUP | POLLERR);
      case 6:
        settle();
        return true;
      case 7:
        hear(in_.byte() * 64u);
        return false;
      case 8:
        abandon();
        return true;
    }
    if (command >= 192) {
      end_peer();
    } else if (command >= 128 && peer_.is_open()) {
      shutdown(peer_.fd(), SHUT_WR);
      is_silent_ = true;
    } else if (command < 16 && connection_.state() == State::kIdle) {
      close();
    }
    return true;
  }

  // --- What the client does ---

  void start() {
    if (connection_.state() == State::kClosed) open();
    if (connection_.state() != State::kIdle) return;
    const uint8_t what = in_.byte();
    Request request{.kind = static_cast<Kind>(what % 5), .keys = {"key"}};
    if (request.kind == Kind::kMatch || request.kind == Kind::kRemove) {
      request.keys.resize(1 + what / 5 % 8, "other");
    }
    std::vector<size_t> pieces;
    if (request.kind == Kind::kGet || request.kind == Kind::kPut) pieces = piece_sizes(what / 5);
    memory_.emplace(pieces, 1'000 + what);
    request.pieces = memory_->pieces();
    value_ = memory_->value();
    full_request_ = wire::encode(request) + (request.is_write() ? value_ : "");
    request_ = request;
    while (hear(64 << 10)) continue;  // what came before
    heard_.clear();
    connection_.start(std::move(request));
  }

  // A piece may be empty, but not all; more pieces than a system call takes; more bytes than a
  // turn.
  std::vector<size_t> piece_sizes(uint8_t how) {
    if (how % 8 == 6) {
      const auto count = in_.number<uint16_t>();  // rarely many, as that takes long
      return std::vector<size_t>(count > 65'000 ? 9'000 : 1 + count % 1'200, 1);
    }
    if (how % 8 == 7) return {size_t{in_.number<uint16_t>()} * 5 + 1};
    std::vector<size_t> sizes{1u + in_.byte()};
    for (int i = 0; i < how % 8; ++i) sizes.push_back(in_.byte() * (how % 2 == 0 ? 1 : 32));
    return sizes;
  }

  void open() {
    peer_ = Listener::only().connect(connection_);
    const int least = 1;  // so that sending a value takes several turns
    setsockopt(connection_.fd(), SOL_SOCKET, SO_SNDBUF, &least, sizeof(least));
    said_.clear();
    answer_at_ = 0;
    is_silent_ = false;
    heard_.clear();
  }

  void close() {
    connection_.close();
    peer_ = File();
  }

  void abandon() {
    if (connection_.state() != State::kBusy) return;
    // Only who listens still can say what was sent.
    const bool was_sent = is_all_sent();
    const Request request = connection_.abandon();
    KV_CHECK(request.keys == request_->keys && request.pieces.size() == request_->pieces.size());
    if (connection_.state() == State::kIdle) {
      if (peer_.is_open()) KV_CHECK(sent_bytes() == 0);
    } else {
      KV_CHECK(connection_.state() == State::kDraining);
      drained_ = request_;
      drains_to_end_ = peer_.is_open() && !was_sent;
    }
    request_.reset();
    value_ = memory_->value();  // of nobody's any more, and not to change
  }

  // The socket is ready for something, and the connection is told of some of that.
  bool turn(short mask) {
    pollfd ready{.fd = connection_.fd(),
                 .events = static_cast<short>(connection_.wanted_events()),
                 .revents = 0};
    if (ready.fd < 0 || poll(&ready, 1, 0) == 0 || (ready.revents & mask) == 0) return false;
    const State before = connection_.state();
    auto finished = connection_.on_ready(static_cast<uint32_t>(ready.revents & mask));
    if (finished) {
      KV_CHECK(before == State::kBusy && request_);
      check_finished(*finished);
    } else {
      KV_CHECK(before != State::kBusy || connection_.state() == State::kBusy);
    }
    if (before == State::kDraining) check_drained();
    return true;
  }

  // Until nothing is ready any more, which is soon.
  void settle() {
    for (int steps = 0; turn(~0); ++steps) {
      KV_CHECK(steps < 1'000);
      if (request_) hear(64 << 10);  // a put goes on when somebody listens
    }
    // Whatever was answered was noticed.
    if (request_) KV_CHECK(judge(*request_, answer_text()).is == Verdict::Is::kUnfinished);
    if (drained_ && !drains_to_end_) {
      KV_CHECK(judge_drained(drained_->kind, answer_text()).is == Verdict::Is::kUnfinished);
    }
    if (request_ || drained_) KV_CHECK(!has_ended());
  }

  // --- What the server does ---

  void say(std::string_view text) {
    if (!peer_.is_open() || is_silent_ || said_.size() > kMostBytes) return;
    const ssize_t sent = send(peer_.fd(), text.data(), text.size(), MSG_NOSIGNAL | MSG_DONTWAIT);
    if (sent > 0) said_.append(text.substr(0, static_cast<size_t>(sent)));
  }

  void say_head() {
    constexpr std::array<uint32_t, 8> kCodes{200, 200, 404, 507, 400, 503, 0, 201};
    const uint8_t what = in_.byte();
    const uint64_t value_bytes = request_ ? request_->value_bytes() : 0;
    const std::array<uint64_t, 8> numbers{value_bytes,     value_bytes,     0,         1, ~0u,
                                          value_bytes - 1, value_bytes + 1, in_.byte()};
    const uint32_t head[2]{kCodes[what % 8], static_cast<uint32_t>(numbers[what / 8 % 8])};
    say({reinterpret_cast<const char*>(head), what >= 128 ? 4u : 8u});
  }

  // As a server should, or all but some bytes of that, which may come later.
  void answer(uint8_t missing) {
    const auto& asked = request_ ? request_ : drained_;
    if (!asked) return;
    std::string text(4, '\0');
    const uint32_t code = 200;
    std::memcpy(text.data(), &code, sizeof(code));
    const uint32_t number =
        asked->kind == Kind::kGet ? static_cast<uint32_t>(asked->value_bytes()) : 0;
    if (asked->kind != Kind::kPut) {
      text.append(reinterpret_cast<const char*>(&number), sizeof(number));
    }
    if (asked->kind == Kind::kGet) {
      text.append(pattern(), said_.size() % 997, number);
    }
    say(std::string_view(text).substr(0, text.size() - std::min<size_t>(missing, text.size())));
  }

  bool hear(size_t most) {
    if (!peer_.is_open()) return false;
    std::string text(std::min<size_t>(most, 64 << 10), '\0');
    const ssize_t received = recv(peer_.fd(), text.data(), text.size(), MSG_DONTWAIT);
    if (received > 0) heard_.append(text.substr(0, static_cast<size_t>(received)));
    return received > 0;
  }

  // With unread bytes this is a reset.
  void end_peer() { peer_ = File(); }

  // --- What must be true ---

  std::string_view answer_text() const { return std::string_view(said_).substr(answer_at_); }
  bool has_ended() const { return !peer_.is_open() || is_silent_; }
  size_t sent_bytes() const { return heard_.size() + unread_bytes(peer_); }
  bool is_all_sent() const { return peer_.is_open() && sent_bytes() == full_request_.size(); }

  void check() const {
    if (memory_) {
      memory_->check_guards();
      // What a connection only sends, or gave back, is as it was.
      if (!request_ || request_->kind != Kind::kGet) KV_CHECK(memory_->is_value(value_));
    }
    if (request_) KV_CHECK(full_request_.starts_with(heard_));
    const State state = connection_.state();
    KV_CHECK((state == State::kBusy) == request_.has_value());
    KV_CHECK((state == State::kClosed) == (connection_.wanted_events() == 0));
    // An idle connection is where the next answer begins.
    if (state == State::kIdle) {
      int unread = 0;
      KV_CHECK(ioctl(connection_.fd(), SIOCINQ, &unread) == 0);
      KV_CHECK(static_cast<size_t>(unread) == said_.size() - answer_at_);
    }
  }

  void check_finished(const Connection::Finished& finished) {
    using Is = Verdict::Is;
    const Request request = *std::exchange(request_, std::nullopt);
    KV_CHECK(finished.request.keys == request.keys);
    KV_CHECK(finished.request.pieces.size() == request.pieces.size());
    const Verdict verdict = judge(request, answer_text());
    const bool was_sent = !peer_.is_open() || is_all_sent();
    const State state = connection_.state();
    const Reply& reply = finished.reply;
    if (reply.answer == Answer::kFailed) {
      const bool has_surplus = verdict.answer == Answer::kMiss && answer_text().size() > 4;
      const bool is_early = verdict.answer == Answer::kDone && !(peer_.is_open() && is_all_sent());
      KV_CHECK(has_ended() || verdict.is == Is::kNonsense || verdict.is == Is::kOtherSize ||
               has_surplus || is_early);
      KV_CHECK(state == State::kClosed ||
               (state == State::kDraining && verdict.is == Is::kOtherSize));
      if (state == State::kDraining) {
        drained_ = request;
        drains_to_end_ = false;
      }
    } else {
      KV_CHECK(verdict.is == Is::kAnswer && reply.answer == verdict.answer);
      KV_CHECK(state == State::kIdle ||
               (state == State::kClosed && !(peer_.is_open() && was_sent)));
      if (reply.answer == Answer::kDone) {
        KV_CHECK(was_sent && reply.number == verdict.number);
        const std::string_view value = answer_text().substr(
            request.kind == Kind::kGet ? 8 : 0, request.kind == Kind::kGet ? verdict.number : 0);
        if (request.kind == Kind::kGet) KV_CHECK(memory_->is_value(value));
        // Of a put it may be taken while the value is sent, and is of all of it then.
        const bool is_sent_value = request.kind == Kind::kPut &&
                                   reply.checksum == checksum_of(std::as_bytes(std::span(value_)));
        KV_CHECK(is_sent_value || reply.checksum == checksum_of(std::as_bytes(std::span(value))));
      }
      answer_at_ += verdict.bytes;
    }
    value_ = memory_->value();
  }

  // After a turn of a connection that reads to nowhere.
  void check_drained() {
    const State state = connection_.state();
    KV_CHECK(state != State::kBusy);
    if (state == State::kDraining) return;
    const Verdict verdict = judge_drained(drained_->kind, answer_text());
    if (state == State::kIdle) {
      KV_CHECK(!drains_to_end_ && verdict.is == Verdict::Is::kAnswer);
      answer_at_ += verdict.bytes;
    } else {
      KV_CHECK(has_ended() || verdict.is == Verdict::Is::kNonsense);
    }
    drained_.reset();
  }

  Input in_;
  Connection connection_{Listener::only().address()};
  File peer_;
  std::string said_;      // by the server, on this connection
  size_t answer_at_ = 0;  // of that, the answer to what is asked
  bool is_silent_ = false;
  std::string heard_;  // by the server, of this request
  std::optional<Memory> memory_;
  std::string value_;  // that is in the memory
  std::string full_request_;
  std::optional<Request> request_;  // under way
  std::optional<Request> drained_;  // given up
  bool drains_to_end_ = false;
};

}  // namespace

void fuzz_connection(std::span<const uint8_t> bytes) { Session(bytes).run(); }

}  // namespace kvcore
