"""`kvcore serve`: the real server behind it, its health, its end; and the round trip itself."""

from __future__ import annotations

import json
import os
import re
import signal
import struct
import subprocess
import time
from collections.abc import Iterator
from http.client import HTTPConnection
from pathlib import Path

import pytest
from click.testing import CliRunner
from models.processes import PYTHON
from support import wire
from support.fake_server import Act, FakeServer, HonestScript, Reply, Request
from support.infinistore import InfiniStoreServer, Installation
from support.ports import Port
from support.wire import Connection

from kvcore.cli import main
from kvcore.cli.health import HealthServer, Prober
from kvcore.stores.round_trip import RoundTripError, round_trip

SERVE = [*PYTHON, "-c", "from kvcore.cli import main; main(prog_name='kvcore')", "serve"]


def ask(port: int, path: str = "/health") -> tuple[int, dict[str, object]]:
    connection = HTTPConnection("127.0.0.1", port, timeout=10)
    try:
        connection.request("GET", path)
        response = connection.getresponse()
        return response.status, json.load(response)
    finally:
        connection.close()


# The round trip.


def test_round_trip_to_the_real_server_leaves_nothing(infinistore: InfiniStoreServer) -> None:
    with Connection(infinistore.address) as client:
        client.put(b"somebody else's", b"value")
        for _ in range(3):
            steps = round_trip(*infinistore.address, timeout_s=5)
            assert min(steps.connect_us, steps.write_us, steps.read_us, steps.delete_us) > 0
        assert infinistore.kvmap_len() == 1
        assert client.exists(b"somebody else's")


@pytest.fixture
def fake() -> Iterator[FakeServer]:
    with FakeServer() as server:
        yield server


CODE = wire.CODE.pack
LIES = {
    "put refused": (b"P", CODE(wire.OUT_OF_MEMORY), "a write was answered with 507"),
    "lost": (b"G", CODE(wire.MISSING), "'missing', right after"),
    "read refused": (b"G", CODE(wire.UNAVAILABLE), "a read was answered with 503"),
    "short": (b"G", CODE(wire.OK) + struct.pack("<I", 7) + b"-" * 7, "read 7 bytes"),
    "garbage": (b"G", b"\xff" * 64, "a read was answered with -1"),
    "other bytes": (b"G", CODE(wire.OK) + struct.pack("<I", 4096) + bytes(4096), "other bytes"),
    "deleted none": (b"X", CODE(wire.OK) + CODE(0), "deleted 0 keys"),
}


@pytest.mark.parametrize("lie", LIES)
def test_round_trip_tells_what_is_wrong(fake: FakeServer, lie: str) -> None:
    operation, answer, message = LIES[lie]
    honest = HonestScript()

    def script(request: Request) -> Reply:
        reply = honest(request)
        return answer if request.operation == operation and reply != Act.READ_VALUE else reply

    fake.script = script
    with pytest.raises(RoundTripError, match=message):
        round_trip(*fake.address, timeout_s=5)


@pytest.mark.parametrize(
    ("act", "error"),
    [(Act.CLOSE, ConnectionError), (Act.RESET, ConnectionError), (Act.SILENCE, TimeoutError)],
)
@pytest.mark.parametrize("operation", [b"P", b"G", b"X"])
def test_round_trip_touches_no_key_whose_put_was_not_acknowledged(
    fake: FakeServer, operation: bytes, act: Act, error: type[OSError]
) -> None:
    honest = HonestScript()
    fake.script = lambda request: act if request.operation == operation else honest(request)
    with pytest.raises(error):
        round_trip(*fake.address, timeout_s=0.2)
    asked = b"".join(request.operation for request in fake.requests)
    assert asked == {b"P": b"P", b"G": b"PPG", b"X": b"PPGX"}[operation]
    assert not fake.errors


# The endpoint.


@pytest.fixture
def health(fake: FakeServer) -> Iterator[HealthServer]:
    server = HealthServer("127.0.0.1", 0, Prober(*fake.address), timeout_s=0.2)
    yield server
    server.close()


def test_health_is_a_round_trip(fake: FakeServer, health: HealthServer) -> None:
    status, answer = ask(health.port)
    assert status == 200
    assert set(answer) == {"ok", "connect_us", "write_us", "read_us", "delete_us"}
    assert len(fake.requests) == 4  # a put is asked about twice
    assert ask(health.port, "/else")[0] == 404


def test_health_of_a_silent_server_takes_one_connection(
    fake: FakeServer, health: HealthServer
) -> None:
    fake.script = lambda request: Act.SILENCE
    for _ in range(3):
        assert ask(health.port) == (
            503,
            {"ok": False, "error": "the server did not answer within 0.2 s"},
        )
    assert fake.num_connections == 1


def test_health_of_a_server_that_is_gone(fake: FakeServer, health: HealthServer) -> None:
    fake.close()
    status, answer = ask(health.port)
    assert status == 503
    assert "refused" in str(answer["error"])


# The command.


