#pragma once

#include <memory>
#include <string>
#include <vector>

#include "store/disk_files.h"
#include "store/disk_operation.h"
#include "store/slot_store.h"

namespace kvcore {

enum class DiskIo : uint8_t {
  kAuto,     // io_uring where the build and the kernel have it
  kUring,    // one thread, many reads and writes in flight
  kThreads,  // pread and pwrite on as many threads
};

struct DiskStoreOptions {
  std::string path;
  Fingerprint fingerprint{};
  uint64_t value_bytes = 0;
  uint64_t max_bytes = 0;
  bool direct = true;   // past the kernel's cache, where the file system can
  bool syncs = false;   // each write is on the device before it is done
  uint32_t depth = 16;  // reads and writes in flight
  DiskIo io = DiskIo::kAuto;
};

// Values in slots of files in a directory, for one process at a time. What a store left, whether it
// was closed or killed, the next one in the directory has again. See disk_files.h for the files and
// disk_operation.h for what is safe.
class DiskStore final : public SlotStore {
 public:
  // Throws std::invalid_argument naming an option, std::system_error where the file system refuses.
  explicit DiskStore(const DiskStoreOptions& options);
  ~DiskStore() override { close(); }

  bool is_direct() const noexcept { return is_direct_; }
  DiskIo io() const noexcept { return io_; }

 private:
  void end() override {
    files_->unlock();
    files_.reset();
  }
  void recover(uint32_t threads);
  std::unique_ptr<SlotEngine> new_engine(const DiskStoreOptions& options);

  std::unique_ptr<DiskFiles> files_;  // until it is closed
  const bool is_direct_;
  DiskIo io_ = DiskIo::kThreads;
  std::vector<std::unique_ptr<DiskOperation>> operations_;  // of the threads
};

bool is_uring_built() noexcept;
// Whether this build and this kernel have io_uring.
bool has_uring() noexcept;

}  // namespace kvcore
