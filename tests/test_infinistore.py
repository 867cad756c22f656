"""InfiniStoreStore and the real server: what comes back is what was put, or nothing, in time."""

from __future__ import annotations

import os
import random
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
from models.chains import Hashes
from support.fake_server import Act, FakeServer, HonestScript, Request
from support.infinistore import InfiniStoreServer
from support.proxy import Proxy

from kvcore import HostSlab, KVCache
from kvcore.stores import Batch, InfiniStoreStore, Outcome, Server
from kvcore.stores.infinistore import chunk_blocks_for
from kvcore.verify import Engine, payload

BLOCK_BYTES = 4096
WAIT_S = 30.0
Start = Callable[..., InfiniStoreServer]


class Node:
    """One process's store, with memory for chains of up to 600 blocks."""

    def __init__(self, fingerprint: bytes, *addresses: tuple[str, int], **options: Any) -> None:
        options = {"chunk_blocks": 8, "stall_s": 1.0} | options
        servers = [Server(*address) for address in addresses]
        self.store = InfiniStoreStore(servers, fingerprint, BLOCK_BYTES, **options)
        self.slab = np.zeros((600, BLOCK_BYTES), np.uint8)

    def put(self, hashes: Hashes, first: int = 0, timeout_s: float = WAIT_S) -> list[Outcome]:
        part = hashes[first:]
        self.slab[: len(part)] = payload(part, BLOCK_BYTES)
        positions = np.arange(first, len(hashes))
        places = np.arange(len(part))
        return outcomes(
            self.store.put_from(part, self.slab, places, timeout_s, positions=positions)
        )

    def get(self, hashes: Hashes, first: int = 0, timeout_s: float = WAIT_S) -> list[Outcome]:
        """What came is checked."""
        part = hashes[first:]
        expected = payload(part, BLOCK_BYTES)
        self.slab[: len(part)] = ~expected
        positions = np.arange(first, len(hashes))
        places = np.arange(len(part))
        batch = self.store.get_into(part, self.slab, places, timeout_s, positions=positions)
        came = outcomes(batch)
        for place, outcome in enumerate(came):
            if outcome == Outcome.DONE:
                assert np.array_equal(self.slab[place], expected[place])
        wait_quiet(batch)
        return came

    def ask(self, hashes: Hashes) -> int:
        """Blocks that the servers have."""
        positions = np.arange(len(hashes))
        found = outcomes(self.store.contains(hashes, WAIT_S, positions=positions))
        return found.index(Outcome.MISS) if Outcome.MISS in found else len(found)

    def match(self, hashes: Hashes) -> int:
        return self.store.match(hashes, positions=np.arange(len(hashes)))


def outcomes(batch: Batch) -> list[Outcome]:
    batch.wait()
    return [Outcome(outcome) for outcome in batch.outcomes.tolist()]


def wait_quiet(batch: Batch) -> None:
    until = time.monotonic() + WAIT_S
    while not batch.is_quiet():
        assert time.monotonic() < until
        time.sleep(0.001)


def chain(num_blocks: int) -> Hashes:
    """Hashes that nobody else has."""
    return np.frombuffer(os.urandom(16 * num_blocks), np.uint8).reshape(-1, 16).copy()


@pytest.fixture
def fingerprint() -> bytes:
    return os.urandom(16)


@pytest.fixture
def new_node(infinistore: InfiniStoreServer, fingerprint: bytes) -> Iterator[Callable[..., Node]]:
    """Makes nodes that share a server."""
    made: list[Node] = []

    def new(*addresses: tuple[str, int], **options: Any) -> Node:
        made.append(Node(fingerprint, *(addresses or [infinistore.address]), **options))
        return made[-1]

    yield new
    for node in made:
        node.store.close()


# --- Chunks -------------------------------------------------------------------------------------


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


# --- Hazards of the server ----------------------------------------------------------------------


