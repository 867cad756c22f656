"""Stores: what they give is what was put, byte for byte; what they cannot give is a miss."""

from __future__ import annotations

import gc
import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule
from models.chains import Hashes, hashes_of
from support.batches import WAIT_S, outcomes
from support.store_calls import (
    KINDS,
    MOONCAKE,
    PAGE,
    SERVERS,
    NewStore,
    get,
    on_server,
    put,
)

from kvcore import HostSlab
from kvcore._core import Outcome, has_uring
from kvcore.stores import (
    DiskStore,
    InfiniStoreStore,
    MooncakeStore,
    RedisStore,
    Store,
)
from kvcore.verify import payload


@pytest.fixture(params=[*KINDS, *SERVERS])
def new_store(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[NewStore]:
    if request.param == "uring" and not has_uring():
        pytest.skip("this build or this kernel has no io_uring")
    made: list[Store] = []
    kind: str = request.param
    if kind in SERVERS:
        new_of_kind = on_server(kind, request.getfixturevalue(kind), os.urandom(16))
    else:
        new_of_kind = KINDS[kind](tmp_path)

    def new(value_bytes: int, max_bytes: int = 1 << 20, **options: Any) -> Store:
        made.append(new_of_kind(value_bytes, max_bytes=max_bytes, **options))
        return made[-1]

    yield new
    for store in made:
        store.close()


@pytest.mark.parametrize("value_bytes", [1, 64, 1000, PAGE, PAGE + 1, 3 * PAGE, 100_000])
def test_what_is_put_comes_back(new_store: NewStore, value_bytes: int) -> None:
    store = new_store(value_bytes)
    assert store.value_bytes == value_bytes
    hashes = hashes_of(range(5))
    assert get(store, hashes) == [Outcome.MISS] * 5
    assert put(store, hashes) == [Outcome.DONE] * 5
    assert get(store, hashes[::-1].copy()) == [Outcome.DONE] * 5
    slab = HostSlab(7, value_bytes)
    assert get(store, hashes, slab) == [Outcome.DONE] * 5
    stats = store.stats()
    assert (stats.gets, stats.hits, stats.misses, stats.puts, stats.written) == (15, 10, 5, 5, 5)
    assert (stats.num_values, stats.corrupt, stats.failed, stats.timed_out) == (5, 0, 0, 0)
    assert (stats.read_bytes, stats.written_bytes) == (10 * value_bytes, 5 * value_bytes)


def test_keys_are_independent(new_store: NewStore) -> None:
    store = new_store(100)
    hashes = hashes_of(range(6))
    put(store, hashes[::2].copy())
    done, miss = Outcome.DONE, Outcome.MISS
    assert get(store, hashes) == [done, miss, done, miss, done, miss]
    assert outcomes(store.contains(hashes, WAIT_S)) == [done, miss, done, miss, done, miss]
    assert store.match(hashes) == 1
    put(store, hashes[1:2])
    assert store.match(hashes) == 3


def test_nothing_is_fine(new_store: NewStore) -> None:
    store = new_store(100)
    none = hashes_of([])
    for batch in (
        store.get_into(none, np.zeros((1, 100), np.uint8), [], WAIT_S),
        store.put_from(none, np.zeros((1, 100), np.uint8), [], WAIT_S),
        store.contains(none, None),
        store.remove(none, None),
    ):
        assert outcomes(batch) == []
        assert batch.is_quiet()
    assert store.match(none) == 0


def test_what_is_there_is_not_written_again(new_store: NewStore) -> None:
    store = new_store(100)
    hashes = hashes_of([1])
    put(store, hashes)
    other = np.zeros((1, 100), np.uint8)
    assert outcomes(store.put_from(hashes, other, [0], WAIT_S)) == [Outcome.DONE]
    assert get(store, hashes) == [Outcome.DONE]
    assert store.stats().written == 1


def test_what_is_removed_is_gone(new_store: NewStore) -> None:
    store = new_store(100)
    hashes = hashes_of(range(4))
    put(store, hashes)
    assert outcomes(store.remove(hashes[1:3], WAIT_S)) == [Outcome.DONE] * 2
    assert outcomes(store.remove(hashes[1:3], WAIT_S)) == [Outcome.MISS] * 2
    assert get(store, hashes) == [Outcome.DONE, Outcome.MISS, Outcome.MISS, Outcome.DONE]
    assert put(store, hashes) == [Outcome.DONE] * 4
    assert get(store, hashes) == [Outcome.DONE] * 4


def test_a_full_store_evicts_what_was_not_used(new_store: NewStore) -> None:
    store = new_store(PAGE - 128, max_bytes=2 * PAGE * 8)
    if isinstance(store, InfiniStoreStore | MooncakeStore | RedisStore):
        pytest.skip("servers evict by a rule of their own")
    room = store.stats().max_bytes // (store.stats().max_bytes // 8)
    assert room == 8
    slots = 8 if isinstance(store, DiskStore) else 16
    hashes = hashes_of(range(slots + 2))
    put(store, hashes[:slots])
    assert get(store, hashes[:1]) == [Outcome.DONE]
    put(store, hashes[slots:])
    assert get(store, hashes) == [
        Outcome.DONE,
        Outcome.MISS,
        Outcome.MISS,
        *[Outcome.DONE] * (slots - 1),
    ]
    stats = store.stats()
    assert (stats.num_values, stats.evictions) == (slots, 2)
    assert stats.used_bytes <= 2 * PAGE * 8


def test_an_outcome_is_late_after_the_deadline(new_store: NewStore) -> None:
    store = new_store(100)
    hashes = hashes_of([1, 2])
    put(store, hashes)
    slab = np.zeros((2, 100), np.uint8)
    batch = store.get_into(hashes, slab, [0, 1], 0.0)
    assert outcomes(batch) == [Outcome.TIMED_OUT] * 2
    until = time.monotonic() + WAIT_S
    while not batch.is_quiet():
        assert time.monotonic() < until
    assert store.stats().timed_out == 2


def test_a_closed_store_finds_nothing(new_store: NewStore) -> None:
    store = new_store(100)
    hashes = hashes_of([1])
    put(store, hashes)
    store.close()
    store.close()
    assert store.match(hashes) == 0
    assert store.contains(hashes, WAIT_S).outcomes.tolist() == [Outcome.MISS]
    assert get(store, hashes) == [Outcome.MISS]
    assert put(store, hashes_of([2])) == [Outcome.FAILED]
    assert store.stats().failed == 1


def test_closing_ends_what_is_under_way(new_store: NewStore) -> None:
    store = new_store(100_000, max_bytes=1 << 25)
    hashes = hashes_of(range(200))
    blocks = np.zeros((200, 100_000), np.uint8)
    batch = store.put_from(hashes, blocks, np.arange(200), WAIT_S)
    store.close()
    assert batch.is_quiet()
    assert {Outcome(o) for o in batch.outcomes} <= {Outcome.DONE, Outcome.CANCELLED}


def test_a_batch_that_is_dropped_keeps_its_memory(new_store: NewStore) -> None:
    store = new_store(100_000, max_bytes=1 << 25)
    hashes = hashes_of(range(100))
    for _ in range(3):
        slab = HostSlab(100, 100_000)
        slab.numpy()[:] = payload(hashes, 100_000)
        store.put_from(hashes, slab, np.arange(100), WAIT_S)
        del slab
        gc.collect()
    until = time.monotonic() + WAIT_S
    while store.stats().num_values < 100:
        assert time.monotonic() < until
    assert get(store, hashes) == [Outcome.DONE] * 100


def test_a_cancelled_batch_is_decided(new_store: NewStore) -> None:
    store = new_store(100_000, max_bytes=1 << 25)
    hashes = hashes_of(range(100))
    blocks = np.zeros((100, 100_000), np.uint8)
    batch = store.put_from(hashes, blocks, np.arange(100), WAIT_S)
    batch.cancel()
    assert Outcome.PENDING not in batch.outcomes
    until = time.monotonic() + WAIT_S
    while not batch.is_quiet():
        assert time.monotonic() < until


class OnDevice:
    """An array of a GPU, as far as anybody can see from here."""

    __cuda_array_interface__ = {  # noqa: RUF012
        "data": (1 << 40, False),
        "shape": (2, 100),
        "typestr": "|u1",
        "version": 3,
    }


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda s: s.get_into(hashes_of([1]), np.zeros((2, 99), np.uint8), [0], 1.0), "slab must"),
        (lambda s: s.get_into(hashes_of([1]), np.zeros((2, 100)), [0], 1.0), "slab must be uint8"),
        (lambda s: s.get_into(hashes_of([1]), "slab", [0], 1.0), "slab must be"),
        (lambda s: s.get_into(hashes_of([1]), OnDevice(), [0], 1.0), "slab must be in the host's"),
        (lambda s: s.put_from(hashes_of([1]), OnDevice(), [0], 1.0), "slab must be in the host's"),
        (lambda s: s.get_into(hashes_of([1]), np.zeros((2, 100), np.uint8), [2], 1.0), "below the"),
        (lambda s: s.get_into(hashes_of([1]), np.zeros((2, 100), np.uint8), [], 1.0), "as many as"),
        (
            lambda s: s.get_into(hashes_of([1, 2]), np.zeros((2, 100), np.uint8), [0, 0], 1.0),
            "slab_blocks must differ, got 0 twice",
        ),
        (lambda s: s.put_from(hashes_of([1]), np.zeros((2, 100), np.uint8), [0.5], 1.0), "slab_bl"),
        (lambda s: s.put_from(hashes_of([1]), np.zeros((2, 100), np.uint8), [0], -1), "timeout_s"),
        (lambda s: s.put_from(hashes_of([1]), np.zeros((2, 100), np.uint8), [0], "1"), "timeout_s"),
        (lambda s: s.contains(np.zeros((2, 15), np.uint8), 1.0), "hashes must be"),
        (lambda s: s.remove([1], 1.0), "hashes must be"),
        (lambda s: s.match(None), "hashes must be"),
    ],
)
def test_wrong_calls_begin_nothing(
    new_store: NewStore, call: Callable[[Store], object], message: str
) -> None:
    store = new_store(100)
    with pytest.raises((TypeError, ValueError), match=message):
        call(store)
    stats = store.stats()
    assert (stats.gets, stats.puts, stats.num_values) == (0, 0, 0)


