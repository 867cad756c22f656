"""KVCache: what an engine stores comes back as it was, from slab or store, or not at all."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from models.chains import Hashes, hashes_of

from kvcore import HostSlab, KVCache, Namespace, RequestInfo
from kvcore._core import BlockState, Outcome
from kvcore.copies import CopyPool, TransferPlan
from kvcore.layers import PagedLayers
from kvcore.stores import DiskStore, MemoryStore, Store
from kvcore.verify import Engine, payload

BLOCK_BYTES = 256
FINGERPRINT = Namespace("test").fingerprint
WAIT_S = 30.0


@pytest.fixture(params=["memory", "disk"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Store]:
    made: Store = (
        MemoryStore(FINGERPRINT, BLOCK_BYTES, max_bytes=1 << 22)
        if request.param == "memory"
        else DiskStore(tmp_path, FINGERPRINT, BLOCK_BYTES, max_bytes=1 << 22)
    )
    yield made
    made.close()


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


# --- Slab alone ---------------------------------------------------------------------------------


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


# --- With a store -------------------------------------------------------------------------------


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


# --- A store that is slow -----------------------------------------------------------------------


class StuckBatch:
    """No real store hangs when it is told to."""

    def __init__(self, num_keys: int) -> None:
        self.outcomes = np.full(num_keys, Outcome.PENDING, np.uint8)
        self.quiet = False

    def wait(self) -> None:
        self.outcomes[self.outcomes == Outcome.PENDING] = Outcome.TIMED_OUT

    def cancel(self) -> None:
        self.outcomes[self.outcomes == Outcome.PENDING] = Outcome.CANCELLED

    def is_quiet(self) -> bool:
        return self.quiet


class StuckStore:
    """Says it has everything, and never answers; its memory comes back when `let_go` is called."""

    value_bytes = BLOCK_BYTES

    def __init__(self) -> None:
        self.gets: list[StuckBatch] = []
        self.puts: list[StuckBatch] = []

    def match(self, hashes: Hashes, *, positions: Any) -> int:
        return len(hashes)

    def get_into(
        self, hashes: Hashes, slab: Any, blocks: Any, timeout_s: float, *, positions: Any
    ) -> StuckBatch:
        self.gets.append(StuckBatch(len(hashes)))
        return self.gets[-1]

    def put_from(
        self, hashes: Hashes, slab: Any, blocks: Any, timeout_s: float, *, positions: Any
    ) -> StuckBatch:
        self.puts.append(StuckBatch(len(hashes)))
        return self.puts[-1]

    def let_go(self) -> None:
        for batch in [*self.gets, *self.puts]:
            batch.wait()
            batch.quiet = True

    def contains(self, hashes: Hashes, timeout_s: float) -> StuckBatch:
        raise NotImplementedError

    def remove(self, hashes: Hashes, timeout_s: float) -> StuckBatch:
        raise NotImplementedError

    def stats(self) -> None:
        return None

    def close(self) -> None:
        pass


def stuck(num_blocks: int, **options: Any) -> tuple[Driver, StuckStore]:
    store = StuckStore()
    return make(num_blocks, store, **options), store  # type: ignore[arg-type]


def test_memory_that_a_late_store_may_still_write_is_nobodys() -> None:
    driver, store = stuck(4)
    assert driver.fetch(hashes_of([1, 2])) == 0
    assert driver.cache.stats().host.in_flight_blocks == 2
    assert driver.keep(hashes_of([7, 8, 9])).tolist()[2] == BlockState.BYPASSED
    store.let_go()
    assert driver.cache.stats().host.in_flight_blocks == 0
    assert driver.load(hashes_of([1, 2])) == 0


def test_what_came_before_a_fetch_was_cancelled_stays() -> None:
    driver, store = stuck(4)
    prefetch = driver.cache.prefetch(driver.cache.lookup(hashes_of([1, 2, 3])), timeout_s=1.0)
    assert prefetch is not None
    assert not prefetch.done()
    store.gets[0].outcomes[[0, 2]] = Outcome.DONE
    prefetch.cancel()
    assert prefetch.done()
    assert prefetch.wait() == 1
    stats = driver.cache.stats()
    assert (stats.fetched, stats.not_fetched) == (1, 2)


def test_dirty_blocks_stay_and_no_more_than_allowed_wait() -> None:
    driver, store = stuck(8, max_dirty=0.25)
    driver.keep(hashes_of([1, 2, 3]))
    stats = driver.cache.stats()
    assert (stats.dirty, stats.not_written) == (2, 1)
    driver.keep(hashes_of(range(10, 18)))
    assert driver.cache.lookup(hashes_of([1, 2])).host_blocks == 2
    store.let_go()
    stats = driver.cache.stats()
    assert (stats.dirty, stats.written, stats.host.num_leases) == (0, 0, 0)
    driver.keep(hashes_of(range(20, 28)))
    assert driver.cache.lookup(hashes_of([1, 2])).host_blocks == 0


def test_only_what_is_to_be_written_is_held() -> None:
    driver, store = stuck(8, max_dirty=0.25)
    driver.keep(hashes_of(range(8)))
    assert driver.cache.stats().dirty == 2
    assert (driver.keep(hashes_of(range(10, 16))) == BlockState.NEW).all()
    assert store.puts[0].outcomes.shape == (2,)


def test_a_store_that_refuses_to_write_costs_nothing_but_that(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    driver, store = stuck(8, max_dirty=0.25)
    with monkeypatch.context() as broken:
        broken.setattr(store, "put_from", lambda *_, **__: 1 / 0)
        driver.keep(hashes_of([1, 2, 3]))
    assert "refused 2 blocks" in caplog.text
    stats = driver.cache.stats()
    assert (stats.dirty, stats.not_written, stats.host.num_leases) == (0, 3, 0)
    assert driver.load(hashes_of([1, 2, 3])) == 3
    driver.keep(hashes_of([11, 12]))
    assert driver.cache.stats().dirty == 2


def test_a_store_that_refuses_to_read_leaves_nothing_behind(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    driver, store = stuck(8)
    monkeypatch.setattr(store, "get_into", lambda *_, **__: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        driver.fetch(hashes_of([1, 2]))
    assert driver.cache.stats().host.in_flight_blocks == 0


def test_a_cancelled_save_keeps_its_places_until_nobody_writes_there() -> None:
    block_bytes = 16 << 20
    cache = KVCache(HostSlab(1, block_bytes), copy_threads=2)
    engines = [Engine(1, block_bytes) for _ in range(3)]
    for engine, number in zip(engines, (0xAA, 0xBB, 0), strict=True):
        engine.write(np.zeros(1, np.uint32), np.full((1, block_bytes), number, np.uint8))
    for round_ in range(10):
        cancelled = cache.store(hashes_of([round_]), engines[0].layers, [0])
        cancelled.cancel()
        assert cache.store(hashes_of([100 + round_]), engines[1].layers, [0]).wait(WAIT_S)
        assert cancelled.wait(WAIT_S)
        with cache.acquire(hashes_of([100 + round_])) as lease:
            assert cache.load(lease, engines[2].layers, [0][: lease.num_blocks]).wait(WAIT_S)
            if lease.num_blocks > 0:
                assert (engines[2].read(np.zeros(1, np.uint32)) == 0xBB).all()


def test_closing_waits_no_longer_than_writes_may_take() -> None:
    driver, store = stuck(8, write_timeout_s=0.05)
    driver.keep(hashes_of([1, 2]))
    assert not driver.cache.flush(0.0)
    driver.cache.close()
    assert driver.cache.stats().dirty == 2
    store.let_go()
    assert driver.cache.flush(0.0)


# --- Threads ------------------------------------------------------------------------------------


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


# --- Wrong calls --------------------------------------------------------------------------------


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


# --- Devices ------------------------------------------------------------------------------------


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
