#include "store/disk_files.h"

#include <fcntl.h>
#include <sys/file.h>
#include <sys/stat.h>

#include <algorithm>
#include <charconv>
#include <chrono>
#include <cstdio>
#include <filesystem>
#include <fstream>
#include <sstream>
#include <stdexcept>
#include <thread>

#include "store/slots_of.h"

namespace kvcore {
namespace {

constexpr uint32_t kLeastSlotsAFile = 64;
constexpr uint32_t kMostFilesAtFirst = 64;  // so that a store may grow
constexpr uint32_t kMostFiles = 256;
constexpr std::chrono::seconds kLongestWait{30};
constexpr std::chrono::milliseconds kPause{1};
constexpr const char* kSlotsAFile = "slots_a_file ";

std::string hex_of(const Fingerprint& fingerprint) {
  std::string text;
  for (uint8_t byte : fingerprint) {
    char digits[3];
    std::snprintf(digits, sizeof(digits), "%02x", byte);
    text += digits;
  }
  return text;
}

std::string name_of(uint32_t file) {
  char name[32];
  std::snprintf(name, sizeof(name), "values-%06u", file);
  return name;
}

void sync_directory(const std::string& path) {
  const File directory(::open(path.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC));
  if (!directory.is_open() || ::fsync(directory.fd()) != 0) throw_errno("cannot sync " + path);
}

// Whole under its name, or not there.
void write_file(const std::string& directory, const std::string& name, const std::string& text) {
  const std::string path = directory + "/" + name, draft = path + ".new";
  {
    const File file(::open(draft.c_str(), O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600));
    if (!file.is_open()) throw_errno("cannot write " + draft);
    if (::write(file.fd(), text.data(), text.size()) != static_cast<ssize_t>(text.size()) ||
        ::fsync(file.fd()) != 0) {
      throw_errno("cannot write " + draft);
    }
  }
  if (::rename(draft.c_str(), path.c_str()) != 0) throw_errno("cannot write " + path);
  sync_directory(directory);
}

// A process that was killed may have writes under way that land after it is gone. They hold the
// file, and with it the lock that it took here.
void wait_for_writes(const File& file, const std::string& path) {
  const auto until = std::chrono::steady_clock::now() + kLongestWait;
  while (::flock(file.fd(), LOCK_EX | LOCK_NB) != 0) {
    if (errno == EINTR) continue;
    if (errno != EWOULDBLOCK || std::chrono::steady_clock::now() >= until) {
      throw_errno("cannot lock " + path);
    }
    std::this_thread::sleep_for(kPause);
  }
}

}  // namespace

DiskFiles::DiskFiles(const std::string& path, const Fingerprint& fingerprint, uint64_t value_bytes,
                     uint64_t max_bytes, bool direct)
    : path_(path),
      slot_bytes_(slot_bytes_of(value_bytes)),
      num_slots_(slots_of(slot_bytes_, max_bytes)) {
  std::error_code error;
  std::filesystem::create_directories(path_, error);
  if (error) throw std::system_error(error, "cannot make the directory " + path_);
  lock();
  const std::string what = "kvcore disk store 1\nfingerprint " + hex_of(fingerprint) +
                           "\nvalue_bytes " + std::to_string(value_bytes) + "\n";
  read_or_write_manifest(what,
                         std::max(kLeastSlotsAFile, (num_slots_ - 1) / kMostFilesAtFirst + 1));
  if (const uint64_t most = uint64_t{slots_a_file_} * kMostFiles; num_slots_ > most) {
    throw std::invalid_argument("max_bytes must be at most " + std::to_string(most * slot_bytes_) +
                                " in " + path_ + ", which was made for less, got " +
                                std::to_string(max_bytes));
  }
  open_files(direct);
  remove_files_beyond();
}

void DiskFiles::lock() {
  const std::string path = path_ + "/lock";
  lock_ = File(::open(path.c_str(), O_RDWR | O_CREAT | O_CLOEXEC, 0600));
  if (!lock_.is_open()) throw_errno("cannot open " + path);
  if (::flock(lock_.fd(), LOCK_EX | LOCK_NB) == 0) return;
  if (errno != EWOULDBLOCK) throw_errno("cannot lock " + path);
  throw std::system_error(EBUSY, std::generic_category(),
                          "another store has the directory " + path_ + " open");
}

void DiskFiles::unlock() noexcept {
  for (const File& file : files_) ::flock(file.fd(), LOCK_UN);
  ::flock(lock_.fd(), LOCK_UN);
}

void DiskFiles::read_or_write_manifest(const std::string& what, uint32_t slots_a_file) {
  const std::string path = path_ + "/manifest";
  if (!std::filesystem::exists(path)) {
    slots_a_file_ = slots_a_file;
    write_file(path_, "manifest", what + kSlotsAFile + std::to_string(slots_a_file) + "\n");
    return;
  }
  std::ifstream file(path);
  std::stringstream text;
  text << file.rdbuf();
  const std::string found = text.str(), start = what + kSlotsAFile;
  if (found.starts_with(start)) {
    const char* end = found.data() + found.size();
    const auto number = std::from_chars(found.data() + start.size(), end, slots_a_file_);
    if (number.ec == std::errc{} && number.ptr + 1 == end && slots_a_file_ > 0) return;
  }
  throw std::invalid_argument("path must be a directory of a store of this namespace and " +
                              std::string("value_bytes, or be empty; ") + path + " has:\n" + found);
}

void DiskFiles::open_files(bool direct) {
  const uint32_t count = (num_slots_ - 1) / slots_a_file_ + 1;
  is_direct_ = direct;
  for (uint32_t i = 0; i < count; ++i) {
    const std::string path = path_ + "/" + name_of(i);
    constexpr int kFlags = O_RDWR | O_CREAT | O_CLOEXEC;
    File file(::open(path.c_str(), kFlags | (is_direct_ ? O_DIRECT : 0), 0600));
    if (!file.is_open() && errno == EINVAL && is_direct_ && i == 0) {
      is_direct_ = false;  // a file system without
      file = File(::open(path.c_str(), kFlags, 0600));
    }
    struct stat status;
    if (!file.is_open() || ::fstat(file.fd(), &status) != 0) throw_errno("cannot open " + path);
    const uint64_t slots = (static_cast<uint64_t>(status.st_size) + slot_bytes_ - 1) / slot_bytes_;
    slots_there_.push_back(static_cast<uint32_t>(std::min<uint64_t>(slots, slots_a_file_)));
    wait_for_writes(file, path);
    files_.push_back(std::move(file));
  }
}

// A store that was larger before.
void DiskFiles::remove_files_beyond() {
  for (uint32_t i = num_files(); ::unlink((path_ + "/" + name_of(i)).c_str()) == 0;) ++i;
}

}  // namespace kvcore
