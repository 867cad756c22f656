"""Clusters of real servers: one that comes, restarts one by one, one that is dead; the commands."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner
from models.chains import Hashes
from support.infinistore import InfiniStoreServer
from support.ports import Port
from support.redis_server import RedisServer

from kvcore.cli import main
from kvcore.cluster import Members, Server
from kvcore.stores import InfiniStoreStore, Outcome
from kvcore.verify import payload

BLOCK_BYTES = 4096
WAIT_S = 30.0
SCOPE = bytes(16)  # rendezvous hashing goes by the hashes alone
Start = Callable[..., InfiniStoreServer]


class Client:
    """One process's store, of single blocks; what comes is checked."""

    def __init__(
        self, servers: list[InfiniStoreServer], fingerprint: bytes, **options: Any
    ) -> None:
        self.members = Members(tuple(Server(*server.address) for server in servers))
        options = {"chunk_blocks": 1, "stall_s": 1.0} | options
        self.store = InfiniStoreStore(self.members.servers, fingerprint, BLOCK_BYTES, **options)

    def put(self, hashes: Hashes) -> Hashes:
        """Which were written: bool[n]."""
        slab = np.ascontiguousarray(payload(hashes, BLOCK_BYTES))
        batch = self.store.put_from(hashes, slab, np.arange(len(hashes)), WAIT_S)
        batch.wait()
        return batch.outcomes == Outcome.DONE

    def get(self, hashes: Hashes) -> Hashes:
        """Which came: bool[n]."""
        expected = payload(hashes, BLOCK_BYTES)
        slab = np.ascontiguousarray(~expected)
        batch = self.store.get_into(hashes, slab, np.arange(len(hashes)), WAIT_S)
        batch.wait()
        done = batch.outcomes == Outcome.DONE
        assert np.array_equal(slab[done], expected[done])
        assert set(batch.outcomes[~done].tolist()) <= {Outcome.MISS, Outcome.FAILED}
        return done

    def found_on(self, hashes: Hashes) -> list[int]:
        """How many of them came from each server, by what it sent."""
        before = self._received()
        self.get(hashes)
        # A value and a record each; a store that knows no records asks for them all.
        counts = (self._received() - before) / (BLOCK_BYTES + 128)
        assert np.array_equal(counts, counts.astype(int))
        return counts.astype(int).tolist()

    def _received(self) -> Hashes:
        stats = self.store.server_stats()
        return np.array([stats[server.name].received_bytes for server in self.members.servers])

    def servers_of(self, hashes: Hashes, replicas: int = 1) -> Hashes:
        """Numbers of servers: int[n, replicas]."""
        return self.members.placement().place(SCOPE, hashes, replicas)


def new_hashes(count: int) -> Hashes:
    return np.frombuffer(os.urandom(16 * count), np.uint8).reshape(-1, 16).copy()


def wait_until(is_so: Callable[[], bool]) -> None:
    until = time.monotonic() + WAIT_S
    while not is_so():
        assert time.monotonic() < until
        time.sleep(0.02)


@pytest.fixture
def fingerprint() -> bytes:
    return os.urandom(16)


@pytest.fixture
def new_client(fingerprint: bytes) -> Iterator[Callable[..., Client]]:
    made: list[Client] = []

    def new(servers: list[InfiniStoreServer], **options: Any) -> Client:
        made.append(Client(servers, fingerprint, **options))
        return made[-1]

    yield new
    for client in made:
        client.store.close()


# --- A server comes -------------------------------------------------------------------------------


def test_a_fourth_server_moves_a_quarter(
    start_infinistore: Start, new_client: Callable[..., Client]
) -> None:
    servers = [start_infinistore() for _ in range(4)]
    hashes = new_hashes(2000)
    assert new_client(servers[:3]).put(hashes).all()
    before = new_client(servers[:3]).found_on(hashes)
    assert sum(before) == 2000
    assert min(before) > 500

    client = new_client(servers)
    after = client.found_on(hashes)
    moved = 2000 - sum(after)
    assert after[3] == 0  # it has nothing yet
    assert 0.21 < moved / 2000 < 0.29  # chance: 0.25 with a deviation of 0.01
    assert moved == (client.servers_of(hashes)[:, 0] == 3).sum()
    # What is written again goes there, and nothing else is written.
    assert client.put(hashes).all()
    assert servers[3].kvmap_len() == 2 * moved
    assert new_client(servers).found_on(hashes) == [*after[:3], moved]

    urls = [f"127.0.0.1:{server.port}" for server in servers]
    url = f"infinistore://{','.join(urls[:3])}"
    plan = run("plan", url, "--add", urls[3], "--json", "--chunks", "50000")
    assert 0.23 < plan["moved"] / 50_000 <= 0.27
    assert {move["to"] for move in plan["moves"]} == {urls[3]}


