"""KVCache and a store that is slow: an engine waits no longer than it said."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from models.chains import Hashes, hashes_of
from support.driver import BLOCK_BYTES, WAIT_S, Driver, make

from kvcore import HostSlab, KVCache
from kvcore._core import BlockState, Outcome
from kvcore.verify import Engine


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
