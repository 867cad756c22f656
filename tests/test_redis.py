"""RedisStore and real servers: what comes back is what was put, or nothing, in time."""

from __future__ import annotations

import gc
import os
import socket
import subprocess
import threading
import time
import weakref
from collections.abc import Callable, Iterator
from contextlib import suppress
from typing import Any

import numpy as np
import pytest
import redis as redis_py
from hypothesis import given
from hypothesis import strategies as st
from models.chains import Hashes
from models.processes import PYTHON
from support.redis_server import RedisServer

from kvcore import HostSlab, KVCache
from kvcore._core import BatchSource
from kvcore.stores import Batch, Outcome, RedisStore, open_store
from kvcore.stores.redis_replies import Replies
from kvcore.verify import Engine, payload

BLOCK_BYTES = 4096
WAIT_S = 30.0
DONE, MISS, FAILED = Outcome.DONE, Outcome.MISS, Outcome.FAILED
Start = Callable[..., RedisServer]


class Node:
    """One process's store, with memory for up to 600 blocks."""

    def __init__(self, url: str, fingerprint: bytes, **options: Any) -> None:
        size = options.pop("value_bytes", BLOCK_BYTES)
        options = {"stall_s": 5.0, "first_probe_s": 0.05} | options
        self.store = RedisStore(url, fingerprint, size, **options)
        self.slab = np.zeros((600, size), np.uint8)
        self.fingerprint = fingerprint

    def put(self, hashes: Hashes, timeout_s: float = WAIT_S) -> list[Outcome]:
        self.slab[: len(hashes)] = payload(hashes, self.store.value_bytes)
        places = np.arange(len(hashes))
        return outcomes(self.store.put_from(hashes, self.slab, places, timeout_s))

    def get(self, hashes: Hashes, timeout_s: float = WAIT_S) -> list[Outcome]:
        """What came is checked."""
        expected = payload(hashes, self.store.value_bytes)
        self.slab[: len(hashes)] = ~expected
        batch = self.store.get_into(hashes, self.slab, np.arange(len(hashes)), timeout_s)
        came = outcomes(batch)
        for place, outcome in enumerate(came):
            if outcome == DONE:
                assert np.array_equal(self.slab[place], expected[place])
        wait_quiet(batch)
        return came

    def ask(self, hashes: Hashes) -> list[Outcome]:
        return outcomes(self.store.contains(hashes, WAIT_S))

    def name(self, hashes: Hashes, block: int = 0) -> str:
        return (
            f"kv1/{self.fingerprint.hex()}/{self.store.value_bytes}/{hashes[block].tobytes().hex()}"
        )

    def wait_until_well(self) -> None:
        until = time.monotonic() + WAIT_S
        while self.store.last_error is not None:
            assert time.monotonic() < until
            time.sleep(0.005)


def outcomes(batch: Batch) -> list[Outcome]:
    batch.wait()
    return [Outcome(outcome) for outcome in batch.outcomes.tolist()]


def wait_quiet(batch: Batch) -> None:
    until = time.monotonic() + WAIT_S
    while not batch.is_quiet():
        assert time.monotonic() < until
        time.sleep(0.001)


def some_hashes(num_blocks: int) -> Hashes:
    """Hashes that nobody else has."""
    return np.frombuffer(os.urandom(16 * num_blocks), np.uint8).reshape(-1, 16).copy()


@pytest.fixture
def new_node() -> Iterator[Callable[..., Node]]:
    """Makes nodes that share values."""
    made: list[Node] = []
    fingerprint = os.urandom(16)

    def new(server: RedisServer | str, **options: Any) -> Node:
        url = server if isinstance(server, str) else server.url
        made.append(Node(url, fingerprint, **options))
        return made[-1]

    yield new
    for node in made:
        node.store.close()


# --- Sharing ------------------------------------------------------------------------------------


def test_one_node_finds_what_another_wrote(
    redis: RedisServer, new_node: Callable[..., Node]
) -> None:
    writer, reader = new_node(redis), new_node(redis)
    hashes = some_hashes(100)
    assert writer.put(hashes) == [DONE] * 100
    assert (writer.store.match(hashes), reader.store.match(hashes)) == (100, 0)
    assert reader.ask(hashes) == [DONE] * 100
    assert reader.store.match(hashes) == 100
    assert reader.get(hashes) == [DONE] * 100
    assert new_node(redis, connections=1).get(hashes) == [DONE] * 100
    assert new_node(redis, value_bytes=2048).get(hashes) == [MISS] * 100


