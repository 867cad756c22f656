"""InfiniStoreStore and the real server: what nodes share comes back as it was put."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from support.batches import WAIT_S, chain, outcomes
from support.infinistore import InfiniStoreServer
from support.infinistore_node import BLOCK_BYTES, Node

from kvcore import HostSlab, KVCache
from kvcore.stores import InfiniStoreStore, Outcome, Server
from kvcore.stores.infinistore import chunk_blocks_for
from kvcore.verify import Engine, payload

Start = Callable[..., InfiniStoreServer]


# --- Chunks --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("block_bytes", "granule_bytes", "chunk_blocks"),
    [
        (64 << 10, 64 << 10, 32),
        (256 << 10, 64 << 10, 8),
        (1 << 20, 64 << 10, 2),
        (4 << 20, 64 << 10, 1),
        (16 << 10, 16 << 10, 32),
        (16 << 10, 64 << 10, 128),
    ],
)
def test_chunks_waste_little(block_bytes: int, granule_bytes: int, chunk_blocks: int) -> None:
    assert chunk_blocks_for(block_bytes, granule_bytes) == chunk_blocks
    value = chunk_blocks * block_bytes
    taken = -(-value // granule_bytes) * granule_bytes + granule_bytes
    assert taken / value <= 1.05


def test_one_node_finds_what_another_wrote(new_node: Callable[..., Node]) -> None:
    writer, reader = new_node(), new_node()
    hashes = chain(100)
    assert writer.put(hashes) == [Outcome.DONE] * 100
    assert writer.match(hashes) == 100
    assert reader.match(hashes) == 0
    assert reader.ask(hashes) == 100
    assert reader.match(hashes) == 100
    assert reader.get(hashes) == [Outcome.DONE] * 100
    assert new_node().get(hashes) == [Outcome.DONE] * 100


@pytest.mark.parametrize("length", [1, 7, 8, 9, 13, 31])
@pytest.mark.parametrize("first", [0, 1, 5, 8])
def test_a_chain_that_grew_is_found_whole(
    new_node: Callable[..., Node], length: int, first: int
) -> None:
    writer, reader = new_node(), new_node()
    hashes = chain(first + length)
    if first > 0:
        assert set(writer.put(hashes[:first])) == {Outcome.DONE}
    assert set(writer.put(hashes, first)) == {Outcome.DONE}
    assert reader.ask(hashes) == first + length
    for begin in range(0, len(hashes), 3):
        assert set(reader.get(hashes, begin)) == {Outcome.DONE}
        assert set(new_node().get(hashes, begin)) == {Outcome.DONE}
    # Whoever wants less than a chunk can not name it, unless it was written in smaller ones.
    assert set(reader.get(np.concatenate([hashes, chain(3)]))[: len(hashes)]) == {Outcome.DONE}


def test_chunks_of_several_sizes_end_with_one_block(new_node: Callable[..., Node]) -> None:
    """One wrote a chain whole, the other only its end; neither hides the other's."""
    for order in (0, 1):
        whole, part, reader = new_node(), new_node(), new_node()
        hashes = chain(16)
        writes = [lambda: whole.put(hashes), lambda: part.put(hashes, 12)]  # noqa: B023
        for write in (writes, writes[::-1])[order]:
            assert set(write()) == {Outcome.DONE}
        assert reader.ask(hashes) == 16
        assert set(reader.get(hashes)) == {Outcome.DONE}
        assert set(new_node().get(hashes, 12)) == {Outcome.DONE}
        for node in (whole, part, reader):
            assert node.store.stats().corrupt == 0


def test_chains_that_part_share_what_is_before(new_node: Callable[..., Node]) -> None:
    writer, reader = new_node(), new_node()
    trunk, one, other = chain(16), chain(20), chain(20)
    writer.put(np.concatenate([trunk, one]))
    other = np.concatenate([trunk, other])
    assert reader.ask(other) == 16
    assert reader.get(other)[:17] == [Outcome.DONE] * 16 + [Outcome.MISS]
    writer.put(other, 16)
    assert reader.ask(other) == 36


def test_behind_the_end_little_is_asked(new_node: Callable[..., Node]) -> None:
    node = new_node()
    assert set(node.get(chain(500))) == {Outcome.MISS}
    [stats] = node.store.server_stats().values()
    assert stats.requests < 100


