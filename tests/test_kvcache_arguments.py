"""KVCache: wrong calls are named, and leave nothing behind."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from models.chains import hashes_of
from support.driver import BLOCK_BYTES, FINGERPRINT, WAIT_S, make

from kvcore import HostSlab, KVCache, RequestInfo
from kvcore.layers import PagedLayers
from kvcore.stores import MemoryStore


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"max_dirty": 1.5}, "max_dirty must be from 0 to 1, got 1.5"),
        ({"max_dirty": "all"}, "max_dirty must be a number, got str"),
        ({"write_timeout_s": -1.0}, "write_timeout_s must be from 0 to 3600, got -1.0"),
        ({"copy_threads": 0}, "threads"),
        ({"policy": "none"}, "policy"),
    ],
)
def test_wrong_options_are_named(options: dict[str, Any], message: str) -> None:
    with pytest.raises((TypeError, ValueError), match=message):
        KVCache(HostSlab(4, BLOCK_BYTES), **options)


def test_a_slab_and_a_store_are_asked_for() -> None:
    with pytest.raises(TypeError, match="slab must be a HostSlab or SharedSlab, got int"):
        KVCache(4)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="store must be a Store, got str"):
        KVCache(HostSlab(4, BLOCK_BYTES), "disk:")  # type: ignore[arg-type]


def test_a_store_of_other_values_is_refused() -> None:
    store = MemoryStore(FINGERPRINT, 512, max_bytes=1 << 20)
    with pytest.raises(ValueError, match=r"store must have values of 256 bytes.* got 512"):
        KVCache(HostSlab(4, BLOCK_BYTES), store)
    store.close()


@pytest.mark.parametrize("ids", [[0], [0, 1, 2], [0, 64], [0, 0], [-1, 0], [0.0, 1.0], ["a", "b"]])
def test_a_store_with_wrong_ids_leaves_nothing_behind(ids: list[Any]) -> None:
    driver = make(4)
    with pytest.raises((TypeError, ValueError), match="block_ids"):
        driver.cache.store(hashes_of([1, 2]), driver.engine.layers, np.array(ids))
    stats = driver.cache.stats()
    assert (stats.host.in_flight_blocks, stats.host.free_blocks) == (0, 4)


@pytest.mark.parametrize(("first", "ids"), [(0, [1, 2, 3]), (1, [1, 2]), (-1, [1]), (2, [1])])
def test_a_load_beyond_its_lease_is_refused(first: int, ids: list[int]) -> None:
    driver = make(4)
    driver.keep(hashes_of([1, 2]))
    with (
        driver.cache.acquire(hashes_of([1, 2])) as lease,
        pytest.raises(ValueError, match="block_ids must be at most the 2 blocks that the lease"),
    ):
        driver.cache.load(lease, driver.engine.layers, np.array(ids), first_block=first)


def test_a_load_from_a_lease_that_was_released_is_refused() -> None:
    driver = make(4)
    driver.keep(hashes_of([1, 2]))
    lease = driver.cache.acquire(hashes_of([1, 2]))
    lease.release()
    with pytest.raises(ValueError, match="at most the 0 blocks that the lease holds"):
        driver.cache.load(lease, driver.engine.layers, [0, 1])


def test_layers_of_other_blocks_are_refused() -> None:
    driver = make(4)
    layers = PagedLayers([np.zeros((2, 4, 32), np.uint8)], block_axis=1)
    with pytest.raises(ValueError, match="64"):
        driver.cache.store(hashes_of([1]), layers, np.array([0]))
    assert driver.cache.stats().host.in_flight_blocks == 0


@pytest.mark.parametrize("timeout_s", [-1.0, 3601.0, float("nan"), None, True])
def test_a_wrong_time_limit_is_named(timeout_s: Any) -> None:
    driver = make(4)
    found = driver.cache.lookup(hashes_of([1]))
    with pytest.raises((TypeError, ValueError), match="timeout_s must be"):
        driver.cache.prefetch(found, timeout_s=timeout_s)
    with pytest.raises((TypeError, ValueError), match="timeout_s must be"):
        driver.cache.flush(timeout_s)


def test_a_request_can_be_finished() -> None:
    driver = make(4)
    request = RequestInfo()
    ids = driver.engine.block_ids[:2]
    driver.cache.store(hashes_of([1, 2]), driver.engine.layers, ids, request).wait(WAIT_S)
    driver.cache.finish(request, 10)
    assert driver.cache.stats().host.finished_requests == 1
