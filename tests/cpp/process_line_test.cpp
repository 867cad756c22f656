#include "store/remote/process_line.h"

#include <poll.h>
#include <sys/epoll.h>

#include <algorithm>

#include "doctest/doctest.h"

namespace kvcore {
namespace {

using namespace std::chrono_literals;
using State = Line::State;

// Processes that answer without a server. What was put, they have in the memory.
const std::string kIsReady = "printf '\\4\\0\\0\\0\\0\\0\\0\\0' >&3;";
const std::string kHears = "[ $(dd bs=16 count=1 <&3 2>/dev/null | wc -c) = 16 ]";
const std::string kSaysDone = "printf '\\0\\0\\0\\0\\0\\0\\0\\0' >&3";
const std::string kKeepsOne = kIsReady + "while " + kHears + "; do " + kSaysDone + "; done";
const std::string kHearsNothing = kIsReady + "exec sleep 1000";
const std::string kEndsWhenAsked = kIsReady + kHears;

ProcessLine line_of(const std::string& script) {
  return ProcessLine({"/bin/sh", "-c", script}, ServerAddress("127.0.0.1", 9));
}

// Turns until something has come of it.
std::optional<Line::Finished> turn(ProcessLine& line, const std::function<bool()>& is_enough) {
  const auto until = Clock::now() + 20s;
  while (!is_enough()) {
    REQUIRE(Clock::now() < until);
    const auto wanted = static_cast<short>(line.wanted_events());
    pollfd ready{.fd = line.fd(), .events = wanted, .revents = 0};
    poll(&ready, 1, 100);
    if (ready.revents == 0) continue;
    if (auto finished = line.on_ready(static_cast<uint32_t>(ready.revents))) return finished;
  }
  return std::nullopt;
}

void wait_for(ProcessLine& line, State state) {
  REQUIRE(!turn(line, [&] { return line.state() == state; }));
}

Line::Finished ask(ProcessLine& line, Request request) {
  line.start(std::move(request));
  auto finished = turn(line, [] { return false; });
  REQUIRE(finished);
  return *std::move(finished);
}

std::vector<std::span<std::byte>> in_pieces(std::vector<std::byte>& bytes, size_t piece_bytes) {
  std::vector<std::span<std::byte>> pieces;
  for (std::span<std::byte> rest = bytes; !rest.empty();) {
    pieces.push_back(rest.first(std::min(piece_bytes, rest.size())));
    rest = rest.subspan(pieces.back().size());
  }
  return pieces;
}

TEST_CASE("processes carry values in pieces of any size") {
  ProcessLine line = line_of(kKeepsOne);
  CHECK(line.state() == State::kConnecting);
  wait_for(line, State::kIdle);
  for (const size_t bytes : {1u, 1000u, 64u << 10, (64u << 10) + 1, 2u << 20}) {
    for (const size_t piece_bytes : {7'777u, 64u << 10, 200'000u, 2u << 20}) {
      std::vector<std::byte> value(bytes), copy(bytes);
      for (size_t i = 0; i < bytes; ++i) value[i] = static_cast<std::byte>(i * 7 + (i >> 8));
      const auto put = ask(
          line,
          {.kind = Request::Kind::kPut, .keys = {"key"}, .pieces = in_pieces(value, piece_bytes)});
      CHECK(put.reply.answer == Answer::kDone);
      CHECK(put.reply.checksum == checksum_of(value));
      const auto got = ask(
          line,
          {.kind = Request::Kind::kGet, .keys = {"key"}, .pieces = in_pieces(copy, bytes / 3 + 1)});
      CHECK(got.reply.answer == Answer::kDone);
      CHECK(got.reply.checksum == checksum_of(value));
      CHECK(copy == value);
    }
  }
  line.close();
  CHECK(line.state() == State::kEnding);
  wait_for(line, State::kClosed);
  line.open();
  wait_for(line, State::kIdle);
}

TEST_CASE("a process that ends fails what it was asked") {
  ProcessLine line = line_of(kEndsWhenAsked);
  for (int i = 0; i < 3; ++i) {
    wait_for(line, State::kIdle);
    const auto finished = ask(line, {.kind = Request::Kind::kContains, .keys = {"key"}});
    CHECK(finished.reply.answer == Answer::kFailed);
    CHECK(finished.request.keys.front() == "key");
    CHECK(line.state() == State::kEnding);
    wait_for(line, State::kClosed);
    line.open();
  }
}

TEST_CASE("a process has a while more for what is not wanted any more") {
  ProcessLine line = line_of(kHearsNothing);
  wait_for(line, State::kIdle);
  line.start({.kind = Request::Kind::kContains, .keys = {"key"}});
  CHECK(line.abandon().keys.front() == "key");
  CHECK(line.state() == State::kIdle);  // it was not asked yet
  line.start({.kind = Request::Kind::kContains, .keys = {"key"}});
  CHECK(!line.on_ready(EPOLLOUT));
  CHECK(line.waits_for_server());
  line.abandon();
  CHECK(line.state() == State::kDraining);
  CHECK(!line.waits_for_server());
  CHECK(line.latest_end() < Clock::now() + 2s);
  line.close();
  CHECK(line.latest_end() == Clock::time_point::max());
  wait_for(line, State::kClosed);
}

TEST_CASE("a program that is not there is no line") {
  ProcessLine line({"/no/program"}, ServerAddress("127.0.0.1", 9));
  CHECK(line.state() == State::kClosed);
  CHECK(line.wanted_events() == 0);
}

}  // namespace
}  // namespace kvcore
