"""Which stores a KVCache writes and reads, while one takes another's place."""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np

from kvcore.hashing import HashArray
from kvcore.stores import Store


@dataclass(frozen=True, slots=True)
class _Old:
    store: Store
    until: float  # time.monotonic()


class Succession:
    """The store that is written, and older ones that are still read. Thread safe."""

    def __init__(self, store: Store | None) -> None:
        self._lock = threading.Lock()
        self._current = store
        self._old: list[_Old] = []  # the latest first
        self._users: Counter[int] = Counter()

    @property
    def current(self) -> Store | None:
        return self._current

    @property
    def readable(self) -> list[Store]:
        """Those that are read, the current one first."""
        now = time.monotonic()
        with self._lock:
            stores = [old.store for old in self._old if now < old.until]
            return stores if self._current is None else [self._current, *stores]

    def switch(self, store: Store, overlap_s: float) -> None:
        """Raises ValueError if it is one of those that are in use."""
        with self._lock:
            if store is self._current or any(store is old.store for old in self._old):
                raise ValueError("store must be another than those that are in use")
            if self._current is not None:
                self._old.insert(0, _Old(self._current, time.monotonic() + overlap_s))
            self._current = store

    def match(self, hashes: HashArray, first_position: int) -> int:
        """Blocks from the start on that one of them has, as far as it knows."""
        _, found = self._best(hashes, first_position)
        return found

    @contextmanager
    def writing(self) -> Iterator[Store | None]:
        """The current store; it is not closed meanwhile."""
        with self._lock:
            store = self._current
            self._users[id(store)] += 1
        try:
            yield store
        finally:
            self._leave(store)

    @contextmanager
    def reading(self, hashes: HashArray, first_position: int) -> Iterator[Store | None]:
        """Who has most of a chain; it is not closed meanwhile. None: nobody has any of it."""
        store, found = self._best(hashes, first_position)
        with self._lock:
            self._users[id(store)] += 1
        try:
            yield store if found > 0 else None
        finally:
            self._leave(store)

    def drop(self, has_work: Callable[[Store], bool], *, at_once: bool = False) -> None:
        """Close the old stores whose time is over and that nothing is under way with."""
        if not self._old:
            return
        now = time.monotonic()
        with self._lock:
            over = [
                old
                for old in self._old
                if (at_once or now >= old.until)
                and not self._users[id(old.store)]
                and not has_work(old.store)
            ]
            self._old = [old for old in self._old if old not in over]
        for old in over:
            # A store may wait for its servers before it is closed; whoever called shall not.
            threading.Thread(target=old.store.close, name="kvcore-close", daemon=True).start()

    def _best(self, hashes: HashArray, first_position: int) -> tuple[Store | None, int]:
        positions = np.arange(first_position, first_position + len(hashes), dtype=np.uint32)
        best, most = None, 0
        for store in self.readable:
            found = store.match(hashes, positions=positions)
            if found > most:
                best, most = store, found
        return best, most

    def _leave(self, store: Store | None) -> None:
        with self._lock:
            self._users[id(store)] -= 1
