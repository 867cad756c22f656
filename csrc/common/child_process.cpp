#include "common/child_process.h"

#include <fcntl.h>
#include <signal.h>
#include <spawn.h>
#include <sys/syscall.h>
#include <sys/wait.h>

#include <cstdlib>

namespace kvcore {
namespace {

constexpr idtype_t kByDescriptor = static_cast<idtype_t>(3);  // P_PIDFD, of glibc 2.36

// How a process is started, freed at the end of the scope.
struct Actions {
  Actions() {
    posix_spawn_file_actions_init(&files);
    posix_spawnattr_init(&attributes);
  }
  ~Actions() {
    posix_spawn_file_actions_destroy(&files);
    posix_spawnattr_destroy(&attributes);
  }
  Actions(const Actions&) = delete;
  Actions& operator=(const Actions&) = delete;

  posix_spawn_file_actions_t files;
  posix_spawnattr_t attributes;
};

}  // namespace

ChildProcess::ChildProcess(const std::vector<std::string>& command, std::span<const int> files) {
  Actions actions;
  posix_spawn_file_actions_addopen(&actions.files, 0, "/dev/null", O_RDONLY, 0);
  posix_spawn_file_actions_addopen(&actions.files, 1, "/dev/null", O_WRONLY, 0);
  const int end = 3 + static_cast<int>(files.size());
  std::vector<File> out_of_the_way;  // of the numbers that they get
  for (int fd = 3; fd < end; ++fd) {
    out_of_the_way.emplace_back(fcntl(files[static_cast<size_t>(fd - 3)], F_DUPFD_CLOEXEC, end));
    if (!out_of_the_way.back().is_open()) throw_errno("cannot copy a descriptor");
    posix_spawn_file_actions_adddup2(&actions.files, out_of_the_way.back().fd(), fd);
  }
  sigset_t none;
  sigemptyset(&none);
  posix_spawnattr_setsigmask(&actions.attributes, &none);
  posix_spawnattr_setpgroup(&actions.attributes, 0);
  posix_spawnattr_setflags(&actions.attributes, POSIX_SPAWN_SETSIGMASK | POSIX_SPAWN_SETPGROUP);

  std::vector<char*> arguments;
  for (const std::string& argument : command) {
    arguments.push_back(const_cast<char*>(argument.c_str()));
  }
  arguments.push_back(nullptr);
  pid_t pid;
  errno = posix_spawn(&pid, arguments[0], &actions.files, &actions.attributes, arguments.data(),
                      environ);
  if (errno != 0) throw_errno("cannot start " + command.front());
  process_ = File(static_cast<int>(syscall(SYS_pidfd_open, pid, 0)));
  if (process_.is_open()) return;
  const int error = errno;
  ::kill(pid, SIGKILL);
  waitpid(pid, nullptr, 0);
  errno = error;
  throw_errno("cannot open a descriptor of a process");
}

ChildProcess::~ChildProcess() {
  kill();
  has_ended();
}

void ChildProcess::kill() noexcept {
  if (process_.is_open()) syscall(SYS_pidfd_send_signal, process_.fd(), SIGKILL, nullptr, 0);
}

bool ChildProcess::has_ended() noexcept {
  if (!process_.is_open()) return true;
  siginfo_t end{};
  const int result =
      waitid(kByDescriptor, static_cast<id_t>(process_.fd()), &end, WEXITED | WNOHANG);
  // Where it is nobody's child any more, somebody else has waited for it.
  if (result == 0 && end.si_pid == 0) return false;
  process_ = File();
  return true;
}

}  // namespace kvcore
