"""An engine on top of a KVCache."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
from models.chains import Hashes

from kvcore import HostSlab, KVCache, Namespace
from kvcore.stores import Store
from kvcore.verify import Engine, payload

BLOCK_BYTES = 256
FINGERPRINT = Namespace("test").fingerprint
WAIT_S = 30.0


class Driver:
    """An engine of 64 blocks on top of a cache."""

    def __init__(self, cache: KVCache) -> None:
        self.cache = cache
        self.engine = Engine(64, BLOCK_BYTES)

    def keep(self, hashes: Hashes) -> npt.NDArray[np.uint8]:
        """Computes all blocks and stores them; the state of each."""
        ids = self.engine.block_ids[: len(hashes)]
        self.engine.write(ids, payload(hashes, BLOCK_BYTES))
        transfer = self.cache.store(hashes, self.engine.layers, ids)
        assert transfer.wait(WAIT_S)
        assert transfer.states is not None
        return transfer.states

    def load(self, hashes: Hashes) -> int:
        """Loads what the slab has, checks it, and says how many blocks it is."""
        with self.cache.acquire(hashes) as lease:
            n = lease.num_blocks
            ids = self.engine.block_ids[:n]
            self.engine.write(ids, ~payload(hashes[:n], BLOCK_BYTES))
            if n > 0:
                assert self.cache.load(lease, self.engine.layers, ids).wait(WAIT_S)
        assert np.array_equal(self.engine.read(ids), payload(hashes[:n], BLOCK_BYTES))
        return n

    def fetch(self, hashes: Hashes, timeout_s: float = WAIT_S) -> int:
        """Brings what the store has; blocks in the slab after that."""
        prefetch = self.cache.prefetch(self.cache.lookup(hashes), timeout_s=timeout_s)
        return self.cache.lookup(hashes).host_blocks if prefetch is None else prefetch.wait()


def make(num_blocks: int, store: Store | None = None, **options: Any) -> Driver:
    return Driver(KVCache(HostSlab(num_blocks, BLOCK_BYTES), store, policy="lru", **options))
