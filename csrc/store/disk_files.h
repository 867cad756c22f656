#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "common/file.h"
#include "store/envelope.h"

namespace kvcore {

// What a device reads and writes at a time; places and sizes of slots are multiples of it.
inline constexpr uint64_t kPageBytes = 4096;

// A directory of a DiskStore:
//
//   lock           held by flock while a process has the store open
//   manifest       what the files mean; written under another name, then renamed
//   values-000000  slots: a page that begins with the envelope, then the value up to whole pages
//   values-000001  ...
//
// Owns the lock and the open files.
class DiskFiles {
 public:
  struct Place {
    int fd;
    uint64_t offset;
  };

  // Makes the directory and what is missing in it. Throws std::invalid_argument naming what is
  // wrong, std::system_error where the file system refuses, also when another process has it open.
  DiskFiles(const std::string& path, const Fingerprint& fingerprint, uint64_t value_bytes,
            uint64_t max_bytes, bool direct);
  // Others may have the directory, also where a forked child has its files open. Nothing may be
  // under way any more.
  void unlock() noexcept;

  static uint64_t slot_bytes_of(uint64_t value_bytes) noexcept {
    return kPageBytes + (value_bytes + kPageBytes - 1) / kPageBytes * kPageBytes;
  }

  uint32_t num_slots() const noexcept { return num_slots_; }
  uint64_t slot_bytes() const noexcept { return slot_bytes_; }
  // Whether files are read and written past the kernel's cache, which takes whole pages.
  bool is_direct() const noexcept { return is_direct_; }
  Place place_of(uint32_t slot) const noexcept {
    return {files_[slot / slots_a_file_].fd(), slot % slots_a_file_ * slot_bytes_};
  }
  // Slots of a file that was there before; those beyond its end hold nothing.
  uint32_t slots_there(uint32_t file) const noexcept { return slots_there_[file]; }
  uint32_t num_files() const noexcept { return static_cast<uint32_t>(files_.size()); }
  uint32_t slots_a_file() const noexcept { return slots_a_file_; }

 private:
  void lock();
  void read_or_write_manifest(const std::string& what, uint32_t slots_a_file);
  void open_files(bool direct);
  void remove_files_beyond();

  const std::string path_;
  const uint64_t slot_bytes_;
  const uint32_t num_slots_;
  uint32_t slots_a_file_ = 0;
  bool is_direct_ = false;
  File lock_;
  std::vector<File> files_;
  std::vector<uint32_t> slots_there_;
};

}  // namespace kvcore
