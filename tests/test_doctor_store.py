"""`kvcore doctor URL`: stores that work, and what it says of those that do not."""

from __future__ import annotations

import json
import socket
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from support import wire
from support.fake_server import Act, FakeServer, HonestScript, Reply, Request
from support.infinistore import InfiniStoreServer
from support.ports import Port

from kvcore.cli import main
from kvcore.store_diagnosis import _without_password, diagnose_store

STEPS = ["connect_us", "write_us", "read_us", "delete_us"]


def run(*arguments: str, exit_code: int = 0) -> str:
    done = CliRunner().invoke(main, ["doctor", *arguments])
    assert done.exit_code == exit_code, done.output
    return done.output


def ask(url: str, *arguments: str, exit_code: int = 0) -> dict[str, Any]:
    told: dict[str, Any] = json.loads(run(url, "--json", *arguments, exit_code=exit_code))
    assert told["is_well"] == (exit_code == 0)
    return told


def url_of(*addresses: tuple[str, int]) -> str:
    return "infinistore://" + ",".join(f"{host}:{port}" for host, port in addresses)


def check_store(store: dict[str, Any]) -> None:
    assert store["is_verified"] is True
    assert store["left_over"] == 0
    assert min(store[step] for step in ("open_us", "write_us", "read_us", "delete_us")) > 0


@pytest.fixture
def fake() -> Iterator[FakeServer]:
    with FakeServer() as server:
        yield server


@pytest.fixture
def dead_port() -> Iterator[int]:
    port = Port()
    yield port.number
    port.release()


# Stores that work.


def test_memory() -> None:
    told = ask("memory:")
    check_store(told["store"])
    assert told["servers"] == {}
    assert told["findings"] == []
    assert "All is well." in run("memory:")


@pytest.mark.parametrize("is_there", [True, False])
def test_disk_leaves_nothing(tmp_path: Path, is_there: bool) -> None:
    directory = tmp_path if is_there else tmp_path / "not" / "there"
    (tmp_path / "somebody's").write_text("own")
    store = ask(f"disk:{directory}?max_bytes=1GiB&io=threads")["store"]
    check_store(store)
    assert store["directory"] == str(directory)
    assert store["is_there"] == is_there
    assert store["max_bytes"] == 1 << 30
    assert store["free_bytes"] > 0
    assert store["io"] == "threads"
    assert [path.name for path in tmp_path.iterdir()] == ["somebody's"]


def test_a_server_that_works(infinistore: InfiniStoreServer) -> None:
    before = infinistore.kvmap_len()
    told = ask(url_of(infinistore.address) + "?stall_s=2")
    check_store(told["store"])
    [(name, server)] = told["servers"].items()
    assert name == f"127.0.0.1:{infinistore.port}"
    assert server["is_reachable"] is True
    assert server["version"] is None
    assert min(server[step] for step in STEPS) > 0
    assert not [finding for finding in told["findings"] if finding["has_failed"]]
    assert infinistore.kvmap_len() == before
    text = run(url_of(infinistore.address) + "?stall_s=2")
    for fact in [*STEPS, "is_reachable", "left_over"]:
        assert fact.replace("_", " ") in text


# Stores that do not.


def test_a_dead_port_is_told_beside_a_server_that_works(
    infinistore: InfiniStoreServer, dead_port: int
) -> None:
    told = ask(url_of(infinistore.address, ("127.0.0.1", dead_port)), exit_code=1)
    dead = told["servers"][f"127.0.0.1:{dead_port}"]
    assert dead["is_reachable"] is False
    assert told["servers"][f"127.0.0.1:{infinistore.port}"]["is_verified"] is True
    [finding] = [finding for finding in told["findings"] if finding["has_failed"]]
    assert finding["where"] == f"127.0.0.1:{dead_port}"
    assert finding["what"] == "the connection was refused"
    assert "--service-port" in finding["advice"]
    assert "FAILED  127.0.0.1" in run(url_of(("127.0.0.1", dead_port)), exit_code=1)


def test_frozen_servers_cost_the_time_that_was_given_once(
    start_infinistore: Callable[..., InfiniStoreServer],
) -> None:
    servers = [start_infinistore() for _ in range(2)]
    for server in servers:
        server.freeze()
    start = time.monotonic()
    told = ask(url_of(*(s.address for s in servers)), "--timeout-s", "0.5", exit_code=1)
    assert 0.5 <= time.monotonic() - start < 2.0
    for server in servers:
        server.thaw()
    assert [finding["where"] for finding in told["findings"]] == list(told["servers"])
    for finding in told["findings"]:
        assert finding["what"] == "it accepts connections and has not answered within 0.5 s"
    assert all(server["is_reachable"] for server in told["servers"].values())
    for server in servers:
        assert server.answers(10)


def test_a_way_that_nobody_answers() -> None:
    """A listener whose queue is full drops connections, as a firewall does."""
    with socket.socket() as full:
        full.bind(("127.0.0.1", 0))
        full.listen(0)
        waiting = []
        for _ in range(4):
            waiting.append(socket.socket())
            waiting[-1].setblocking(False)
            waiting[-1].connect_ex(full.getsockname())
        told = ask(url_of(full.getsockname()), "--timeout-s", "0.3", exit_code=1)
        for one in waiting:
            one.close()
    [finding] = told["findings"]
    assert finding["what"] == "no connection within 0.3 s"
    assert "fence" in finding["advice"]


