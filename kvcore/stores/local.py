"""Stores of this machine: in memory, and on disk."""

from __future__ import annotations

import os

from kvcore._core import DiskStoreCore, MemoryStoreCore
from kvcore.stores.core import CoreStore


class MemoryStore(CoreStore):
    """A store in this process, which copies on a thread of its own.

    Parameters
    ----------
    fingerprint : bytes
        16 bytes: `Namespace.fingerprint`.
    value_bytes : int
        Bytes of a value, up to 2**31.
    max_bytes : int
        What values and their envelopes (128 bytes each) may take. What was not used lately leaves
        for what comes.

    Raises
    ------
    TypeError, ValueError
        An argument has the wrong type or is not allowed; the message names it.
    """

    def __init__(self, fingerprint: bytes, value_bytes: int, *, max_bytes: int) -> None:
        self._core = MemoryStoreCore(fingerprint, value_bytes, max_bytes)


class DiskStore(CoreStore):
    """A store in a directory of a local disk, for one process at a time.

    A value is named only when it is whole, so what a process left, however it ended, the next store
    in the directory has again. After a loss of power that holds with ``fsync="each"``; without,
    values may be missing or torn, and torn ones are found when they are read.

    Parameters
    ----------
    path : str or path
        Made if it is not there.
    fingerprint : bytes
        16 bytes: `Namespace.fingerprint`. A directory holds one namespace and one size of values.
    value_bytes : int
        Bytes of a value, up to 2**31 - 8192. Multiples of 4096 in memory that begins on one, as a
        `HostSlab` has it, go to the device without a copy.
    max_bytes : int
        What values may take, in whole pages of 4096 bytes and one more each. What was not used
        lately leaves for what comes.
    fsync : str
        "never" leaves it to the kernel when a value is on the device, "each" waits for it.
    direct : bool
        Past the kernel's cache (O_DIRECT), where the file system can.
    depth : int
        Reads and writes in flight, 1 to 256.
    io : str
        "uring", "threads", or "auto": io_uring where the build and the kernel have it.

    Raises
    ------
    TypeError, ValueError
        An argument has the wrong type or is not allowed; the message names it.
    OSError
        The file system refuses, or another store has the directory open.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        fingerprint: bytes,
        value_bytes: int,
        *,
        max_bytes: int,
        fsync: str = "never",
        direct: bool = True,
        depth: int = 16,
        io: str = "auto",
    ) -> None:
        if fsync not in ("never", "each"):
            raise ValueError(f"fsync must be 'never' or 'each', got {fsync!r}")
        core = DiskStoreCore(
            os.fspath(path),
            fingerprint,
            value_bytes,
            max_bytes,
            bool(direct),
            fsync == "each",
            depth,
            io,
        )
        self._core = core
        self._io, self._is_direct = core.io, core.is_direct

    @property
    def io(self) -> str:
        """Who reads and writes: "uring" or "threads"."""
        return self._io

    @property
    def is_direct(self) -> bool:
        """Whether reads and writes go past the kernel's cache."""
        return self._is_direct
