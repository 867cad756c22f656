"""KVCache: what an engine stores comes back as it was, from slab or store, or not at all."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from models.chains import hashes_of
from support.driver import BLOCK_BYTES, FINGERPRINT, WAIT_S, Driver, make

from kvcore import HostSlab, KVCache
from kvcore._core import BlockState
from kvcore.copies import CopyPool, TransferPlan
from kvcore.stores import DiskStore, MemoryStore, Store
from kvcore.verify import payload


@pytest.fixture(params=["memory", "disk"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Store]:
    made: Store = (
        MemoryStore(FINGERPRINT, BLOCK_BYTES, max_bytes=1 << 22)
        if request.param == "memory"
        else DiskStore(tmp_path, FINGERPRINT, BLOCK_BYTES, max_bytes=1 << 22)
    )
    yield made
    made.close()


# --- Slab alone ----------------------------------------------------------------------------------


def test_what_is_stored_can_be_loaded() -> None:
    driver = make(8)
    hashes = hashes_of([1, 2, 3])
    assert driver.keep(hashes).tolist() == [BlockState.NEW] * 3
    assert driver.cache.lookup(hashes_of([1, 2, 3, 4])).host_blocks == 3
    assert driver.load(hashes_of([1, 2, 3, 4])) == 3


def test_what_is_there_is_not_copied_again() -> None:
    driver = make(8)
    driver.keep(hashes_of([1, 2]))
    states = driver.keep(hashes_of([1, 2, 3]))
    assert states.tolist() == [BlockState.PRESENT, BlockState.PRESENT, BlockState.NEW]
    assert driver.load(hashes_of([1, 2, 3])) == 3


def test_what_does_not_fit_is_bypassed() -> None:
    driver = make(2)
    states = driver.keep(hashes_of([1, 2, 3]))
    assert states.tolist() == [BlockState.NEW, BlockState.NEW, BlockState.BYPASSED]
    assert driver.load(hashes_of([1, 2, 3])) == 2


def test_without_a_store_nothing_is_prefetched() -> None:
    driver = make(2)
    driver.keep(hashes_of([1, 2]))
    driver.keep(hashes_of([3, 4]))
    found = driver.cache.lookup(hashes_of([1, 2]))
    assert (found.host_blocks, found.store_blocks, found.num_blocks) == (0, 0, 0)
    assert driver.cache.prefetch(found, timeout_s=1.0) is None
    assert driver.cache.stats().store is None


def test_a_load_takes_any_part_of_a_lease() -> None:
    driver = make(8)
    hashes = hashes_of([1, 2, 3, 4])
    driver.keep(hashes)
    ids = driver.engine.block_ids[10:12]
    lease = driver.cache.acquire(hashes)
    load = driver.cache.load(lease, driver.engine.layers, ids, first_block=1)
    lease.release()  # the load has a lease of its own
    assert load.wait(WAIT_S)
    assert load.done()
    assert load.wait_layer(0, 0.0)
    assert load.wait_layer(1, 0.0)
    assert np.array_equal(driver.engine.read(ids), payload(hashes[1:3], BLOCK_BYTES))
    assert driver.cache.stats().host.num_leases == 0


# --- With a store --------------------------------------------------------------------------------


def test_what_left_the_slab_comes_back_from_the_store(store: Store) -> None:
    driver = make(4, store, max_dirty=1.0)
    hashes = hashes_of([1, 2, 3])
    driver.keep(hashes)
    assert driver.cache.flush(WAIT_S)
    driver.keep(hashes_of([7, 8, 9, 10]))
    assert driver.cache.flush(WAIT_S)
    found = driver.cache.lookup(hashes)
    assert (found.host_blocks, found.store_blocks) == (0, 3)
    assert driver.fetch(hashes) == 3
    assert driver.load(hashes) == 3
    stats = driver.cache.stats()
    assert (stats.fetched, stats.not_fetched) == (3, 0)
    assert (stats.written, stats.not_written, stats.dirty) == (7, 0, 0)
    driver.cache.close()


@pytest.mark.parametrize("in_slab", [0, 1, 2])
def test_a_chain_may_be_in_both(store: Store, in_slab: int) -> None:
    before = make(8, store, max_dirty=1.0)
    before.keep(hashes_of([1, 2, 3, 4]))
    before.cache.close()
    driver = make(8, store)
    driver.keep(hashes_of([1, 2, 3, 4][:in_slab]))
    found = driver.cache.lookup(hashes_of([1, 2, 3, 4, 5]))
    assert (found.host_blocks, found.store_blocks) == (in_slab, 4 - in_slab)
    assert driver.fetch(hashes_of([1, 2, 3, 4, 5])) == 4
    assert driver.load(hashes_of([1, 2, 3, 4, 5])) == 4
    driver.cache.close()


def test_what_is_gone_from_the_store_ends_what_is_fetched(store: Store) -> None:
    hashes = hashes_of([1, 2, 3])
    before = make(8, store, max_dirty=1.0)
    before.keep(hashes)
    before.cache.close()
    driver = make(8, store)
    found = driver.cache.lookup(hashes)
    removal = store.remove(hashes[1:2], WAIT_S)
    removal.wait()
    prefetch = driver.cache.prefetch(found, timeout_s=WAIT_S)
    assert prefetch is not None
    assert prefetch.wait() == 1
    assert driver.load(hashes) == 1
    driver.cache.close()
    stats = driver.cache.stats()
    assert (stats.fetched, stats.not_fetched) == (1, 2)
    assert (stats.host.in_flight_blocks, stats.host.num_leases) == (0, 0)
    assert stats.host.free_blocks == 7


def test_a_block_that_changed_on_disk_is_a_counted_miss(tmp_path: Path) -> None:
    hashes = hashes_of([1, 2, 3])
    store = DiskStore(tmp_path, FINGERPRINT, BLOCK_BYTES, max_bytes=1 << 22)
    before = make(8, store, max_dirty=1.0)
    before.keep(hashes)
    before.cache.close()
    store.close()
    flipped = payload(hashes[1:2], BLOCK_BYTES).tobytes()
    [file] = [f for f in tmp_path.rglob("*") if f.is_file() and flipped in f.read_bytes()]
    content = bytearray(file.read_bytes())
    content[content.index(flipped) + BLOCK_BYTES // 2] ^= 1
    file.write_bytes(content)

    store = DiskStore(tmp_path, FINGERPRINT, BLOCK_BYTES, max_bytes=1 << 22)
    driver = make(8, store)
    assert driver.fetch(hashes) == 1
    assert driver.load(hashes) == 1
    stats = driver.cache.stats()
    assert stats.store is not None
    assert stats.store.corrupt == 1
    driver.keep(hashes)
    assert driver.load(hashes) == 3
    driver.cache.close()
    store.close()


def test_two_that_want_the_same_fetch_it_once(store: Store) -> None:
    hashes = hashes_of(range(6))
    before = make(8, store, max_dirty=1.0)
    before.keep(hashes)
    before.cache.close()
    driver = make(8, store)
    found = driver.cache.lookup(hashes)
    first = driver.cache.prefetch(found, timeout_s=WAIT_S)
    assert first is not None
    second = driver.cache.prefetch(found, timeout_s=WAIT_S)
    assert first.wait() == 6
    assert second is None
    driver.cache.close()
    assert driver.cache.stats().fetched == 6


# --- Threads -------------------------------------------------------------------------------------


def test_many_threads_never_see_a_wrong_byte(store: Store) -> None:
    cache = KVCache(HostSlab(24, BLOCK_BYTES), store, policy="lru", copy_threads=2)
    errors: list[BaseException] = []
    loaded = [0] * 4

    def work(seed: int) -> None:
        try:
            driver, rng = Driver(cache), np.random.default_rng(seed)
            end = time.monotonic() + WAIT_S
            rounds = 0
            # A disk may take its time for the first write.
            while rounds < 150 or (cache.stats().fetched == 0 and time.monotonic() < end):
                rounds += 1
                hashes = hashes_of([int(rng.integers(6)), *range(int(rng.integers(1, 8)))])
                driver.fetch(hashes)
                loaded[seed] += driver.load(hashes)
                driver.keep(hashes)
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=work, args=(seed,), daemon=True) for seed in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60.0)
        assert not thread.is_alive()
    assert errors == []
    assert min(loaded) > 0
    assert cache.flush(WAIT_S)
    stats = cache.stats()
    assert (stats.dirty, stats.host.in_flight_blocks, stats.host.num_leases) == (0, 0, 0)
    assert stats.fetched > 0


# --- Devices -------------------------------------------------------------------------------------


class Device:
    """Stands in for a device: copies as the CPU does, and remembers what it was asked for."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.calls: list[tuple[str, object, int]] = []
        self.fails = False
        monkeypatch.setattr("kvcore.cache.device_transfer", self._transfer)

    def _transfer(self, layers: Any, slab: Any, ids: Any, slab_ids: Any, *, device: str) -> Any:
        assert device == "cuda:1"
        layers.device = "cpu"
        plan = TransferPlan(layers, slab, ids, slab_ids)
        layers.device = device
        self._plan = plan
        return self

    def gather(self, stream: object, *, layers_a_step: int) -> Any:
        self.calls.append(("gather", stream, layers_a_step))
        return Broken() if self.fails else CopyPool(1).gather(self._plan)

    def scatter(self, stream: object, *, layers_a_step: int) -> Any:
        self.calls.append(("scatter", stream, layers_a_step))
        return Broken() if self.fails else CopyPool(1).scatter(self._plan)


