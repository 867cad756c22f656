"""`kvcore bench store`: it runs beside InfiniStore's own client, and reports what it should."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import CliRunner
from support.infinistore import InfiniStoreServer, Installation

from kvcore.bench import store
from kvcore.bench.harness import WrongAnswerError
from kvcore.bench.store_bed import KvcoreStore
from kvcore.cli import main
from kvcore.stores import Server


def wrapper(installation: Installation, command: str, path: Path, *, with_card: bool) -> Path:
    """The command, with the emulated card or only what it is linked to."""
    names = ("LD_LIBRARY_PATH", "LD_PRELOAD") if with_card else ("LD_LIBRARY_PATH",)
    lines = [f"export {name}={installation.environment()[name]}" for name in names]
    real = installation.venv / "bin" / command
    path.write_text("\n".join(["#!/bin/sh", *lines, f'exec {real} "$@"', ""]))
    path.chmod(0o755)
    return path


def test_a_server_of_its_own_beside_the_official_client(
    infinistore_installation: Installation, tmp_path: Path
) -> None:
    server = wrapper(infinistore_installation, "infinistore", tmp_path / "server", with_card=True)
    python = wrapper(infinistore_installation, "python", tmp_path / "python", with_card=False)
    command = [str(Path(sys.executable).with_name("kvcore")), "bench", "store", "--quick"]
    command += ["--command", str(server), "--compare", "official", "--python", str(python)]
    command += ["--block-bytes", "64KiB", "--connections", "2", "--json", str(tmp_path / "report")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert "listens on every interface" in done.stderr
    rows = json.loads((tmp_path / "report").read_text())["rows"]
    assert [row["case"] for row in rows] == [
        "fetch one block of 16 KiB, 1 connection",
        "save 128 blocks of 64 KiB, 2 connections",
        "fetch 128 blocks of 64 KiB, 2 connections",
        "fetch 128 blocks of 64 KiB as fp8, 2 connections",
        "fetch 128 blocks of 64 KiB as fp8, and back, 2 connections",
    ]
    for row in rows:
        assert row["unit"] == "us"
        assert row["ours"] > 0
        assert set(row["peers"]) == {"official client"}
        assert set(row["limits"]) == {"bare loop"}
    assert done.stdout.count("fetch") == 4


def test_a_server_that_is_there(infinistore: InfiniStoreServer, tmp_path: Path) -> None:
    url = f"infinistore://{infinistore.host}:{infinistore.port}"
    keys_before = infinistore.kvmap_len()
    arguments = ["bench", "store", url, "--quick", "--block-bytes", "16KiB,1MiB"]
    result = CliRunner().invoke(main, [*arguments, "--connections", "1"])
    assert result.exit_code == 0, result.output
    assert result.stdout.count("fetch ") == 7
    assert "official" not in result.stdout
    assert infinistore.kvmap_len() == keys_before


def test_a_server_that_forgets_is_found_out(
    start_infinistore: Callable[..., InfiniStoreServer], monkeypatch: pytest.MonkeyPatch
) -> None:
    server = start_infinistore()
    plan = store.Plan((64 << 10,), (1,), 1 << 20, 1, 1)
    save = KvcoreStore.save

    def save_and_forget(self: KvcoreStore) -> set[int]:
        outcomes = save(self)
        server.purge()
        return outcomes

    monkeypatch.setattr(KvcoreStore, "save", save_and_forget)
    with pytest.raises(WrongAnswerError):
        list(store.run(Server(server.host, server.port), plan))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["memory:"], "url must begin with infinistore, got 'memory:'"),
        (["infinistore://a:1,b:2"], "URL must have one server, as infinistore://HOST:PORT"),
        (["--block-bytes", "1KiB"], "must be multiples of 256 from 16KiB to 2MiB, got '1KiB'"),
        (["--block-bytes", "4MiB"], "must be multiples of 256 from 16KiB to 2MiB, got '4MiB'"),
        (["--block-bytes", "big"], "--block_bytes must be bytes, as 4096, 512KiB or 1.5GiB"),
        (["--connections", "0"], "must be from 1 to 64 each, got '0'"),
        (["--total", "1KiB"], "--total must be 1048576 at least, got 1KiB"),
        (["--command", "no-such"], "--command: there is no executable 'no-such'"),
        (
            ["--compare", "official", "--python", sys.executable],
            f"--python: {sys.executable} has no infinistore",
        ),
    ],
)
def test_wrong_options_are_named(arguments: list[str], message: str) -> None:
    result = CliRunner().invoke(main, ["bench", "store", *arguments])
    assert result.exit_code == 2
    assert message in " ".join(result.output.split())