def test_a_writer_killed_at_any_byte_leaves_nothing_that_harms(
    infinistore: InfiniStoreServer, fingerprint: bytes
) -> None:
    """Also where it is in the middle of what another one reads and writes."""
    hashes = chain(2)
    reader = Node(fingerprint, infinistore.address)
    with Proxy(infinistore.address) as proxy:
        sizes = [*range(0, 500, 7), *range(500, 2 * BLOCK_BYTES + 600, 211)]
        for size in sizes:
            proxy.cut_to_server_after = size
            writer = Node(fingerprint, proxy.address, connections=1, last_probe_s=0.2)
            writer.put(hashes, timeout_s=0.1)
            writer.store.close()
            came = reader.get(hashes)
            assert set(came) <= {Outcome.DONE, Outcome.MISS}
            if came[0] == Outcome.DONE:
                hashes = chain(2)
    assert infinistore.is_alive()
    assert reader.put(hashes) == [Outcome.DONE] * 2
    assert reader.get(hashes) == [Outcome.DONE] * 2
    reader.store.close()


def test_two_writers_and_a_reader_of_one_chain(
    infinistore: InfiniStoreServer, fingerprint: bytes
) -> None:
    nodes = [Node(fingerprint, infinistore.address) for _ in range(3)]
    chains = [chain(24) for _ in range(40)]
    ended = threading.Event()

    def write(node: Node) -> None:
        for hashes in chains:
            assert set(node.put(hashes)) == {Outcome.DONE}

    def read(node: Node) -> None:
        while not ended.is_set():
            for hashes in chains:
                assert set(node.get(hashes)) <= {Outcome.DONE, Outcome.MISS}

    writers = [threading.Thread(target=write, args=(node,)) for node in nodes[:2]]
    reader = threading.Thread(target=read, args=(nodes[2],))
    for thread in (*writers, reader):
        thread.start()
    for thread in writers:
        thread.join()
    ended.set()
    reader.join()
    for hashes in chains:
        assert set(nodes[2].get(hashes)) == {Outcome.DONE}
    assert infinistore.is_alive()
    for node in nodes:
        node.store.close()


def test_a_server_that_is_killed_costs_its_stall_once(
    start_infinistore: Start, fingerprint: bytes
) -> None:
    server = start_infinistore()
    node = Node(fingerprint, server.address, stall_s=0.2, first_probe_s=0.3)
    hashes = chain(500)
    node.put(hashes)
    server.kill()
    for _ in range(3):
        start = time.monotonic()
        assert set(node.get(hashes)) <= {Outcome.FAILED, Outcome.MISS}
        assert time.monotonic() - start < 1.0
    start = time.monotonic()
    for _ in range(20):
        node.get(hashes)
    assert time.monotonic() - start < 1.0
    server.restart()
    until = time.monotonic() + WAIT_S
    while set(node.put(hashes)) != {Outcome.DONE}:
        assert time.monotonic() < until
        time.sleep(0.05)
    assert node.get(hashes) == [Outcome.DONE] * 500
    node.store.close()


def test_a_server_that_stands_still_is_given_up_and_found_again(
    start_infinistore: Start, fingerprint: bytes
) -> None:
    server = start_infinistore()
    node = Node(fingerprint, server.address, stall_s=0.2, first_probe_s=0.1, last_probe_s=0.3)
    hashes = chain(100)
    node.put(hashes)
    server.freeze()
    start = time.monotonic()
    assert node.get(hashes)[0] == Outcome.FAILED
    first = time.monotonic() - start
    start = time.monotonic()
    assert node.get(hashes)[0] == Outcome.FAILED
    assert first < 5.0
    [stats] = node.store.server_stats().values()
    assert not stats.is_well
    assert stats.give_ups >= 1
    server.thaw()
    until = time.monotonic() + WAIT_S
    while node.get(hashes) != [Outcome.DONE] * 100:
        assert time.monotonic() < until
        time.sleep(0.05)
    node.store.close()


def test_a_deadline_frees_the_memory(start_infinistore: Start, fingerprint: bytes) -> None:
    server = start_infinistore()
    node = Node(fingerprint, server.address, stall_s=10.0)
    hashes = chain(100)
    node.put(hashes)
    server.freeze()
    start = time.monotonic()
    assert set(node.get(hashes, timeout_s=0.1)) <= {Outcome.TIMED_OUT, Outcome.MISS}
    assert time.monotonic() - start < 5.0  # get() waits until the memory is free
    server.thaw()
    node.store.close()


