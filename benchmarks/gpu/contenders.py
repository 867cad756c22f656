"""Who copies: each of our paths, the peers, and the limits that a machine sets."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch

from benchmarks.gpu.cases import Job
from benchmarks.gpu.machines import Gpu

PATHS = ("load_store", "bulk", "batch", "staged")
_MOST_PIECES = 40_000  # of a loop over runs, which takes some microseconds each
Copy = Callable[[], object]


@dataclass(frozen=True)
class Contender:
    """`run` enqueues a copy on the stream. `by_plane`: on the peers' memory, not on the slab."""

    name: str
    run: Copy
    by_plane: bool = False


def ours(gpu: Gpu, job: Job, direction: str, stream: Any, cap: int = 0) -> list[Contender]:
    """Each path that can do the copy."""
    found = []
    for path in PATHS:
        try:
            transfer = job.transfer(gpu, path=path, max_thread_blocks=cap)
        except ValueError:
            continue
        found.append(Contender(path, partial(getattr(transfer, direction), stream)))
    return found


def peers(gpu: Gpu, job: Job, direction: str, stream: Any) -> list[Contender]:
    found = [_torch(job, direction), _triton(gpu, job, direction)]
    if direction == "gather" and gpu.has_cupy:
        found.append(_cupy(gpu, job))
    if gpu.has_cupy and job.case.num_blocks * job.case.planes <= _MOST_PIECES:
        found.append(_loop(gpu, job, direction, stream))
    return [contender for contender in found if contender is not None]


def limits(job: Job) -> list[Contender]:
    """As many bytes in one piece, from any place where the job has them to any other."""
    paged = job.paged.view(-1)[: job.case.payload_bytes]
    other = job.slab.view(-1)
    return [
        Contender("to slab", lambda: other.copy_(paged, non_blocking=True)),
        Contender("from slab", lambda: paged.copy_(other, non_blocking=True)),
    ]


def _torch(job: Job, direction: str) -> Contender:
    """A call a plane; to and from the host one large copy, by way of memory on the device."""
    paged, peer, ids = _words(job.paged), _words(job.peer), job.ids_there
    host = job.slab.view(-1) if job.place == "host" else None
    there = job.peer.view(-1)

    def gather() -> None:
        for plane in range(job.case.planes):
            torch.index_select(paged[plane], 0, ids, out=peer[plane])
        if host is not None:
            host.copy_(there, non_blocking=True)

    def scatter() -> None:
        if host is not None:
            there.copy_(host, non_blocking=True)
        for plane in range(job.case.planes):
            paged[plane].index_copy_(0, ids, peer[plane])

    name = "torch index_select" if direction == "gather" else "torch index_copy_"
    if host is not None:
        name += ", one copy_"
    return Contender(name, gather if direction == "gather" else scatter, by_plane=True)


def _cupy(gpu: Gpu, job: Job) -> Contender | None:
    if job.place == "host":
        return None
    paged, peer = _words(job.paged), _words(job.peer)

    def gather() -> None:
        for plane in range(job.case.planes):
            gpu.take(paged[plane], job.ids_there, peer[plane])

    return Contender("cupy take", gather, by_plane=True)


def _triton(gpu: Gpu, job: Job, direction: str) -> Contender | None:
    try:
        from kvcore.triton_copy import TritonTransfer
    except ImportError:
        return None
    transfer = TritonTransfer(
        job, job.slab.view(job.case.num_blocks, -1), job.ids, job.slab_ids, device=gpu.device
    )
    return Contender("triton", getattr(transfer, direction))


def _loop(gpu: Gpu, job: Job, direction: str, stream: Any) -> Contender:
    pieces, size = list(job.pieces()), job.run_bytes

    def gather() -> None:
        for paged, packed in pieces:
            gpu.memcpy(packed, paged, size, stream)

    def scatter() -> None:
        for paged, packed in pieces:
            gpu.memcpy(paged, packed, size, stream)

    return Contender("cudaMemcpyAsync loop", gather if direction == "gather" else scatter)


def _words(rows: torch.Tensor) -> torch.Tensor:
    """In the widest words that torch copies well."""
    return rows.view(torch.int64) if rows.shape[-1] % 8 == 0 else rows
