"""KVCache.switch_store: another store takes the place of the one there is, and nothing is lost."""

from __future__ import annotations

import secrets
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from models.chains import Hashes, hashes_of
from support.infinistore import InfiniStoreServer

from kvcore import HostSlab, KVCache, Namespace
from kvcore.stores import DiskStore, MemoryStore, Outcome, Store
from kvcore.verify import Engine, payload

BLOCK_BYTES = 4096
FINGERPRINT = Namespace("test").fingerprint
WAIT_S = 30.0


class Node:
    """An engine over a cache of a few blocks, so that nearly all is in the store."""

    def __init__(self, store: Store | None, num_blocks: int = 8) -> None:
        self.cache = KVCache(HostSlab(num_blocks, BLOCK_BYTES), store, policy="lru", max_dirty=1.0)
        self.engine = Engine(64, BLOCK_BYTES)

    def keep(self, hashes: Hashes) -> None:
        ids = self.engine.block_ids[: len(hashes)]
        self.engine.write(ids, payload(hashes, BLOCK_BYTES))
        assert self.cache.store(hashes, self.engine.layers, ids).wait(WAIT_S)
        assert self.cache.flush(WAIT_S)

    def bring(self, hashes: Hashes) -> int:
        """Blocks that can be had, each one checked."""
        prefetch = self.cache.prefetch(self.cache.lookup(hashes), timeout_s=WAIT_S)
        if prefetch is not None:
            prefetch.wait()
        with self.cache.acquire(hashes) as lease:
            ids = self.engine.block_ids[: lease.num_blocks]
            if lease.num_blocks > 0:
                assert self.cache.load(lease, self.engine.layers, ids).wait(WAIT_S)
            expected = payload(hashes[: lease.num_blocks], BLOCK_BYTES)
            assert np.array_equal(self.engine.read(ids), expected)
            return lease.num_blocks

    def forget(self) -> None:
        """Pushes all that is in the slab out of it."""
        self.keep(hashes_of(range(900, 908)))


def memory() -> MemoryStore:
    return MemoryStore(FINGERPRINT, BLOCK_BYTES, max_bytes=1 << 22)


def is_closed(store: Store) -> bool:
    slab = HostSlab(1, BLOCK_BYTES)
    unknown = np.frombuffer(secrets.token_bytes(16), np.uint8).reshape(1, 16)
    batch = store.put_from(unknown, slab, [0], WAIT_S)
    batch.wait()
    return bool(batch.outcomes[0] == Outcome.FAILED)


def wait_until(is_so: Callable[[], bool]) -> None:
    end = time.monotonic() + WAIT_S
    while not is_so():
        assert time.monotonic() < end
        time.sleep(0.01)


@pytest.fixture
def stores() -> Iterator[tuple[MemoryStore, MemoryStore]]:
    old, new = memory(), memory()
    yield old, new
    old.close()
    new.close()


def test_the_old_store_is_read_and_fills_the_new_one(
    stores: tuple[MemoryStore, MemoryStore],
) -> None:
    old, new = stores
    node = Node(old)
    chain = hashes_of([1, 2, 3, 4])
    node.keep(chain)
    node.forget()
    node.cache.switch_store(new)
    assert node.cache.lookup(chain).store_blocks == 4
    assert new.match(chain) == 0
    assert node.bring(chain) == 4
    assert node.cache.flush(WAIT_S)
    assert new.match(chain) == 4
    assert old.stats().hits == 4
    assert new.stats().gets == 0


def test_the_new_store_alone_is_written(stores: tuple[MemoryStore, MemoryStore]) -> None:
    old, new = stores
    node = Node(old)
    node.cache.switch_store(new)
    chain = hashes_of([1, 2, 3])
    node.keep(chain)
    assert (old.match(chain), new.match(chain)) == (0, 3)
    node.forget()
    assert node.bring(chain) == 3
    assert old.stats().gets == 0


def test_who_has_more_of_a_chain_is_read(stores: tuple[MemoryStore, MemoryStore]) -> None:
    old, new = stores
    chain = hashes_of([1, 2, 3, 4])
    Node(new).keep(chain[:2])
    node = Node(old)
    node.keep(chain)
    node.forget()
    node.cache.switch_store(new)
    assert node.bring(chain) == 4
    assert (old.stats().hits, new.stats().hits) == (4, 0)


def test_after_the_overlap_the_old_store_is_closed(
    stores: tuple[MemoryStore, MemoryStore],
) -> None:
    old, new = stores
    node = Node(old)
    chain = hashes_of([1, 2])
    node.keep(chain)
    node.forget()
    node.cache.switch_store(new, overlap_s=0.2)
    assert not is_closed(old)
    time.sleep(0.3)
    assert node.cache.lookup(chain).store_blocks == 0
    wait_until(lambda: is_closed(old))
    assert not is_closed(new)


def test_closing_the_cache_closes_what_was_switched_from(
    stores: tuple[MemoryStore, MemoryStore],
) -> None:
    old, new = stores
    with Node(old).cache as cache:
        cache.switch_store(new)
        assert not is_closed(old)
    wait_until(lambda: is_closed(old))
    assert not is_closed(new)


