"""Values above 2 MiB, which end a server, are kept as several parts."""

from __future__ import annotations

import itertools
from collections.abc import Callable

import numpy as np
import pytest
from support.batches import WAIT_S, chain, outcomes
from support.fake_server import FakeServer, HonestScript
from support.infinistore import InfiniStoreServer
from support.infinistore_node import Node
from support.wire import Connection

from kvcore.stores import Outcome
from kvcore.verify import payload

MIB = 1 << 20
# Bytes of a block, blocks of a chunk, and the parts that such a chunk is.
CUTS = [(MIB, 2, 1), (MIB, 4, 2), (5 * MIB, 1, 3), (2 * MIB + 8, 1, 2), (3 * MIB // 2, 4, 3)]


def parts_of(server: FakeServer) -> list[bytes]:
    """The names of all values that are no records, in the order of the parts."""
    assert isinstance(server.script, HonestScript)
    return sorted(key for key in server.script.values if key.count(b"/") > 1)


@pytest.mark.parametrize(("block_bytes", "chunk_blocks", "parts"), CUTS)
def test_no_value_is_too_large_for_a_server(
    fingerprint: bytes, block_bytes: int, chunk_blocks: int, parts: int
) -> None:
    with FakeServer() as server:
        node = Node(
            fingerprint,
            server.address,
            block_bytes=block_bytes,
            most_blocks=2 * chunk_blocks,
            chunk_blocks=chunk_blocks,
        )
        hashes = chain(2 * chunk_blocks)
        assert set(node.put(hashes)) == {Outcome.DONE}
        assert len(parts_of(server)) == 2 * parts
        assert max(len(value) for value in server.script.values.values()) <= 2 * MIB
        assert set(node.get(hashes)) == {Outcome.DONE}
        positions = np.arange(len(hashes))
        removed = outcomes(node.store.remove(hashes, WAIT_S, positions=positions))
        assert set(removed) == {Outcome.DONE}
        assert server.script.values == {}
        node.store.close()
        assert server.errors == []


@pytest.mark.parametrize(("block_bytes", "chunk_blocks", "parts"), CUTS)
def test_one_node_finds_what_another_wrote(
    new_node: Callable[..., Node],
    infinistore: InfiniStoreServer,
    block_bytes: int,
    chunk_blocks: int,
    parts: int,
) -> None:
    """Fetched again and again, by several connections, with the real server."""
    options = {"block_bytes": block_bytes, "chunk_blocks": chunk_blocks, "most_blocks": 12}
    writer, reader = new_node(**options), new_node(**options)
    hashes = chain(12)
    assert set(writer.put(hashes)) == {Outcome.DONE}
    assert reader.ask(hashes) == 12
    for _ in range(10):
        assert set(reader.get(hashes)) == {Outcome.DONE}
    # From the middle of a chunk on.
    assert set(new_node(**options).get(hashes, 3)) == {Outcome.DONE}
    assert infinistore.answers()
    assert infinistore.resident_bytes() < 1 << 30


@pytest.mark.parametrize("part", range(3))
def test_a_part_that_is_gone_is_a_miss_and_comes_back(fingerprint: bytes, part: int) -> None:
    with FakeServer() as server:
        options = {"block_bytes": 5 * MIB, "chunk_blocks": 1, "most_blocks": 1}
        node = Node(fingerprint, server.address, **options)
        hashes = chain(1)
        assert node.put(hashes) == [Outcome.DONE]
        del server.script.values[parts_of(server)[part]]
        assert node.get(hashes) == [Outcome.MISS]
        # The record is there still; it does not pass for the value.
        assert node.put(hashes) == [Outcome.DONE]
        assert node.get(hashes) == [Outcome.DONE]
        node.store.close()
        assert server.errors == []


@pytest.mark.parametrize("part", range(3))
def test_a_wrong_byte_in_any_part_is_corrupt(fingerprint: bytes, part: int) -> None:
    with FakeServer() as server:
        options = {"block_bytes": 5 * MIB, "chunk_blocks": 1, "most_blocks": 1}
        node = Node(fingerprint, server.address, **options)
        hashes = chain(1)
        assert node.put(hashes) == [Outcome.DONE]
        name = parts_of(server)[part]
        value = bytearray(server.script.values[name])
        value[len(value) // 2] ^= 1
        server.script.values[name] = bytes(value)
        assert node.get(hashes) == [Outcome.CORRUPT]
        assert server.script.values == {}
        node.store.close()


def test_parts_in_another_order_are_corrupt(fingerprint: bytes) -> None:
    with FakeServer() as server:
        options = {"block_bytes": 6 * MIB, "chunk_blocks": 1, "most_blocks": 1}
        for one, other in itertools.combinations(range(3), 2):
            node = Node(fingerprint, server.address, **options)
            hashes = chain(1)
            assert node.put(hashes) == [Outcome.DONE]
            names, values = parts_of(server), server.script.values
            values[names[one]], values[names[other]] = values[names[other]], values[names[one]]
            assert node.get(hashes) == [Outcome.CORRUPT]
            node.store.close()


@pytest.mark.parametrize("part", range(3))
def test_what_looks_like_a_request_is_not_written(new_node: Callable[..., Node], part: int) -> None:
    """A server that is out of memory would take it for one."""
    node = new_node(block_bytes=5 * MIB, chunk_blocks=1, most_blocks=1)
    hashes = chain(1)
    node.slab[0] = payload(hashes, 5 * MIB)[0]
    node.slab[0, part * 2 * MIB : part * 2 * MIB + 4] = [0xEF, 0xBE, 0xAD, 0xDE]
    assert outcomes(node.store.put_from(hashes, node.slab, [0], WAIT_S)) == [Outcome.MISS]


def test_a_value_that_another_wrote_too_large_is_no_answer(
    new_node: Callable[..., Node], infinistore: InfiniStoreServer
) -> None:
    """It is read to its end, to nowhere, and the server lives."""
    node = new_node(block_bytes=MIB, chunk_blocks=1, most_blocks=1, connections=1)
    hashes = chain(1)
    with FakeServer() as fake:
        spy = new_node(fake.address, block_bytes=MIB, chunk_blocks=1, most_blocks=1)
        assert spy.put(hashes) == [Outcome.DONE]
        [name] = parts_of(fake)
        [record] = [key for key in fake.script.values if key != name]
        with Connection(infinistore.address, WAIT_S) as connection:
            connection.put(name, bytes(21 * MIB // 4))
            connection.put(record, fake.script.values[record])
    for _ in range(20):
        assert node.get(hashes) == [Outcome.FAILED]
        # The connection is there again at once.
        assert node.get(chain(1)) == [Outcome.MISS]
    assert infinistore.answers()
    assert infinistore.resident_bytes() < 1 << 30
