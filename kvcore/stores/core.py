"""What all stores share that are written in C++."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from kvcore._core import Batch, StoreCore, StoreStats
from kvcore.hashing import HashArray
from kvcore.planes import IntArray, SlabMemory, integers


class CoreStore:
    """The calls of `kvcore.stores.Store`, passed on."""

    _core: StoreCore

    @property
    def value_bytes(self) -> int:
        return self._core.value_bytes

    def match(self, hashes: HashArray, *, positions: IntArray | None = None) -> int:
        return self._core.match(hashes, positions_of(positions))

    def get_into(
        self,
        hashes: HashArray,
        slab: object,
        slab_blocks: IntArray,
        timeout_s: float | None,
        *,
        positions: IntArray | None = None,
    ) -> Batch:
        memory, ids = memory_of(slab, slab_blocks, self.value_bytes)
        place = (memory.address, memory.stride_bytes, memory.num_blocks)
        return self._core.get_into(hashes, positions_of(positions), *place, ids, timeout_s, memory)

    def put_from(
        self,
        hashes: HashArray,
        slab: object,
        slab_blocks: IntArray,
        timeout_s: float | None,
        *,
        positions: IntArray | None = None,
    ) -> Batch:
        memory, ids = memory_of(slab, slab_blocks, self.value_bytes)
        place = (memory.address, memory.stride_bytes, memory.num_blocks)
        return self._core.put_from(hashes, positions_of(positions), *place, ids, timeout_s, memory)

    def contains(
        self, hashes: HashArray, timeout_s: float | None, *, positions: IntArray | None = None
    ) -> Batch:
        return self._core.contains(hashes, positions_of(positions), timeout_s)

    def remove(
        self, hashes: HashArray, timeout_s: float | None, *, positions: IntArray | None = None
    ) -> Batch:
        return self._core.remove(hashes, positions_of(positions), timeout_s)

    def stats(self) -> StoreStats:
        return self._core.stats()

    def close(self) -> None:
        self._core.close()


def memory_of(
    slab: object, slab_blocks: IntArray, value_bytes: int
) -> tuple[SlabMemory, npt.NDArray[np.uint32]]:
    """The memory that a call is about. TypeError, ValueError: it is not what it must be."""
    memory = SlabMemory.of(slab).host
    if memory.block_bytes < value_bytes:
        raise ValueError(
            f"slab must have blocks of {value_bytes} bytes at least, got {memory.block_bytes}"
        )
    return memory, integers("slab_blocks", slab_blocks)


def positions_of(positions: IntArray | None) -> npt.NDArray[np.uint32] | None:
    """Where in their chain blocks are. TypeError, ValueError: they are no integers."""
    return None if positions is None else integers("positions", positions)
