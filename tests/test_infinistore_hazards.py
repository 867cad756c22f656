"""What InfiniStore's server can do to its clients, and they to it: nothing wrong, all in time."""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
from support.batches import WAIT_S, chain, outcomes, wait_quiet
from support.fake_server import Act, FakeServer, HonestScript, Request
from support.infinistore import InfiniStoreServer
from support.infinistore_node import BLOCK_BYTES, Node
from support.proxy import Proxy

from kvcore.stores import InfiniStoreStore, Outcome, Server
from kvcore.verify import payload

Start = Callable[..., InfiniStoreServer]


# --- Hazards of the server -----------------------------------------------------------------------


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


def test_what_nobody_waits_for_any_more_is_read_to_its_end(fingerprint: bytes) -> None:
    """A connection that were closed with an answer on its way would end the real server."""
    honest = HonestScript()
    goes_on = threading.Event()

    def slow(request: Request) -> Any:
        answer = honest(request)
        if request.operation != b"G" or not isinstance(answer, bytes) or len(answer) < 1000:
            return answer

        def parts() -> Iterator[bytes]:
            yield answer[:1000]
            goes_on.wait(WAIT_S)
            yield answer[1000:]

        return parts()

    ended: list[OSError | None] = []
    with FakeServer(slow) as server:
        server.on_end = ended.append
        node = Node(fingerprint, server.address, connections=1, stall_s=WAIT_S)
        hashes = chain(8)
        assert node.put(hashes) == [Outcome.DONE] * 8
        late = node.store.get_into(
            hashes, node.slab, np.arange(8), 0.1, positions=np.arange(8, dtype=np.uint32)
        )
        assert set(outcomes(late)) == {Outcome.TIMED_OUT}
        wait_quiet(late)
        time.sleep(0.1)
        assert ended == []
        goes_on.set()
        assert node.get(hashes) == [Outcome.DONE] * 8
        assert {request.connection for request in server.requests} == {0}
        node.store.close()
        assert server.errors == []


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


# --- Answers that are none -----------------------------------------------------------------------


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
