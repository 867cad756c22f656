#include "common/shared_pages.h"

#include <fcntl.h>
#include <sys/mman.h>

#include <utility>

namespace kvcore {

SharedPages::SharedPages(size_t bytes)
    : file_(memfd_create("kvcore", MFD_CLOEXEC | MFD_ALLOW_SEALING)) {
  if (!file_.is_open() || ftruncate(fd(), static_cast<off_t>(bytes)) != 0 ||
      fcntl(fd(), F_ADD_SEALS, F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_SEAL) != 0) {
    throw_errno("cannot make memory to share");
  }
  void* at = mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_SHARED, fd(), 0);
  if (at == MAP_FAILED) throw_errno("cannot map memory to share");
  bytes_ = {static_cast<std::byte*>(at), bytes};
}

SharedPages::~SharedPages() {
  if (!bytes_.empty()) munmap(bytes_.data(), bytes_.size());
}

SharedPages::SharedPages(SharedPages&& other) noexcept
    : file_(std::move(other.file_)), bytes_(std::exchange(other.bytes_, {})) {}

SharedPages& SharedPages::operator=(SharedPages&& other) noexcept {
  std::swap(file_, other.file_);
  std::swap(bytes_, other.bytes_);
  return *this;
}

}  // namespace kvcore
