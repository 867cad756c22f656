"""Stores of this machine: in memory, and on disk."""

from __future__ import annotations

import os

import numpy as np

from kvcore._core import Batch, DiskSlots, MemorySlots, SlotStore, StoreStats
from kvcore.hashing import HashArray
from kvcore.planes import IntArray, SlabMemory, integers


class _LocalStore:
    """The calls of `kvcore.stores.Store`, passed on."""

    _slots: SlotStore

    @property
    def value_bytes(self) -> int:
        return self._slots.value_bytes

    def match(self, hashes: HashArray) -> int:
        return self._slots.match(hashes)

    def get_into(
        self, hashes: HashArray, slab: object, slab_blocks: IntArray, timeout_s: float | None
    ) -> Batch:
        memory, ids = self._memory_of(slab, slab_blocks)
        place = (memory.address, memory.stride_bytes, memory.num_blocks)
        return self._slots.get_into(hashes, *place, ids, timeout_s, memory)

    def put_from(
        self, hashes: HashArray, slab: object, slab_blocks: IntArray, timeout_s: float | None
    ) -> Batch:
        memory, ids = self._memory_of(slab, slab_blocks)
        place = (memory.address, memory.stride_bytes, memory.num_blocks)
        return self._slots.put_from(hashes, *place, ids, timeout_s, memory)

    def contains(self, hashes: HashArray, timeout_s: float | None) -> Batch:
        return self._slots.contains(hashes, timeout_s)

    def remove(self, hashes: HashArray, timeout_s: float | None) -> Batch:
        return self._slots.remove(hashes, timeout_s)

    def stats(self) -> StoreStats:
        return self._slots.stats()

    def close(self) -> None:
        self._slots.close()

    def _memory_of(
        self, slab: object, slab_blocks: IntArray
    ) -> tuple[SlabMemory, np.ndarray[tuple[int], np.dtype[np.uint32]]]:
        memory = SlabMemory.of(slab).host
        if memory.block_bytes < self.value_bytes:
            raise ValueError(
                f"slab must have blocks of {self.value_bytes} bytes at least, "
                f"got {memory.block_bytes}"
            )
        return memory, integers("slab_blocks", slab_blocks)


class MemoryStore(_LocalStore):
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
        self._slots = MemorySlots(fingerprint, value_bytes, max_bytes)


class DiskStore(_LocalStore):
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
        slots = DiskSlots(
            os.fspath(path),
            fingerprint,
            value_bytes,
            max_bytes,
            bool(direct),
            fsync == "each",
            depth,
            io,
        )
        self._slots = slots
        self._io, self._is_direct = slots.io, slots.is_direct

    @property
    def io(self) -> str:
        """Who reads and writes: "uring" or "threads"."""
        return self._io

    @property
    def is_direct(self) -> bool:
        """Whether reads and writes go past the kernel's cache."""
        return self._is_direct
