"""Clusters that AIBrix manages: its slots, its list in Redis, and its watcher's faults."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from support.batches import chain
from support.cluster_calls import get, open_infinistore, put, wait_until
from support.infinistore import InfiniStoreServer
from support.redis_server import RedisServer

from kvcore.cluster import (
    ClusterError,
    SlotRange,
    shares,
)
from kvcore.cluster.aibrix import AibrixSource, parse_nodes
from kvcore.stores.url import cluster_of


def nodes(*listed: tuple[str, int, list[tuple[int, int]]], **more: Any) -> bytes:
    """As AIBrix's watcher writes it."""
    entries = [
        {
            "name": f"pod-{i}",
            "addr": addr,
            "port": port,
            "slots": [{"start": start, "end": end} for start, end in slots],
        }
        for i, (addr, port, slots) in enumerate(listed)
    ]
    return json.dumps({"nodes": entries, "version": 1} | more).encode()


def test_slots_are_those_of_aibrix() -> None:
    """By FarmHash64 of the package cityhash 0.4.10, of a record's key."""
    slots_of_keys = [2103, 2652, 1271, 3732, 4075, 1465]
    scope = bytes(range(16))
    hashes = (np.arange(6 * 16) % 256).astype(np.uint8).reshape(6, 16)
    for i, slot in enumerate(slots_of_keys):
        rest = [(0, slot - 1), (slot + 1, 4095)]
        members = parse_nodes(nodes(("10.0.0.1", 5, rest), ("10.0.0.2", 5, [(slot, slot)])))
        placed = members.placement().place(scope, hashes, 2)
        assert placed[:, 0].tolist() == [int(j == i) for j in range(6)]
        assert placed[:, 1].tolist() == [int(j != i) for j in range(6)]


def test_nodes_are_servers() -> None:
    text = nodes(("10.0.0.1", 5, [(4090, 9), (700, 800)]), ("fd00::1", 6, [(10, 4089)]))
    members = parse_nodes(text)
    assert [(s.name, s.label, s.address) for s in members.servers] == [
        ("10.0.0.1:5", "pod-0", "10.0.0.1"),
        ("[fd00::1]:6", "pod-1", "fd00::1"),
    ]
    assert members.slots == (SlotRange(0, 4090, 9), SlotRange(0, 700, 800), SlotRange(1, 10, 4089))
    assert parse_nodes(nodes(("10.0.0.1", 5, [(0, 9)]), version="none")).slots is not None


def test_nodes_of_one_address_are_one_server() -> None:
    text = nodes(
        ("10.0.0.1", 5, [(0, 9)]), ("10.0.0.2", 5, [(10, 19)]), ("10.0.0.1", 5, [(20, 29)])
    )
    members = parse_nodes(text)
    assert len(members.servers) == 2
    assert [r.server for r in members.slots or ()] == [0, 1, 0]


