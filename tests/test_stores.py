"""Stores: what they give is what was put, byte for byte; what they cannot give is a miss."""

from __future__ import annotations

import gc
import os
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule
from models.chains import Hashes, hashes_of
from models.processes import PYTHON

from kvcore import HostSlab, Namespace
from kvcore._core import Outcome, has_uring
from kvcore.stores import (
    Batch,
    DiskStore,
    InfiniStoreStore,
    MemoryStore,
    MooncakeStore,
    RedisStore,
    Server,
    Store,
    open_store,
)
from kvcore.verify import payload

FINGERPRINT = Namespace("test").fingerprint
WAIT_S = 30.0
PAGE = 4096

NewStore = Callable[..., Store]


def disk(io: str, direct: bool) -> Callable[[Path], NewStore]:
    def of(path: Path) -> NewStore:
        def new(value_bytes: int, **options: Any) -> Store:
            return DiskStore(path, FINGERPRINT, value_bytes, io=io, direct=direct, **options)

        return new

    return of


def memory(path: Path) -> NewStore:
    def new(value_bytes: int, **options: Any) -> Store:
        return MemoryStore(FINGERPRINT, value_bytes, **options)

    return new


KINDS = {
    "memory": memory,
    "threads": disk("threads", True),
    "threads cached": disk("threads", False),
    "uring": disk("uring", True),
}


# Mooncake where test_mooncake.py has made room for it.
MOONCAKE = ["mooncake"] if os.environ.get("KVCORE_TEST_MOONCAKE") else []
SERVERS = ["infinistore", "redis", "valkey", *MOONCAKE]


def on_server(kind: str, server: Any, fingerprint: bytes) -> NewStore:
    """Stores on a server that tests share. What it holds has a rule of its own."""

    def new(value_bytes: int, **options: Any) -> Store:
        if kind == "infinistore":
            servers = [Server(*server.address)]
            return InfiniStoreStore(servers, fingerprint, value_bytes, stall_s=WAIT_S)
        if kind == "mooncake":
            return MooncakeStore(
                server.address, fingerprint, value_bytes, client=server.client, stall_s=WAIT_S
            )
        return RedisStore(server.url, fingerprint, value_bytes, stall_s=WAIT_S)

    return new


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


def outcomes(batch: Batch) -> list[Outcome]:
    batch.wait()
    return [Outcome(outcome) for outcome in batch.outcomes.tolist()]


