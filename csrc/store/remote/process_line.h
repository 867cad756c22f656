#pragma once

#include <array>
#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "common/child_process.h"
#include "common/file.h"
#include "common/shared_pages.h"
#include "store/checksum.h"
#include "store/remote/line.h"

namespace kvcore {

// A line that another process carries, over RDMA, with InfiniStore's own client: that one takes
// over signal handlers and the environment, has no time limits, and ends its process where it does
// not know what to do. Here none of that concerns the engine. A process that says nothing any more
// is killed, one that ended is an end of the line, and either is replaced.
//
// The price is a copy: values go through memory that both share and that the client has registered,
// and the checksum is taken on the way. The slabs themselves could be registered only if they were
// shared too, and then a client that has lost its bearings would write into the cache. Every
// process gets memory of its own, as a network card may still write to that of one that was killed.
//
// Of what is asked for (see rdma_line.py, the other end) one is under way at a time, since the
// client takes the first acknowledgement for that of the first request, whatever it is of. An
// answer does not tell how large a value is: of one that is smaller than what was asked for, the
// rest is whatever was there before. Readers know by the checksum.
//
// Over RDMA a server shows a key when its value is whole, so the record that names a value (see
// names.h) would not be needed. But clients over TCP use the same server.
class ProcessLine final : public Line {
 public:
  // The command is given the number of this process, and the server's host and port.
  ProcessLine(std::vector<std::string> command, const ServerAddress& address);
  ~ProcessLine() override = default;

  // Starts the process. The line is idle when that is connected.
  void open() override;
  void start(Request request) override;
  // Draining after that: a process takes longer to replace than most deadlines are. It has a second
  // more to come to an end of it.
  Request abandon() override;
  void close() override;
  void retire() override { close(); }
  void leave_open() override {}
  std::optional<Finished> on_ready(uint32_t events) override;

  State state() const noexcept override { return state_; }
  int fd() const noexcept override;
  uint32_t wanted_events() const noexcept override;
  const Request& request() const override { return *request_; }
  bool waits_for_server() const noexcept override { return state_ == State::kBusy; }
  Clock::time_point last_progress() const noexcept override { return last_progress_; }
  Clock::time_point latest_end() const noexcept override;

 private:
  // What rdma_line.py says.
  struct Message {
    uint32_t code;
    uint32_t number;
  };

  bool ask();
  void copy_out();
  std::optional<Reply> reply_of(const Message& message);
  std::optional<Finished> finish(Reply reply);
  std::optional<Finished> fail();
  void kill();

  std::vector<std::string> command_;
  SharedPages pages_;  // a value, then keys
  File socket_;
  ChildProcess process_;
  State state_ = State::kClosed;
  Clock::time_point last_progress_{};
  std::optional<Request> request_;
  bool is_asked_ = false;  // for what is under way
  RunningChecksum checksum_;
};

// Makes lines that such processes carry.
MakeLine process_lines(std::vector<std::string> command);

}  // namespace kvcore