def test_a_server_survives_that_nobody_waits_for_its_answer(
    start_infinistore: Start, fingerprint: bytes
) -> None:
    """It aborts when a connection is closed on which it still sends."""
    server = start_infinistore()
    block_bytes, blocks = 1 << 20, 32
    store = InfiniStoreStore(
        [Server(*server.address)], fingerprint, block_bytes, chunk_blocks=8, stall_s=0.2
    )
    slab = np.zeros((blocks, block_bytes), np.uint8)
    hashes, places = chain(blocks), np.arange(blocks)
    slab[:] = payload(hashes, block_bytes)
    assert set(outcomes(store.put_from(hashes, slab, places, WAIT_S, positions=places))) == {
        Outcome.DONE
    }
    for timeout_ms in 2 * list(range(1, 16)):
        late = store.get_into(hashes, slab, places, timeout_ms / 1000, positions=places)
        late.wait()
        wait_quiet(late)
    until = time.monotonic() + WAIT_S
    while outcomes(store.get_into(hashes, slab, places, WAIT_S, positions=places)) != (
        [Outcome.DONE] * blocks
    ):
        assert server.is_alive()
        assert time.monotonic() < until
        time.sleep(0.02)
    assert np.array_equal(slab, payload(hashes, block_bytes))
    store.close()


def test_a_server_that_was_restarted_empty_in_the_middle_of_reads(
    start_infinistore: Start, fingerprint: bytes
) -> None:
    server = start_infinistore()
    node = Node(fingerprint, server.address, first_probe_s=0.05, last_probe_s=0.2)
    hashes = chain(500)
    assert set(node.put(hashes)) == {Outcome.DONE}
    seen: set[Outcome] = set()
    ended = threading.Event()

    def read() -> None:
        while not ended.is_set():
            seen.update(node.get(hashes))

    reader = threading.Thread(target=read)
    reader.start()
    time.sleep(0.05)
    server.restart()
    ended.set()
    reader.join()
    assert seen <= {Outcome.DONE, Outcome.MISS, Outcome.FAILED, Outcome.TIMED_OUT}
    until = time.monotonic() + WAIT_S
    while set(node.put(hashes)) != {Outcome.DONE} or node.get(hashes)[0] != Outcome.DONE:
        assert time.monotonic() < until
        time.sleep(0.05)
    node.store.close()


def test_values_that_the_server_evicts_are_misses(
    start_infinistore: Start, fingerprint: bytes
) -> None:
    """Twice as much as it has room for, while others read."""
    server = start_infinistore()
    block_bytes, blocks = 1 << 20, 64
    store = InfiniStoreStore(
        [Server(*server.address)], fingerprint, block_bytes, chunk_blocks=4, stall_s=5.0
    )
    slab = np.zeros((blocks, block_bytes), np.uint8)
    places, chains = np.arange(blocks), [chain(blocks) for _ in range(32)]
    for hashes in chains:
        slab[:] = payload(hashes, block_bytes)
        store.put_from(hashes, slab, places, WAIT_S, positions=places).wait()
    found = 0
    for hashes in chains[::4]:
        slab[:] = 0
        came = outcomes(store.get_into(hashes, slab, places, WAIT_S, positions=places))
        expected = payload(hashes, block_bytes)
        for i, outcome in enumerate(came):
            assert outcome in (Outcome.DONE, Outcome.MISS)
            if outcome == Outcome.DONE:
                found += 1
                assert np.array_equal(slab[i], expected[i])
    assert found > 0
    assert server.is_alive()
    store.close()


def test_small_values_do_not_wait_for_acknowledgements(new_node: Callable[..., Node]) -> None:
    """The server sends head and value apart; without quick acknowledgements that takes 40 ms."""
    node = new_node(connections=1, chunk_blocks=1)
    hashes = chain(50)
    node.put(hashes)
    times = []
    for i in range(50):
        start = time.perf_counter()
        assert node.get(hashes[i : i + 1]) == [Outcome.DONE]
        times.append(time.perf_counter() - start)
    assert sorted(times)[25] < 0.02


# --- Answers that are none ----------------------------------------------------------------------


