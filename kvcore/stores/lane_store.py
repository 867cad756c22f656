"""What all stores share that are written in Python."""

from __future__ import annotations

import weakref

from kvcore._core import Batch, BatchSource, StoreStats, hashes_argument
from kvcore.hashing import HashArray
from kvcore.planes import IntArray, SlabMemory
from kvcore.stores.core import memory_of, positions_of
from kvcore.stores.lane import Call, Lane, LaneOptions
from kvcore.stores.lanes import Lanes


class LaneStore:
    """The calls of `kvcore.stores.Store`, over lanes."""

    def __init__(self, lanes: list[Lane], value_bytes: int, options: LaneOptions) -> None:
        self._value_bytes = value_bytes
        self._lanes = Lanes(lanes, value_bytes, options)
        # A store that is dropped is closed.
        weakref.finalize(self, self._lanes.end).atexit = False

    @property
    def value_bytes(self) -> int:
        return self._value_bytes

    @property
    def last_error(self) -> str | None:
        """Why the server is given up at the moment; None while it is not."""
        return self._lanes.last_error

    def match(self, hashes: HashArray, *, positions: IntArray | None = None) -> int:
        return self._lanes.match(hashes_argument(hashes, positions_of(positions)))

    def get_into(
        self,
        hashes: HashArray,
        slab: object,
        slab_blocks: IntArray,
        timeout_s: float | None,
        *,
        positions: IntArray | None = None,
    ) -> Batch:
        memory, ids = memory_of(slab, slab_blocks, self._value_bytes)
        place = (memory.address, memory.stride_bytes, memory.num_blocks)
        source = BatchSource.reading(
            hashes, positions_of(positions), *place, ids, timeout_s, memory, self._value_bytes
        )
        return self._submit(Call.GET, source, memory)

    def put_from(
        self,
        hashes: HashArray,
        slab: object,
        slab_blocks: IntArray,
        timeout_s: float | None,
        *,
        positions: IntArray | None = None,
    ) -> Batch:
        memory, ids = memory_of(slab, slab_blocks, self._value_bytes)
        place = (memory.address, memory.stride_bytes, memory.num_blocks)
        source = BatchSource.writing(
            hashes, positions_of(positions), *place, ids, timeout_s, memory, self._value_bytes
        )
        return self._submit(Call.PUT, source, memory)

    def contains(
        self, hashes: HashArray, timeout_s: float | None, *, positions: IntArray | None = None
    ) -> Batch:
        source = BatchSource.asking(hashes, positions_of(positions), timeout_s)
        return self._lanes.submit(Call.CONTAINS, source)

    def remove(
        self, hashes: HashArray, timeout_s: float | None, *, positions: IntArray | None = None
    ) -> Batch:
        source = BatchSource.asking(hashes, positions_of(positions), timeout_s)
        return self._lanes.submit(Call.REMOVE, source)

    def _submit(self, call: Call, source: BatchSource, memory: SlabMemory) -> Batch:
        """Begin with a batch that has memory."""
        return self._lanes.submit(call, source)

    def stats(self) -> StoreStats:
        return self._lanes.stats()

    def close(self) -> None:
        self._lanes.close()
