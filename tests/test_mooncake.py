"""MooncakeStore: in a network of its own, since Mooncake listens on every interface."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from kvcore.stores import MooncakeStore, open_store

TESTS = Path(__file__).parent
ENV_SCRIPT = TESTS.parent / "scripts" / "mooncake_env.sh"
ALONE = ["unshare", "--net", "--map-root-user", "sh", "-c", 'ip link set lo up && exec "$@"', "sh"]


@pytest.fixture(scope="module")
def packages() -> str:
    environment = {**os.environ, "PYTHON": sys.executable}
    done = subprocess.run([ENV_SCRIPT], capture_output=True, text=True, env=environment)
    if done.returncode != 0:
        pytest.skip(done.stderr.strip().removeprefix("mooncake_env: "))
    try:
        subprocess.run([*ALONE, "true"], check=True, capture_output=True)
    except (OSError, subprocess.CalledProcessError):
        pytest.skip("this machine lets nobody make a network")
    return done.stdout.strip()


@pytest.mark.parametrize("file", ["test_stores.py", "mooncake_cases.py"])
def test_it_does_what_stores_do(packages: str, file: str) -> None:
    """All of a file's tests of it."""
    environment = {
        **os.environ,
        "KVCORE_TEST_MOONCAKE": "1",
        "PYTHONPATH": os.pathsep.join([packages, os.environ.get("PYTHONPATH", "")]),
        "MC_TCP_BIND_ADDRESS": "127.0.0.1",
        "MC_RPC_TIMEOUT_MS": "1000",
    }
    selected = ["-k", "mooncake"] if file == "test_stores.py" else []
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-p", "no:xdist"]
    done = subprocess.run(
        [*ALONE, *command, str(TESTS / file), *selected],
        env=environment,
        cwd=TESTS.parent,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stdout[-5000:]
    assert " passed" in done.stdout


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"master": "host"}, "master must be HOST:PORT, got 'host'"),
        ({"master": 5}, "master must be a str, got int"),
        ({"fingerprint": b"short"}, "fingerprint must be 16 bytes"),
        ({"value_bytes": 0}, "value_bytes must be from 1 to 1073741824, got 0"),
        ({"segment_bytes": -1}, "segment_bytes must be from 0 to"),
        ({"connections": 0}, "connections must be from 1 to 64, got 0"),
        ({"protocol": "udp"}, "protocol must be 'tcp' or 'rdma', got 'udp'"),
        ({"device": None}, "device must be a str, got NoneType"),
        ({"stall_s": 0}, "stall_s must be above 0"),
    ],
)
def test_wrong_arguments(change: dict[str, Any], message: str) -> None:
    arguments = {"master": "127.0.0.1:1", "fingerprint": bytes(16), "value_bytes": 100} | change
    with pytest.raises((TypeError, ValueError), match=message):
        MooncakeStore(**arguments)


@pytest.mark.parametrize(
    ("url", "message"),
    [
        ("mooncake:", "master must be HOST:PORT, got ''"),
        ("mooncake://host:1/x", "url must have no path after its master, got '/x'"),
        ("mooncake://host:1?client=x", "url must have options of hostname, .*, got 'client'"),
    ],
)
def test_wrong_urls(url: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        open_store(url, bytes(16), 100)


@pytest.mark.skipif(importlib.util.find_spec("mooncake") is not None, reason="it is there")
def test_without_mooncake_it_says_what_to_install() -> None:
    with pytest.raises(ImportError, match=r"pip install 'kvcore\[mooncake\]'"):
        open_store("mooncake://127.0.0.1:1", bytes(16), 100)
