#pragma once

#include <condition_variable>
#include <functional>
#include <mutex>
#include <thread>
#include <vector>

#include "store/slot_store.h"
#include "store/task_queue.h"

namespace kvcore {

// Does tasks one by one on each of some threads, in the order of a TaskQueue.
class ThreadEngine : public SlotEngine {
 public:
  // By the thread of that number.
  using Work = std::function<Outcome(uint32_t thread, const SlotTask&)>;

  ThreadEngine(SlotStore& store, uint32_t threads, Work work);
  void start(SlotTask task) override;
  void sweep() override;
  void stop() override;

 private:
  void run(uint32_t thread);

  SlotStore& store_;
  const Work work_;
  std::mutex mutex_;
  std::condition_variable wanted_;
  TaskQueue tasks_;
  bool ends_ = false;
  std::vector<std::thread> threads_;
};

}  // namespace kvcore
