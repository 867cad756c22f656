"""Several InfiniStore servers that come, go, die and are late."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Any

import pytest
from support.batches import WAIT_S, chain
from support.fake_server import FakeServer, HonestScript, Request
from support.infinistore import InfiniStoreServer
from support.infinistore_node import Node
from support.proxy import Proxy

from kvcore.stores import Outcome, Server

Start = Callable[..., InfiniStoreServer]


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


def test_a_server_that_is_only_busy_is_waited_for(
    start_infinistore: Start, fingerprint: bytes
) -> None:
    """What waits longer than `patience_s` for its turn goes to no other server meanwhile."""
    servers = [start_infinistore(), start_infinistore()]
    with Proxy(servers[0].address) as one, Proxy(servers[1].address) as other:
        options = {"replicas": 2, "patience_s": 0.15, "connections": 1, "chunk_blocks": 1}
        addresses = one.address, other.address
        writer, reader = (Node(fingerprint, *addresses, **options) for _ in range(2))
        hashes = chain(100)
        assert set(writer.put(hashes)) == {Outcome.DONE}
        one.delay_ms = other.delay_ms = 5
        assert set(reader.get(hashes)) == {Outcome.DONE}
        stats = reader.store.server_stats().values()
        assert [server.timed_out for server in stats] == [0, 0]
        writer.store.close()
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
