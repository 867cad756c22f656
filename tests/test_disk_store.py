"""DiskStore: values outlive a process, and a damaged file is a miss."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
from models.chains import hashes_of
from models.processes import PYTHON
from support.batches import WAIT_S, outcomes
from support.store_calls import (
    FINGERPRINT,
    PAGE,
    get,
    new_disk,
    put,
)

from kvcore._core import Outcome, has_uring
from kvcore.stores import (
    DiskStore,
)


@pytest.fixture(params=["threads", "uring"])
def io(request: pytest.FixtureRequest) -> str:
    if request.param == "uring" and not has_uring():
        pytest.skip("this build or this kernel has no io_uring")
    name: str = request.param
    return name


def value_file(path: Path) -> Path:
    """The one that has values; the others are empty."""
    [file] = [f for f in path.glob("values-*") if f.stat().st_size > 0]
    return file


@pytest.mark.parametrize("fsync", ["never", "each"])
def test_the_next_store_in_a_directory_has_what_was_there(
    tmp_path: Path, io: str, fsync: str
) -> None:
    hashes = hashes_of(range(10))
    store = new_disk(tmp_path, io, fsync=fsync)
    assert store.io == io
    put(store, hashes)
    outcomes(store.remove(hashes[3:5], WAIT_S))
    store.close()
    again = new_disk(tmp_path, io)
    assert again.stats().num_values == 8
    assert get(again, hashes) == [Outcome.DONE] * 3 + [Outcome.MISS] * 2 + [Outcome.DONE] * 5
    again.close()


@pytest.mark.parametrize("slots", [3, 64, 65, 500])
def test_a_store_may_be_smaller_or_larger_than_before(tmp_path: Path, slots: int) -> None:
    hashes = hashes_of(range(200))
    store = new_disk(tmp_path, max_bytes=200 * 2 * PAGE)
    put(store, hashes)
    store.close()
    store = new_disk(tmp_path, max_bytes=slots * 2 * PAGE)
    assert store.stats().num_values == min(slots, 200)
    assert get(store, hashes).count(Outcome.DONE) == min(slots, 200)
    more = hashes_of(range(1000, 1300))
    put(store, more)
    assert store.stats().num_values == min(slots, 500)
    store.close()
    sizes = [file.stat().st_size for file in tmp_path.glob("values-*")]
    assert sum(sizes) <= -(-slots // 64) * 64 * 2 * PAGE


@pytest.mark.parametrize("at", [0, 8, 16, 40, 60, 120, PAGE, PAGE + 999])
def test_a_flipped_bit_is_a_counted_miss(tmp_path: Path, io: str, at: int) -> None:
    store = new_disk(tmp_path, io)
    hashes = hashes_of(range(3))
    put(store, hashes)
    flip(value_file(tmp_path), hashes[1], at)
    assert get(store, hashes) == [Outcome.DONE, Outcome.CORRUPT, Outcome.DONE]
    assert get(store, hashes) == [Outcome.DONE, Outcome.MISS, Outcome.DONE]
    assert store.stats().corrupt == 1
    assert put(store, hashes) == [Outcome.DONE] * 3
    assert get(store, hashes) == [Outcome.DONE] * 3
    store.close()


def flip(file: Path, of: npt.NDArray[np.uint8], at: int) -> None:
    """Flips a bit of the slot whose envelope has that hash."""
    content = file.read_bytes()
    slot = content.index(of.tobytes()) - 32
    with file.open("r+b") as stream:
        stream.seek(slot + at)
        stream.write(bytes([content[slot + at] ^ 4]))


def test_a_value_in_the_place_of_another_is_corrupt(tmp_path: Path) -> None:
    store = new_disk(tmp_path)
    hashes = hashes_of(range(2))
    put(store, hashes)
    file = value_file(tmp_path)
    content = file.read_bytes()
    one, other = (content.index(h.tobytes()) - 32 for h in hashes)
    with file.open("r+b") as stream:
        stream.seek(one)
        stream.write(content[other : other + 2 * PAGE])
    assert get(store, hashes) == [Outcome.CORRUPT, Outcome.DONE]
    store.close()


def test_files_that_were_cut_or_emptied_are_misses(tmp_path: Path, io: str) -> None:
    store = new_disk(tmp_path, io)
    hashes = hashes_of(range(4))
    put(store, hashes)
    file = value_file(tmp_path)
    os.truncate(file, 2 * PAGE + 100)
    assert get(store, hashes).count(Outcome.DONE) == 1
    assert store.stats().corrupt == 3
    os.truncate(file, 0)
    assert get(store, hashes).count(Outcome.CORRUPT) == 1
    assert put(store, hashes) == [Outcome.DONE] * 4
    assert get(store, hashes) == [Outcome.DONE] * 4
    store.close()


def test_a_device_without_room_fails_and_goes_on(tmp_path: Path, io: str) -> None:
    """A limit on the size of files stands in for a full device."""
    code = f"""