def test_a_node_that_goes_round_has_what_the_watcher_forgot() -> None:
    text = nodes(
        ("10.0.0.1", 5, [(4000, 99)]),
        ("10.0.0.2", 5, [(100, 1999)]),
        ("10.0.0.3", 5, [(3000, 3999)]),
    )
    share = shares(parse_nodes(text), 1)
    assert share == pytest.approx([1196 / 4096, 1900 / 4096, 1000 / 4096], abs=0.01)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (b"", "Expecting value"),
        (b"\xc3\x28", "makes no sense"),
        (b"[]", "makes no sense"),
        (b"{}", "makes no sense"),
        (b'{"nodes": null}', "makes no sense"),
        (b'{"nodes": []}', "has no nodes"),
        (b'{"nodes": [1]}', "makes no sense"),
        (b'{"nodes": {"a": 1}}', "makes no sense"),
        (b'{"nodes": [{"addr": "10.0.0.1", "port": 5}]}', "makes no sense"),
        (b'{"nodes": [{"addr": "10.0.0.1", "port": 5, "slots": null}]}', "has no slots"),
        (nodes(("pod-0.svc", 5, [(0, 9)])), "addr must be an address in numbers, got 'pod-0.svc'"),
        (nodes(("10.0.0.1", 0, [(0, 9)])), "port must be from 1 to 65535"),
        (nodes(("10.0.0.1", "5", [(0, 9)])), "port must be an int"),  # type: ignore[arg-type]
        (nodes(("10.0.0.1", 5, [(-1, 9)])), "slots must be whole numbers from 0 on, got -1"),
        (nodes(("10.0.0.1", 5, [(0, 1 << 20)])), "slots must be below 1048576"),
        (nodes(("10.0.0.1", 5, [(0, 1 << 40)])), "slots must be whole numbers"),
        (nodes(("10.0.0.1", 5, [(0, 4095)] * 300)), "slots must be at most 1048576"),
        pytest.param(b"[" * 100_000, "makes no sense", id="deep"),
    ],
)
def test_nodes_that_make_no_sense_are_refused(text: bytes, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        parse_nodes(text)


def test_a_node_without_slots_has_nothing() -> None:
    entry = json.loads(nodes(("10.0.0.1", 5, [(0, 4095)]), ("10.0.0.2", 5, [])))
    entry["nodes"][1]["slots"] = None  # as its watcher has it
    members = parse_nodes(json.dumps(entry).encode())
    assert shares(members, 2) == [1, 0]


def test_a_store_follows_what_aibrix_writes(
    start_infinistore: Callable[..., InfiniStoreServer], start_redis: Callable[..., RedisServer]
) -> None:
    redis, servers = start_redis(), [start_infinistore() for _ in range(2)]
    one, other = (server.port for server in servers)
    store = open_infinistore(
        f"infinistore+aibrix://127.0.0.1:{redis.port}/0?chunk_blocks=1&stall_s=1&refresh_s=0.02"
    )
    watcher = store.watcher
    assert watcher is not None
    hashes = chain(100)

    def write(text: bytes) -> None:
        with redis.client() as client:
            client.set("kvcache_nodes", text)

    # Before there is a key, all is a miss.
    assert "there is no key" in str(watcher.error)
    assert put(store, hashes) == get(store, hashes) == 0
    write(nodes(("127.0.0.1", one, [(0, 4095)])))
    wait_until(lambda: set(store.server_stats()) == {f"127.0.0.1:{one}"})
    assert put(store, hashes) == get(store, hashes) == 100
    # Garbage, and no key again, change nothing.
    write(b"garbage")
    wait_until(lambda: "Expecting value" in str(watcher.error))
    assert get(store, hashes) == 100
    with redis.client() as client:
        client.delete("kvcache_nodes")
    wait_until(lambda: "there is no key" in str(watcher.error))
    assert get(store, hashes) == 100
    # Half of the slots go to another, with an older version.
    halves = nodes(("127.0.0.1", one, [(0, 2047)]), ("127.0.0.1", other, [(2048, 4095)]), version=0)
    write(halves)
    wait_until(lambda: len(store.server_stats()) == 2)
    kept = get(store, hashes)
    assert 25 <= kept <= 75
    assert put(store, hashes) == get(store, hashes) == 100
    # Redis goes, and comes back empty.
    redis.kill()
    wait_until(lambda: "Redis: Error" in str(watcher.error))
    assert get(store, hashes) == 100
    redis.start()
    wait_until(lambda: "there is no key" in str(watcher.error))
    assert get(store, hashes) == 100
    # A pod that is gone stays in the list: what it has is a miss, the rest is not.
    servers[1].kill()
    write(halves)
    wait_until(lambda: watcher.error is None)
    assert get(store, hashes) == kept
    # Later, its address changes.
    servers[1].restart()
    write(nodes(("127.0.0.1", one, [(0, 2047)]), ("127.0.0.2", other, [(2048, 4095)])))
    wait_until(lambda: f"127.0.0.2:{other}" in store.server_stats())
    assert get(store, hashes) == kept
    store.close()


def test_aibrix_is_read_from_another_database_with_a_password(
    start_redis: Callable[..., RedisServer],
) -> None:
    redis = start_redis(requirepass="p@ss")
    with redis.client() as client:
        client.select(3)
        client.set("other", nodes(("10.0.0.1", 5, [(0, 4095)])))
    url = f"infinistore+aibrix://:p%40ss@127.0.0.1:{redis.port}/3?key=other"
    assert cluster_of(url)[0].read().servers[0].address == "10.0.0.1"
    with pytest.raises(ClusterError, match="Redis: "):
        AibrixSource("127.0.0.1", redis.port, 3, key="other").read()


def test_copies_on_an_aibrix_cluster_are_on_two_servers(
    start_infinistore: Callable[..., InfiniStoreServer], start_redis: Callable[..., RedisServer]
) -> None:
    redis, servers = start_redis(), [start_infinistore() for _ in range(2)]
    slots = [[(i, i + 9) for i in range(first, 4090, 20)] for first in (0, 10)]
    with redis.client() as client:
        client.set(
            "kvcache_nodes",
            nodes(*(("127.0.0.1", s.port, part) for s, part in zip(servers, slots, strict=True))),
        )
    store = open_infinistore(
        f"infinistore+aibrix://127.0.0.1:{redis.port}?replicas=2&chunk_blocks=1&stall_s=1"
    )
    hashes = chain(100)
    assert put(store, hashes) == 100
    assert [server.kvmap_len() for server in servers] == [200, 200]  # records and values
    servers[0].kill()
    assert get(store, hashes) == 100
    store.close()