def test_a_port_that_speaks_another_protocol(infinistore: InfiniStoreServer) -> None:
    told = ask(url_of(("127.0.0.1", infinistore.manage_port)), exit_code=1)
    [finding] = told["findings"]
    assert "--service-port" in finding["advice"]


CODE = wire.CODE.pack


def test_a_full_server(fake: FakeServer) -> None:
    honest = HonestScript()

    def full(request: Request) -> Reply:
        reply = honest(request)
        is_put = request.operation == b"P" and reply is not Act.READ_VALUE
        return CODE(wire.OUT_OF_MEMORY) if is_put else reply

    fake.script = full
    [finding] = ask(url_of(fake.address), exit_code=1)["findings"]
    assert "507" in finding["what"]
    assert "--memory-gib" in finding["advice"]


def test_reads_that_wait_for_acknowledgements_are_slow_but_well(fake: FakeServer) -> None:
    honest = HonestScript()

    def slow(request: Request) -> Reply | Iterable[Reply]:
        reply = honest(request)
        if request.operation == b"G" and isinstance(reply, bytes) and len(reply) > 8:
            return late(reply)
        return reply

    def late(reply: bytes) -> Iterator[bytes]:
        yield reply[:8]
        time.sleep(0.044)
        yield reply[8:]

    fake.script = slow
    told = ask(url_of(fake.address) + "?stall_s=2&chunk_blocks=8")
    check_store(told["store"])
    [finding] = told["findings"]
    assert not finding["has_failed"]
    assert "Nagle" in finding["advice"]
    assert "slow  127.0.0.1" in run(url_of(fake.address) + "?stall_s=2&chunk_blocks=8")


def test_a_store_that_loses_what_it_has(fake: FakeServer) -> None:
    """The server gives back what is as small as the first question, and nothing else."""
    honest = HonestScript()

    def forget(request: Request) -> Reply:
        reply = honest(request)
        is_value = isinstance(reply, bytes) and len(reply) > 8 + 4096
        return CODE(wire.MISSING) if request.operation == b"G" and is_value else reply

    fake.script = forget
    told = ask(url_of(fake.address) + "?stall_s=2&chunk_blocks=8", exit_code=1)
    assert told["store"]["is_verified"] is False
    assert told["findings"][0]["what"] == "read: 8 of 8 values came back as miss"


def test_a_store_that_changes_a_byte(fake: FakeServer) -> None:
    honest = HonestScript()

    def lie(request: Request) -> Reply:
        reply = honest(request)
        if request.operation == b"G" and isinstance(reply, bytes) and len(reply) > 8 + 4096:
            return reply[:-1] + bytes([reply[-1] ^ 1])
        return reply

    fake.script = lie
    told = ask(url_of(fake.address) + "?stall_s=2&chunk_blocks=8", exit_code=1)
    assert "corrupt" in told["findings"][0]["what"]


def test_a_memory_that_is_too_small() -> None:
    [finding] = ask("memory:?max_bytes=200KiB", exit_code=1)["findings"]
    assert "max_bytes" in finding["advice"]


@pytest.mark.parametrize("path", ["{}/file", "{}/file/below", "/proc/kvcore"])
def test_a_directory_that_cannot_be_made(tmp_path: Path, path: str) -> None:
    (tmp_path / "file").write_text("no directory")
    [finding] = ask("disk:" + path.format(tmp_path), exit_code=1)["findings"]
    assert finding["what"].startswith("it does not open: ")
    assert "another directory" in finding["advice"]


@pytest.mark.parametrize(
    ("url", "message"),
    [
        ("", "url must begin with"),
        ("nothing:", "url must begin with"),
        ("memory:?depth=3", "got 'depth'"),
        ("infinistore://host:x", "url must have servers"),
        ("disk:", "url must have a path"),
        ("disk:x?max_bytes=oops", "max_bytes must be bytes"),
    ],
)
def test_a_url_that_names_no_store_is_refused(url: str, message: str) -> None:
    assert message in run(url, exit_code=2)


@pytest.mark.parametrize("timeout_s", [0, -1, float("nan"), 4000])
def test_a_timeout_must_make_sense(timeout_s: float) -> None:
    with pytest.raises(ValueError, match="timeout_s must be above 0 and at most 3600, got"):
        diagnose_store("memory:", timeout_s)


def test_arguments_are_checked() -> None:
    nobody: Any = None
    with pytest.raises(TypeError, match="url must be a str, got NoneType"):
        diagnose_store(nobody)
    with pytest.raises(TypeError, match="timeout_s must be a number, got NoneType"):
        diagnose_store("memory:", nobody)


def test_a_name_without_an_address() -> None:
    [finding] = ask("infinistore://no-such-host.invalid:1", exit_code=1)["findings"]
    assert "the name has no address" in finding["advice"]


@pytest.mark.parametrize(
    ("url", "told"),
    [
        ("redis://me:secret@host:1/0?x=@", "redis://***@host:1/0?x=@"),
        ("redis://host:1", "redis://host:1"),
        ("disk:/a@b", "disk:/a@b"),
    ],
)
def test_passwords_are_not_told(url: str, told: str) -> None:
    assert _without_password(url) == told
