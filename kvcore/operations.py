"""What a KVCache has under way: blocks that are fetched, loaded, saved, and written behind.

Nothing here has a thread. Copies and stores work on threads of their own; what they finished is
settled when somebody asks, which every call of the KVCache does.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from threading import Lock
from typing import Protocol

import numpy as np
import numpy.typing as npt

from kvcore._core import (
    Batch,
    Lease,
    Outcome,
    PrefixCache,
    Reservation,
)
from kvcore.hashing import HashArray
from kvcore.stores import Store


@dataclass(frozen=True, slots=True)
class Lookup:
    """Where the blocks are that a chain begins with, at the time it was asked.

    Attributes
    ----------
    hashes : uint8[n, 16]
        The chain that was asked for.
    host_blocks : int
        Blocks from the start that the slab holds.
    store_blocks : int
        Blocks after these that the store holds, as far as it knows without asking anybody.
    """

    hashes: HashArray = field(repr=False)
    host_blocks: int
    store_blocks: int

    @property
    def num_blocks(self) -> int:
        return self.host_blocks + self.store_blocks


class Handle(Protocol):
    """A copy under way, by whoever copies."""

    def done(self) -> bool: ...
    def failed(self) -> bool: ...
    def wait(self, timeout_s: float | None = None) -> bool: ...
    def wait_layer(self, layer: int, timeout_s: float | None = None) -> bool: ...
    def cancel(self) -> None: ...


class Operation:
    """Something under way that borrows blocks of the slab."""

    store: Store | None = None  # that it is under way with

    def __init__(self) -> None:
        self._lock = Lock()
        self._over = False

    def settle(self) -> bool:
        """Take what is finished so far; True: nothing is left, and no memory is lent any more."""
        with self._lock:
            self._over = self._over or self._settle()
            return self._over

    def _settle(self) -> bool:
        raise NotImplementedError


class Probe:
    """A question to the store, under way: what it has of a chain. Borrows nothing. Thread safe."""

    def __init__(self, batches: Sequence[Batch], answer: Callable[[], Lookup]) -> None:
        self._batches = batches
        self._answer = answer

    def done(self) -> bool:
        """Whether the store answered, or the time is over."""
        return not any((batch.outcomes == Outcome.PENDING).any() for batch in self._batches)

    def wait(self) -> Lookup:
        """Wait for the answer, to the deadline at most; what there is of the chain then."""
        for batch in self._batches:
            batch.wait()
        return self._answer()

    def cancel(self) -> None:
        """Give up what has not been answered yet."""
        for batch in self._batches:
            batch.cancel()


class Prefetch(Operation):
    """Blocks on their way from the store into the slab.

    Those that came whole and verified by the deadline are cached, up to the first that did not.
    Thread safe.
    """

    published: Callable[[Reservation], None] | None = None  # is told when they are cached

    def __init__(
        self,
        cache: PrefixCache,
        hashes: HashArray,
        reservation: Reservation,
        batch: Batch,
        count: Callable[[int, int], None],
    ) -> None:
        super().__init__()
        self._cache = cache
        self._hashes = hashes
        self._reservation = reservation
        self._batch = batch
        self._count = count
        self._published = False

    def done(self) -> bool:
        """Whether every block came or was given up."""
        return not (self._batch.outcomes == Outcome.PENDING).any()

    def wait(self) -> int:
        """Wait until all is decided, to the deadline at most.

        Returns
        -------
        int
            Blocks of the chain, from its start, that the slab holds now.
        """
        self._batch.wait()
        self.settle()
        return self._cache.match(self._hashes)

    def cancel(self) -> None:
        """Give up what has not come yet."""
        self._batch.cancel()
        self.settle()

    def _settle(self) -> bool:
        if not self._published:
            outcomes = self._batch.outcomes
            if (outcomes == Outcome.PENDING).any():
                return False
            came = outcomes == Outcome.DONE
            self._reservation.commit(len(came) if came.all() else int(came.argmin()))
            committed = self._reservation.num_committed
            self._count(committed, len(came) - committed)
            self._published = True
            if self.published is not None and committed > 0:
                self.published(self._reservation)
        if not self._batch.is_quiet():
            return False
        self._reservation.abort()  # not before: the store may still write there
        return True


class Transfer(Operation):
    """Blocks on their way between an engine's layers and the slab. Thread safe.

    Attributes
    ----------
    states : uint8[n], or None for a load
        A `BlockState` for each block that was to be stored: NEW ones are copied; PRESENT ones are
        cached already, IN_FLIGHT ones are being brought by somebody else; there was no room for
        BYPASSED ones.
    """

    def __init__(self, handle: Handle, states: npt.NDArray[np.uint8] | None = None) -> None:
        super().__init__()
        self._handle = handle
        self.states = states

    def done(self) -> bool:
        """Whether the engine may use, or reuse, the blocks of all layers."""
        return self._handle.done()

    def wait(self, timeout_s: float | None = None) -> bool:
        """Wait until it is done; False when the time is over first."""
        finished = self._handle.wait(timeout_s)
        self.settle()
        return finished

    def wait_layer(self, layer: int, timeout_s: float | None = None) -> bool:
        """Wait until the blocks of one layer are there; layers come in order."""
        return self._handle.wait_layer(layer, timeout_s)

    def cancel(self) -> None:
        """Give up what is not copied yet; what an engine gets of it is undefined."""
        self._handle.cancel()
        self.settle()

    def _is_over(self) -> bool:
        """A device that failed copies no more, and tells the one who waits, not all others."""
        return self._handle.failed() or self._handle.done()


class Load(Transfer):
    """Slab to engine; the blocks stay pinned until it is done."""

    def __init__(self, handle: Handle, lease: Lease) -> None:
        super().__init__(handle)
        self._lease = lease

    def _settle(self) -> bool:
        if not self._is_over():
            return False
        self._lease.release()
        return True


class Save(Transfer):
    """Engine to slab; the blocks are published when all are copied."""

    def __init__(
        self,
        handle: Handle,
        reservation: Reservation,
        published: Callable[[Reservation], None],
    ) -> None:
        super().__init__(handle, reservation.states)
        self._reservation = reservation
        self._published = published

    def _settle(self) -> bool:
        if not self._is_over():
            return False
        if self._handle.failed():
            self._reservation.abort()
        else:
            self._reservation.commit()
            self._published(self._reservation)
        return True


class Write(Operation):
    """Slab to store, behind a save. Dirty blocks stay pinned until the store lets go of them."""

    def __init__(self, batch: Batch, lease: Lease, count: Callable[[int, int], None]) -> None:
        super().__init__()
        self._batch = batch
        self._lease = lease
        self._count = count

    @property
    def num_blocks(self) -> int:
        return len(self._batch.outcomes)

    def wait(self) -> None:
        self._batch.wait()
        self.settle()

    def _settle(self) -> bool:
        if not self._batch.is_quiet():
            return False
        written = int(np.count_nonzero(self._batch.outcomes == Outcome.DONE))
        self._count(written, self.num_blocks - written)
        self._lease.release()
        return True
