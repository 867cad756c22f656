#pragma once

#include <unistd.h>

namespace kvcore {

// The process in which something was made. A forked child has a copy of it, but not its threads: to
// wait for them, or to destroy what they wait on, would take for ever.
class Home {
 public:
  bool is_here() const noexcept { return getpid() == pid_; }

 private:
  pid_t pid_ = getpid();
};

}  // namespace kvcore