def put(store: Store, hashes: Hashes) -> list[Outcome]:
    """Values that follow from the hashes, from memory that nothing is aligned in."""
    blocks = np.zeros((len(hashes) + 1, store.value_bytes + 3), np.uint8)
    size = -(-store.value_bytes // 8) * 8
    blocks[:-1, : store.value_bytes] = payload(hashes, size)[:, : store.value_bytes]
    return outcomes(store.put_from(hashes, blocks, np.arange(len(hashes)), WAIT_S))


def get(store: Store, hashes: Hashes, slab: Any = None) -> list[Outcome]:
    """Reads them; those that came are as they were put, and nothing else was written."""
    size = store.value_bytes
    if slab is None:
        slab = np.zeros((len(hashes) + 2, size + 3), np.uint8)
    blocks = np.asarray(slab)
    blocks[:] = 0xA5
    places = np.arange(1, len(hashes) + 1)[::-1]
    batch = store.get_into(hashes, slab, places, WAIT_S)
    came = outcomes(batch)
    expected = payload(hashes, -(-size // 8) * 8)[:, :size]
    for i, outcome in enumerate(came):
        if outcome == Outcome.DONE:
            assert np.array_equal(blocks[places[i], :size], expected[i])
    assert (blocks[[0, -1]] == 0xA5).all()
    assert (blocks[:, size:] == 0xA5).all()
    until = time.monotonic() + WAIT_S
    while not batch.is_quiet():
        assert time.monotonic() < until
    return came


# --- All stores ---------------------------------------------------------------------------------


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


# --- Disk ---------------------------------------------------------------------------------------


@pytest.fixture(params=["threads", "uring"])
def io(request: pytest.FixtureRequest) -> str:
    if request.param == "uring" and not has_uring():
        pytest.skip("this build or this kernel has no io_uring")
    name: str = request.param
    return name


def new_disk(path: Path, io: str = "auto", **options: Any) -> DiskStore:
    return DiskStore(path, FINGERPRINT, 1000, **({"max_bytes": 1 << 20, "io": io} | options))


def value_file(path: Path) -> Path:
    """The one that has values; the others are empty."""
    [file] = [f for f in path.glob("values-*") if f.stat().st_size > 0]
    return file


@pytest.mark.parametrize("fsync", ["never", "each"])
def test_the_next_store_in_a_directory_has_what_was_there(
    tmp_path: Path, io: str, fsync: str
) -> None:
    hashes = hashes_of(range(10))
    store = new_disk(tmp_path, io, fsync=fsync)
    assert store.io == io
    put(store, hashes)
    outcomes(store.remove(hashes[3:5], WAIT_S))
    store.close()
    again = new_disk(tmp_path, io)
    assert again.stats().num_values == 8
    assert get(again, hashes) == [Outcome.DONE] * 3 + [Outcome.MISS] * 2 + [Outcome.DONE] * 5
    again.close()


@pytest.mark.parametrize("slots", [3, 64, 65, 500])
def test_a_store_may_be_smaller_or_larger_than_before(tmp_path: Path, slots: int) -> None:
    hashes = hashes_of(range(200))
    store = new_disk(tmp_path, max_bytes=200 * 2 * PAGE)
    put(store, hashes)
    store.close()
    store = new_disk(tmp_path, max_bytes=slots * 2 * PAGE)
    assert store.stats().num_values == min(slots, 200)
    assert get(store, hashes).count(Outcome.DONE) == min(slots, 200)
    more = hashes_of(range(1000, 1300))
    put(store, more)
    assert store.stats().num_values == min(slots, 500)
    store.close()
    sizes = [file.stat().st_size for file in tmp_path.glob("values-*")]
    assert sum(sizes) <= -(-slots // 64) * 64 * 2 * PAGE


@pytest.mark.parametrize("at", [0, 8, 16, 40, 60, 120, PAGE, PAGE + 999])
def test_a_flipped_bit_is_a_counted_miss(tmp_path: Path, io: str, at: int) -> None:
    store = new_disk(tmp_path, io)
    hashes = hashes_of(range(3))
    put(store, hashes)
    flip(value_file(tmp_path), hashes[1], at)
    assert get(store, hashes) == [Outcome.DONE, Outcome.CORRUPT, Outcome.DONE]
    assert get(store, hashes) == [Outcome.DONE, Outcome.MISS, Outcome.DONE]
    assert store.stats().corrupt == 1
    assert put(store, hashes) == [Outcome.DONE] * 3
    assert get(store, hashes) == [Outcome.DONE] * 3
    store.close()


def flip(file: Path, of: npt.NDArray[np.uint8], at: int) -> None:
    """Flips a bit of the slot whose envelope has that hash."""
    content = file.read_bytes()
    slot = content.index(of.tobytes()) - 32
    with file.open("r+b") as stream:
        stream.seek(slot + at)
        stream.write(bytes([content[slot + at] ^ 4]))


def test_a_value_in_the_place_of_another_is_corrupt(tmp_path: Path) -> None:
    store = new_disk(tmp_path)
    hashes = hashes_of(range(2))
    put(store, hashes)
    file = value_file(tmp_path)
    content = file.read_bytes()
    one, other = (content.index(h.tobytes()) - 32 for h in hashes)
    with file.open("r+b") as stream:
        stream.seek(one)
        stream.write(content[other : other + 2 * PAGE])
    assert get(store, hashes) == [Outcome.CORRUPT, Outcome.DONE]
    store.close()


def test_files_that_were_cut_or_emptied_are_misses(tmp_path: Path, io: str) -> None:
    store = new_disk(tmp_path, io)
    hashes = hashes_of(range(4))
    put(store, hashes)
    file = value_file(tmp_path)
    os.truncate(file, 2 * PAGE + 100)
    assert get(store, hashes).count(Outcome.DONE) == 1
    assert store.stats().corrupt == 3
    os.truncate(file, 0)
    assert get(store, hashes).count(Outcome.CORRUPT) == 1
    assert put(store, hashes) == [Outcome.DONE] * 4
    assert get(store, hashes) == [Outcome.DONE] * 4
    store.close()


def test_a_device_without_room_fails_and_goes_on(tmp_path: Path, io: str) -> None:
    """A limit on the size of files stands in for a full device."""
    code = f"""
import resource, signal, sys
sys.path.insert(0, {str(Path(__file__).parent)!r})
from test_stores import *
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
store = new_disk(Path({str(tmp_path)!r}), {io!r})
put(store, hashes_of(range(4)))
resource.setrlimit(resource.RLIMIT_FSIZE, (8 * PAGE, resource.RLIM_INFINITY))
assert put(store, hashes_of(range(100, 104))) == [Outcome.FAILED] * 4
assert get(store, hashes_of(range(4))) == [Outcome.DONE] * 4
assert store.stats().failed == 4
resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
assert put(store, hashes_of(range(100, 104))) == [Outcome.DONE] * 4
assert get(store, hashes_of(range(100, 104))) == [Outcome.DONE] * 4
store.close()
"""
    subprocess.run([*PYTHON, "-c", code], check=True, timeout=WAIT_S)


def test_one_store_a_directory(tmp_path: Path) -> None:
    store = new_disk(tmp_path)
    with pytest.raises(OSError, match=r"another store has the directory .* open"):
        new_disk(tmp_path)
    store.close()
    new_disk(tmp_path).close()


def test_a_directory_is_of_one_namespace_and_size(tmp_path: Path) -> None:
    new_disk(tmp_path).close()
    with pytest.raises(ValueError, match="path must be a directory of a store of this namespace"):
        DiskStore(tmp_path, bytes(16), 1000, max_bytes=1 << 20)
    with pytest.raises(ValueError, match="value_bytes 1000"):
        DiskStore(tmp_path, FINGERPRINT, 1001, max_bytes=1 << 20)
    new_disk(tmp_path).close()


@pytest.mark.parametrize("text", ["", "kvcore disk store 2\n", "\0" * 100, None])
def test_a_manifest_of_something_else_is_an_error(tmp_path: Path, text: str | None) -> None:
    new_disk(tmp_path).close()
    manifest = tmp_path / "manifest"
    manifest.write_text(manifest.read_text().replace(" 64\n", " 0\n") if text is None else text)
    with pytest.raises(ValueError, match="path must be"):
        new_disk(tmp_path)


def test_random_bytes_in_the_files_are_nothing(tmp_path: Path) -> None:
    store = new_disk(tmp_path)
    put(store, hashes_of(range(8)))
    store.close()
    file = value_file(tmp_path)
    file.write_bytes(np.random.default_rng(0).bytes(16 * PAGE))
    store = new_disk(tmp_path)
    assert store.stats().num_values == 0
    assert get(store, hashes_of(range(8))) == [Outcome.MISS] * 8
    store.close()


@pytest.mark.parametrize("io_name", ["threads", "uring"])
@pytest.mark.parametrize("seed", range(6))
def test_a_kill_leaves_whole_values_only(tmp_path: Path, io_name: str, seed: int) -> None:
    """A small store, so that slots are written over, killed at some moment; twice."""
    if io_name == "uring" and not has_uring():
        pytest.skip("this build or this kernel has no io_uring")
    code = f"""
import sys
sys.path.insert(0, {str(Path(__file__).parent)!r})
from test_stores import *
store = DiskStore({str(tmp_path)!r}, FINGERPRINT, 50_000, max_bytes=30 * 57_344, io={io_name!r})
for i in range({seed} * 100_000, 1 << 30, 10):
    put(store, hashes_of(range(i, i + 10)))
    print(i, flush=True)
"""
    rng = np.random.default_rng(seed)
    last = 0
    for _ in range(2):
        writer = subprocess.Popen([*PYTHON, "-c", code], stdout=subprocess.PIPE, text=True)
        assert writer.stdout is not None
        for _ in range(int(rng.integers(1, 12))):
            last = max(last, int(writer.stdout.readline()))
        time.sleep(float(rng.uniform(0, 0.01)))
        writer.send_signal(signal.SIGKILL)
        more, _ = writer.communicate()
        last = max([last, *(int(line) for line in more.split()[:-1])])
        store = DiskStore(tmp_path, FINGERPRINT, 50_000, max_bytes=30 * 57_344)
        values = store.stats().num_values
        found = 0
        for i in range(seed * 100_000, last + 50, 10):
            came = get(store, hashes_of(range(i, i + 10)))
            assert set(came) <= {Outcome.DONE, Outcome.MISS}
            found += came.count(Outcome.DONE)
        assert found == values
        assert values > 0
        assert store.stats().corrupt == 0
        store.close()


def test_starting_reads_no_values(tmp_path: Path) -> None:
    """An index is rebuilt from envelopes; values are verified when they are read."""
    store = DiskStore(tmp_path, FINGERPRINT, 1 << 20, max_bytes=64 << 20)
    hashes = hashes_of(range(40))
    put(store, hashes)
    store.close()
    flip(value_file(tmp_path), hashes[7], PAGE)
    store = DiskStore(tmp_path, FINGERPRINT, 1 << 20, max_bytes=64 << 20)
    assert store.stats().num_values == 40
    came = get(store, hashes)
    assert came.index(Outcome.CORRUPT) == 7
    assert came.count(Outcome.DONE) == 39
    store.close()


# --- URLs and wrong arguments -------------------------------------------------------------------


def test_stores_by_url(tmp_path: Path) -> None:
    store = open_store("memory:?max_bytes=1.5KiB", FINGERPRINT, 256)
    assert isinstance(store, MemoryStore)
    assert isinstance(store, Store)
    assert store.stats().max_bytes == 4 * 384
    url = f"disk:{tmp_path}/a%20b?max_bytes=1MiB&fsync=each&direct=false&depth=3&io=threads"
    disk = open_store(url, FINGERPRINT, 256)
    assert isinstance(disk, DiskStore)
    assert isinstance(disk, Store)
    assert (disk.io, disk.is_direct, disk.stats().max_bytes) == ("threads", False, 1 << 20)
    assert (tmp_path / "a b" / "manifest").exists()
    disk.close()


@pytest.mark.parametrize(
    ("url", "message"),
    [
        (
            "tape:",
            "url must begin with memory: or disk: or infinistore: or .* or redis: .*, got 'tape:'",
        ),
        ("", "url must begin with"),
        ("disk:", "url must have a path after disk:"),
        ("disk://host/path", "no host, got 'host'"),
        ("disk:a#b?max_bytes=1MiB", "%23 for each '#'"),
        ("infinistore://", "url must have servers as host:port or host:port=weight, got ''"),
        ("infinistore://a:1,", "url must have servers as host:port or host:port=weight, got ''"),
        ("infinistore://a:b", "url must have servers"),
        ("infinistore://127.0.0.1:0", "port must be from 1 to 65535, got 0"),
        ("infinistore://127.0.0.1/x", "url must have no path after its servers, got '/x'"),
        ("infinistore://127.0.0.1?stall_s=x", "stall_s must be a number, got 'x'"),
        ("infinistore://127.0.0.1?max_bytes=1", "url must have options of chunk_blocks, .* 'max_b"),
        ("memory:path", "url must have no path after memory:"),
        ("memory:?max_byte=1", "url must have options of max_bytes for memory:, got 'max_byte'"),
        ("memory:?max_bytes=1e9", "max_bytes must be bytes, as 4096"),
        ("memory:?max_bytes=", "max_bytes must be bytes"),
        ("memory:?max_bytes=1MB", "max_bytes must be bytes"),
        ("memory:?max_bytes=100", "max_bytes must be 228 at least"),
        ("disk:x?depth=-1", "depth must be a whole number"),
        ("disk:x?direct=yes", "direct must be true or false"),
        (5, "url must be a str, got int"),
    ],
)
def test_wrong_urls(url: Any, message: str) -> None:
    with pytest.raises((TypeError, ValueError), match=message):
        open_store(url, FINGERPRINT, 100)
    assert not Path("x").exists()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"fingerprint": b"short"}, "fingerprint must be 16 bytes"),
        ({"fingerprint": "x" * 16}, "fingerprint must be 16 bytes"),
        ({"value_bytes": 0}, "value_bytes must be"),
        ({"value_bytes": 2**31 + 1}, "value_bytes must be"),
        ({"value_bytes": 2**31 - 8191, "max_bytes": 1 << 32}, "value_bytes must be at most 21474"),
        ({"max_bytes": 100}, "max_bytes must be 8192 at least, which one value takes, got 100"),
        ({"max_bytes": 0}, "max_bytes must be"),
        ({"fsync": "often"}, "fsync must be 'never' or 'each', got 'often'"),
        ({"depth": 0}, "depth must be"),
        ({"depth": 257}, "depth must be"),
        ({"io": "aio"}, "io must be 'auto', 'uring' or 'threads'"),
    ],
)
def test_wrong_disks(tmp_path: Path, change: dict[str, Any], message: str) -> None:
    arguments = {"fingerprint": FINGERPRINT, "value_bytes": 100, "max_bytes": 1 << 20} | change
    fingerprint, value_bytes = arguments.pop("fingerprint"), arguments.pop("value_bytes")
    with pytest.raises((TypeError, ValueError), match=message):
        DiskStore(tmp_path / "store", fingerprint, value_bytes, **arguments)


