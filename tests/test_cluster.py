"""Clusters: who the members are, as lists and DNS tell, and who follows them."""

from __future__ import annotations

import gc
import os
import socket
import threading
import time
from typing import Any

import pytest
from support.batches import WAIT_S, chain
from support.cluster_calls import BLOCK_BYTES, get, open_infinistore, put, wait_until
from support.infinistore import InfiniStoreServer

from kvcore.cluster import (
    ClusterError,
    DnsSource,
    Members,
    Server,
    StaticSource,
    Watcher,
    plan_change,
    shares,
)
from kvcore.stores import InfiniStoreStore, open_store
from kvcore.stores.url import cluster_of


class Resolver:
    """In the place of `socket.getaddrinfo`: what it answers can be changed."""

    def __init__(self, *addresses: str) -> None:
        self.answer: tuple[str, ...] | Exception = addresses
        self.asked = 0

    def __call__(self, host: str, port: int, **options: Any) -> list[tuple[Any, ...]]:
        assert options == {"type": socket.SOCK_STREAM}
        self.asked += 1
        if isinstance(self.answer, Exception):
            raise self.answer
        return [(None, None, 6, "", (address, port)) for address in self.answer]


class Follower:
    """What a watcher hands over."""

    def __init__(self) -> None:
        self.applied: list[Members] = []

    def apply(self, members: Members) -> None:
        self.applied.append(members)

    @property
    def addresses(self) -> list[str | None]:
        return [server.address for server in self.applied[-1].servers]


# --- Lists and names -----------------------------------------------------------------------------


def test_localhost_is_found_by_the_real_resolver() -> None:
    [server] = StaticSource([Server("localhost", 5)]).read().servers
    assert server.name == "localhost:5"
    assert server.address in {"127.0.0.1", "::1"}
    servers = DnsSource("localhost", 7).read().servers
    assert {s.address for s in servers} <= {"127.0.0.1", "::1"}
    assert all(s.name in {"127.0.0.1:7", "[::1]:7"} for s in servers)


def test_a_name_that_is_not_there_cannot_be_told() -> None:
    for name in ("kvcore-test.invalid", "a" * 70, "a..b"):
        with pytest.raises(ClusterError, match=name[:20]):
            DnsSource(name).read()
    with pytest.raises(OSError, match=r"kvcore-test\.invalid"):
        open_store("infinistore://kvcore-test.invalid:5", bytes(16), 4096)


def test_every_address_of_a_name_is_a_server() -> None:
    resolve = Resolver("10.0.0.2", "fd00::1", "10.0.0.1", "10.0.0.2", "fe80::1%eth0")
    members = DnsSource("cache.default.svc", 99, resolve).read()
    assert [s.name for s in members.servers] == ["10.0.0.1:99", "10.0.0.2:99", "[fd00::1]:99"]
    assert members.slots is None
    resolve.answer = ("fe80::1%eth0",)
    with pytest.raises(ClusterError, match="has no address that can be used"):
        DnsSource("cache.default.svc", 99, resolve).read()