def wrapped(installation: Installation, path: Path, *, with_card: bool) -> Path:
    """The server as one command, with the preloads that kvcore itself must not have."""
    preloads = installation.preloads
    lines = ["#!/bin/sh", f"export LD_PRELOAD={preloads}/hostfix.so:{preloads}/fence.so"]
    if with_card:
        lines.append(f"export LD_LIBRARY_PATH={preloads}")
    path.write_text("\n".join([*lines, f'exec {installation.command} "$@"', ""]))
    path.chmod(0o755)
    return path


class Serving:
    """`kvcore serve infinistore` in a process, with the real server below it."""

    def __init__(self, command: Path) -> None:
        self._ports = [Port() for _ in range(3)]
        self.service_port, self.manage_port, self.health_port = (p.number for p in self._ports)
        self.process = subprocess.Popen(
            [
                *(*SERVE, "infinistore", "--command", command, "--memory-gib=1"),
                f"--service-port={self.service_port}",
                f"--manage-port={self.manage_port}",
                f"--health-port={self.health_port}",
                "--health-timeout-s=0.5",
            ],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        assert self.process.stdout is not None
        self.line = self.process.stdout.readline()

    def server_pid(self) -> int:
        found = re.search(r"pid (\d+)", self.line)
        assert found, self.line
        return int(found[1])

    def end(self) -> str:
        """Wait for it; returns what it said on standard error."""
        self.line, errors = self.process.communicate(timeout=30)
        return errors

    def close(self) -> None:
        self.process.kill()
        self.process.communicate()
        for port in self._ports:
            port.release()


@pytest.fixture
def serving(infinistore_installation: Installation, tmp_path: Path) -> Iterator[Serving]:
    serving = Serving(wrapped(infinistore_installation, tmp_path / "server", with_card=True))
    yield serving
    serving.close()


def is_gone(pid: int, timeout_s: float = 10) -> bool:
    end = time.monotonic() + timeout_s
    while Path(f"/proc/{pid}").exists():
        if time.monotonic() > end:
            return False
        time.sleep(0.02)
    return True


def test_serve_is_healthy_until_it_is_stopped(serving: Serving) -> None:
    assert f"health at http://127.0.0.1:{serving.health_port}/health" in serving.line
    server = serving.server_pid()
    assert ask(serving.health_port)[0] == 200
    with Connection(("127.0.0.1", serving.service_port)) as client:
        assert client.put(b"k", b"value") == wire.OK
        assert client.get(b"k") == b"value"

    os.kill(server, signal.SIGSTOP)
    assert ask(serving.health_port)[0] == 503
    os.kill(server, signal.SIGCONT)
    end = time.monotonic() + 10
    while ask(serving.health_port)[0] != 200:
        assert time.monotonic() < end

    serving.process.send_signal(signal.SIGTERM)
    warning = serving.end()
    assert serving.process.returncode == 0
    assert is_gone(server, 0)
    assert "listens on every interface, whatever its --host" in warning
    assert "no authentication" in warning
    assert "NetworkPolicy" in warning
    assert str(serving.service_port) in warning


def test_serve_ends_with_its_server(serving: Serving) -> None:
    os.kill(serving.server_pid(), signal.SIGKILL)
    assert "the server ended with code -9" in serving.end()
    assert serving.process.returncode == 1


def test_the_server_ends_with_serve_that_was_killed(serving: Serving) -> None:
    server = serving.server_pid()
    serving.process.kill()
    assert is_gone(server)


def test_serve_stops_a_frozen_server(serving: Serving) -> None:
    server = serving.server_pid()
    os.kill(server, signal.SIGSTOP)
    serving.process.send_signal(signal.SIGINT)
    serving.end()
    assert serving.process.returncode == 0
    assert is_gone(server, 0)


def test_serve_without_a_card(infinistore_installation: Installation, tmp_path: Path) -> None:
    if list(Path("/").glob("sys/class/infiniband/*")):
        pytest.skip("this machine has an RDMA card")
    serving = Serving(wrapped(infinistore_installation, tmp_path / "server", with_card=False))
    try:
        assert "needs an RDMA device" in serving.end()
        assert serving.process.returncode == 1
    finally:
        serving.close()


def run(*arguments: str) -> tuple[int, str]:
    result = CliRunner().invoke(main, ["serve", "infinistore", *arguments])
    return result.exit_code, result.output


def test_serve_names_what_is_wrong_with_its_options(tmp_path: Path) -> None:
    code, output = run("--command", str(tmp_path / "none"))
    assert code == 2
    assert "there is no executable" in output
    assert "pip install --no-deps infinistore==0.2.35" in output
    code, output = run("--python", str(tmp_path / "none"))
    assert (code, "there is no executable" in output) == (2, True)
    code, output = run("--python", PYTHON[0])
    assert (code, "has no infinistore" in output) == (2, True)
    code, output = run("--command", PYTHON[0], "--manage-port", "22345")
    assert (code, "must differ" in output) == (2, True)
    for flag in ("--evict-interval=3", "--auto-increase"):
        code, output = run("--command", PYTHON[0], "--", flag)
        assert (code, "is broken" in output) == (2, True)