def test_a_directory_grows_to_a_number_of_files(tmp_path: Path) -> None:
    new_disk(tmp_path).close()
    before = sorted(tmp_path.iterdir())
    with pytest.raises(ValueError, match=r"max_bytes must be at most .* which was made for less"):
        new_disk(tmp_path, max_bytes=1 << 40)
    assert sorted(tmp_path.iterdir()) == before


FORKED = """
import os, sys, time
from kvcore import HostSlab, KVCache, Namespace
from kvcore.stores import DiskStore, MemoryStore

def disk():
    return DiskStore(sys.argv[1], Namespace("test").fingerprint, 100, max_bytes=1 << 20)

for make in (
    disk,
    lambda: MemoryStore(Namespace("test").fingerprint, 100, max_bytes=1 << 20),
    lambda: KVCache(HostSlab(4, 4096)),
):
    made = make()
    if os.fork() == 0:
        del made
        os._exit(0)
    assert os.wait()[1] == 0
    made.close()

store = disk()
end, other_end = os.pipe()
if os.fork() == 0:
    os.close(other_end)
    os.read(end, 1)
    os._exit(0)
store.close()
disk().close()
"""


def test_a_forked_child_ends_and_holds_nothing(tmp_path: Path) -> None:
    subprocess.run([*PYTHON, "-c", FORKED, str(tmp_path)], check=True, timeout=60)


def test_a_path_that_is_no_directory_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(OSError, match="cannot make the directory"):
        new_disk(tmp_path / "file")
