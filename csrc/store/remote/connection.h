#pragma once

#include <sys/uio.h>

#include <optional>
#include <string>
#include <vector>

#include "common/file.h"
#include "store/checksum.h"
#include "store/remote/line.h"
#include "store/remote/wire.h"

namespace kvcore {

// A connection to an InfiniStore server over TCP. A second request would send the server round for
// ever. A value goes straight to where it is wanted, and its checksum is taken while it is in the
// core's cache.
//
// The server aborts when a client closes a connection while an answer is on its way. So whoever
// does not want to wait any more abandons the request: its memory is free at once, and the
// connection reads on, to nowhere, until the answer has come.
class Connection final : public Line {
 public:
  explicit Connection(const ServerAddress& address) : address_(address) {}

  void open() override;
  void start(Request request) override;
  // Idle after that, or draining.
  Request abandon() override;
  void close() override;
  void retire() override;
  void leave_open() override { socket_.release(); }
  // Reads at most so much that others get a turn. Idle or busy after that, or where the answer
  // makes no sense, closed or draining.
  std::optional<Finished> on_ready(uint32_t events) override;

  State state() const noexcept override { return state_; }
  int fd() const noexcept override { return socket_.fd(); }
  uint32_t wanted_events() const noexcept override;
  const Request& request() const override { return *request_; }
  bool waits_for_server() const noexcept override;
  Clock::time_point last_progress() const noexcept override { return last_progress_; }
  Clock::time_point latest_end() const noexcept override;

 private:
  enum class Step : uint8_t { kGoOn, kBlocked, kBroken };

  Step send_some();
  Step receive_some();
  void drain_some();
  bool is_head_whole() const noexcept;
  bool is_sent() const noexcept { return sent_bytes_ == total_bytes_; }
  std::optional<Finished> finish(Reply reply);
  std::optional<Finished> fail();
  void acknowledge_quickly();
  void rest_of_value(uint64_t skip, size_t limit);
  void take_checksum(size_t head_bytes, size_t bytes);

  const ServerAddress address_;
  File socket_;
  State state_ = State::kClosed;
  Clock::time_point last_progress_{};
  std::optional<Request> request_;
  Request::Kind kind_ = Request::Kind::kGet;  // of the request, also when it was given back
  uint64_t value_bytes_ = 0;
  uint64_t total_bytes_ = 0;    // to send
  bool drains_to_end_ = false;  // of the connection
  std::string head_out_;        // all of the request but its value
  uint64_t sent_bytes_ = 0;
  wire::Head head_in_;
  size_t head_received_ = 0;
  uint64_t value_received_ = 0;
  RunningChecksum checksum_;
  std::vector<iovec> places_;  // of the last call to the kernel
};

// Makes lines of TCP.
MakeLine tcp_lines();

}  // namespace kvcore
