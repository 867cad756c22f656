"""What every store does."""

from __future__ import annotations

from typing import Protocol, runtime_checkable

from kvcore._core import Batch, StoreStats
from kvcore.hashing import HashArray
from kvcore.planes import IntArray


@runtime_checkable
class Store(Protocol):
    """Values of one size and one namespace, each named by the hash of its block.

    A store may forget a value at any time, and never gives a byte that was not put: values are
    verified before the outcome is `Outcome.DONE`. Every call but `close` returns at once; its
    `Batch` tells what became of each key. The memory of a batch belongs to the store until the
    batch is quiet, which may be after its deadline. Thread safe.

    In all calls, ``hashes`` are uint8[n, 16], ``slab`` a slab or a writable
    uint8[num_blocks, block_bytes] with blocks of `value_bytes` at least, ``slab_blocks``
    integers[n] below its ``num_blocks``, and ``timeout_s`` seconds, or None for no limit.
    ``positions``, rising integers[n], say that the blocks are of one chain and where in it: a store
    may keep several neighbours as one value, and give up what comes after a block that it does not
    have. Without, keys are independent of each other. TypeError and ValueError name what is wrong;
    nothing was begun then.
    """

    @property
    def value_bytes(self) -> int:
        """Bytes of a value."""

    def match(self, hashes: HashArray, *, positions: IntArray | None = None) -> int:
        """How many values from the first on are there, as far as it knows without asking."""

    def get_into(
        self,
        hashes: HashArray,
        slab: object,
        slab_blocks: IntArray,
        timeout_s: float | None,
        *,
        positions: IntArray | None = None,
    ) -> Batch:
        """Start to read values into blocks, each its own. A block whose value does not come whole
        may have lost what it had."""

    def put_from(
        self,
        hashes: HashArray,
        slab: object,
        slab_blocks: IntArray,
        timeout_s: float | None,
        *,
        positions: IntArray | None = None,
    ) -> Batch:
        """Start to write values. DONE as well for those that are there already, or that another
        batch is writing; MISS where there is no room."""

    def contains(
        self, hashes: HashArray, timeout_s: float | None, *, positions: IntArray | None = None
    ) -> Batch:
        """Ask which values are there: DONE or MISS."""

    def remove(
        self, hashes: HashArray, timeout_s: float | None, *, positions: IntArray | None = None
    ) -> Batch:
        """Remove values; MISS for those that were not there."""

    def stats(self) -> StoreStats: ...

    def close(self) -> None:
        """Cancel what is under way and wait for the memory that is lent. Later calls find nothing,
        and puts fail. Idempotent."""
