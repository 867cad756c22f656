"""Stores of every kind, and calls to them that check what comes."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from models.chains import Hashes

from kvcore import Namespace
from kvcore._core import Outcome
from kvcore.stores import (
    DiskStore,
    InfiniStoreStore,
    MemoryStore,
    MooncakeStore,
    RedisStore,
    Server,
    Store,
)
from kvcore.verify import payload
from support.batches import WAIT_S, outcomes

FINGERPRINT = Namespace("test").fingerprint
PAGE = 4096

NewStore = Callable[..., Store]


def disk(io: str, direct: bool) -> Callable[[Path], NewStore]:
    def of(path: Path) -> NewStore:
        def new(value_bytes: int, **options: Any) -> Store:
            return DiskStore(path, FINGERPRINT, value_bytes, io=io, direct=direct, **options)

        return new

    return of


def memory(path: Path) -> NewStore:
    def new(value_bytes: int, **options: Any) -> Store:
        return MemoryStore(FINGERPRINT, value_bytes, **options)

    return new


KINDS = {
    "memory": memory,
    "threads": disk("threads", True),
    "threads cached": disk("threads", False),
    "uring": disk("uring", True),
}


# Mooncake where test_mooncake.py has made room for it.
MOONCAKE = ["mooncake"] if os.environ.get("KVCORE_TEST_MOONCAKE") else []
SERVERS = ["infinistore", "infinistore_rdma", "redis", "valkey", *MOONCAKE]


def on_server(kind: str, server: Any, fingerprint: bytes) -> NewStore:
    """Stores on a server that tests share. What it holds has a rule of its own."""

    def new(value_bytes: int, **options: Any) -> Store:
        if kind == "infinistore":
            servers = [Server(*server.address)]
            return InfiniStoreStore(servers, fingerprint, value_bytes, stall_s=WAIT_S)
        if kind == "infinistore_rdma":
            tcp, python = server
            options = {"transport": "rdma", "rdma_python": python, "stall_s": WAIT_S}
            return InfiniStoreStore([Server(*tcp.address)], fingerprint, value_bytes, **options)
        if kind == "mooncake":
            return MooncakeStore(
                server.address, fingerprint, value_bytes, client=server.client, stall_s=WAIT_S
            )
        return RedisStore(server.url, fingerprint, value_bytes, stall_s=WAIT_S)

    return new


def put(store: Store, hashes: Hashes) -> list[Outcome]:
    """Values that follow from the hashes, from memory that nothing is aligned in."""
    blocks = np.zeros((len(hashes) + 1, store.value_bytes + 3), np.uint8)
    size = -(-store.value_bytes // 8) * 8
    blocks[:-1, : store.value_bytes] = payload(hashes, size)[:, : store.value_bytes]
    return outcomes(store.put_from(hashes, blocks, np.arange(len(hashes)), WAIT_S))


def get(store: Store, hashes: Hashes, slab: Any = None) -> list[Outcome]:
    """Reads them; those that came are as they were put, and nothing else was written."""
    size = store.value_bytes
    if slab is None:
        slab = np.zeros((len(hashes) + 2, size + 3), np.uint8)
    blocks = np.asarray(slab)
    blocks[:] = 0xA5
    places = np.arange(1, len(hashes) + 1)[::-1]
    batch = store.get_into(hashes, slab, places, WAIT_S)
    came = outcomes(batch)
    expected = payload(hashes, -(-size // 8) * 8)[:, :size]
    for i, outcome in enumerate(came):
        if outcome == Outcome.DONE:
            assert np.array_equal(blocks[places[i], :size], expected[i])
    assert (blocks[[0, -1]] == 0xA5).all()
    assert (blocks[:, size:] == 0xA5).all()
    until = time.monotonic() + WAIT_S
    while not batch.is_quiet():
        assert time.monotonic() < until
    return came


def new_disk(path: Path, io: str = "auto", **options: Any) -> DiskStore:
    return DiskStore(path, FINGERPRINT, 1000, **({"max_bytes": 1 << 20, "io": io} | options))