class StoreBesideDict(RuleBasedStateMachine):
    """A store may forget; what it gives is what was put. Keys are small, so they meet often."""

    new: NewStore

    @initialize()
    def open(self) -> None:
        self.store = self.new(1000, max_bytes=6 * 2 * PAGE)
        self.known: set[int] = set()

    def teardown(self) -> None:
        if hasattr(self, "store"):
            self.store.close()

    keys = st.lists(st.integers(0, 12), max_size=6, unique=True)

    @rule(keys=keys)
    def put(self, keys: list[int]) -> None:
        for key, outcome in zip(keys, put(self.store, hashes_each(keys)), strict=True):
            assert outcome in (Outcome.DONE, Outcome.MISS)
            if outcome == Outcome.DONE:
                self.known.add(key)

    @rule(keys=keys)
    def get(self, keys: list[int]) -> None:
        for key, outcome in zip(keys, get(self.store, hashes_each(keys)), strict=True):
            assert outcome in (Outcome.DONE, Outcome.MISS)
            assert outcome == Outcome.MISS or key in self.known

    @rule(keys=keys)
    def remove(self, keys: list[int]) -> None:
        outcomes(self.store.remove(hashes_each(keys), WAIT_S))
        self.known -= set(keys)
        assert outcomes(self.store.contains(hashes_each(keys), WAIT_S)) == [Outcome.MISS] * len(
            keys
        )

    @invariant()
    def holds_no_more_than_it_may(self) -> None:
        if hasattr(self, "store"):
            stats = self.store.stats()
            assert stats.used_bytes <= stats.max_bytes
            assert stats.num_values <= len(self.known)
            assert stats.corrupt == 0


