"""`kvcore bench disk`: random reads of a DiskStore beside fio, on the same files.

Both read past the kernel's cache, with the same block size and as many reads in flight, by turns.
fio reads and forgets; kvcore looks each value up, reads it with its envelope, and verifies it. The
directory of temporary files should be on the device in question: ``TMPDIR=/mnt/nvme``.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from statistics import median
from time import perf_counter

import numpy as np
import numpy.typing as npt

from kvcore.bench.harness import Row, check, make_row
from kvcore.hashing import Namespace
from kvcore.slabs import HostSlab
from kvcore.stores import Batch, DiskStore, Outcome
from kvcore.verify import payload

_KIB = 1024
_FINGERPRINT = Namespace("bench").fingerprint
_BATCHES = 2  # one is asked for while another is read
_MB = 1e6

Hashes = npt.NDArray[np.uint8]


def run(quick: bool) -> Iterator[Row]:
    total, seconds, rounds = (4 << 20, 0.1, 1) if quick else (4 << 30, 2.0, 5)
    fio = shutil.which("fio")
    if fio is None:
        print("kvcore bench: fio is not measured: it is not installed", file=sys.stderr)
    for size in (64, 256) if quick else (256, 1024, 4096):
        with tempfile.TemporaryDirectory() as directory:
            hashes = _fill(Path(directory), size * _KIB, total)
            for depth in (1, 4, 16):
                yield _measure(Path(directory), hashes, size * _KIB, depth, seconds, rounds, fio)


def _fill(directory: Path, value_bytes: int, total: int) -> Hashes:
    """Writes values of so many bytes in all; their hashes."""
    count = total // value_bytes
    hashes = np.random.default_rng(0).integers(0, 256, (count, 16), np.uint8)
    store = _open(directory, value_bytes, count, 16)
    slab = HostSlab(16, value_bytes)
    for begin in range(0, count, 16):
        part = hashes[begin : begin + 16]
        slab.numpy()[: len(part)] = payload(part, value_bytes)
        batch = store.put_from(part, slab, np.arange(len(part)), None)
        batch.wait()
        check("disk: written", set(batch.outcomes.tolist()), {int(Outcome.DONE)})
    store.close()
    return hashes


def _open(directory: Path, value_bytes: int, count: int, depth: int) -> DiskStore:
    return DiskStore(
        directory,
        _FINGERPRINT,
        value_bytes,
        max_bytes=count * (value_bytes + 4096),
        depth=depth,
    )


def _measure(
    directory: Path,
    hashes: Hashes,
    value_bytes: int,
    depth: int,
    seconds: float,
    rounds: int,
    fio: str | None,
) -> Row:
    store = _open(directory, value_bytes, len(hashes), depth)
    if not store.is_direct:
        print("kvcore bench: this file system has no O_DIRECT", file=sys.stderr)
    ours, fios = [], []
    for round_ in range(rounds):
        ours.append(_read(store, hashes, value_bytes, seconds, round_))
        if fio is not None:
            fios.append(_run_fio(fio, directory, value_bytes, depth, seconds))
    store.close()
    name = f"random reads of {value_bytes // _KIB:,} KiB, {depth} in flight"
    return make_row(
        "disk", name, "MB/s", median(ours), limits={"fio": median(fios)} if fios else {}
    )


def _read(store: DiskStore, hashes: Hashes, value_bytes: int, seconds: float, seed: int) -> float:
    """Random values for so long; MB a second."""
    random = np.random.default_rng(seed)
    batch_blocks = max(32, min(256, (64 << 20) // value_bytes))
    batch_blocks = min(batch_blocks, len(hashes))
    slab = HostSlab(_BATCHES * batch_blocks, value_bytes)
    under_way: list[Batch] = []
    finished = 0
    start = perf_counter()
    for number in range(1 << 30):
        if len(under_way) == _BATCHES:
            finished += _finish(under_way.pop(0))
            if perf_counter() - start >= seconds:
                break
        keys = hashes[random.permutation(len(hashes))[:batch_blocks]]
        places = np.arange(batch_blocks) + number % _BATCHES * batch_blocks
        under_way.append(store.get_into(keys, slab, places, None))
    finished += sum(_finish(batch) for batch in under_way)
    return finished * value_bytes / _MB / (perf_counter() - start)


def _finish(batch: Batch) -> int:
    batch.wait()
    check("disk: read", set(batch.outcomes.tolist()), {int(Outcome.DONE)})
    return len(batch.outcomes)


def _run_fio(fio: str, directory: Path, block_bytes: int, depth: int, seconds: float) -> float:
    files = [f for f in directory.glob("values-*") if f.stat().st_size > block_bytes]
    with tempfile.TemporaryDirectory() as links:
        # All of them have to fit in one line.
        for number, file in enumerate(files):
            Path(links, str(number)).symlink_to(file)
        command = [
            fio,
            "--name=read",
            f"--filename={':'.join(str(number) for number in range(len(files)))}",
            "--readonly",
            "--rw=randread",
            "--direct=1",
            "--ioengine=io_uring",
            f"--bs={block_bytes}",
            f"--iodepth={depth}",
            "--time_based",
            f"--runtime={max(1, round(seconds))}",
            "--output-format=json",
        ]
        done = subprocess.run(command, capture_output=True, text=True, check=True, cwd=links)
    report = json.loads(done.stdout[done.stdout.index("{") :])
    return float(report["jobs"][0]["read"]["bw_bytes"]) / _MB