# --- Restarts one by one --------------------------------------------------------------------------


def test_a_rolling_restart_loses_only_what_nobody_used(
    start_infinistore: Start, new_client: Callable[..., Client]
) -> None:
    """Three servers, two copies. What is read or written between two restarts stays; what was not
    is lost when both of its servers were restarted."""
    servers = [start_infinistore() for _ in range(3)]
    # On a busy machine a server that is well may take longer than the default patience of 20 ms.
    options: dict[str, Any] = {
        "replicas": 2,
        "first_probe_s": 0.05,
        "last_probe_s": 0.1,
        "patience_s": 2.0,
        "stall_s": 3.0,
    }
    client, reader = new_client(servers, **options), new_client(servers, **options)
    read, written = new_hashes(150), new_hashes(150)
    unused = [new_hashes(150) for _ in range(3)]  # the nth is looked at after n + 1 restarts
    for hashes in (read, written, *unused):
        assert client.put(hashes).all()
    reader.get(read)

    for n, server in enumerate(servers):
        server.restart()
        fresh = new_hashes(50)
        wait_until(lambda server=server: client.store.server_stats()[name_of(server)].is_well)
        assert client.put(fresh).all()
        written = np.concatenate([written, fresh])
        used = np.concatenate([read, written])
        copies = 2 * int((client.servers_of(used, 2) == n).any(axis=1).sum())  # and their records
        # Copies come back in the background.
        until = time.monotonic() + WAIT_S
        while server.kvmap_len() < copies:
            assert time.monotonic() < until
            assert reader.get(read).all()
            assert client.put(written).all()
        was_restarted = client.servers_of(unused[n], 2) <= n
        assert np.array_equal(reader.get(unused[n]), ~was_restarted.all(axis=1))

    assert was_restarted.all()
    for other in (client, reader, new_client(servers, **options)):
        assert other.get(used).all()
    assert client.store.stats().corrupt == reader.store.stats().corrupt == 0


def name_of(server: InfiniStoreServer) -> str:
    return f"{server.host}:{server.port}"


# --- A server is dead -----------------------------------------------------------------------------


@pytest.mark.parametrize("how", ["killed", "standing still"])
def test_a_dead_server_costs_its_budget_once(
    start_infinistore: Start, new_client: Callable[..., Client], how: str
) -> None:
    """Of 1,000 blocks, those on the other two servers come."""
    servers = [start_infinistore() for _ in range(3)]
    # More than the default of 50 ms, so that a busy machine makes no server look dead.
    client = new_client(servers, stall_s=0.5)
    hashes = new_hashes(1000)
    assert client.put(hashes).all()
    dead, name = servers[0], name_of(servers[0])
    lost = client.servers_of(hashes)[:, 0] == 0
    assert 250 < lost.sum() < 420
    dead.kill() if how == "killed" else dead.freeze()

    def look_up_and_load() -> float:
        start = time.monotonic()
        client.store.contains(hashes, WAIT_S).wait()
        assert np.array_equal(client.get(hashes), ~lost)
        return time.monotonic() - start

    first = look_up_and_load()
    stats = client.store.server_stats()
    assert [stats[name_of(server)].give_ups for server in servers] == [1, 0, 0]
    assert not stats[name].is_well
    assert first < 0.5 + 1.5
    later = min(look_up_and_load() for _ in range(5))
    assert later < 1.0
    again = client.store.server_stats()
    assert again[name].give_ups == 1
    assert again[name].refused >= stats[name].refused + 10 * int(lost.sum())
    counted = client.store.stats()
    assert (counted.hits, counted.failed) == (6 * int((~lost).sum()), 6 * int(lost.sum()))

    # Probes find it well again: with all it had, or empty.
    dead.restart() if how == "killed" else dead.thaw()
    wait_until(lambda: client.store.server_stats()[name].is_well)
    assert np.array_equal(client.get(hashes), ~lost if how == "killed" else np.ones(1000, bool))
    assert client.put(hashes).all()
    assert client.get(hashes).all()


# --- Commands -------------------------------------------------------------------------------------


def run(*arguments: str, exit_code: int = 0) -> Any:
    done = CliRunner().invoke(main, ["cluster", *arguments])
    assert done.exit_code == exit_code, done.output
    return json.loads(done.output) if "--json" in arguments else done.output


def test_status_of_a_cluster(infinistore: InfiniStoreServer) -> None:
    name = name_of(infinistore)
    found = run("status", f"infinistore://{name}?stall_s=1&refresh_s=2", "--json")
    [member] = found["members"]
    assert member["round_trip_ms"] > 0
    del member["round_trip_ms"]
    assert found == {
        "replicas": 1,
        "members": [
            {
                "name": name,
                "label": "",
                "address": name,
                "reachable": True,
                "error": None,
                "share": 1.0,
                "breaker": "closed",
            }
        ],
    }
    text = run("status", f"infinistore+dns://localhost:{infinistore.port}")
    assert name in text
    assert "100.0  closed" in text


