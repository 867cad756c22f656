#include "store/thread_engine.h"

#include <utility>

namespace kvcore {

ThreadEngine::ThreadEngine(SlotStore& store, uint32_t threads, Work work)
    : store_(store), work_(std::move(work)) {
  try {
    for (uint32_t i = 0; i < threads; ++i) threads_.emplace_back([this, i] { run(i); });
  } catch (...) {
    stop();
    throw;
  }
}

void ThreadEngine::stop() {
  {
    std::lock_guard lock(mutex_);
    ends_ = true;
    tasks_.cancel();
  }
  wanted_.notify_all();
  for (std::thread& thread : threads_) thread.join();
}

void ThreadEngine::start(SlotTask task) {
  {
    std::lock_guard lock(mutex_);
    tasks_.push(std::move(task));
  }
  wanted_.notify_one();
}

void ThreadEngine::sweep() {
  std::vector<SlotTask> unwanted;
  {
    std::lock_guard lock(mutex_);
    unwanted = tasks_.take_unwanted();
  }
  for (const SlotTask& task : unwanted) store_.finish(task, Outcome::kCancelled);
}

void ThreadEngine::run(uint32_t thread) {
  std::unique_lock lock(mutex_);
  for (;;) {
    wanted_.wait(lock, [this] { return ends_ || !tasks_.empty(); });
    if (tasks_.empty()) return;
    const SlotTask task = tasks_.pop();
    lock.unlock();
    store_.finish(task, task.is_wanted() ? work_(thread, task) : Outcome::kCancelled);
    lock.lock();
  }
}

}  // namespace kvcore