def test_what_is_being_written_comes_to_its_end(tmp_path: Path) -> None:
    """No time to overlap, and a store that is slow: nothing that it was given is lost."""
    old, new = (
        DiskStore(tmp_path, FINGERPRINT, BLOCK_BYTES, max_bytes=1 << 24, fsync="each"),
        memory(),
    )
    node = Node(old, num_blocks=64)
    chain = hashes_of(range(48))
    ids = node.engine.block_ids[:48]
    node.engine.write(ids, payload(chain, BLOCK_BYTES))
    assert node.cache.store(chain, node.engine.layers, ids).wait(WAIT_S)
    node.cache.switch_store(new, overlap_s=0)
    assert node.cache.flush(WAIT_S)
    stats = node.cache.stats()
    assert (stats.written, stats.not_written) == (48, 0)
    again: list[DiskStore] = []

    def opens_again() -> bool:
        with suppress(OSError):  # while it is being closed
            again.append(DiskStore(tmp_path, FINGERPRINT, BLOCK_BYTES, max_bytes=1 << 24))
        return bool(again)

    wait_until(opens_again)
    assert again[0].match(chain) == 48
    again[0].close()
    new.close()


def test_two_switches_leave_all_three_readable() -> None:
    with ExitStack() as stack:
        stores = [memory() for _ in range(3)]
        for store in stores:
            stack.callback(store.close)
        node = Node(stores[0])
        chains = [hashes_of([10 * i + 1, 10 * i + 2]) for i in range(3)]
        for i in range(3):
            if i > 0:
                node.cache.switch_store(stores[i])
            node.keep(chains[i])
        node.forget()
        assert [node.bring(chain) for chain in chains] == [2, 2, 2]


def test_a_cache_without_a_store_gets_one() -> None:
    node = Node(None)
    store = memory()
    node.cache.switch_store(store)
    chain = hashes_of([1, 2])
    node.keep(chain)
    assert store.match(chain) == 2
    store.close()


def test_a_url_is_opened(stores: tuple[MemoryStore, MemoryStore], tmp_path: Path) -> None:
    node = Node(stores[0])
    node.cache.switch_store(f"disk:{tmp_path}?max_bytes=16MiB", fingerprint=FINGERPRINT)
    node.keep(hashes_of([1, 2]))
    stats = node.cache.stats().store
    assert stats is not None
    assert stats.num_values == 2


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"store": 3}, TypeError, "store must be a Store, got int"),
        ({"store": "memory:"}, ValueError, "fingerprint must be given with a URL"),
        (
            {"store": "tape:", "fingerprint": FINGERPRINT},
            ValueError,
            "url must begin with memory: or .*, got 'tape:'",
        ),
        ({"overlap_s": -1}, ValueError, "overlap_s must be from 0 to 2.592e\\+06, got -1"),
        ({"overlap_s": "1"}, TypeError, "overlap_s must be a number, got str"),
        ({"fingerprint": FINGERPRINT}, ValueError, "fingerprint must be given with a URL alone"),
    ],
)
def test_a_wrong_argument_changes_nothing(
    stores: tuple[MemoryStore, MemoryStore],
    arguments: dict[str, Any],
    error: type[Exception],
    message: str,
) -> None:
    old, new = stores
    node = Node(old)
    with pytest.raises(error, match=message):
        node.cache.switch_store(**{"store": new, **arguments})
    node.keep(hashes_of([1]))
    assert old.match(hashes_of([1])) == 1


def test_the_same_store_is_refused(stores: tuple[MemoryStore, MemoryStore]) -> None:
    old, new = stores
    node = Node(old)
    with pytest.raises(ValueError, match="store must be another than those that are in use"):
        node.cache.switch_store(old)
    node.cache.switch_store(new)
    with pytest.raises(ValueError, match="store must be another than those that are in use"):
        node.cache.switch_store(old)
    assert not is_closed(old)


def test_a_store_of_other_values_is_refused(stores: tuple[MemoryStore, MemoryStore]) -> None:
    node = Node(stores[0])
    other = MemoryStore(FINGERPRINT, 512, max_bytes=1 << 20)
    with pytest.raises(ValueError, match="store must have values of 4096 bytes"):
        node.cache.switch_store(other)
    other.close()


def test_servers_are_switched_under_load(
    start_infinistore: Callable[..., InfiniStoreServer],
) -> None:
    """Two threads store and fetch all the while, from a server to another and then to memory: no
    call fails, every byte is right, and what was there before is found after."""
    servers = [start_infinistore() for _ in range(2)]
    urls = [f"infinistore://{s.host}:{s.port}?stall_s=5&granule_bytes=16KiB" for s in servers]
    node = Node(None, num_blocks=128)
    node.cache.switch_store(urls[0], fingerprint=FINGERPRINT)
    first = hashes_of(range(1000, 1016))
    node.keep(first)
    stops = threading.Event()
    errors: list[BaseException] = []

    def work(number: int) -> None:
        mine = Node(None)
        mine.cache = node.cache
        try:
            for i in range(10_000):
                if stops.is_set():
                    return
                chain = hashes_of(
                    range(number * 10_000 + i % 40 * 8, number * 10_000 + i % 40 * 8 + 8)
                )
                if mine.bring(chain) == 0:
                    mine.keep(chain)
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=work, args=(number,)) for number in (1, 2)]
    for thread in threads:
        thread.start()
    time.sleep(0.5)
    node.cache.switch_store(urls[1], fingerprint=FINGERPRINT)
    wait_until(lambda: node.cache.lookup(first).host_blocks == 0)
    assert node.bring(first) == 16  # from the first server, as only that one has it
    last = memory()
    node.cache.switch_store(last)
    time.sleep(0.5)
    stops.set()
    for thread in threads:
        thread.join()
    assert errors == []
    assert node.cache.flush(WAIT_S)
    assert last.stats().written > 0
    assert node.cache.stats().not_fetched == 0
    node.cache.close()
    last.close()
