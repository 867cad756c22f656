"""Short ways to fill and to read a PrefixCache."""

from __future__ import annotations

import numpy as np
from models.chains import Hashes

from kvcore import (
    BlockState,
    CacheStats,
    PrefixCache,
)

NEW, PRESENT, IN_FLIGHT, BYPASSED = BlockState
NO_HASHES = np.empty((0, 16), np.uint8)


def put(cache: PrefixCache, hashes: Hashes) -> list[int]:
    """Commits a chain; answers the ids of its new blocks."""
    with cache.reserve(hashes) as reservation:
        reservation.commit()
        return list(map(int, reservation.block_ids))


def numbers(stats: CacheStats) -> dict[str, int]:
    return {
        name: getattr(stats, name)
        for name in (
            "num_blocks",
            "used_blocks",
            "free_blocks",
            "in_flight_blocks",
            "num_leases",
            "num_spans",
            "evictions",
            "finished_requests",
        )
    }
