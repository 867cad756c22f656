"""Mistakes in what goes over RDMA."""

from planted.bug import Bug

_PROCESS = "csrc/store/remote/process_line.cpp"
_LINE = "kvcore/stores/rdma_line.py"
_TESTS = "test_rdma.py::"
_CPP = "cpp 'processes carry values*'"

BUGS = [
    Bug(
        name="rdma-a-process-that-hangs-is-kept",
        why="each one that ever hangs is a connection less",
        files=_PROCESS,
        find="if (state_ == State::kDraining) return last_progress_ + kLongestDrain;",
        replace="",
        tests=_TESTS + "test_a_process_that_stands_still_is_replaced",
    ),
    Bug(
        name="rdma-slices-come-from-the-first",
        why="blocks above 64 KiB repeat their beginning",
        files=_PROCESS,
        find="      from += slice.size();\n",
        replace="",
        tests=_CPP,
    ),
    Bug(
        name="rdma-a-process-may-shorten-the-memory",
        why="the engine dies of what a process does to the memory",
        files="csrc/common/shared_pages.cpp",
        find="F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_SEAL",
        replace="F_SEAL_GROW | F_SEAL_SEAL",
        tests=_TESTS + "test_no_process_harms_the_engine",
    ),
    Bug(
        name="rdma-processes-outlive-the-engine",
        why="one that hangs when the engine dies keeps memory locked here and on the server",
        files=_LINE,
        find="    ctypes.CDLL(None).prctl(prctl_set_death_signal, signal.SIGKILL)\n",
        replace="",
        tests=_TESTS + "test_processes_end_with_the_engine",
    ),
    Bug(
        name="rdma-the-end-of-a-server-is-not-seen",
        why="the first request of each line to a server that was restarted fails",
        files=_LINE,
        find="        poll.register(client_socket, select.POLLIN)\n",
        replace="",
        tests=_TESTS + "test_the_end_of_an_idle_connection_is_noticed",
    ),
]