def test_status_fails_where_a_server_is_not_reachable(infinistore: InfiniStoreServer) -> None:
    port = Port()
    url = f"infinistore://127.0.0.1:{infinistore.port},127.0.0.1:{port.number},kvcore.invalid:1=2"
    found = run("status", url + "?replicas=2&stall_s=1", "--json", exit_code=1)
    assert [m["reachable"] for m in found["members"]] == [True, False, False]
    assert [m["breaker"] for m in found["members"]] == ["closed", "open", "not asked"]
    assert [m["address"] for m in found["members"]][2] == "kvcore.invalid:1"
    assert "refused" in found["members"][1]["error"]
    assert sum(m["share"] for m in found["members"]) == pytest.approx(1)
    assert found["members"][2]["share"] > found["members"][0]["share"]
    assert "no: " in run("status", url, exit_code=1)
    port.release()


def test_status_of_a_server_that_stands_still(start_infinistore: Start) -> None:
    server = start_infinistore()
    server.freeze()
    url = f"infinistore://{name_of(server)}"
    [member] = run("status", url, "--timeout-s", "0.3", "--json", exit_code=1)["members"]
    assert member["error"] == "the server did not answer within 0.3 s"
    assert member["breaker"] == "open"
    server.thaw()  # else the round trip that waits keeps its thread


def test_status_of_what_aibrix_manages(
    infinistore: InfiniStoreServer, start_redis: Callable[..., RedisServer]
) -> None:
    redis = start_redis()
    url = f"infinistore+aibrix://127.0.0.1:{redis.port}?stall_s=1"
    assert "there is no key 'kvcache_nodes'" in run("status", url, exit_code=1)
    stale = {"name": "stale", "addr": "127.0.0.2", "port": infinistore.port}
    node = {"name": "pod-0", "addr": "127.0.0.1", "port": infinistore.port}
    nodes = [
        {**node, "slots": [{"start": 0, "end": 3071}]},
        {**stale, "slots": [{"start": 3072, "end": 4095}]},
    ]
    with redis.client() as client:
        client.set("kvcache_nodes", json.dumps({"nodes": nodes, "version": 3}))
    first, second = run("status", url, "--json", exit_code=1)["members"]
    assert (first["label"], first["reachable"], first["breaker"]) == ("pod-0", True, "closed")
    assert (second["label"], second["reachable"], second["breaker"]) == ("stale", False, "open")
    assert first["share"] == pytest.approx(0.75, abs=0.01)
    assert "AIBrix" in run("plan", url, "--add", "a:1", exit_code=2)


THREE = "infinistore://a:1,b:1,c:1"


def test_plan_warns_of_what_is_lost() -> None:
    one_copy = run("plan", THREE, "--remove", "a:1")
    assert "have no copy where they are looked for" in one_copy
    assert "have their only copy on servers that go" in one_copy
    two_copies = run("plan", THREE + "?replicas=2", "--remove", "a:1", "--chunks", "1000")
    assert "WARNING" not in two_copies
    assert "of 1,000 chunks" in two_copies
    both_go = run("plan", THREE + "?replicas=2", "--remove", "a:1", "--remove", "b:1")
    assert "have their only copies on servers that go" in both_go


def test_plan_has_weights() -> None:
    plan = run("plan", THREE, "--add", "d:1=3", "--json")
    assert 0.47 < plan["moved"] / plan["chunks"] < 0.53
    same = run("plan", THREE, "--remove", "a:1", "--add", "a:1=1", "--json")
    assert (same["moved"], same["moves"]) == (0, [])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((THREE,), "there must be an --add or a --remove"),
        ((THREE, "--remove", "d:1"), "--remove must be one of a:1, b:1, c:1, got d:1"),
        ((THREE, "--add", "a:1"), "different names, got 'a:1' twice"),
        ((THREE, "--add", "a:"), "--add must have servers as"),
        ((THREE, "--add", "d:1=0"), "weight must be above 0"),
        ((THREE + "?replicas=17", "--add", "d:1"), "replicas must be from 1 to 16, got 17"),
        ((THREE, *(f"--remove={s}:1" for s in "abc")), "a server at least"),
        (("memory:", "--add", "d:1"), "url must begin with infinistore"),
    ],
)
def test_wrong_plans_are_told_in_a_line(arguments: tuple[str, ...], message: str) -> None:
    assert message in run("plan", *arguments, exit_code=2)
