#pragma once

#include <deque>
#include <utility>

#include "store/slot_store.h"

namespace kvcore {

// Tasks in the order in which they came, but reads go before others: somebody waits for them. Every
// fourth turn goes to the others, so that they come to an end. Not thread safe.
class TaskQueue {
 public:
  bool empty() const noexcept { return reads_.empty() && others_.empty(); }

  void push(SlotTask task) {
    (task.kind == SlotTask::Kind::kRead ? reads_ : others_).push_back(std::move(task));
  }
  SlotTask pop() {
    const bool other = !others_.empty() && (reads_.empty() || ++turn_ % 4 == 0);
    std::deque<SlotTask>& from = other ? others_ : reads_;
    SlotTask task = std::move(from.front());
    from.pop_front();
    return task;
  }
  // Nobody wants what is waiting any more, but for wipes.
  void cancel() {
    for (const auto* tasks : {&reads_, &others_}) {
      for (const SlotTask& task : *tasks) {
        if (task.kind != SlotTask::Kind::kWipe) task.batch->cancel();
      }
    }
  }

 private:
  std::deque<SlotTask> reads_, others_;
  uint32_t turn_ = 0;
};

}  // namespace kvcore
