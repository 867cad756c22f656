#pragma once

#include <sys/uio.h>

#include <optional>
#include <string>
#include <vector>

#include "common/file.h"
#include "store/checksum.h"
#include "store/remote/wire.h"

struct sockaddr;

namespace kvcore {

// One connection to an InfiniStore server, and the request that is under way on it: one at a time,
// since a second get would send the server round for ever. Never waits. A value goes straight to
// where it is wanted, and its checksum is taken while it is in the core's cache.
//
// The server aborts when a client closes a connection while an answer is on its way. So whoever
// does not want to wait any more abandons the request: its memory is free at once, and the
// connection reads on, to nowhere, until the answer has come. Used by one thread.
class Connection {
 public:
  enum class State : uint8_t { kClosed, kConnecting, kIdle, kBusy, kDraining };

  // Begins to connect; kClosed where that fails at once.
  void open(const sockaddr* address, uint32_t address_bytes);
  // No request may be under way, or the server be gone.
  void close();
  // The end of the process closes it.
  void leave_open() { socket_.release(); }
  // kBusy only: gives back the request, whose memory is free. Idle after that, or draining.
  Request abandon();

  // kIdle only. The request must be sendable; begins with the next on_ready() for writing.
  void start(Request request);

  // What became of a request when its time came: the connection is idle again, or closed where the
  // answer was none.
  struct Finished {
    Request request;
    Reply reply;
  };

  // The socket can be read or written, or is broken. Reads at most so much that others get a turn.
  // Where an answer makes no sense, the connection is closed or drains.
  std::optional<Finished> on_ready(uint32_t events);

  State state() const noexcept { return state_; }
  int fd() const noexcept { return socket_.fd(); }
  // What epoll is to wait for.
  uint32_t wanted_events() const noexcept;
  const Request& request() const { return *request_; }
  Clock::time_point last_progress() const noexcept { return last_progress_; }

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

}  // namespace kvcore
