"""RedisStore and real servers: what comes back is what was put."""

from __future__ import annotations

import os
import subprocess
import threading
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from models.processes import PYTHON
from support.batches import WAIT_S, chain, outcomes
from support.redis_node import BLOCK_BYTES, DONE, FAILED, MISS, RedisNode, Start
from support.redis_server import RedisServer

from kvcore import HostSlab, KVCache
from kvcore.stores import Outcome, RedisStore, open_store
from kvcore.verify import Engine, payload

# --- Sharing -------------------------------------------------------------------------------------


def test_one_node_finds_what_another_wrote(
    redis: RedisServer, new_redis_node: Callable[..., RedisNode]
) -> None:
    writer, reader = new_redis_node(redis), new_redis_node(redis)
    hashes = chain(100)
    assert writer.put(hashes) == [DONE] * 100
    assert (writer.store.match(hashes), reader.store.match(hashes)) == (100, 0)
    assert reader.ask(hashes) == [DONE] * 100
    assert reader.store.match(hashes) == 100
    assert reader.get(hashes) == [DONE] * 100
    assert new_redis_node(redis, connections=1).get(hashes) == [DONE] * 100
    assert new_redis_node(redis, value_bytes=2048).get(hashes) == [MISS] * 100


def test_two_writers_of_one_block(
    redis: RedisServer, new_redis_node: Callable[..., RedisNode]
) -> None:
    nodes = [new_redis_node(redis) for _ in range(2)]
    hashes = chain(300)
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
    redis: RedisServer, new_redis_node: Callable[..., RedisNode], value_bytes: int
) -> None:
    """Joined, sent in one piece, and in several."""
    fingerprint = os.urandom(16)
    store = RedisStore(redis.url, fingerprint, value_bytes, stall_s=WAIT_S)
    hashes = chain(12)
    slab = np.zeros((12, value_bytes), np.uint8)
    slab[:] = payload(hashes, value_bytes)
    assert outcomes(store.put_from(hashes, slab, np.arange(12), WAIT_S)) == [DONE] * 12
    back = np.zeros_like(slab)
    assert outcomes(store.get_into(hashes, back, np.arange(12)[::-1], WAIT_S)) == [DONE] * 12
    assert np.array_equal(back[::-1], slab)
    outcomes(store.remove(hashes, WAIT_S))
    store.close()


def test_a_value_leaves_after_its_time(
    redis: RedisServer, new_redis_node: Callable[..., RedisNode]
) -> None:
    hashes = chain(2)
    node = new_redis_node(redis, ttl_s=100.0)
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
        assert new_redis_node(redis).put(hashes) == [DONE] * 2
        assert client.pttl(node.name(hashes)) == -1


def test_caches_share_what_one_wrote(
    redis: RedisServer, new_redis_node: Callable[..., RedisNode]
) -> None:
    slabs = [HostSlab(64, BLOCK_BYTES) for _ in range(2)]
    writer, reader = (KVCache(slab, new_redis_node(redis).store, max_dirty=1.0) for slab in slabs)
    hashes = chain(40)
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


# --- Wrong values --------------------------------------------------------------------------------


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
    redis: RedisServer, new_redis_node: Callable[..., RedisNode], wrong: str
) -> None:
    node = new_redis_node(redis)
    hashes = chain(5)
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


def test_what_is_no_string_is_corrupt(
    redis: RedisServer, new_redis_node: Callable[..., RedisNode]
) -> None:
    node = new_redis_node(redis)
    hashes = chain(3)
    node.put(hashes[::2].copy())
    with redis.client() as client:
        client.rpush(node.name(hashes, 1), "x")
        assert node.ask(hashes) == [DONE, MISS, DONE]
        assert node.get(hashes) == [DONE, Outcome.CORRUPT, DONE]
        assert not client.exists(node.name(hashes, 1))


@pytest.mark.parametrize("foreign", [b"", b"short", bytes(BLOCK_BYTES), None])
def test_a_put_replaces_what_is_not_ours(
    redis: RedisServer, new_redis_node: Callable[..., RedisNode], foreign: bytes | None
) -> None:
    node = new_redis_node(redis)
    hashes = chain(2)
    with redis.client() as client:
        if foreign is None:
            client.rpush(node.name(hashes), "x")
        else:
            client.set(node.name(hashes), foreign)
    assert node.put(hashes) == [DONE] * 2
    # What is empty looks as if nobody was there; then the server keeps it, and a get finds it out.
    first = Outcome.CORRUPT if foreign == b"" else DONE
    assert node.get(hashes) == [first, DONE]


# --- Full servers --------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["redis", "valkey"])
def test_a_full_server_has_no_room(
    start_redis: Start, new_redis_node: Callable[..., RedisNode], kind: str
) -> None:
    server = start_redis(kind, maxmemory="6mb", maxmemory_policy="noeviction")
    node = new_redis_node(server, value_bytes=64 << 10)
    hashes = chain(200)
    came = node.put(hashes)
    assert set(came) == {DONE, MISS}
    assert node.store.last_error is None
    stats = node.store.stats()
    assert (stats.written, stats.failed) == (came.count(DONE), 0)
    assert node.get(hashes) == came
    assert outcomes(node.store.remove(hashes, WAIT_S)) == came
    assert node.put(hashes[:20]) == [DONE] * 20


def test_readers_of_a_server_that_evicts(
    start_redis: Start, new_redis_node: Callable[..., RedisNode]
) -> None:
    server = start_redis(maxmemory="12mb", maxmemory_policy="allkeys-lru")
    hashes = chain(400)  # 26 MB
    ends_at = time.monotonic() + 2
    seen: set[Outcome] = set()

    def live(seed: int) -> None:
        node = new_redis_node(server, value_bytes=64 << 10)
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


# --- URLs and wrong arguments --------------------------------------------------------------------


def test_passwords_databases_and_sockets(
    start_redis: Start, new_redis_node: Callable[..., RedisNode]
) -> None:
    server = start_redis(requirepass="p/w d")
    hashes = chain(3)
    place = f"127.0.0.1:{server.port}"
    node = new_redis_node(f"redis://:p%2Fw%20d@{place}/3")
    assert node.put(hashes) == [DONE] * 3
    assert new_redis_node(f"valkey://default:p%2Fw%20d@{place}?db=3").get(hashes) == [DONE] * 3
    assert new_redis_node(f"redis://{place}/3?password=p%2Fw%20d").get(hashes) == [DONE] * 3
    assert new_redis_node(f"redis://:p%2Fw%20d@{place}/4").get(hashes) == [MISS] * 3
    assert (
        new_redis_node(f"unix://{server.socket}?db=3&password=p%2Fw%20d").get(hashes) == [DONE] * 3
    )
    for wrong in (f"redis://{place}/3", f"redis://:wrong@{place}/3"):
        node = new_redis_node(wrong)
        assert node.get(hashes) == [FAILED] * 3
        assert node.store.last_error
        assert "p/w" not in node.store.last_error


def test_stores_by_url(redis: RedisServer) -> None:
    fingerprint, hashes = os.urandom(16), chain(2)
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