import resource, signal, sys
sys.path.insert(0, {str(Path(__file__).parent)!r})
from pathlib import Path
from models.chains import hashes_of
from support.batches import Outcome
from support.store_calls import PAGE, get, new_disk, put
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
store = new_disk(Path({str(tmp_path)!r}), {io!r})
put(store, hashes_of(range(4)))
resource.setrlimit(resource.RLIMIT_FSIZE, (8 * PAGE, resource.RLIM_INFINITY))
assert put(store, hashes_of(range(100, 104))) == [Outcome.FAILED] * 4
assert get(store, hashes_of(range(4))) == [Outcome.DONE] * 4
assert store.stats().failed == 4
resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
assert put(store, hashes_of(range(100, 104))) == [Outcome.DONE] * 4
assert get(store, hashes_of(range(100, 104))) == [Outcome.DONE] * 4
store.close()
"""
    subprocess.run([*PYTHON, "-c", code], check=True, timeout=WAIT_S)


def test_one_store_a_directory(tmp_path: Path) -> None:
    store = new_disk(tmp_path)
    with pytest.raises(OSError, match=r"another store has the directory .* open"):
        new_disk(tmp_path)
    store.close()
    new_disk(tmp_path).close()


def test_a_directory_is_of_one_namespace_and_size(tmp_path: Path) -> None:
    new_disk(tmp_path).close()
    with pytest.raises(ValueError, match="path must be a directory of a store of this namespace"):
        DiskStore(tmp_path, bytes(16), 1000, max_bytes=1 << 20)
    with pytest.raises(ValueError, match="value_bytes 1000"):
        DiskStore(tmp_path, FINGERPRINT, 1001, max_bytes=1 << 20)
    new_disk(tmp_path).close()


@pytest.mark.parametrize("text", ["", "kvcore disk store 2\n", "\0" * 100, None])
def test_a_manifest_of_something_else_is_an_error(tmp_path: Path, text: str | None) -> None:
    new_disk(tmp_path).close()
    manifest = tmp_path / "manifest"
    manifest.write_text(manifest.read_text().replace(" 64\n", " 0\n") if text is None else text)
    with pytest.raises(ValueError, match="path must be"):
        new_disk(tmp_path)


def test_random_bytes_in_the_files_are_nothing(tmp_path: Path) -> None:
    store = new_disk(tmp_path)
    put(store, hashes_of(range(8)))
    store.close()
    file = value_file(tmp_path)
    file.write_bytes(np.random.default_rng(0).bytes(16 * PAGE))
    store = new_disk(tmp_path)
    assert store.stats().num_values == 0
    assert get(store, hashes_of(range(8))) == [Outcome.MISS] * 8
    store.close()


@pytest.mark.parametrize("io_name", ["threads", "uring"])
@pytest.mark.parametrize("seed", range(6))
def test_a_kill_leaves_whole_values_only(tmp_path: Path, io_name: str, seed: int) -> None:
    """A small store, so that slots are written over, killed at some moment; twice."""
    if io_name == "uring" and not has_uring():
        pytest.skip("this build or this kernel has no io_uring")
    code = f"""
import sys
sys.path.insert(0, {str(Path(__file__).parent)!r})
from models.chains import hashes_of
from support.store_calls import FINGERPRINT, DiskStore, put
store = DiskStore({str(tmp_path)!r}, FINGERPRINT, 50_000, max_bytes=30 * 57_344, io={io_name!r})
for i in range({seed} * 100_000, 1 << 30, 10):
    put(store, hashes_of(range(i, i + 10)))
    print(i, flush=True)
"""
    rng = np.random.default_rng(seed)
    last = 0
    for _ in range(2):
        writer = subprocess.Popen([*PYTHON, "-c", code], stdout=subprocess.PIPE, text=True)
        assert writer.stdout is not None
        for _ in range(int(rng.integers(1, 12))):
            last = max(last, int(writer.stdout.readline()))
        time.sleep(float(rng.uniform(0, 0.01)))
        writer.send_signal(signal.SIGKILL)
        more, _ = writer.communicate()
        last = max([last, *(int(line) for line in more.split()[:-1])])
        store = DiskStore(tmp_path, FINGERPRINT, 50_000, max_bytes=30 * 57_344)
        values = store.stats().num_values
        found = 0
        for i in range(seed * 100_000, last + 50, 10):
            came = get(store, hashes_of(range(i, i + 10)))
            assert set(came) <= {Outcome.DONE, Outcome.MISS}
            found += came.count(Outcome.DONE)
        assert found == values
        assert values > 0
        assert store.stats().corrupt == 0
        store.close()


def test_starting_reads_no_values(tmp_path: Path) -> None:
    """An index is rebuilt from envelopes; values are verified when they are read."""
    store = DiskStore(tmp_path, FINGERPRINT, 1 << 20, max_bytes=64 << 20)
    hashes = hashes_of(range(40))
    put(store, hashes)
    store.close()
    flip(value_file(tmp_path), hashes[7], PAGE)
    store = DiskStore(tmp_path, FINGERPRINT, 1 << 20, max_bytes=64 << 20)
    assert store.stats().num_values == 40
    came = get(store, hashes)
    assert came.index(Outcome.CORRUPT) == 7
    assert came.count(Outcome.DONE) == 39
    store.close()