def test_a_server_of_a_list_keeps_its_address_while_it_has_it() -> None:
    resolve = Resolver("10.0.0.1", "10.0.0.2")
    source = StaticSource([Server("store-0", 5)], resolve)
    assert not source.is_constant
    assert source.read().servers[0].address == "10.0.0.1"
    resolve.answer = ("10.0.0.2", "10.0.0.1")
    assert source.read().servers[0].address == "10.0.0.1"
    resolve.answer = ("10.0.0.3",)
    [server] = source.read().servers
    assert (server.name, server.address) == ("store-0:5", "10.0.0.3")
    assert StaticSource([Server("::1"), Server("name", address="10.0.0.1")]).is_constant


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"weight": 0}, "weight must be above 0, got 0"),
        ({"weight": float("nan")}, "weight must be above 0"),
        ({"weight": "1"}, "weight must be a number"),
        ({"address": "name"}, "address must be of IPv4 or IPv6, got 'name'"),
    ],
)
def test_wrong_servers_are_named(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises((TypeError, ValueError), match=message):
        Server("a", **arguments)


def test_two_servers_have_two_names() -> None:
    with pytest.raises(ValueError, match="different names, got 'a:1' twice"):
        Members((Server("a", 1), Server("b", 1), Server("a", 1)))


@pytest.mark.parametrize(
    ("url", "names", "options"),
    [
        (
            "infinistore://127.0.0.1:5,[::1]:6?replicas=2",
            ["127.0.0.1:5", "[::1]:6"],
            {"replicas": 2},
        ),
        ("infinistore+dns://localhost?refresh_s=2", ["127.0.0.1:22345"], {"refresh_s": 2.0}),
        ("infinistore+dns://[::1]:7", ["[::1]:7"], {}),
    ],
)
def test_urls_of_clusters(url: str, names: list[str], options: dict[str, Any]) -> None:
    source, found = cluster_of(url)
    assert found == options
    assert set(names) <= {server.name for server in source.read().servers}


def test_a_url_has_weights() -> None:
    members = cluster_of("infinistore://127.0.0.1:1=3,127.0.0.1:2")[0].read()
    assert [server.weight for server in members.servers] == [3, 1]
    assert shares(members, 1) == pytest.approx([0.75, 0.25], abs=0.01)


@pytest.mark.parametrize(
    ("url", "message"),
    [
        ("infinistore+dns://", "url must have one host after infinistore.dns://"),
        ("infinistore+dns://a,b", "url must have one host"),
        ("infinistore+dns://a:0", "port must be from 1 to 65535, got 0"),
        ("infinistore+dns://a:x", "url must have a port from 1 to 65535, got 'a:x'"),
        ("infinistore+dns://a/b", "url must have no path"),
        ("infinistore+dns://me@a", "url must have no user"),
        ("infinistore+dns://a?key=b", "url must have options of"),
        ("infinistore+dns://localhost?refresh_s=0", "refresh_s must be above 0"),
        ("infinistore+aibrix://", "url must have one host"),
        ("infinistore+aibrix://a/b", "url's database must be a whole number, got 'b'"),
        ("infinistore+aibrix://a?key=", "key must be a key of Redis, got ''"),
        ("infinistore://a:1=0", "weight must be above 0, got 0"),
        ("infinistore://127.0.0.1:1,127.0.0.1:1", "different names"),
    ],
)
def test_wrong_urls_of_clusters(url: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        open_store(url, bytes(16), 4096)


# --- The watcher ---------------------------------------------------------------------------------


def test_a_watcher_tells_changes_alone_and_keeps_the_last_good_list() -> None:
    resolve, follower = Resolver("10.0.0.1"), Follower()
    watcher = Watcher(DnsSource("a", 5, resolve), follower.apply, 0.01)
    watcher.start()
    assert watcher.wait_first(WAIT_S)
    asked = resolve.asked
    wait_until(lambda: resolve.asked > asked + 5)
    assert len(follower.applied) == 1
    resolve.answer = socket.gaierror(socket.EAI_AGAIN, "come back later")
    wait_until(lambda: watcher.error is not None)
    assert "come back later" in str(watcher.error)
    assert follower.addresses == ["10.0.0.1"]
    resolve.answer = ("10.0.0.2", "10.0.0.1")
    wait_until(lambda: len(follower.applied) == 2)
    assert follower.addresses == ["10.0.0.1", "10.0.0.2"]
    wait_until(lambda: watcher.error is None)
    assert watcher.members == follower.applied[-1]
    watcher.close()
    watcher.close()
    resolve.answer = ("10.0.0.3",)
    asked = resolve.asked
    time.sleep(0.05)
    assert resolve.asked <= asked + 1  # one may be under way
    assert len(follower.applied) == 2


def test_a_watcher_closes_while_it_resolves() -> None:
    """Nothing is locked meanwhile, and what comes late is not handed over."""
    resolving, go_on, follower = threading.Event(), threading.Event(), Follower()

    class Slow(Resolver):
        def __call__(self, host: str, port: int, **options: Any) -> list[tuple[Any, ...]]:
            resolving.set()
            assert go_on.wait(WAIT_S)
            return super().__call__(host, port, **options)

    watcher = Watcher(DnsSource("a", 5, Slow("10.0.0.1")), follower.apply, 0.01)
    watcher.start()
    assert resolving.wait(WAIT_S)
    assert not watcher.wait_first(0.01)
    assert watcher.members is None
    watcher.close()
    go_on.set()
    watcher._thread.join(WAIT_S)
    assert not watcher._thread.is_alive()
    assert follower.applied == []


def test_a_watcher_ends_with_what_it_watches_for() -> None:
    follower = Follower()
    watcher = Watcher(DnsSource("a", 5, Resolver("10.0.0.1")), follower.apply, 0.01)
    watcher.start()
    assert watcher.wait_first(WAIT_S)
    del follower
    gc.collect()
    watcher._thread.join(WAIT_S)
    assert not watcher._thread.is_alive()


def test_a_store_ends_its_watcher() -> None:
    store = InfiniStoreStore((), bytes(16), 4096)
    store.follow(DnsSource("a", 5, Resolver("127.0.0.1")), refresh_s=0.01)
    first = store.watcher
    assert list(store.server_stats()) == ["127.0.0.1:5"]
    store.follow(DnsSource("a", 6, Resolver("127.0.0.1")), refresh_s=0.01)
    second = store.watcher
    assert first is not None
    assert second is not None
    first._thread.join(WAIT_S)
    assert not first._thread.is_alive()
    assert list(store.server_stats()) == ["127.0.0.1:6"]
    with pytest.raises(ValueError, match="refresh_s must be above 0 and at most 3600, got 0"):
        store.follow(DnsSource("a", 5), refresh_s=0)
    assert second._thread.is_alive()
    store.close()
    second._thread.join(WAIT_S)
    assert not second._thread.is_alive()


# --- Names that change, with real servers --------------------------------------------------------


def test_a_store_is_on_all_addresses_of_a_name(infinistore: InfiniStoreServer) -> None:
    store = open_infinistore(
        f"infinistore+dns://localhost:{infinistore.port}?chunk_blocks=1&stall_s=1"
    )
    name = f"127.0.0.1:{infinistore.port}"
    assert name in store.server_stats()
    hashes = chain(50)
    assert put(store, hashes) == get(store, hashes) > 0
    assert store.server_stats()[name].received_bytes > 0
    store.close()


def test_a_name_is_looked_up_again(infinistore: InfiniStoreServer) -> None:
    """A pod of a stateful set has another address after it was moved, and the same name."""
    resolve = Resolver("127.0.0.2")  # nobody listens there
    store = InfiniStoreStore((), os.urandom(16), BLOCK_BYTES, chunk_blocks=1, stall_s=1)
    store.follow(StaticSource([Server("store-0", infinistore.port)], resolve), refresh_s=0.02)
    hashes = chain(50)
    assert put(store, hashes) == 0
    resolve.answer = ("127.0.0.1",)
    wait_until(lambda: store.server_stats()[f"store-0:{infinistore.port}"].is_well)
    wait_until(lambda: put(store, hashes) == 50)
    assert get(store, hashes) == 50
    resolve.answer = OSError("the resolver has gone")
    watcher = store.watcher
    assert watcher is not None
    wait_until(lambda: watcher.error is not None)
    assert get(store, hashes) == 50
    store.close()


# --- Plans ---------------------------------------------------------------------------------------


def members_of(*names: str) -> Members:
    return Members(tuple(Server(name) for name in names))


def test_a_fourth_server_takes_a_quarter_from_all() -> None:
    plan = plan_change(members_of(*"abc"), members_of(*"abcd"), 1, 20_000)
    assert plan.moved == plan.lost == sum(move.chunks for move in plan.moves)
    assert 0.23 < plan.moved / plan.chunks <= 0.27
    assert {move.to for move in plan.moves} == {"d:22345"}
    assert {move.source for move in plan.moves} == {"a:22345", "b:22345", "c:22345"}
    assert plan.gone == 0


def test_a_server_that_goes_takes_the_only_copies_with_it() -> None:
    plan = plan_change(members_of(*"abc"), members_of(*"bc"), 1, 10_000)
    assert plan.moved == plan.lost == plan.gone
    assert {move.source for move in plan.moves} == {"a:22345"}
    with_copies = plan_change(members_of(*"abc"), members_of(*"bc"), 2, 10_000)
    assert 0.6 < with_copies.moved / 10_000 < 0.73
    assert with_copies.lost == with_copies.gone == 0
    two_go = plan_change(members_of(*"abc"), members_of("c", "d"), 2, 10_000)
    assert 0.3 < two_go.gone / 10_000 < 0.37
    assert two_go.lost == two_go.gone


def test_copies_may_become_more_and_fewer() -> None:
    more = plan_change(members_of("a"), members_of("a", "b"), 2, 100)
    assert [(m.source, m.to, m.chunks) for m in more.moves] == [("", "b:22345", 100)]
    fewer = plan_change(members_of("a", "b"), members_of("a"), 2, 100)
    assert [(m.source, m.to, m.chunks) for m in fewer.moves] == [("b:22345", "", 100)]
    assert more.lost == fewer.lost == 0


@pytest.mark.parametrize(
    ("after", "replicas", "num_chunks", "message"),
    [
        (members_of(), 1, 10, "a server at least"),
        (members_of("a"), 0, 10, "replicas must be from 1 to 16, got 0"),
        (members_of("a"), 1, 0, "num_chunks must be from 1 to 1,000,000, got 0"),
    ],
)
def test_plans_that_cannot_be(after: Members, replicas: int, num_chunks: int, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        plan_change(members_of("a"), after, replicas, num_chunks)
