#include "store/disk_store.h"

#include <unistd.h>

#include <array>
#include <atomic>
#include <cerrno>
#include <stdexcept>
#include <system_error>
#include <thread>
#include <utility>

#include "store/slots_of.h"
#include "store/thread_engine.h"
#include "store/uring_engine.h"

namespace kvcore {
namespace {

constexpr uint32_t kMaxDepth = 256;
// Linux moves 2^31 - 4096 bytes at most in one call, and one call is a page and a value.
constexpr uint64_t kMaxValueBytes = (uint64_t{1} << 31) - 2 * kPageBytes;

// Does one input or output; bytes, or an errno below zero.
int64_t perform(const DiskOperation::Io& io) noexcept {
  using Kind = DiskOperation::Io::Kind;
  const auto parts = static_cast<int>(io.num_parts);
  const auto offset = static_cast<off_t>(io.offset);
  int64_t result;
  do {
    result = io.kind == Kind::kRead    ? ::preadv(io.fd, io.parts.data(), parts, offset)
             : io.kind == Kind::kWrite ? ::pwritev(io.fd, io.parts.data(), parts, offset)
                                       : ::fdatasync(io.fd);
  } while (result < 0 && errno == EINTR);
  return result < 0 ? -errno : result;
}

Outcome perform(DiskOperation& operation, const SlotTask& task) {
  operation.begin(task);
  int64_t result = 0;
  while (const DiskOperation::Io* io = operation.next(result)) result = perform(*io);
  return operation.outcome();
}

const DiskStoreOptions& checked(const DiskStoreOptions& options) {
  if (options.value_bytes > kMaxValueBytes) {
    throw std::invalid_argument("value_bytes must be at most " + std::to_string(kMaxValueBytes) +
                                ", got " + std::to_string(options.value_bytes));
  }
  if (options.depth < 1 || options.depth > kMaxDepth) {
    throw std::invalid_argument("depth must be from 1 to " + std::to_string(kMaxDepth) + ", got " +
                                std::to_string(options.depth));
  }
  if (options.io == DiskIo::kUring && !has_uring()) {
    throw std::invalid_argument(
        "io must be 'auto' or 'threads' here, got 'uring': this build or "
        "this kernel has no io_uring");
  }
  return options;
}

std::unique_ptr<DiskFiles> open_files(const DiskStoreOptions& options) {
  return std::make_unique<DiskFiles>(options.path, options.fingerprint, options.value_bytes,
                                     options.max_bytes, options.direct);
}

}  // namespace

DiskStore::DiskStore(const DiskStoreOptions& options)
    : SlotStore(options.fingerprint, options.value_bytes,
                DiskFiles::slot_bytes_of(options.value_bytes),
                slots_of(DiskFiles::slot_bytes_of(options.value_bytes), options.max_bytes)),
      files_(open_files(checked(options))),
      is_direct_(files_->is_direct()) {
  recover(options.depth);
  open(new_engine(options));
}

std::unique_ptr<SlotEngine> DiskStore::new_engine(const DiskStoreOptions& options) {
  auto new_operations = [&] {
    std::vector<std::unique_ptr<DiskOperation>> operations;
    for (uint32_t i = 0; i < options.depth; ++i) {
      operations.push_back(std::make_unique<DiskOperation>(*files_, options.fingerprint,
                                                           options.value_bytes, options.syncs));
    }
    return operations;
  };
  if (options.io != DiskIo::kThreads && has_uring()) {
    try {
      auto engine = new_uring_engine(*this, new_operations());
      io_ = DiskIo::kUring;
      return engine;
    } catch (const std::system_error&) {
      if (options.io == DiskIo::kUring)
        throw;  // else a limit of this process, which threads have not
    }
  }
  operations_ = new_operations();
  return std::make_unique<ThreadEngine>(*this, options.depth,
                                        [this](uint32_t thread, const SlotTask& task) {
                                          return perform(*operations_[thread], task);
                                        });
}

// Names what is whole. Values are verified when they are read, not here.
void DiskStore::recover(uint32_t threads) {
  struct Found {
    uint32_t slot;
    BlockHash hash;
  };
  std::vector<std::vector<Found>> found(files_->num_files());
  auto scan_file = [&](uint32_t file) {
    alignas(kPageBytes) std::array<std::byte, kPageBytes> page;
    const uint32_t first = file * files_->slots_a_file();
    for (uint32_t i = 0; i < files_->slots_there(file) && first + i < files_->num_slots(); ++i) {
      const DiskFiles::Place place = files_->place_of(first + i);
      const ssize_t bytes =
          ::pread(place.fd, page.data(), page.size(), static_cast<off_t>(place.offset));
      BlockHash hash;
      if (bytes == static_cast<ssize_t>(page.size()) &&
          read_envelope(ConstEnvelopeSpan(page.data(), kEnvelopeBytes), fingerprint(),
                        value_bytes(), hash)) {
        found[file].push_back({first + i, hash});
      }
    }
  };
  std::atomic<uint32_t> next{0};
  auto work = [&] {
    for (uint32_t file; (file = next++) < files_->num_files();) scan_file(file);
  };
  {
    std::vector<std::jthread> others;
    for (uint32_t i = 1; i < threads; ++i) others.emplace_back(work);
    work();
  }
  for (const auto& of_file : found) {
    for (const Found& value : of_file) index().adopt(value.slot, value.hash);
  }
  index().end_adoption();
}

}  // namespace kvcore
