#pragma once

#include <atomic>
#include <map>
#include <memory>
#include <mutex>
#include <thread>
#include <vector>

#include "common/file.h"
#include "store/remote/server_queue.h"
#include "store/remote/transport.h"

namespace kvcore {

// Lines to several servers, on one thread with epoll. Thread safe where the contract says so.
class LineTransport : public Transport {
 public:
  LineTransport(MakeLine make_line, const ServerOptions& options);
  ~LineTransport() override;

  bool post(std::function<void()> task) override;
  ServerId add_server(const ServerAddress& address) override;
  void remove_server(ServerId server) override;
  void submit(ServerId server, Request request) override;
  ServerStats stats(ServerId server) const override;
  void stop() override;

 private:
  void run();
  bool do_tasks();
  void wait(int longest_ms);
  bool answer_all(Clock::time_point now);
  int wait_ms(Clock::time_point now) const;

  const MakeLine make_line_;
  const ServerOptions options_;
  File epoll_, wake_;
  std::map<ServerId, std::unique_ptr<ServerQueue>> servers_;
  std::map<ServerId, std::unique_ptr<ServerQueue>> leaving_;  // removed, and not gone yet
  uint32_t next_server_ = 0;
  // What was asked of servers that are gone; answered at the next turn.
  std::vector<std::function<void(const Reply&)>> orphans_;

  std::mutex mutex_;  // of the following; a leaf
  std::vector<std::function<void()>> tasks_;
  bool is_stopping_ = false;
  std::mutex stop_mutex_;
  std::thread thread_;
};

}  // namespace kvcore
