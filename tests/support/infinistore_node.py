"""One process that keeps blocks on InfiniStore servers."""

from __future__ import annotations

from typing import Any

import numpy as np
from models.chains import Hashes

from kvcore.stores import InfiniStoreStore, Outcome, Server
from kvcore.verify import payload
from support.batches import WAIT_S, outcomes, wait_quiet

BLOCK_BYTES = 4096


class Node:
    """One process's store, with memory for a chain."""

    def __init__(
        self,
        fingerprint: bytes,
        *addresses: tuple[str, int],
        block_bytes: int = BLOCK_BYTES,
        most_blocks: int = 600,
        **options: Any,
    ) -> None:
        options = {"chunk_blocks": 8, "stall_s": 1.0} | options
        servers = [Server(*address) for address in addresses]
        self.store = InfiniStoreStore(servers, fingerprint, block_bytes, **options)
        self.slab = np.zeros((most_blocks, block_bytes), np.uint8)

    def put(self, hashes: Hashes, first: int = 0, timeout_s: float = WAIT_S) -> list[Outcome]:
        part = hashes[first:]
        self.slab[: len(part)] = payload(part, self.slab.shape[1])
        positions = np.arange(first, len(hashes))
        places = np.arange(len(part))
        return outcomes(
            self.store.put_from(part, self.slab, places, timeout_s, positions=positions)
        )

    def get(self, hashes: Hashes, first: int = 0, timeout_s: float = WAIT_S) -> list[Outcome]:
        """What came is checked."""
        part = hashes[first:]
        expected = payload(part, self.slab.shape[1])
        self.slab[: len(part)] = ~expected
        positions = np.arange(first, len(hashes))
        places = np.arange(len(part))
        batch = self.store.get_into(part, self.slab, places, timeout_s, positions=positions)
        came = outcomes(batch)
        for place, outcome in enumerate(came):
            if outcome == Outcome.DONE:
                assert np.array_equal(self.slab[place], expected[place])
        wait_quiet(batch)
        return came

    def ask(self, hashes: Hashes) -> int:
        """Blocks that the servers have."""
        positions = np.arange(len(hashes))
        found = outcomes(self.store.contains(hashes, WAIT_S, positions=positions))
        return found.index(Outcome.MISS) if Outcome.MISS in found else len(found)

    def match(self, hashes: Hashes) -> int:
        return self.store.match(hashes, positions=np.arange(len(hashes)))
