"""Replays with bytes: what a cache hands out is what was stored, whatever happens in between."""

from __future__ import annotations

import json
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner
from models.chains import hashes_of
from models.processes import PYTHON
from test_reference_traces import CONVERSATION, TRACES

from kvcore import HostSlab, KVCache, Namespace
from kvcore.cli import main
from kvcore.sim import Trace, read_trace
from kvcore.sim.workload import generate
from kvcore.stores import DiskStore
from kvcore.verify import WrongBytesError, payload, verify

BLOCK_BYTES = 512
FINGERPRINT = Namespace("test").fingerprint
REPLAY = [*PYTHON, "-c", "from kvcore.cli import main; main(prog_name='kvcore')", "replay"]


@pytest.fixture(scope="module")
def chat(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("trace") / "chat.jsonl"
    path.write_bytes(b"".join(generate("chat", seed=1, num_requests=200)))
    return path


@pytest.fixture(scope="module")
def trace(chat: Path) -> Trace:
    return read_trace(chat)


def test_payloads_follow_from_the_hash_alone() -> None:
    hashes = hashes_of(range(50))
    blocks = payload(hashes, BLOCK_BYTES)
    assert blocks.shape == (50, BLOCK_BYTES)
    assert np.array_equal(payload(hashes[7:8], BLOCK_BYTES)[0], blocks[7])
    words = blocks.view(np.uint64)
    assert len(np.unique(words)) == words.size
    changed = hashes.copy()
    changed[:, 15] ^= 1
    assert not np.any(payload(changed, BLOCK_BYTES).view(np.uint64) == words)


def test_a_replay_checks_all_that_it_finds(trace: Trace) -> None:
    with KVCache(HostSlab(trace.num_unique_blocks, BLOCK_BYTES), policy="lru") as cache:
        found = verify(trace, cache)
    assert found.requests == 200
    # With room for everything, each block is new once.
    assert found.host_blocks == found.blocks - trace.num_unique_blocks
    assert (found.store_blocks, found.checked_bytes) == (0, found.host_blocks * BLOCK_BYTES)


def test_a_store_gives_what_the_slab_has_no_room_for(trace: Trace, tmp_path: Path) -> None:
    store = DiskStore(tmp_path, FINGERPRINT, BLOCK_BYTES, max_bytes=1 << 28)
    num_blocks = trace.num_unique_blocks // 10
    with KVCache(HostSlab(num_blocks, BLOCK_BYTES), store, max_dirty=1.0) as cache:
        verify(trace, cache)
        assert cache.flush(30)
        found = verify(trace, cache)
    assert found.store_blocks > 0
    assert cache.stats().not_fetched == 0
    store.close()


@pytest.mark.parametrize("at", [0, BLOCK_BYTES - 1])
def test_one_wrong_byte_is_noticed(trace: Trace, at: int) -> None:
    slab = HostSlab(trace.num_unique_blocks, BLOCK_BYTES)
    with KVCache(slab, policy="lru") as cache:
        verify(trace, cache)
        slab.numpy()[:, at] ^= 1
        with pytest.raises(WrongBytesError, match="request 0"):
            verify(trace, cache)


# --- The command --------------------------------------------------------------------------------


def arguments(trace: Path, disk: Path, json_path: Path) -> list[str]:
    options = {
        "--capacity": "5%",
        "--policy": "lru",
        "--block-bytes": str(BLOCK_BYTES),
        "--store": f"disk:{disk}?max_bytes=64MiB",
        "--json": str(json_path),
    }
    return [str(trace), "--verify-bytes", *(word for pair in options.items() for word in pair)]


def replayed(arguments: list[str], json_path: Path) -> dict[str, int]:
    result = CliRunner().invoke(main, ["replay", *arguments])
    assert result.exit_code == 0, result.output
    [row] = json.loads(json_path.read_text())["rows"]
    assert isinstance(row, dict)
    return row


def test_verify_bytes_reports_what_it_checked(chat: Path, tmp_path: Path) -> None:
    first = replayed(arguments(chat, tmp_path / "disk", tmp_path / "1.json"), tmp_path / "1.json")
    assert first["corrupt"] == 0
    again = replayed(arguments(chat, tmp_path / "disk", tmp_path / "2.json"), tmp_path / "2.json")
    # Not of the first run: a disk may take longer for its first write than all of that takes.
    assert again["store_blocks"] > 0
    assert (
        again["host_blocks"] + again["store_blocks"] > first["host_blocks"] + first["store_blocks"]
    )


def test_wrong_bytes_end_the_command(chat: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("kvcore.verify.Engine.read", lambda self, ids: np.zeros(1, np.uint8))
    command = ["replay", str(chat), "--verify-bytes", "--capacity", "50%", "--policy", "lru"]
    result = CliRunner().invoke(main, command)
    assert result.exit_code == 1
    assert "a block came back with other bytes" in result.output


def shared_memory() -> Iterator[str]:
    return (path.name for path in Path("/dev/shm").glob("kvcore-*"))


@pytest.mark.parametrize("values", [20, 100, 400])
def test_every_byte_is_right_after_a_kill(chat: Path, tmp_path: Path, values: int) -> None:
    """Kills a replay when its store has grown to so many values, and goes on in its directory."""
    disk, before = tmp_path / "disk", set(shared_memory())
    command = [*REPLAY, *arguments(chat, disk, tmp_path / "1.json")]
    running = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
    until = time.monotonic() + 60.0
    while running.poll() is None and time.monotonic() < until:
        if sum(f.stat().st_blocks * 512 for f in disk.rglob("*") if f.is_file()) > values * 4096:
            break
        time.sleep(0.001)
    running.send_signal(signal.SIGKILL)
    _, errors = running.communicate()
    assert errors == b""
    found = replayed(arguments(chat, disk, tmp_path / "2.json"), tmp_path / "2.json")
    assert found["store_blocks"] > 0
    assert found["corrupt"] == 0
    assert set(shared_memory()) <= before


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--verify-bytes", "--block-bytes", "100"], "--block-bytes must be a multiple of 64"),
        (["--store", "memory:"], "--store goes with --verify-bytes"),
        (["--verify-bytes", "--store", "tape:"], "tape"),
        (["--verify-bytes", "--policy", "opt"], "--verify-bytes goes with policies of the cache"),
    ],
)
def test_wrong_options(chat: Path, options: list[str], message: str) -> None:
    result = CliRunner().invoke(main, ["replay", str(chat), "--capacity", "64", *options])
    assert result.exit_code == 2
    assert message in result.output


@pytest.mark.skipif(not (TRACES / CONVERSATION).exists(), reason="the traces are not here")
def test_the_conversation_trace_comes_back_right(tmp_path: Path) -> None:
    trace = read_trace(TRACES / CONVERSATION)
    store = DiskStore(tmp_path, FINGERPRINT, BLOCK_BYTES, max_bytes=1 << 31)
    num_blocks = trace.num_unique_blocks // 50
    with KVCache(HostSlab(num_blocks, BLOCK_BYTES), store) as cache:
        found = verify(trace, cache)
    assert found.blocks == 276_491
    assert found.store_blocks > 0
    stats = cache.stats()
    assert stats.store is not None
    assert stats.store.corrupt == 0
    store.close()
