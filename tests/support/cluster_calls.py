"""Stores on clusters, and calls to them that check what comes."""

from __future__ import annotations

import os
import time
from collections.abc import Callable

import numpy as np
from models.chains import Hashes

from kvcore.stores import InfiniStoreStore, Outcome, open_store
from kvcore.verify import payload
from support.batches import WAIT_S

BLOCK_BYTES = 4096


def put(store: InfiniStoreStore, hashes: Hashes) -> int:
    """Blocks that were written."""
    slab = np.ascontiguousarray(payload(hashes, BLOCK_BYTES))
    batch = store.put_from(hashes, slab, np.arange(len(hashes)), WAIT_S)
    batch.wait()
    return int((batch.outcomes == Outcome.DONE).sum())


def get(store: InfiniStoreStore, hashes: Hashes) -> int:
    """Blocks that came, with the right bytes."""
    expected = payload(hashes, BLOCK_BYTES)
    slab = np.ascontiguousarray(~expected)
    batch = store.get_into(hashes, slab, np.arange(len(hashes)), WAIT_S)
    batch.wait()
    done = batch.outcomes == Outcome.DONE
    assert np.array_equal(slab[done], expected[done])
    return int(done.sum())


def open_infinistore(url: str) -> InfiniStoreStore:
    store = open_store(url, os.urandom(16), BLOCK_BYTES)
    assert isinstance(store, InfiniStoreStore)
    return store


def wait_until(is_so: Callable[[], bool]) -> None:
    until = time.monotonic() + WAIT_S
    while not is_so():
        assert time.monotonic() < until
        time.sleep(0.01)