def test_namespaces_and_cuts_are_apart(
    infinistore: InfiniStoreServer, fingerprint: bytes, new_node: Callable[..., Node]
) -> None:
    hashes = chain(16)
    new_node().put(hashes)
    assert new_node(chunk_blocks=4).ask(hashes) == 0
    other = Node(os.urandom(16), infinistore.address)
    assert other.ask(hashes) == 0
    other.store.close()


def test_what_was_removed_is_gone_for_all(new_node: Callable[..., Node]) -> None:
    writer, reader = new_node(), new_node()
    hashes = chain(20)
    writer.put(hashes)
    assert reader.ask(hashes) == 20
    positions = np.arange(20)
    removed = outcomes(writer.store.remove(hashes, WAIT_S, positions=positions))
    assert set(removed) == {Outcome.DONE}
    assert set(reader.get(hashes)) == {Outcome.MISS}
    assert reader.match(hashes) == 0
    assert writer.put(hashes) == [Outcome.DONE] * 20
    assert reader.get(hashes) == [Outcome.DONE] * 20


def test_what_does_not_fit_the_queue_is_left_out_at_the_end(new_node: Callable[..., Node]) -> None:
    node = new_node(max_queued_bytes=20 * BLOCK_BYTES)
    done = node.put(chain(100))
    assert done == [Outcome.DONE] * 20 + [Outcome.MISS] * 80
    assert node.put(chain(10)) == [Outcome.DONE] * 10


def test_values_that_wait_together_are_not_taken_for_slow_ones(
    new_node: Callable[..., Node],
) -> None:
    """What is left out goes by what all write in a time, not by how long each of them waits."""
    node = new_node(chunk_blocks=1)
    for _ in range(6):
        assert node.put(chain(600)) == [Outcome.DONE] * 600


def test_a_cache_brings_what_another_one_keeps(new_node: Callable[..., Node]) -> None:
    writer, reader = (
        KVCache(HostSlab(64, BLOCK_BYTES), new_node().store, max_dirty=1.0) for _ in range(2)
    )
    hashes = chain(40)
    engine = Engine(64, BLOCK_BYTES)
    ids = engine.block_ids[:40]
    engine.write(ids, payload(hashes, BLOCK_BYTES))
    assert writer.store(hashes, engine.layers, ids).wait(WAIT_S)
    assert writer.flush(WAIT_S)
    found = reader.lookup(hashes)
    assert found.num_blocks == 0
    probe = reader.probe(found, timeout_s=WAIT_S)
    assert probe is not None
    found = probe.wait()
    assert probe.done()
    assert (found.host_blocks, found.store_blocks) == (0, 40)
    assert reader.probe(found, timeout_s=WAIT_S) is None
    fetch = reader.prefetch(found, timeout_s=WAIT_S)
    assert fetch is not None
    assert fetch.wait() == 40
    engine.write(ids, ~payload(hashes, BLOCK_BYTES))
    with reader.acquire(hashes) as lease:
        assert reader.load(lease, engine.layers, ids).wait(WAIT_S)
    assert np.array_equal(engine.read(ids), payload(hashes, BLOCK_BYTES))
    writer.close()
    reader.close()


# --- Arguments -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"chunk_blocks": 3}, "chunk_blocks must be a power of two"),
        ({"chunk_blocks": 0}, "chunk_blocks must be an int from 1"),
        ({"replicas": 0}, "replicas must be an int from 1 to 16"),
        ({"connections": 65}, "connections must be an int from 1 to 64"),
        ({"stall_s": 0}, "stall_s must be above 0"),
        ({"patience_s": float("nan")}, "patience_s must be above 0"),
        ({"max_queued_bytes": -1}, "max_queued_bytes must be an int from 0"),
    ],
)
def test_wrong_options_are_named(options: dict[str, Any], message: str) -> None:
    with pytest.raises((TypeError, ValueError), match=message):
        InfiniStoreStore([Server("127.0.0.1")], bytes(16), BLOCK_BYTES, **options)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("",), "host must be"),
        (("a", 0), "port must be from 1 to 65535, got 0"),
        (("a", "1"), "port must be an int"),
    ],
)
def test_wrong_servers_are_named(arguments: Any, message: str) -> None:
    with pytest.raises((TypeError, ValueError), match=message):
        Server(*arguments)


def test_a_server_twice_is_refused() -> None:
    with pytest.raises(ValueError, match="different names"):
        InfiniStoreStore([Server("127.0.0.1")] * 2, bytes(16), BLOCK_BYTES)