class DiskBesideDict(StoreBesideDict):
    @rule()
    def reopen(self) -> None:
        values = self.store.stats().num_values
        self.store.close()
        self.store = self.new(1000, max_bytes=6 * 2 * PAGE)
        assert self.store.stats().num_values == values


def hashes_each(keys: list[int]) -> Hashes:
    return np.concatenate([hashes_of([]), *[hashes_of([key]) for key in keys]])


@pytest.mark.parametrize("kind", [*KINDS, "redis", "valkey", *MOONCAKE])
def test_any_life(kind: str, tmp_path: Path, request: pytest.FixtureRequest) -> None:
    server = request.getfixturevalue(kind) if kind in SERVERS else None
    if kind == "uring" and not has_uring():
        pytest.skip("this build or this kernel has no io_uring")
    count = iter(range(1 << 30))
    machine = StoreBesideDict if server or kind == "memory" else DiskBesideDict

    class Machine(machine):  # type: ignore[misc, valid-type]
        def open(self) -> None:
            if server:
                self.new = on_server(kind, server, os.urandom(16))
            else:
                self.new = KINDS[kind](tmp_path / str(next(count)))
            super().open()

        open = initialize()(open)

    from hypothesis.stateful import run_state_machine_as_test

    run_state_machine_as_test(Machine, settings=settings(max_examples=20, stateful_step_count=20))