def test_two_writers_of_one_block(redis: RedisServer, new_node: Callable[..., Node]) -> None:
    nodes = [new_node(redis) for _ in range(2)]
    hashes = some_hashes(300)
    came: dict[int, list[Outcome]] = {}
    threads = [
        threading.Thread(target=lambda i=i, node=node: came.update({i: node.put(hashes)}))  # type: ignore[misc]
        for i, node in enumerate(nodes)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert came == {0: [DONE] * 300, 1: [DONE] * 300}
    assert sum(node.store.stats().written for node in nodes) == 300
    assert nodes[0].get(hashes) == [DONE] * 300


@pytest.mark.parametrize("value_bytes", [8, 16 << 10, (16 << 10) + 8, 3 << 20])
def test_values_of_any_size(
    redis: RedisServer, new_node: Callable[..., Node], value_bytes: int
) -> None:
    """Joined, sent in one piece, and in several."""
    fingerprint = os.urandom(16)
    store = RedisStore(redis.url, fingerprint, value_bytes, stall_s=WAIT_S)
    hashes = some_hashes(12)
    slab = np.zeros((12, value_bytes), np.uint8)
    slab[:] = payload(hashes, value_bytes)
    assert outcomes(store.put_from(hashes, slab, np.arange(12), WAIT_S)) == [DONE] * 12
    back = np.zeros_like(slab)
    assert outcomes(store.get_into(hashes, back, np.arange(12)[::-1], WAIT_S)) == [DONE] * 12
    assert np.array_equal(back[::-1], slab)
    outcomes(store.remove(hashes, WAIT_S))
    store.close()


def test_a_value_leaves_after_its_time(redis: RedisServer, new_node: Callable[..., Node]) -> None:
    hashes = some_hashes(2)
    node = new_node(redis, ttl_s=100.0)
    with redis.client() as client:
        node.put(hashes)
        assert 99_000 < client.pttl(node.name(hashes)) <= 100_000
        client.pexpire(node.name(hashes), 5_000)
        node.put(hashes)  # is there: its time begins anew
        assert client.pttl(node.name(hashes)) > 99_000
        assert node.store.stats().written == 2
        client.pexpire(node.name(hashes), 1)
        time.sleep(0.01)
        assert node.get(hashes) == [MISS, DONE]
        client.persist(node.name(hashes, 1))
        assert new_node(redis).put(hashes) == [DONE] * 2
        assert client.pttl(node.name(hashes)) == -1


def test_caches_share_what_one_wrote(redis: RedisServer, new_node: Callable[..., Node]) -> None:
    slabs = [HostSlab(64, BLOCK_BYTES) for _ in range(2)]
    writer, reader = (KVCache(slab, new_node(redis).store, max_dirty=1.0) for slab in slabs)
    hashes = some_hashes(40)
    engine = Engine(64, BLOCK_BYTES)
    ids = engine.block_ids[:40]
    engine.write(ids, payload(hashes, BLOCK_BYTES))
    assert writer.store(hashes, engine.layers, ids).wait(WAIT_S)
    assert writer.flush(WAIT_S)
    probe = reader.probe(reader.lookup(hashes), timeout_s=WAIT_S)
    assert probe is not None
    fetch = reader.prefetch(probe.wait(), timeout_s=WAIT_S)
    assert fetch is not None
    assert fetch.wait() == 40
    engine.write(ids, ~payload(hashes, BLOCK_BYTES))
    with reader.acquire(hashes) as lease:
        assert reader.load(lease, engine.layers, ids).wait(WAIT_S)
    assert np.array_equal(engine.read(ids), payload(hashes, BLOCK_BYTES))
    reader.close()
    writer.close()


# --- Wrong values -------------------------------------------------------------------------------


def flip(at: int) -> Callable[[bytes, bytes], bytes]:
    return lambda value, other: value[:at] + bytes([value[at] ^ 1]) + value[at + 1 :]


WRONG: dict[str, Callable[[bytes, bytes], bytes]] = {
    "magic": flip(0),
    "fingerprint": flip(16),
    "hash": flip(40),
    "checksum": flip(127),
    "first byte": flip(128),
    "last byte": lambda value, other: flip(len(value) - 1)(value, other),
    "truncated": lambda value, other: value[:-1],
    "envelope only": lambda value, other: value[:128],
    "longer": lambda value, other: value + b"x",
    "much longer": lambda value, other: value + bytes(1 << 20),
    "empty": lambda value, other: b"",
    "another block's": lambda value, other: other,
}


@pytest.mark.parametrize("wrong", list(WRONG))
def test_wrong_bytes_are_never_handed_out(
    redis: RedisServer, new_node: Callable[..., Node], wrong: str
) -> None:
    node = new_node(redis)
    hashes = some_hashes(5)
    node.put(hashes)
    with redis.client() as client:
        value, other = (client.get(node.name(hashes, i)) for i in (2, 3))
        assert isinstance(value, bytes)
        assert isinstance(other, bytes)
        client.set(node.name(hashes, 2), WRONG[wrong](value, other))
        assert node.get(hashes) == [DONE, DONE, Outcome.CORRUPT, DONE, DONE]
        assert not client.exists(node.name(hashes, 2))
    assert node.store.stats().corrupt == 1
    assert node.store.match(hashes) == 2
    assert node.get(hashes) == [DONE, DONE, MISS, DONE, DONE]
    assert node.put(hashes) == [DONE] * 5
    assert node.get(hashes) == [DONE] * 5
    assert node.store.stats().written == 6


def test_what_is_no_string_is_corrupt(redis: RedisServer, new_node: Callable[..., Node]) -> None:
    node = new_node(redis)
    hashes = some_hashes(3)
    node.put(hashes[::2].copy())
    with redis.client() as client:
        client.rpush(node.name(hashes, 1), "x")
        assert node.ask(hashes) == [DONE, MISS, DONE]
        assert node.get(hashes) == [DONE, Outcome.CORRUPT, DONE]
        assert not client.exists(node.name(hashes, 1))


@pytest.mark.parametrize("foreign", [b"", b"short", bytes(BLOCK_BYTES), None])
def test_a_put_replaces_what_is_not_ours(
    redis: RedisServer, new_node: Callable[..., Node], foreign: bytes | None
) -> None:
    node = new_node(redis)
    hashes = some_hashes(2)
    with redis.client() as client:
        if foreign is None:
            client.rpush(node.name(hashes), "x")
        else:
            client.set(node.name(hashes), foreign)
    assert node.put(hashes) == [DONE] * 2
    # What is empty looks as if nobody was there; then the server keeps it, and a get finds it out.
    first = Outcome.CORRUPT if foreign == b"" else DONE
    assert node.get(hashes) == [first, DONE]


# --- Full servers -------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["redis", "valkey"])
def test_a_full_server_has_no_room(
    start_redis: Start, new_node: Callable[..., Node], kind: str
) -> None:
    server = start_redis(kind, maxmemory="6mb", maxmemory_policy="noeviction")
    node = new_node(server, value_bytes=64 << 10)
    hashes = some_hashes(200)
    came = node.put(hashes)
    assert set(came) == {DONE, MISS}
    assert node.store.last_error is None
    stats = node.store.stats()
    assert (stats.written, stats.failed) == (came.count(DONE), 0)
    assert node.get(hashes) == came
    assert outcomes(node.store.remove(hashes, WAIT_S)) == came
    assert node.put(hashes[:20]) == [DONE] * 20


def test_readers_of_a_server_that_evicts(start_redis: Start, new_node: Callable[..., Node]) -> None:
    server = start_redis(maxmemory="12mb", maxmemory_policy="allkeys-lru")
    hashes = some_hashes(400)  # 26 MB
    ends_at = time.monotonic() + 2
    seen: set[Outcome] = set()

    def live(seed: int) -> None:
        node = new_node(server, value_bytes=64 << 10)
        rng = np.random.default_rng(seed)
        while time.monotonic() < ends_at:
            some = hashes[rng.choice(400, 40, replace=False)]
            seen.update(node.get(some))
            seen.update(node.put(some))
        assert node.store.stats().corrupt == 0

    threads = [threading.Thread(target=live, args=(seed,)) for seed in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    with server.client() as client:
        assert client.info("stats")["evicted_keys"] > 0
    assert DONE in seen
    assert seen <= {DONE, MISS}


# --- Slow and dead servers ----------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["redis", "valkey"])
def test_a_frozen_server_costs_its_time_once(
    start_redis: Start, new_node: Callable[..., Node], kind: str
) -> None:
    server = start_redis(kind)
    node = new_node(server, stall_s=0.3)
    hashes = some_hashes(500)
    node.put(hashes)
    server.freeze()
    began = time.monotonic()
    for i in range(500):
        assert node.get(hashes[i : i + 1]) == [FAILED]
        assert node.put(hashes[i : i + 1]) == [FAILED]
    assert 0.25 < time.monotonic() - began < 2.5  # not 300 s
    assert node.store.match(hashes) == 0
    assert (
        "timed out" in str(node.store.last_error).lower()
        or "timeout" in str(node.store.last_error).lower()
    )
    server.thaw()
    node.wait_until_well()
    assert node.get(hashes) == [DONE] * 500


def test_a_dead_server_costs_nothing(start_redis: Start, new_node: Callable[..., Node]) -> None:
    server = start_redis()
    server.kill()
    node = new_node(server)
    hashes = some_hashes(1000)
    began = time.monotonic()
    for i in range(1000):
        assert node.get(hashes[i : i + 1]) == [FAILED]
    assert time.monotonic() - began < 2
    assert node.store.stats().failed == 1000
    server.start()
    node.wait_until_well()
    assert node.put(hashes[:100]) == [DONE] * 100


def test_outcomes_keep_their_deadline(start_redis: Start, new_node: Callable[..., Node]) -> None:
    server = start_redis()
    node = new_node(server, stall_s=20.0, value_bytes=256 << 10)
    hashes = some_hashes(200)
    assert node.put(hashes) == [DONE] * 200
    server.freeze()
    slab = np.zeros((200, 256 << 10), np.uint8)
    began = time.monotonic()
    batches = [
        node.store.get_into(hashes, slab, np.arange(200), 0.2),
        node.store.put_from(some_hashes(100), slab, np.arange(100), 0.2),
        node.store.contains(hashes, 0.2),
        node.store.remove(hashes, 0.2),
    ]
    assert time.monotonic() - began < 1.0
    for batch in batches:
        assert set(outcomes(batch)) == {Outcome.TIMED_OUT}
    assert time.monotonic() - began < 2.0
    assert not batches[0].is_quiet()
    # Closing does not wait for the server either, and takes the memory back.
    node.store.close()
    assert time.monotonic() - began < 4.0
    assert all(batch.is_quiet() for batch in batches)


def test_a_server_freezes_in_the_middle(start_redis: Start, new_node: Callable[..., Node]) -> None:
    server = start_redis()
    node = new_node(server, stall_s=0.2, value_bytes=256 << 10)
    hashes = some_hashes(300)
    assert node.put(hashes) == [DONE] * 300
    expected = payload(hashes, 256 << 10)
    for pause_s in (0.005, 0.02, 0.04):
        node.wait_until_well()
        node.slab[:] = 0xA5
        timer = threading.Timer(pause_s, server.freeze)
        timer.start()
        began = time.monotonic()
        came = outcomes(node.store.get_into(hashes, node.slab, np.arange(300), 2.0))
        assert time.monotonic() - began < 1.0
        timer.join()
        assert set(came) <= {DONE, FAILED}
        for i, outcome in enumerate(came):
            assert outcome != DONE or np.array_equal(node.slab[i], expected[i])
        server.thaw()
    node.wait_until_well()
    assert node.get(hashes) == [DONE] * 300


def test_a_server_is_killed_and_comes_back_empty(
    start_redis: Start, new_node: Callable[..., Node]
) -> None:
    server = start_redis()
    node = new_node(server)
    hashes = some_hashes(300)
    node.put(hashes)
    seen = []
    for i in range(300):
        if i == 100:
            server.kill()
        if i == 200:
            server.start()
            node.wait_until_well()
        seen += node.get(hashes[i : i + 1])
    assert seen == [DONE] * 100 + [FAILED] * 100 + [MISS] * 100
    assert node.store.match(hashes) == 0
    assert node.put(hashes) == [DONE] * 300
    assert node.get(hashes) == [DONE] * 300


def test_a_restart_between_two_calls_is_not_noticed(
    start_redis: Start, new_node: Callable[..., Node]
) -> None:
    server = start_redis()
    node = new_node(server)
    hashes = some_hashes(40)
    node.put(hashes)
    server.kill()
    server.start()
    assert node.get(hashes) == [MISS] * 40
    assert node.store.match(hashes) == 0
    assert node.put(hashes) == [DONE] * 40
    with server.client() as client:  # as servers end idle connections
        for _ in range(3):
            client.client_kill_filter(_type="normal", skipme=True)
            assert node.get(hashes) == [DONE] * 40
    assert node.store.stats().failed == 0


def test_reads_while_a_server_comes_and_goes(
    start_redis: Start, new_node: Callable[..., Node]
) -> None:
    server = start_redis()
    node = new_node(server, stall_s=0.2, value_bytes=64 << 10)
    hashes = some_hashes(64)
    stop = threading.Event()
    seen: set[Outcome] = set()

    def live() -> None:
        own = Node(server.url, node.fingerprint, value_bytes=64 << 10, stall_s=0.2)
        while not stop.is_set():
            seen.update(own.get(hashes, timeout_s=1.0))
            own.put(hashes, timeout_s=1.0)
        own.store.close()
        assert own.store.stats().corrupt == 0

    threads = [threading.Thread(target=live) for _ in range(2)]
    for thread in threads:
        thread.start()
    for _ in range(4):
        time.sleep(0.3)
        server.kill()
        time.sleep(0.1)
        server.start()
    time.sleep(0.3)
    stop.set()
    for thread in threads:
        thread.join(WAIT_S)
        assert not thread.is_alive()
    assert {DONE, MISS, FAILED} <= seen <= {DONE, MISS, FAILED, Outcome.TIMED_OUT}
    node.wait_until_well()
    node.put(hashes)
    assert node.get(hashes) == [DONE] * 64


def test_writes_that_wait_are_bounded(start_redis: Start, new_node: Callable[..., Node]) -> None:
    server = start_redis()
    node = new_node(server, stall_s=20.0, max_queued_bytes=100 * BLOCK_BYTES)
    node.put(some_hashes(1))
    server.freeze()
    first = node.store.put_from(some_hashes(80), node.slab, np.arange(80), WAIT_S)
    second = node.store.put_from(some_hashes(80), node.slab, np.arange(80), WAIT_S)
    third = node.store.put_from(some_hashes(80), node.slab, np.arange(80), WAIT_S)
    assert first.outcomes.tolist() == [Outcome.PENDING] * 80
    assert second.outcomes.tolist() == [Outcome.PENDING] * 20 + [MISS] * 60
    assert third.outcomes.tolist() == [MISS] * 80
    assert third.is_quiet()
    server.thaw()
    assert outcomes(first) == [DONE] * 80
    assert outcomes(second) == [DONE] * 20 + [MISS] * 60
    assert node.put(some_hashes(100)) == [DONE] * 100  # there is room again


@pytest.mark.parametrize(
    "answer", [b"HTTP/1.1 400 Bad Request\r\n\r\n", b"", b"$-7x\r\n", b"*9\r\n"]
)
def test_a_server_of_something_else_is_given_up(answer: bytes) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def serve() -> None:
            with suppress(OSError):
                while True:
                    connection, _ = listener.accept()
                    with connection:
                        connection.recv(1000)
                        connection.sendall(answer)

        threading.Thread(target=serve, daemon=True).start()
        node = Node(f"redis://127.0.0.1:{listener.getsockname()[1]}", bytes(16), stall_s=0.3)
        assert node.get(some_hashes(3)) == [FAILED] * 3
        assert node.store.last_error
        node.store.close()


# --- URLs and wrong arguments -------------------------------------------------------------------


def test_passwords_databases_and_sockets(start_redis: Start, new_node: Callable[..., Node]) -> None:
    server = start_redis(requirepass="p/w d")
    hashes = some_hashes(3)
    place = f"127.0.0.1:{server.port}"
    node = new_node(f"redis://:p%2Fw%20d@{place}/3")
    assert node.put(hashes) == [DONE] * 3
    assert new_node(f"valkey://default:p%2Fw%20d@{place}?db=3").get(hashes) == [DONE] * 3
    assert new_node(f"redis://{place}/3?password=p%2Fw%20d").get(hashes) == [DONE] * 3
    assert new_node(f"redis://:p%2Fw%20d@{place}/4").get(hashes) == [MISS] * 3
    assert new_node(f"unix://{server.socket}?db=3&password=p%2Fw%20d").get(hashes) == [DONE] * 3
    for wrong in (f"redis://{place}/3", f"redis://:wrong@{place}/3"):
        node = new_node(wrong)
        assert node.get(hashes) == [FAILED] * 3
        assert node.store.last_error
        assert "p/w" not in node.store.last_error


def test_stores_by_url(redis: RedisServer) -> None:
    fingerprint, hashes = os.urandom(16), some_hashes(2)
    slab = np.zeros((2, 100), np.uint8)
    url = f"{redis.url}/1?connections=2&ttl_s=60&stall_s=5&max_queued_bytes=1MiB&client_name=kv"
    store = open_store(url, fingerprint, 100)
    assert isinstance(store, RedisStore)
    assert outcomes(store.put_from(hashes, slab, [0, 1], WAIT_S)) == [DONE] * 2
    other = open_store(f"unix://{redis.socket}?db=1", fingerprint, 100)
    assert outcomes(other.get_into(hashes, slab, [0, 1], WAIT_S)) == [DONE] * 2
    with redis.client() as client:
        assert "kv" in {each["name"] for each in client.client_list()}
    store.close()
    other.close()


@pytest.mark.parametrize(
    ("url", "message"),
    [
        ("redis:", "url must have a host after redis://"),
        ("redis:///1", "url must have a host after redis://"),
        ("redis://host/name", "url must have a number as its database, got 'name'"),
        ("redis://host:port", "url must be one that redis-py can use.*port"),
        ("redis://host?db=x", "url must be one that redis-py can use.*'db'"),
        ("redis://host?ssl_keyfile=x", "url must be one that redis-py can use.*ssl_keyfile"),
        ("redis://host?protocol=3", "url must have options of connections, ttl_s.*'protocol'"),
        ("redis://host?ttl_s=x", "ttl_s must be a number, got 'x'"),
        ("redis://host?ttl_s=0", "ttl_s must be above 0 and at most .*, got 0"),
        ("redis://host?connections=65", "connections must be from 1 to 64, got 65"),
        ("redis://host?stall_s=0", "stall_s must be above 0 and at most 3600, got 0"),
        ("unix://", "url must have a path after unix://"),
    ],
)
def test_wrong_urls(url: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        open_store(url, bytes(16), 100)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"url": 5}, "url must be a str, got int"),
        ({"url": "http://host"}, "url must begin with redis:// or .*, got 'http'"),
        ({"url": "redis://host?timeout=1"}, "url must have options of db, .*, got 'timeout'"),
        ({"fingerprint": b"short"}, "fingerprint must be 16 bytes"),
        ({"value_bytes": 0}, "value_bytes must be from 1 to 536870784, got 0"),
        ({"value_bytes": 1 << 29}, "value_bytes must be from 1 to"),
        ({"value_bytes": True}, "value_bytes must be an int, got bool"),
        ({"connections": 1.5}, "connections must be an int, got float"),
        ({"ttl_s": "1"}, "ttl_s must be a number, got str"),
        ({"first_probe_s": -1}, "first_probe_s must be above 0"),
        ({"last_probe_s": float("nan")}, "last_probe_s must be above 0"),
        ({"record_age_s": 4000}, "record_age_s must be above 0 and at most 3600, got 4000"),
        ({"max_queued_bytes": -1}, "max_queued_bytes must be from 0 to"),
    ],
)
def test_wrong_arguments(change: dict[str, Any], message: str) -> None:
    threads = threading.active_count()
    arguments = {"url": "redis://127.0.0.1", "fingerprint": bytes(16), "value_bytes": 100} | change
    with pytest.raises((TypeError, ValueError), match=message):
        RedisStore(**arguments)
    assert threading.active_count() == threads