def test_wrong_bytes_are_corrupt_and_removed(fingerprint: bytes) -> None:
    honest = HonestScript()

    def lie(request: Request) -> Any:
        answer = honest(request)
        if (
            request.operation == b"G"
            and isinstance(answer, bytes)
            and len(answer) > 2 * BLOCK_BYTES
        ):
            return answer[:-1] + bytes([answer[-1] ^ 1])
        return answer

    with FakeServer(lie) as server:
        node = Node(fingerprint, server.address)
        hashes = chain(8)
        assert node.put(hashes) == [Outcome.DONE] * 8
        assert node.get(hashes) == [Outcome.CORRUPT] + [Outcome.MISS] * 7
        assert node.store.stats().corrupt == 1
        assert node.match(hashes) == 0
        server.script = honest
        assert node.put(hashes) == [Outcome.DONE] * 8
        assert node.get(hashes) == [Outcome.DONE] * 8
        node.store.close()
        assert server.errors == []


def test_any_answer_is_survived(fingerprint: bytes) -> None:
    """No wrong byte, no hang, no crash, whatever a server says."""
    rng = random.Random(0)
    honest = HonestScript()

    def answer(request: Request) -> Any:
        what = rng.random()
        if what < 0.5:
            return honest(request)
        if what < 0.55:
            return Act.CLOSE
        if what < 0.6:
            return Act.RESET
        if what < 0.61:
            return Act.SILENCE
        if what < 0.7:
            good = honest(request)
            if isinstance(good, bytes):
                return good[: rng.randrange(len(good) + 1)] + rng.randbytes(rng.randrange(20))
            return good
        if what < 0.8:
            size = rng.choice([0, 1, 127, 128, 129, BLOCK_BYTES, 8 * BLOCK_BYTES, 2**31, 2**32 - 1])
            return (200).to_bytes(4, "little") + size.to_bytes(4, "little") + rng.randbytes(200)
        if what < 0.9:
            return rng.choice([400, 404, 503, 507, 0, 2**31]).to_bytes(4, "little")
        return rng.randbytes(rng.randrange(64))

    with FakeServer(answer) as server:
        node = Node(
            fingerprint, server.address, stall_s=0.05, first_probe_s=0.001, last_probe_s=0.002
        )
        known = [chain(rng.randrange(1, 30)) for _ in range(5)]
        for _ in range(150):
            hashes = rng.choice(known)
            rng.choice([node.put, node.get])(hashes, timeout_s=0.2)
        server.script = honest
        until = time.monotonic() + WAIT_S
        while set(node.put(known[0])) != {Outcome.DONE}:
            assert time.monotonic() < until
            time.sleep(0.01)
        assert set(node.get(known[0])) == {Outcome.DONE}
        node.store.close()


# --- Several servers ----------------------------------------------------------------------------


def test_chunks_are_spread_and_a_dead_server_costs_its_own(
    start_infinistore: Start, fingerprint: bytes
) -> None:
    servers = [start_infinistore() for _ in range(3)]
    node = Node(fingerprint, *(s.address for s in servers), stall_s=0.2, first_probe_s=5.0)
    chains = [chain(8) for _ in range(60)]
    for hashes in chains:
        assert set(node.put(hashes)) == {Outcome.DONE}
    assert all(s.sent_bytes > 0 for s in node.store.server_stats().values())
    servers[0].kill()
    lost = sum(node.get(hashes)[0] != Outcome.DONE for hashes in chains)
    assert 5 <= lost <= 40
    start = time.monotonic()
    assert sum(node.get(hashes)[0] != Outcome.DONE for hashes in chains) == lost
    assert time.monotonic() - start < 2.0
    node.store.close()


