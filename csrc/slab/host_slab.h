#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <mutex>
#include <optional>

#include "slab/pinning.h"

namespace kvcore {

enum class HugePages : uint8_t {
  kOff,
  kTry,      // where the kernel has them to spare
  kRequire,  // from the kernel's reserve (vm.nr_hugepages), or not at all
};

struct HostSlabOptions {
  uint64_t num_blocks = 0;
  uint64_t block_bytes = 0;
  HugePages huge_pages = HugePages::kTry;
  std::optional<uint32_t> numa_node;  // none: where the threads run that touch it first
  uint32_t threads = 1;               // that fault it in
};

// Host memory for blocks: one mapping, aligned to 2 MiB, each block aligned to a cache line. Once
// populated all pages are there, so no copy meets a page fault. Owns the mapping; whoever uses the
// memory keeps the slab. Thread safe.
class HostSlab {
 public:
  static constexpr uint64_t kAlignment = 64;
  static constexpr uint64_t kMaxBlocks = uint64_t{1} << 30;  // as many as a PrefixCache has ids for
  static constexpr uint64_t kMaxBytes = uint64_t{1} << 46;
  static constexpr uint32_t kMaxThreads = 256;

  // Memory of its own, populated. Throws std::invalid_argument naming an option, std::system_error
  // where the kernel refuses.
  explicit HostSlab(const HostSlabOptions& options);

  // Maps what a file holds from its start, shared with all who map it; its bytes stay as they are.
  // The file has bytes_of(options) at least and stays open for its owner to close. Not populated:
  // where pages go is settled here and takes no time, so it can be done before others map the file.
  HostSlab(const HostSlabOptions& options, int fd);

  ~HostSlab();
  HostSlab(const HostSlab&) = delete;
  HostSlab& operator=(const HostSlab&) = delete;

  // Bytes of a mapping; checks the numbers as the constructor does.
  static uint64_t bytes_of(const HostSlabOptions& options);

  std::byte* data() const noexcept { return data_; }
  uint64_t bytes() const noexcept { return bytes_; }
  uint32_t num_blocks() const noexcept { return num_blocks_; }
  uint64_t block_bytes() const noexcept { return block_bytes_; }
  uint64_t stride_bytes() const noexcept { return stride_bytes_; }

  // Brings all pages in without changing a byte, whoever else does so at the same time. Throws
  // std::system_error where there is no room.
  void populate(uint32_t threads);

  // Registers the memory with a device, once: a second call does nothing. Throws
  // std::runtime_error with the device's words.
  void pin(const Pinning& pinning);
  bool is_pinned() const;

 private:
  void advise(const HostSlabOptions& options);

  uint32_t num_blocks_;
  uint64_t block_bytes_;
  uint64_t stride_bytes_;
  uint64_t bytes_;
  bool is_file_;
  std::byte* data_ = nullptr;
  mutable std::mutex mutex_;
  const Pinning* pinning_ = nullptr;  // null: not pinned
};

}  // namespace kvcore
