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
// since a second get would send the server round for ever. Never waits. What is received goes
// straight to where it is wanted, and its checksum is taken while it is in the core's cache.
//
// A connection that failed is closed, so that nothing that is still on its way can reach memory that
// was given back. Used by one thread.
class Connection {
 public:
  enum class State : uint8_t { kClosed, kConnecting, kIdle, kBusy };

  // Begins to connect; kClosed where that fails at once.
  void open(const sockaddr* address, uint32_t address_bytes);
  // Gives back the request that was under way, unanswered.
  std::optional<Request> close();

  // kIdle only. The request must be sendable.
  void start(Request request);

  // What became of a request when its time came: the connection is idle again, or closed where the
  // answer was none.
  struct Finished {
    Request request;
    Reply reply;
  };

  // The socket can be read or written, or is broken. Reads at most so much that others get a turn.
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
  std::optional<Finished> finish(Reply reply);
  std::optional<Finished> fail(Answer answer);
  void acknowledge_quickly();
  size_t rest_of_value(std::vector<iovec>& places, size_t limit) const;

  File socket_;
  State state_ = State::kClosed;
  Clock::time_point last_progress_{};
  std::optional<Request> request_;
  uint64_t value_bytes_ = 0;  // of the request
  std::string head_out_;      // all of the request but its value
  uint64_t sent_bytes_ = 0;
  wire::Head head_in_;
  size_t head_received_ = 0;
  uint64_t value_received_ = 0;
  RunningChecksum checksum_;
  std::vector<iovec> places_;  // kept for its memory
};

}  // namespace kvcore
