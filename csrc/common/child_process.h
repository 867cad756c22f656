#pragma once

#include <span>
#include <string>
#include <vector>

#include "common/file.h"

namespace kvcore {

// Owns a process that this one started, and kills it at the end. It is known by a descriptor: its
// number may be another one's as soon as somebody in this process has waited for just any child.
// Needs Linux 5.4. Never waits, so that what the kernel takes long to end is left to it.
class ChildProcess {
 public:
  ChildProcess() = default;
  // Starts a program, by its path, that has nothing to read, writes nothing but errors, has `files`
  // as its descriptors from 3 on, and gets no Ctrl-C of the terminal's. Throws std::system_error.
  ChildProcess(const std::vector<std::string>& command, std::span<const int> files);
  ~ChildProcess();
  ChildProcess(ChildProcess&&) noexcept = default;
  ChildProcess& operator=(ChildProcess&&) noexcept = default;

  void kill() noexcept;
  // Whether it has ended, and is none of this process's children any more.
  bool has_ended() noexcept;
  // Can be read when it has ended.
  int fd() const noexcept { return process_.fd(); }

 private:
  File process_;
};

}  // namespace kvcore