def test_replicas_answer_for_a_dead_server_and_give_back_what_it_lost(
    start_infinistore: Start, fingerprint: bytes
) -> None:
    servers = [start_infinistore() for _ in range(2)]
    addresses = [s.address for s in servers]
    options: dict[str, Any] = {
        "replicas": 2,
        "first_probe_s": 0.05,
        "last_probe_s": 0.1,
        "patience_s": 2.0,  # a busy machine is slow
    }
    node = Node(fingerprint, *addresses, **options)
    chains = [chain(8) for _ in range(20)]
    for hashes in chains:
        assert set(node.put(hashes)) == {Outcome.DONE}
    servers[0].restart()
    for hashes in chains:
        assert set(node.get(hashes)) == {Outcome.DONE}
    # All of it comes back, to whomever of the two it was asked from.
    other = Node(fingerprint, *addresses, **options)
    for hashes in chains:
        assert set(other.get(hashes)) == {Outcome.DONE}
    until = time.monotonic() + WAIT_S
    while servers[0].kvmap_len() < 2 * len(chains):  # records and values
        assert time.monotonic() < until
        time.sleep(0.05)
    other.store.close()
    servers[1].kill()
    fresh = Node(fingerprint, *addresses, **options)
    for hashes in chains:
        assert set(fresh.get(hashes)) == {Outcome.DONE}
    fresh.store.close()
    node.store.close()


@pytest.mark.parametrize("late", [0, 1])
def test_a_server_that_is_late_is_waited_for_where_no_other_has_it(
    fingerprint: bytes, late: int
) -> None:
    """It answers later than `patience_s`, and the other was restarted."""
    honest, is_late = [HonestScript(), HonestScript()], threading.Event()

    def script(number: int) -> Callable[[Request], Any]:
        def answer(request: Request) -> Any:
            if number == late and is_late.is_set():
                time.sleep(0.05)
            return honest[number](request)

        return answer

    with FakeServer(script(0)) as one, FakeServer(script(1)) as other:
        addresses, options = (one.address, other.address), {"replicas": 2, "patience_s": 0.01}
        node = Node(fingerprint, *addresses, **options)
        chains = [chain(8) for _ in range(8)]  # some have the late one first
        for hashes in chains:
            assert set(node.put(hashes)) == {Outcome.DONE}
        node.store.close()
        honest[1 - late].values.clear()
        is_late.set()
        reader = Node(fingerprint, *addresses, **options)
        for hashes in chains:
            assert set(reader.get(hashes)) == {Outcome.DONE}
        reader.store.close()


@pytest.mark.parametrize("ask", [True, False])
def test_what_is_used_after_a_restart_survives_the_next(
    start_infinistore: Start, fingerprint: bytes, ask: bool
) -> None:
    """By a process that knows where everything is, and only asks for it or writes it again."""
    servers = [start_infinistore() for _ in range(2)]
    addresses = [s.address for s in servers]
    options: dict[str, Any] = {
        "replicas": 2,
        "first_probe_s": 0.05,
        "last_probe_s": 0.1,
        "patience_s": 2.0,  # a busy machine is slow
    }
    node = Node(fingerprint, *addresses, **options)
    chains = [chain(8) for _ in range(20)]
    for hashes in chains:
        assert set(node.put(hashes)) == {Outcome.DONE}
    for server in servers:
        server.restart()
        until = time.monotonic() + WAIT_S
        while server.kvmap_len() < 2 * len(chains):
            assert time.monotonic() < until
            for hashes in chains:
                assert (node.ask(hashes) == 8) if ask else (set(node.put(hashes)) == {Outcome.DONE})
    for hashes in chains:
        assert set(node.get(hashes)) == {Outcome.DONE}
    node.store.close()


def test_servers_may_come_and_go(start_infinistore: Start, fingerprint: bytes) -> None:
    servers = [start_infinistore() for _ in range(2)]
    first, second = (Server(*s.address) for s in servers)
    node = Node(fingerprint, servers[0].address)
    chains = [chain(8) for _ in range(30)]
    for hashes in chains:
        node.put(hashes)
    node.store.set_servers([first, second])
    kept = sum(node.get(hashes)[0] == Outcome.DONE for hashes in chains)
    assert 5 <= kept <= 25  # half of them moved, and are misses
    node.store.set_servers([second])
    assert set(node.store.server_stats()) == {second.name}
    assert sum(node.get(hashes)[0] == Outcome.DONE for hashes in chains) == 0
    node.store.set_servers([])
    assert set(node.get(chains[0])) == {Outcome.MISS}
    assert set(node.put(chains[0])) == {Outcome.MISS}
    node.store.close()


# --- Arguments ----------------------------------------------------------------------------------


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
