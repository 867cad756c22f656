#include "bindings/lent_batch.h"

#include <algorithm>
#include <iterator>
#include <mutex>
#include <vector>

namespace kvcore::bindings {
namespace {

namespace py = pybind11;

// Memory whose batch nobody holds any more, while a store still has it. Nobody waits for that: it
// is let go when the next one comes.
class Forgotten {
 public:
  void add(std::shared_ptr<Batch> batch, py::object owner) {
    std::lock_guard lock(mutex_);
    all_.emplace_back(std::move(batch), std::move(owner));
  }
  void let_go() {
    std::vector<Entry> quiet;  // ends after the lock: an owner's end may call anything
    std::lock_guard lock(mutex_);
    const auto rest =
        std::ranges::partition(all_, [](const Entry& entry) { return !entry.first->is_quiet(); });
    std::ranges::move(rest, std::back_inserter(quiet));
    all_.erase(rest.begin(), rest.end());
  }

 private:
  using Entry = std::pair<std::shared_ptr<Batch>, py::object>;
  std::mutex mutex_;
  std::vector<Entry> all_;
};

// Never destroyed: at the end of a process memory may still be lent.
Forgotten& forgotten() {
  static Forgotten* const all = new Forgotten;
  return *all;
}

}  // namespace

LentBatch::LentBatch(std::shared_ptr<Batch> batch, py::object owner)
    : batch_(std::move(batch)), owner_(std::move(owner)) {
  forgotten().let_go();
}

LentBatch::~LentBatch() {
  if (batch_ != nullptr && !batch_->is_quiet())
    forgotten().add(std::move(batch_), std::move(owner_));
}

}  // namespace kvcore::bindings
