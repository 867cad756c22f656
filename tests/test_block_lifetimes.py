"""``PrefixCache``: views stay good, and what hangs on what."""

from __future__ import annotations

import ctypes
import gc
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from models.chains import Hashes, hashes_of
from support.prefix_cache import put

from kvcore import (
    CacheStats,
    Lease,
    PrefixCache,
    Reservation,
)


def test_arrays_are_read_only() -> None:
    cache = PrefixCache(2)
    put(cache, hashes_of([1, 1]))
    reservation = cache.reserve(hashes_of([2, 2]))
    reservation.commit()
    lease = cache.acquire(hashes_of([2, 2]))
    for array in (
        lease.block_ids,
        reservation.states,
        reservation.new_positions,
        reservation.block_ids,
        reservation.evicted.hashes,
        reservation.evicted.block_ids,
    ):
        assert array.size > 0
        assert not array.flags.writeable
        with pytest.raises(ValueError, match="read-only"):
            array[0] = 1
        with pytest.raises(ValueError, match="WRITEABLE"):
            array.flags.writeable = True


def test_arrays_stay_valid_when_everything_else_is_dropped() -> None:
    cache = PrefixCache(3)
    put(cache, hashes_of([1, 1]))
    reservation = cache.reserve(hashes_of([2, 2, 2]))
    reservation.commit()
    evicted = reservation.evicted
    arrays = [
        cache.acquire(hashes_of([2, 2, 2])).block_ids,
        reservation.states,
        reservation.new_positions,
        reservation.block_ids,
        evicted.hashes,
        evicted.block_ids,
    ]
    copies = [array.copy() for array in arrays]
    del cache, reservation, evicted
    gc.collect()
    PrefixCache(3).reserve(hashes_of([3] * 3)).commit()  # writes over memory that is free
    for array, copy in zip(arrays, copies, strict=True):
        np.testing.assert_array_equal(array, copy)


def test_an_array_holds_what_it_shows() -> None:
    """Ids that somebody looks at are not given to others."""
    cache = PrefixCache(3)
    ids = cache.reserve(hashes_of([1, 1])).block_ids
    assert cache.stats().in_flight_blocks == 2
    del ids
    assert cache.stats().in_flight_blocks == 0
    put(cache, hashes_of([1, 1]))
    ids = cache.acquire(hashes_of([1, 1])).block_ids
    assert cache.stats().num_leases == 1
    del ids
    assert cache.stats().num_leases == 0


def test_leases_and_reservations_keep_the_cache_alive() -> None:
    cache = PrefixCache(4)
    put(cache, hashes_of([1, 1]))
    lease = cache.acquire(hashes_of([1, 1]))
    reservation = cache.reserve(hashes_of([2, 2]))
    del cache
    gc.collect()
    reservation.commit(1)
    reservation.abort()
    lease.release()


def test_the_hashes_may_change_after_the_call() -> None:
    cache = PrefixCache(4)
    chain = hashes_of([1, 1]).copy()
    reservation = cache.reserve(chain)
    chain[:] = 0
    reservation.commit()
    assert cache.match(hashes_of([1, 1])) == 2


@pytest.mark.parametrize(
    "wrap",
    [
        lambda chain: memoryview(chain),
        lambda chain: memoryview(chain.tobytes()).cast("B", chain.shape),
        lambda chain: (ctypes.c_uint8 * 16 * len(chain)).from_buffer_copy(chain.tobytes()),
        lambda chain: np.concatenate([chain, chain])[: len(chain)],
    ],
    ids=["memoryview", "cast", "ctypes", "slice"],
)
def test_any_contiguous_buffer_of_hashes_will_do(wrap: Callable[[Hashes], Any]) -> None:
    cache = PrefixCache(4)
    put(cache, hashes_of([1, 2]))
    assert cache.match(wrap(hashes_of([1, 2, 3]))) == 2


@pytest.mark.parametrize("kind", [Lease, Reservation, CacheStats])
def test_what_the_cache_makes_cannot_be_made_by_hand(kind: type) -> None:
    with pytest.raises(TypeError, match="No constructor"):
        kind()
