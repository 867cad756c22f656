#pragma once

#include <sys/mman.h>

#include <algorithm>
#include <new>

#include "common/check.h"

namespace kvcore {

// An array that grows in place: its whole address range is reserved at once and memory is taken
// step by step, so growth never moves an element, never copies and costs one bounded system call
// a step. Elements start as zero bytes. Not thread safe.
template <typename T>
class VirtualArray {
 public:
  explicit VirtualArray(size_t capacity) : capacity_(capacity) {
    void* base = mmap(nullptr, bytes_of(capacity), PROT_NONE,
                      MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (base == MAP_FAILED) throw std::bad_alloc();
    data_ = static_cast<T*>(base);
  }
  ~VirtualArray() { munmap(data_, bytes_of(capacity_)); }
  VirtualArray(const VirtualArray&) = delete;
  VirtualArray& operator=(const VirtualArray&) = delete;

  T& operator[](size_t i) noexcept {
    KV_DCHECK(i < size_);
    return data_[i];
  }
  const T& operator[](size_t i) const noexcept {
    KV_DCHECK(i < size_);
    return data_[i];
  }
  T* data() noexcept { return data_; }

  size_t size() const noexcept { return size_; }
  size_t capacity() const noexcept { return capacity_; }
  size_t bytes() const noexcept { return size_ * sizeof(T); }

  // Makes elements [0, size) usable; size <= capacity. What was once made usable stays so.
  void grow(size_t size) noexcept {
    if (size <= size_) return;
    KV_CHECK(size <= capacity_);
    if (size > usable_) take_memory(size);
    size_ = size;
  }

 private:
  static constexpr size_t kStepBytes = size_t{1} << 20;

  static size_t bytes_of(size_t count) noexcept {
    return (count * sizeof(T) + kStepBytes) / kStepBytes * kStepBytes;
  }
  void take_memory(size_t size) noexcept {
    size_t bytes = bytes_of(size);
    KV_CHECK(mprotect(data_, bytes, PROT_READ | PROT_WRITE) == 0);
    usable_ = std::min(capacity_, bytes / sizeof(T));
  }

  T* data_;
  size_t capacity_;
  size_t usable_ = 0;
  size_t size_ = 0;
};

}  // namespace kvcore
