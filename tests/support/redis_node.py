"""One process that keeps blocks on a Redis or Valkey server."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import numpy as np
from models.chains import Hashes

from kvcore.stores import Outcome, RedisStore
from kvcore.verify import payload
from support.batches import WAIT_S, outcomes, wait_quiet
from support.redis_server import RedisServer

BLOCK_BYTES = 4096
DONE, MISS, FAILED = Outcome.DONE, Outcome.MISS, Outcome.FAILED
Start = Callable[..., RedisServer]


class RedisNode:
    """One process's store, with memory for up to 600 blocks."""

    def __init__(self, url: str, fingerprint: bytes, **options: Any) -> None:
        size = options.pop("value_bytes", BLOCK_BYTES)
        options = {"stall_s": 5.0, "first_probe_s": 0.05} | options
        self.store = RedisStore(url, fingerprint, size, **options)
        self.slab = np.zeros((600, size), np.uint8)
        self.fingerprint = fingerprint

    def put(self, hashes: Hashes, timeout_s: float = WAIT_S) -> list[Outcome]:
        self.slab[: len(hashes)] = payload(hashes, self.store.value_bytes)
        places = np.arange(len(hashes))
        return outcomes(self.store.put_from(hashes, self.slab, places, timeout_s))

    def get(self, hashes: Hashes, timeout_s: float = WAIT_S) -> list[Outcome]:
        """What came is checked."""
        expected = payload(hashes, self.store.value_bytes)
        self.slab[: len(hashes)] = ~expected
        batch = self.store.get_into(hashes, self.slab, np.arange(len(hashes)), timeout_s)
        came = outcomes(batch)
        for place, outcome in enumerate(came):
            if outcome == DONE:
                assert np.array_equal(self.slab[place], expected[place])
        wait_quiet(batch)
        return came

    def ask(self, hashes: Hashes) -> list[Outcome]:
        return outcomes(self.store.contains(hashes, WAIT_S))

    def name(self, hashes: Hashes, block: int = 0) -> str:
        return (
            f"kv1/{self.fingerprint.hex()}/{self.store.value_bytes}/{hashes[block].tobytes().hex()}"
        )

    def wait_until_well(self) -> None:
        until = time.monotonic() + WAIT_S
        while self.store.last_error is not None:
            assert time.monotonic() < until
            time.sleep(0.005)