class Broken:
    """A copy of a device that failed."""

    def failed(self) -> bool:
        return True

    def done(self) -> bool:
        raise RuntimeError("the device is gone")

    def wait(self, timeout_s: float | None = None) -> bool:
        raise RuntimeError("the device is gone")


def test_layers_of_a_device_are_copied_by_it(monkeypatch: pytest.MonkeyPatch) -> None:
    device = Device(monkeypatch)
    driver = make(8)
    driver.engine.layers.device = "cuda:1"
    hashes = hashes_of([1, 2, 3])
    driver.keep(hashes)
    assert driver.load(hashes) == 3
    with driver.cache.acquire(hashes) as lease:
        assert driver.cache.load(lease, driver.engine.layers, [5, 6, 7], stream=77).wait(WAIT_S)
    assert device.calls == [("gather", None, 1), ("scatter", None, 1), ("scatter", 77, 1)]


def test_a_device_that_fails_publishes_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    device = Device(monkeypatch)
    driver = make(8)
    driver.engine.layers.device = "cuda:1"
    device.fails = True
    ids = driver.engine.block_ids[:3]
    transfer = driver.cache.store(hashes_of([1, 2, 3]), driver.engine.layers, ids)
    with pytest.raises(RuntimeError, match="the device is gone"):
        transfer.wait(WAIT_S)
    stats = driver.cache.stats()
    assert (stats.host.in_flight_blocks, stats.host.free_blocks) == (0, 8)
    assert driver.load(hashes_of([1, 2, 3])) == 0