def test_without_redis_py_it_says_what_to_install() -> None:
    code = """
import sys
sys.modules["redis"] = None
from kvcore.stores import open_store
try:
    open_store("redis://127.0.0.1", bytes(16), 100)
except ImportError as error:
    print(error)
"""
    done = subprocess.run([*PYTHON, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "redis-py is missing: pip install 'kvcore[redis]'\n"


# --- Ends ---------------------------------------------------------------------------------------


def test_a_dropped_store_ends_its_threads(redis: RedisServer) -> None:
    before = threading.active_count()
    store = RedisStore(redis.url, os.urandom(16), 100, connections=3)
    outcomes(store.contains(some_hashes(3), WAIT_S))
    assert threading.active_count() == before + 3
    del store
    gc.collect()
    until = time.monotonic() + WAIT_S
    while threading.active_count() > before:
        assert time.monotonic() < until
        time.sleep(0.001)


@pytest.mark.parametrize("is_frozen", [False, True])
def test_a_process_ends_in_the_middle(start_redis: Start, is_frozen: bool) -> None:
    server = start_redis()
    code = f"""
import os, time
import numpy as np
from kvcore.stores import RedisStore
store = RedisStore({server.url!r}, bytes(16), 1 << 20, stall_s=20)
hashes = np.frombuffer(os.urandom(16 * 60), np.uint8).reshape(-1, 16).copy()
slab = np.zeros((60, 1 << 20), np.uint8)
store.contains(hashes, None).wait()
print("up", flush=True)
input()
store.put_from(hashes, slab, np.arange(60), None)
store.get_into(hashes, slab, np.arange(60), None)
time.sleep(0.02)
"""
    process = subprocess.Popen(
        [*PYTHON, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "up\n"
    if is_frozen:
        server.freeze()
    process.communicate("\n", timeout=10)
    assert process.returncode == 0


def test_a_forked_child_ends_and_holds_nothing(redis: RedisServer) -> None:
    code = f"""
import os
import numpy as np
from kvcore.stores import RedisStore
store = RedisStore({redis.url!r}, os.urandom(16), 100, stall_s=20)
hashes = np.zeros((1, 16), np.uint8)
slab = np.zeros((1, 100), np.uint8)
store.put_from(hashes, slab, [0], None).wait()
if os.fork() == 0:
    batch = store.get_into(hashes, slab, [0], None)
    batch.wait()
    assert batch.outcomes.tolist() == [2] and batch.is_quiet()
    assert store.match(hashes) == 0 and store.last_error is None
    store.close()
    del store
    os._exit(0)
assert os.wait()[1] == 0
batch = store.get_into(hashes, slab, [0], None)
batch.wait()
assert batch.outcomes.tolist() == [1]
store.close()
"""
    subprocess.run([*PYTHON, "-W", "ignore", "-c", code], check=True, timeout=60)


# --- Its parts ----------------------------------------------------------------------------------


def a_source(
    num_blocks: int = 2, writable: bool = True
) -> tuple[BatchSource, np.ndarray[Any, Any]]:
    slab = np.zeros((num_blocks, 64), np.uint8)
    make = BatchSource.reading if writable else BatchSource.writing
    ids = np.arange(num_blocks, dtype=np.uint32)
    place = (slab.ctypes.data, 64, num_blocks, ids)
    return make(some_hashes(num_blocks), None, *place, None, slab, 64), slab


def test_a_batch_that_is_lost_has_failed() -> None:
    source, _ = a_source(3)
    batch = source.batch
    source.decide(0, DONE)
    source.decide(1, MISS)
    source.let_go(1)
    assert batch.outcomes.tolist() == [DONE, MISS, Outcome.PENDING]
    assert not batch.is_quiet()
    del source
    assert batch.outcomes.tolist() == [DONE, MISS, FAILED]
    assert batch.is_quiet()


def test_memory_of_a_batch_is_the_slabs() -> None:
    source, slab = a_source()
    source.memory(1)[:3] = b"abc"
    assert slab[1, :3].tobytes() == b"abc"
    envelope = source.seal(1, bytes(16))
    assert len(envelope) == 128
    assert source.verify(1, bytes(16), envelope)
    assert not source.verify(0, bytes(16), envelope)
    assert not source.verify(1, b"x" * 16, envelope)
    slab[1, 5] ^= 1
    assert not source.verify(1, bytes(16), envelope)
    views = [source.memory(0), a_source(writable=False)[0].memory(0)]
    assert [view.readonly for view in views] == [False, True]
    owner = weakref.ref(slab)
    del source, slab
    gc.collect()
    assert owner() is not None
    views.clear()
    gc.collect()
    assert owner() is None


def test_wrong_use_of_a_batch_is_an_error() -> None:
    source, _ = a_source()
    source.decide(0, DONE)
    assert source.decide(0, FAILED) == DONE
    source.let_go(0)
    for call in (
        lambda: source.let_go(0),
        lambda: source.decide(0, DONE),
        lambda: source.memory(0),
        lambda: source.seal(0, bytes(16)),
        lambda: source.verify(0, bytes(16), bytes(128)),
    ):
        with pytest.raises(ValueError, match="let go"):
            call()
    with pytest.raises(ValueError, match="key must be"):
        source.memory(2)
    with pytest.raises(ValueError, match="envelope must be 128 bytes, got 5"):
        source.verify(1, bytes(16), b"short")
    with pytest.raises(ValueError, match="outcome must be a decision"):
        source.decide(1, Outcome.PENDING)
    with pytest.raises(ValueError, match="has no memory"):
        BatchSource.asking(some_hashes(1), None, None).memory(0)


class Pieces:
    """A connection whose socket gives what it has in pieces of these sizes."""

    def __init__(self, stream: bytes, sizes: list[int]) -> None:
        self._sock = self
        self._stream, self._sizes = stream, sizes

    def recv_into(self, memory: memoryview) -> int:
        size = self._sizes.pop(0) if self._sizes else len(memory)
        part = self._stream[: min(size, len(memory))]
        self._stream = self._stream[len(part) :]
        memory[: len(part)] = part
        return len(part)


@given(
    st.lists(
        st.one_of(st.none(), st.integers(-5, 1 << 40), st.binary(max_size=300), st.just("ok")),
        max_size=8,
    ),
    st.lists(st.integers(1, 40), max_size=200),
)
def test_replies_come_in_any_pieces(answers: list[Any], sizes: list[int]) -> None:
    stream = b""
    for answer in answers:
        if answer is None:
            stream += b"$-1\r\n"
        elif isinstance(answer, int):
            stream += b":%d\r\n" % answer
        elif isinstance(answer, str):
            stream += b"+ok\r\n"
        else:
            stream += b"$%d\r\n%b\r\n" % (len(answer), answer)
    whole = b"*%d\r\n" % len(answers) + stream
    replies = Replies()
    replies.on_connect(Pieces(whole + stream + whole, list(sizes)))
    expected = [b"ok" if answer == "ok" else answer for answer in answers]
    assert replies.read() == expected
    for answer in answers:
        if isinstance(answer, bytes) and len(answer) >= 4:
            head, rest = bytearray(4), bytearray(len(answer) - 4)
            assert replies.read_value(memoryview(head), memoryview(rest)) is True
            assert head + rest == answer
        elif isinstance(answer, bytes):
            assert replies.read_value(memoryview(bytearray(9)), memoryview(b"")) is False
        else:
            assert replies.read() == (b"ok" if answer == "ok" else answer)
    assert replies.read() == expected
    assert not replies.can_read()
    with pytest.raises(redis_py.ConnectionError):
        replies.read()


def test_errors_in_replies() -> None:
    replies = Replies()
    replies.on_connect(Pieces(b"-OOM no room\r\n-LOADING wait\r\n:1\r\n%1\r\n", []))
    assert isinstance(replies.read(), redis_py.exceptions.OutOfMemoryError)
    with pytest.raises(redis_py.exceptions.BusyLoadingError):
        replies.read()
    with pytest.raises(redis_py.exceptions.InvalidResponse):
        replies.read_value(memoryview(bytearray(1)), memoryview(bytearray(1)))
    with pytest.raises(redis_py.exceptions.InvalidResponse):
        replies.read()
    replies.on_connect(Pieces(b"x" * 20_000, []))
    with pytest.raises(redis_py.exceptions.InvalidResponse, match="no end"):
        replies.read()
