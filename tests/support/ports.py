"""TCP ports of loopback that no other test has, nor gets while this one keeps them."""

from __future__ import annotations

import fcntl
import os
import random
import socket
import tempfile
from pathlib import Path

# Below what systems hand out by themselves, so that nobody gets one of these by chance.
_FIRST, _LAST = 21_000, 31_999
_LOCKS = Path(tempfile.gettempdir()) / f"kvcore-test-ports-{os.getuid()}"


class Port:
    """A port to listen on, reserved until `release`, also while nobody listens.

    A lock on a file keeps it from every other process that reserves ports here.
    """

    def __init__(self) -> None:
        _LOCKS.mkdir(exist_ok=True)
        for number in random.SystemRandom().sample(range(_FIRST, _LAST + 1), 200):
            lock = os.open(_LOCKS / str(number), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                os.close(lock)
                continue
            if _can_bind(number):
                self.number, self._lock = number, lock
                return
            os.close(lock)
        raise RuntimeError("no free port in 200 tries")

    def release(self) -> None:
        if self._lock >= 0:
            os.close(self._lock)
            self._lock = -1


def _can_bind(number: int) -> bool:
    with socket.socket() as tried:
        tried.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            tried.bind(("", number))  # every interface: a server elsewhere counts too
        except OSError:
            return False
    return True
