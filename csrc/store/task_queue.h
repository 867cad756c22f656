#pragma once

#include <algorithm>
#include <deque>
#include <iterator>
#include <utility>
#include <vector>

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
  // Takes out what nobody wants any more.
  std::vector<SlotTask> take_unwanted() {
    std::vector<SlotTask> unwanted;
    for (auto* tasks : {&reads_, &others_}) {
      const auto rest = std::stable_partition(
          tasks->begin(), tasks->end(), [](const SlotTask& task) { return task.is_wanted(); });
      std::move(rest, tasks->end(), std::back_inserter(unwanted));
      tasks->erase(rest, tasks->end());
    }
    return unwanted;
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
