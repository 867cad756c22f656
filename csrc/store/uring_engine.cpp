#include "store/uring_engine.h"

#include "store/disk_store.h"

#ifdef KVCORE_WITH_URING

#include <liburing.h>
#include <sys/eventfd.h>

#include <chrono>
#include <mutex>
#include <thread>
#include <utility>

#include "common/check.h"
#include "common/file.h"
#include "store/task_queue.h"

namespace kvcore {
namespace {

constexpr std::chrono::milliseconds kPause{1};

class UringEngine final : public SlotEngine {
 public:
  UringEngine(SlotStore& store, std::vector<std::unique_ptr<DiskOperation>> operations)
      : store_(store), operations_(std::move(operations)), bell_(eventfd(0, EFD_CLOEXEC)) {
    if (!bell_.is_open()) throw_errno("eventfd");
    // One more for the bell.
    const auto entries = static_cast<unsigned>(operations_.size() + 1);
    if (const int error = io_uring_queue_init(entries, &ring_, 0); error != 0) {
      throw std::system_error(-error, std::generic_category(), "io_uring");
    }
    for (auto& operation : operations_) idle_.push_back(operation.get());
    thread_ = std::thread([this] { run(); });
  }

  ~UringEngine() override { io_uring_queue_exit(&ring_); }

  void stop() override {
    {
      std::lock_guard lock(mutex_);
      ends_ = true;
      tasks_.cancel();
    }
    ring_the_bell();
    thread_.join();
  }

  void start(SlotTask task) override {
    bool is_first;
    {
      std::lock_guard lock(mutex_);
      is_first = tasks_.empty();
      tasks_.push(std::move(task));
    }
    // A thread that has not taken the one before will see this one too.
    if (is_first) ring_the_bell();
  }

  void sweep() override {
    std::vector<SlotTask> unwanted;
    {
      std::lock_guard lock(mutex_);
      unwanted = tasks_.take_unwanted();
    }
    for (const SlotTask& task : unwanted) store_.finish(task, Outcome::kCancelled);
  }

 private:
  void ring_the_bell() {
    const uint64_t one = 1;
    KV_CHECK(write(bell_.fd(), &one, sizeof(one)) == sizeof(one));
  }

  void run() {
    listen();
    for (;;) {
      if (begin_tasks()) return;
      // What the kernel refuses now for want of memory it takes later; deadlines bound that.
      if (const int result = io_uring_submit_and_wait(&ring_, 1); result < 0 && result != -EINTR) {
        KV_CHECK(result == -EAGAIN || result == -EBUSY || result == -ENOMEM);
        std::this_thread::sleep_for(kPause);
      }
      io_uring_cqe* done;
      while (io_uring_peek_cqe(&ring_, &done) == 0) {
        auto* operation = static_cast<DiskOperation*>(io_uring_cqe_get_data(done));
        const int64_t result = done->res;
        io_uring_cqe_seen(&ring_, done);
        if (operation == nullptr) {
          listen();
        } else {
          go_on(*operation, result);
        }
      }
    }
  }

  // What is waiting goes to idle operations. True: all is done, for good.
  bool begin_tasks() {
    while (!idle_.empty()) {
      SlotTask task;
      {
        std::lock_guard lock(mutex_);
        if (tasks_.empty()) return ends_ && idle_.size() == operations_.size();
        task = tasks_.pop();
      }
      if (!task.is_wanted()) {
        store_.finish(task, Outcome::kCancelled);
        continue;
      }
      DiskOperation& operation = *idle_.back();
      idle_.pop_back();
      operation.begin(task);
      go_on(operation, 0);
    }
    return false;
  }

  void go_on(DiskOperation& operation, int64_t result) {
    const DiskOperation::Io* io = operation.next(result);
    if (io == nullptr) {
      const SlotTask task = operation.task();
      idle_.push_back(&operation);
      store_.finish(task, operation.outcome());
      return;
    }
    io_uring_sqe* entry = next_entry();
    using Kind = DiskOperation::Io::Kind;
    if (io->kind == Kind::kSync) {
      io_uring_prep_fsync(entry, io->fd, IORING_FSYNC_DATASYNC);
    } else if (io->kind == Kind::kRead) {
      io_uring_prep_readv(entry, io->fd, io->parts.data(), io->num_parts, io->offset);
    } else {
      io_uring_prep_writev(entry, io->fd, io->parts.data(), io->num_parts, io->offset);
    }
    io_uring_sqe_set_data(entry, &operation);
  }

  void listen() {
    io_uring_sqe* entry = next_entry();
    io_uring_prep_read(entry, bell_.fd(), &rung_, sizeof(rung_), 0);
    io_uring_sqe_set_data(entry, nullptr);
  }

  // There are as many entries as operations and bells, so one is free.
  io_uring_sqe* next_entry() {
    io_uring_sqe* entry = io_uring_get_sqe(&ring_);
    KV_CHECK(entry != nullptr);
    return entry;
  }

  SlotStore& store_;
  const std::vector<std::unique_ptr<DiskOperation>> operations_;
  const File bell_;
  io_uring ring_{};
  uint64_t rung_ = 0;
  std::vector<DiskOperation*> idle_;
  std::mutex mutex_;
  TaskQueue tasks_;
  bool ends_ = false;
  std::thread thread_;
};

}  // namespace

bool is_uring_built() noexcept { return true; }

bool has_uring() noexcept {
  static const bool has = [] {
    io_uring ring;
    if (io_uring_queue_init(1, &ring, 0) != 0) return false;
    io_uring_queue_exit(&ring);
    return true;
  }();
  return has;
}

std::unique_ptr<SlotEngine> new_uring_engine(
    SlotStore& store, std::vector<std::unique_ptr<DiskOperation>> operations) {
  return std::make_unique<UringEngine>(store, std::move(operations));
}

}  // namespace kvcore

#else

namespace kvcore {

bool is_uring_built() noexcept { return false; }

bool has_uring() noexcept { return false; }

std::unique_ptr<SlotEngine> new_uring_engine(SlotStore&,
                                             std::vector<std::unique_ptr<DiskOperation>>) {
  return nullptr;
}

}  // namespace kvcore

#endif
