#pragma once

#include <sys/uio.h>

#include <array>
#include <cstdint>
#include <cstdlib>
#include <memory>

#include "store/disk_files.h"
#include "store/slot_store.h"

namespace kvcore {

// What becomes of a task on disk, step by step, whoever does the input and output. Steps are in an
// order that leaves a slot with an envelope only when its value is whole, wherever they stop:
//
//   write   wipe the page of a slot that held a value, write the value, write the page
//   read    page and value at once; then both are verified
//   wipe    write zeros to the page
//
// With `syncs` each write is on the device before the next begins. Owns buffers, which it keeps
// from one task to the next. Not thread safe.
class DiskOperation {
 public:
  struct Io {
    enum class Kind : uint8_t { kRead, kWrite, kSync };
    Kind kind = Kind::kSync;
    int fd = -1;
    uint64_t offset = 0;
    std::array<iovec, 2> parts{};
    uint32_t num_parts = 0;

    uint64_t bytes() const noexcept;
  };

  DiskOperation(const DiskFiles& files, const Fingerprint& fingerprint, uint64_t value_bytes,
                bool syncs);

  void begin(const SlotTask& task);
  // The next input or output, null when it is over; it stays until the next call. `result` is what
  // came of the one before: bytes, or an errno below zero; zero for the first.
  const Io* next(int64_t result);
  Outcome outcome() const noexcept { return outcome_; }
  const SlotTask& task() const noexcept { return task_; }

 private:
  struct Free {
    void operator()(std::byte* memory) const noexcept { std::free(memory); }
  };
  using Pages = std::unique_ptr<std::byte[], Free>;
  enum class Step : uint8_t { kRead, kVerify, kErase, kWriteValue, kWritePage, kEnd, kFail };

  bool has_memory() noexcept;
  bool has_failed(int64_t result) noexcept;
  const Io* end(Outcome outcome) noexcept;
  void set_page_io(Io::Kind kind) noexcept;
  iovec value_part() const noexcept;
  bool goes_straight() const noexcept;

  const DiskFiles& files_;
  const Fingerprint fingerprint_;
  const uint64_t value_bytes_;
  const bool syncs_;
  SlotTask task_;
  Io io_;
  Step step_ = Step::kEnd;
  bool must_sync_ = false;
  uint64_t expected_bytes_ = 0;
  Outcome outcome_ = Outcome::kFailed;
  Pages page_;
  Pages bounce_;  // for memory that a device cannot take; made when it is needed
};

}  // namespace kvcore
