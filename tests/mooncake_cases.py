"""MooncakeStore and a real cluster of one node. `test_mooncake.py` runs these."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
from models.chains import Hashes
from support.batches import WAIT_S, chain, outcomes, wait_quiet
from support.mooncake_server import MooncakeMaster
from test_redis import WRONG

from kvcore import HostSlab
from kvcore.stores import MooncakeStore, Outcome, open_store
from kvcore.verify import payload

SIZE = 4096
DONE, MISS, FAILED = Outcome.DONE, Outcome.MISS, Outcome.FAILED
NewStore = Callable[..., MooncakeStore]
Start = Callable[..., MooncakeMaster]


@pytest.fixture
def new_store(start_mooncake: Start) -> Iterator[NewStore]:
    """Makes stores that share values, and closes them before their clients end."""
    made: list[MooncakeStore] = []
    fingerprint = os.urandom(16)

    def new(master: MooncakeMaster, size: int = SIZE, **options: Any) -> MooncakeStore:
        options = {"client": master.client, "stall_s": 5.0, "first_probe_s": 0.05} | options
        made.append(MooncakeStore(master.address, fingerprint, size, **options))
        return made[-1]

    yield new
    for store in made:
        store.close()


def put(store: MooncakeStore, hashes: Hashes) -> list[Outcome]:
    blocks = payload(hashes, store.value_bytes)
    return outcomes(store.put_from(hashes, blocks, np.arange(len(hashes)), WAIT_S))


def get(store: MooncakeStore, hashes: Hashes, timeout_s: float = WAIT_S) -> list[Outcome]:
    expected = payload(hashes, store.value_bytes)
    blocks = ~expected
    came = outcomes(store.get_into(hashes, blocks, np.arange(len(hashes)), timeout_s))
    for block, wanted, outcome in zip(blocks, expected, came, strict=True):
        assert outcome != DONE or np.array_equal(block, wanted)
    return came


def wait_until_well(store: MooncakeStore) -> None:
    until = time.monotonic() + WAIT_S
    while store.last_error is not None:
        assert time.monotonic() < until
        time.sleep(0.01)


def test_a_node_of_its_own_finds_what_another_wrote(
    mooncake: MooncakeMaster, new_store: NewStore
) -> None:
    """One that gives memory as well; its values go when it closes."""
    first, second = new_store(mooncake), new_store(mooncake, client=None, segment_bytes=64 << 20)
    hashes = chain(300)
    assert put(first, hashes[:150]) == [DONE] * 150
    assert put(second, hashes[150:].copy()) == [DONE] * 150
    for store in (first, second):
        assert outcomes(store.contains(hashes, WAIT_S)) == [DONE] * 300
        assert get(store, hashes) == [DONE] * 300
        assert store.match(hashes) == 300
    assert second.stats().written == 150
    second.close()
    assert get(first, hashes).count(DONE) >= 1


def test_many_slabs_take_turns(mooncake: MooncakeMaster, new_store: NewStore) -> None:
    store = new_store(mooncake)
    hashes = chain(20)
    assert put(store, hashes) == [DONE] * 20
    slabs = [HostSlab(20, SIZE) for _ in range(12)]
    for slab in [*slabs, *slabs]:
        assert outcomes(store.get_into(hashes, slab, np.arange(20), WAIT_S)) == [DONE] * 20
        assert np.array_equal(slab.numpy(), payload(hashes, SIZE))
        part = slab.numpy()[5:9]
        assert outcomes(store.get_into(hashes[:4], part, np.arange(4), WAIT_S)) == [DONE] * 4


@pytest.mark.parametrize("wrong", [name for name in WRONG if name != "empty"])
def test_wrong_bytes_are_never_handed_out(
    mooncake: MooncakeMaster, new_store: NewStore, wrong: str
) -> None:
    store = new_store(mooncake)
    hashes = chain(5)
    put(store, hashes)
    prefix = store._lanes._lanes[0]._prefix  # type: ignore[attr-defined]
    names = [prefix + each.tobytes().hex() for each in hashes]
    value, other = (mooncake.client.get(names[i]) for i in (2, 3))
    assert len(value) == 128 + SIZE
    assert mooncake.client.remove(names[2], True) == 0
    assert mooncake.client.put(names[2], WRONG[wrong](value, other)) == 0
    assert get(store, hashes) == [DONE, DONE, Outcome.CORRUPT, DONE, DONE]
    assert mooncake.client.is_exist(names[2]) == 0
    assert store.stats().corrupt == 1
    assert put(store, hashes) == [DONE] * 5
    assert get(store, hashes) == [DONE] * 5


def test_a_full_cluster_has_no_room(start_mooncake: Start, new_store: NewStore) -> None:
    store = new_store(start_mooncake(segment_bytes=32 << 20), size=1 << 20)
    came = put(store, chain(60))
    assert set(came) == {DONE, MISS}
    assert store.stats().failed == 0
    assert store.last_error is None


def test_a_frozen_master_costs_its_time_once(start_mooncake: Start, new_store: NewStore) -> None:
    master = start_mooncake()
    store = new_store(master, stall_s=0.3)
    hashes = chain(20)
    put(store, hashes)
    master.freeze()
    began = time.monotonic()
    came = [get(store, hashes[:1], timeout_s=0.05)[0] for _ in range(500)]
    assert time.monotonic() - began < 2.0
    assert FAILED in came[-10:]
    assert set(came) == {Outcome.TIMED_OUT, FAILED}
    assert store.match(hashes) == 0
    master.thaw()
    wait_until_well(store)
    assert get(store, hashes) == [DONE] * 20


def test_a_master_dies_and_comes_back(start_mooncake: Start, new_store: NewStore) -> None:
    master = start_mooncake()
    store = new_store(master, stall_s=0.3)
    hashes = chain(20)
    put(store, hashes)
    master.kill()
    until = time.monotonic() + WAIT_S
    while get(store, hashes[:1], timeout_s=0.05) != [FAILED]:
        assert time.monotonic() < until
    began = time.monotonic()
    assert {get(store, hashes[:1])[0] for _ in range(500)} == {FAILED}
    assert time.monotonic() - began < 2.0
    master.start()
    wait_until_well(store)
    while put(store, hashes) != [DONE] * 20:  # until the node has given its memory again
        assert time.monotonic() < until
        time.sleep(0.1)
    assert get(store, hashes) == [DONE] * 20


def test_a_late_batch_gives_its_memory_back(mooncake: MooncakeMaster, new_store: NewStore) -> None:
    store = new_store(mooncake, size=1 << 20)
    hashes = chain(30)
    put(store, hashes)
    slab = HostSlab(30, 1 << 20)
    batch = store.get_into(hashes, slab, np.arange(30), 0.001)
    assert set(outcomes(batch)) <= {DONE, Outcome.TIMED_OUT}
    wait_quiet(batch)


def test_stores_by_url(mooncake: MooncakeMaster) -> None:
    url = f"mooncake://{mooncake.address}?segment_bytes=32MiB&stall_s=5&connections=1"
    store = open_store(url, os.urandom(16), SIZE)
    assert isinstance(store, MooncakeStore)
    hashes = chain(3)
    assert put(store, hashes) == [DONE] * 3
    assert get(store, hashes) == [DONE] * 3
    store.close()
