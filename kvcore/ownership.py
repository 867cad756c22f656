"""Who owns what in shared memory: locks, which the kernel ends with whoever holds them."""

from __future__ import annotations

import fcntl
import os
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

_SHARED_MEMORY = Path("/dev/shm")

# Files that this process has locked. A forked child has them open too and would keep the locks of a
# parent that is killed, so it closes them; and the parent unlocks them before it closes them.
_held: set[int] = set()


def directory() -> Path:
    """Where all that this user shares is."""
    return _SHARED_MEMORY / f"kvcore-{os.getuid()}"


def own(path: Path, flags: int = 0) -> int:
    """Becomes one of the owners of a file, until `disown` or the end of this process."""
    fd = os.open(path, os.O_RDWR | os.O_CLOEXEC | flags, 0o600)
    _held.add(fd)
    fcntl.flock(fd, fcntl.LOCK_SH)
    return fd


def disown(fd: int) -> None:
    """Gives up what `own` gave."""
    _held.discard(fd)
    fcntl.flock(fd, fcntl.LOCK_UN)
    os.close(fd)


def is_owned(path: Path) -> bool:
    """Whether any process owns a file, this one included."""
    try:
        fd = os.open(path, os.O_RDWR | os.O_CLOEXEC)
    except FileNotFoundError:
        return False
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        fcntl.flock(fd, fcntl.LOCK_UN)
    except BlockingIOError:
        return True
    finally:
        os.close(fd)
    return False


def _disown_in_child() -> None:
    for fd in _held:
        os.close(fd)
    _held.clear()


os.register_at_fork(after_in_child=_disown_in_child)


class _Here(threading.local):
    """Of a thread: whether it is `alone` or about to be, and what waits until it is not."""

    def __init__(self) -> None:
        self.is_alone = False
        self.put_off: list[Callable[[], None]] = []


_here = _Here()


@contextmanager
def alone() -> Iterator[None]:
    """One thread of one process at a time changes what is in the directory, which comes with the
    first that does and goes when nothing is in it."""
    _here.is_alone = True
    try:
        lock = _lock_directory()
        try:
            yield
        finally:
            with suppress(OSError):
                directory().rmdir()
            disown(lock)
    finally:
        _here.is_alone = False
        while _here.put_off:
            when_alone(_here.put_off.pop())


def when_alone(change: Callable[[], None]) -> None:
    """Makes a change now, or, where this thread is in the middle of one, after it: the garbage
    collector may come by at any time, and would wait for itself."""
    if _here.is_alone:
        _here.put_off.append(change)
        return
    with alone():
        change()


def _lock_directory() -> int:
    while True:
        with suppress(FileExistsError):
            directory().mkdir(mode=0o700)
        try:
            lock = os.open(directory(), os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC | os.O_NOFOLLOW)
        except FileNotFoundError:
            continue
        _held.add(lock)
        try:
            status = os.fstat(lock)
            if status.st_uid != os.getuid():
                raise PermissionError(f"{directory()} belongs to another user")
            fcntl.flock(lock, fcntl.LOCK_EX)
            # It may have gone, and come anew, while this process waited.
            with suppress(FileNotFoundError):
                if directory().stat().st_ino == status.st_ino:
                    return lock
        except BaseException:
            disown(lock)
            raise
        disown(lock)
