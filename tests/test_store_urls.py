"""Stores by URL, and arguments that are not allowed."""

from __future__ import annotations

import subprocess
from pathlib import Path
from typing import Any

import pytest
from models.processes import PYTHON
from support.store_calls import (
    FINGERPRINT,
    new_disk,
)

from kvcore.stores import (
    DiskStore,
    MemoryStore,
    Store,
    open_store,
)


def test_stores_by_url(tmp_path: Path) -> None:
    store = open_store("memory:?max_bytes=1.5KiB", FINGERPRINT, 256)
    assert isinstance(store, MemoryStore)
    assert isinstance(store, Store)
    assert store.stats().max_bytes == 4 * 384
    url = f"disk:{tmp_path}/a%20b?max_bytes=1MiB&fsync=each&direct=false&depth=3&io=threads"
    disk = open_store(url, FINGERPRINT, 256)
    assert isinstance(disk, DiskStore)
    assert isinstance(disk, Store)
    assert (disk.io, disk.is_direct, disk.stats().max_bytes) == ("threads", False, 1 << 20)
    assert (tmp_path / "a b" / "manifest").exists()
    disk.close()


@pytest.mark.parametrize(
    ("url", "message"),
    [
        (
            "tape:",
            "url must begin with memory: or disk: or infinistore: or .* or redis: .*, got 'tape:'",
        ),
        ("", "url must begin with"),
        ("disk:", "url must have a path after disk:"),
        ("disk://host/path", "no host, got 'host'"),
        ("disk:a#b?max_bytes=1MiB", "%23 for each '#'"),
        ("infinistore://", "url must have servers as host:port or host:port=weight, got ''"),
        ("infinistore://a:1,", "url must have servers as host:port or host:port=weight, got ''"),
        ("infinistore://a:b", "url must have servers"),
        ("infinistore://127.0.0.1:0", "port must be from 1 to 65535, got 0"),
        ("infinistore://127.0.0.1/x", "url must have no path after its servers, got '/x'"),
        ("infinistore://127.0.0.1?stall_s=x", "stall_s must be a number, got 'x'"),
        ("infinistore://127.0.0.1?max_bytes=1", "url must have options of chunk_blocks, .* 'max_b"),
        ("memory:path", "url must have no path after memory:"),
        ("memory:?max_byte=1", "url must have options of max_bytes for memory:, got 'max_byte'"),
        ("memory:?max_bytes=1e9", "max_bytes must be bytes, as 4096"),
        ("memory:?max_bytes=", "max_bytes must be bytes"),
        ("memory:?max_bytes=1MB", "max_bytes must be bytes"),
        ("memory:?max_bytes=100", "max_bytes must be 228 at least"),
        ("disk:x?depth=-1", "depth must be a whole number"),
        ("disk:x?direct=yes", "direct must be true or false"),
        (5, "url must be a str, got int"),
    ],
)
def test_wrong_urls(url: Any, message: str) -> None:
    with pytest.raises((TypeError, ValueError), match=message):
        open_store(url, FINGERPRINT, 100)
    assert not Path("x").exists()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"fingerprint": b"short"}, "fingerprint must be 16 bytes"),
        ({"fingerprint": "x" * 16}, "fingerprint must be 16 bytes"),
        ({"value_bytes": 0}, "value_bytes must be"),
        ({"value_bytes": 2**31 + 1}, "value_bytes must be"),
        ({"value_bytes": 2**31 - 8191, "max_bytes": 1 << 32}, "value_bytes must be at most 21474"),
        ({"max_bytes": 100}, "max_bytes must be 8192 at least, which one value takes, got 100"),
        ({"max_bytes": 0}, "max_bytes must be"),
        ({"fsync": "often"}, "fsync must be 'never' or 'each', got 'often'"),
        ({"depth": 0}, "depth must be"),
        ({"depth": 257}, "depth must be"),
        ({"io": "aio"}, "io must be 'auto', 'uring' or 'threads'"),
    ],
)
def test_wrong_disks(tmp_path: Path, change: dict[str, Any], message: str) -> None:
    arguments = {"fingerprint": FINGERPRINT, "value_bytes": 100, "max_bytes": 1 << 20} | change
    fingerprint, value_bytes = arguments.pop("fingerprint"), arguments.pop("value_bytes")
    with pytest.raises((TypeError, ValueError), match=message):
        DiskStore(tmp_path / "store", fingerprint, value_bytes, **arguments)


def test_a_directory_grows_to_a_number_of_files(tmp_path: Path) -> None:
    new_disk(tmp_path).close()
    before = sorted(tmp_path.iterdir())
    with pytest.raises(ValueError, match=r"max_bytes must be at most .* which was made for less"):
        new_disk(tmp_path, max_bytes=1 << 40)
    assert sorted(tmp_path.iterdir()) == before


FORKED = """
import os, sys, time
from kvcore import HostSlab, KVCache, Namespace
from kvcore.stores import DiskStore, MemoryStore

def disk():
    return DiskStore(sys.argv[1], Namespace("test").fingerprint, 100, max_bytes=1 << 20)

for make in (
    disk,
    lambda: MemoryStore(Namespace("test").fingerprint, 100, max_bytes=1 << 20),
    lambda: KVCache(HostSlab(4, 4096)),
):
    made = make()
    if os.fork() == 0:
        del made
        os._exit(0)
    assert os.wait()[1] == 0
    made.close()

store = disk()
end, other_end = os.pipe()
if os.fork() == 0:
    os.close(other_end)
    os.read(end, 1)
    os._exit(0)
store.close()
disk().close()
"""


def test_a_forked_child_ends_and_holds_nothing(tmp_path: Path) -> None:
    subprocess.run([*PYTHON, "-c", FORKED, str(tmp_path)], check=True, timeout=60)


def test_a_path_that_is_no_directory_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(OSError, match="cannot make the directory"):
        new_disk(tmp_path / "file")
