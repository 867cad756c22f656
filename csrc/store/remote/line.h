#pragma once

#include <functional>
#include <memory>
#include <optional>

#include "store/remote/transport.h"

namespace kvcore {

// A way to a server, and the request that is under way on it: one at a time. Never waits. Used by
// one thread, which calls on_ready() when what it waits for has come.
class Line {
 public:
  enum class State : uint8_t {
    kClosed,
    kConnecting,
    kIdle,
    kBusy,
    kDraining,  // the answer comes that nobody waits for any more
    kEnding,    // what carries it does not work any more and is not gone yet
  };

  // What became of a request when its time came.
  struct Finished {
    Request request;
    Reply reply;
  };

  virtual ~Line() = default;

  // kClosed only. Closed still where that fails at once.
  virtual void open() = 0;
  // kIdle only. The request must be sendable; begins with the next on_ready() for writing.
  virtual void start(Request request) = 0;
  // kBusy only: gives back the request, whose memory is free.
  virtual Request abandon() = 0;
  // Closed after that, or ending. No request may be under way.
  virtual void close() = 0;
  // Nobody will use it any more: closed as soon as it may be. No request may be under way.
  virtual void retire() = 0;
  // The end of this process ends it.
  virtual void leave_open() = 0;
  // What it waits for has come, or it is broken.
  virtual std::optional<Finished> on_ready(uint32_t events) = 0;

  virtual State state() const noexcept = 0;
  // What epoll is to wait for, and on what; nothing where it is closed.
  virtual uint32_t wanted_events() const noexcept = 0;
  virtual int fd() const noexcept = 0;
  // kBusy only.
  virtual const Request& request() const = 0;
  // Whether the server is to say something now.
  virtual bool waits_for_server() const noexcept = 0;
  virtual Clock::time_point last_progress() const noexcept = 0;
  // When it is to be closed, if it is still in this state.
  virtual Clock::time_point latest_end() const noexcept = 0;
};

using MakeLine = std::function<std::unique_ptr<Line>(const ServerAddress&)>;

}  // namespace kvcore
