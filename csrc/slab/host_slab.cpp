#include "slab/host_slab.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <atomic>
#include <cerrno>
#include <stdexcept>
#include <string>
#include <system_error>
#include <thread>
#include <vector>

#include "common/check.h"

namespace kvcore {
namespace {

constexpr uint64_t kHugePage = uint64_t{2} << 20;
constexpr uint32_t kMaxNodes = 1024;
// Of older kernels' headers; the call fails with EINVAL where the kernel is older too.
constexpr int kPopulateWrite = 23;
constexpr int kBind = 2;  // MPOL_BIND of <numaif.h>, which comes with libnuma
constexpr int kNoFile = -1;

[[noreturn]] void refuse(const char* name, const std::string& allowed, uint64_t got) {
  throw std::invalid_argument(std::string(name) + " must be " + allowed + ", got " +
                              std::to_string(got));
}

[[noreturn]] void fail(int error, const std::string& what) {
  throw std::system_error(error, std::generic_category(), what);
}

uint64_t round_up(uint64_t bytes, uint64_t to) { return (bytes + to - 1) / to * to; }

// A mapping that begins on a border of huge pages: more is reserved, and what is over given back.
std::byte* map_aligned(uint64_t bytes, int fd) {
  void* reserved = mmap(nullptr, bytes + kHugePage, PROT_NONE,
                        MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (reserved == MAP_FAILED) fail(errno, "cannot reserve " + std::to_string(bytes) + " bytes");
  auto* begin = static_cast<std::byte*>(reserved);
  auto* data = reinterpret_cast<std::byte*>(round_up(reinterpret_cast<uint64_t>(begin), kHugePage));
  const int flags = fd == kNoFile ? MAP_PRIVATE | MAP_ANONYMOUS : MAP_SHARED;
  if (mmap(data, bytes, PROT_READ | PROT_WRITE, flags | MAP_FIXED, fd, 0) == MAP_FAILED) {
    const int error = errno;
    munmap(begin, bytes + kHugePage);
    fail(error, "cannot map " + std::to_string(bytes) + " bytes");
  }
  if (data > begin) munmap(begin, data - begin);
  if (data - begin < static_cast<ptrdiff_t>(kHugePage)) {
    munmap(data + bytes, begin + kHugePage - data);
  }
  return data;
}

std::byte* map_reserved_huge_pages(uint64_t bytes) {
  void* data = mmap(nullptr, bytes, PROT_READ | PROT_WRITE,
                    MAP_PRIVATE | MAP_ANONYMOUS | MAP_HUGETLB, -1, 0);
  if (data == MAP_FAILED) {
    fail(errno, "huge_pages='require': the kernel has no " + std::to_string(bytes / kHugePage) +
                    " huge pages in reserve (vm.nr_hugepages)");
  }
  return static_cast<std::byte*>(data);
}

void bind_to_node(std::byte* data, uint64_t bytes, uint32_t node) {
  std::array<unsigned long, kMaxNodes / (8 * sizeof(unsigned long))> mask{};
  constexpr uint32_t kBits = 8 * sizeof(unsigned long);
  mask[node / kBits] = 1ul << (node % kBits);
  // The kernel takes one bit less than it is told.
  if (syscall(SYS_mbind, data, bytes, kBind, mask.data(), kMaxNodes + 1ul, 0u) == 0) return;
  if (errno == EINVAL) refuse("numa_node", "a node of this machine that has memory", node);
  fail(errno, "cannot bind memory to NUMA node " + std::to_string(node));
}

bool kernel_populates() { return madvise(nullptr, 0, kPopulateWrite) == 0; }

// Brings all pages in without changing a byte; 0 or what went wrong.
int fault_in(std::byte* data, uint64_t bytes) {
  if (bytes == 0) return 0;
  int result;
  do {
    result = madvise(data, bytes, kPopulateWrite);
  } while (result != 0 && errno == EINTR);
  if (result == 0) return 0;
  if (errno != EINVAL) return errno;
  // An atomic addition of nothing writes, and loses nothing that another process writes.
  const auto page = static_cast<uint64_t>(sysconf(_SC_PAGESIZE));
  for (uint64_t at = 0; at < bytes; at += page) {
    std::atomic_ref(reinterpret_cast<unsigned char&>(data[at])).fetch_add(0);
  }
  return 0;
}

}  // namespace

uint64_t HostSlab::bytes_of(const HostSlabOptions& options) {
  if (options.num_blocks < 1 || options.num_blocks > kMaxBlocks) {
    refuse("num_blocks", "from 1 to " + std::to_string(kMaxBlocks), options.num_blocks);
  }
  if (options.block_bytes < 1 || options.block_bytes > kMaxBytes) {
    refuse("block_bytes", "from 1 to " + std::to_string(kMaxBytes), options.block_bytes);
  }
  if (options.threads < 1 || options.threads > kMaxThreads) {
    refuse("threads", "from 1 to " + std::to_string(kMaxThreads), options.threads);
  }
  if (options.numa_node && *options.numa_node >= kMaxNodes) {
    refuse("numa_node", "from 0 to " + std::to_string(kMaxNodes - 1), *options.numa_node);
  }
  const uint64_t stride = round_up(options.block_bytes, kAlignment);
  if (stride > kMaxBytes / options.num_blocks) {
    refuse("num_blocks",
           "at most " + std::to_string(kMaxBytes / stride) + " of " + std::to_string(stride) +
               " bytes each",
           options.num_blocks);
  }
  return round_up(options.num_blocks * stride, kHugePage);
}

HostSlab::HostSlab(const HostSlabOptions& options) : HostSlab(options, kNoFile) {
  populate(options.threads);
}

HostSlab::HostSlab(const HostSlabOptions& options, int fd)
    : num_blocks_(static_cast<uint32_t>(options.num_blocks)),
      block_bytes_(options.block_bytes),
      stride_bytes_(round_up(options.block_bytes, kAlignment)),
      bytes_(bytes_of(options)),
      is_file_(fd != kNoFile) {
  const bool from_reserve = options.huge_pages == HugePages::kRequire && !is_file_;
  data_ = from_reserve ? map_reserved_huge_pages(bytes_) : map_aligned(bytes_, fd);
  try {
    advise(options);
    // Without the call that populates, touching a page that there is no room for would be fatal.
    if (is_file_ && !kernel_populates()) {
      if (const int error = posix_fallocate(fd, 0, static_cast<off_t>(bytes_)); error != 0) {
        fail(error, "cannot get " + std::to_string(bytes_) + " bytes of shared memory");
      }
    }
  } catch (...) {
    munmap(data_, bytes_);
    throw;
  }
}

HostSlab::~HostSlab() {
  if (pinning_ != nullptr) pinning_->unpin(data_);
  munmap(data_, bytes_);
}

// Before the first page is there: where it goes and how large it is.
void HostSlab::advise(const HostSlabOptions& options) {
  if (options.numa_node) bind_to_node(data_, bytes_, *options.numa_node);
  if (options.huge_pages == HugePages::kTry) madvise(data_, bytes_, MADV_HUGEPAGE);
  if (options.huge_pages == HugePages::kOff) madvise(data_, bytes_, MADV_NOHUGEPAGE);
}

// Each thread faults in its own part, so that the kernel clears pages on several cores.
void HostSlab::populate(uint32_t threads) {
  KV_CHECK(threads >= 1 && threads <= kMaxThreads);
  const uint64_t huge_pages = bytes_ / kHugePage;
  const auto parts = static_cast<uint32_t>(std::min<uint64_t>(threads, huge_pages));
  std::atomic<int> error{0};
  auto work = [&](uint32_t i) {
    const uint64_t begin = huge_pages * i / parts, end = huge_pages * (i + 1) / parts;
    const int failed = fault_in(data_ + begin * kHugePage, (end - begin) * kHugePage);
    if (failed != 0) error = failed;
  };
  {
    std::vector<std::jthread> others;
    for (uint32_t i = 1; i < parts; ++i) others.emplace_back(work, i);
    work(0);
  }
  if (error == 0) return;
  // The kernel's word for a page that would be a bus error: the file system is full.
  fail(is_file_ && error == EFAULT ? ENOSPC : error.load(),
       "cannot get " + std::to_string(bytes_) + " bytes of memory");
}

void HostSlab::pin(const Pinning& pinning) {
  std::lock_guard lock(mutex_);
  if (pinning_ != nullptr) return;
  if (const char* error = pinning.pin(data_, bytes_); error != nullptr) {
    throw std::runtime_error("cannot pin " + std::to_string(bytes_) + " bytes: " + error);
  }
  pinning_ = &pinning;
}

bool HostSlab::is_pinned() const {
  std::lock_guard lock(mutex_);
  return pinning_ != nullptr;
}

}  // namespace kvcore
