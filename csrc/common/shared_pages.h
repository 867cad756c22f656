#pragma once

#include <cstddef>
#include <span>

#include "common/file.h"

namespace kvcore {

// Memory that another process can be given, and can not make smaller: that would end this one.
class SharedPages {
 public:
  SharedPages() = default;
  explicit SharedPages(size_t bytes);  // throws std::system_error
  ~SharedPages();
  SharedPages(SharedPages&& other) noexcept;
  SharedPages& operator=(SharedPages&& other) noexcept;

  std::span<std::byte> bytes() const noexcept { return bytes_; }
  int fd() const noexcept { return file_.fd(); }

 private:
  File file_;
  std::span<std::byte> bytes_;
};

}  // namespace kvcore
