"""`kvcore bench copy`: blocks gathered at random out of 2 GiB into 64 MiB, and scattered back.

Every contender copies other blocks in each of its turns, so none finds what another has brought
into the caches. Plans and addresses are made before the clock starts, as an engine makes them once.
Limits are bare loops over addresses, in all variants that the machine has, on threads that are
awake already. With one thread kvcore copies on the calling one, as its peers do; with two its
figure includes waking those of a pool.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import numpy.typing as npt

from kvcore._core import RawLoop
from kvcore.bench.harness import Case, Contender, Row, always, find_peer, measure
from kvcore.copies import CopyPool, TransferPlan
from kvcore.layers import PagedLayers
from kvcore.slabs import HostSlab

_KIB = 1024
_WORDS = 512  # every so many words of 8 bytes one is checked, that is one a page
Array = npt.NDArray[Any]


class _Memory:
    """A paged cache and a slab of blocks of one size; what is in a word tells where it is from."""

    def __init__(self, paged_bytes: int, slab_bytes: int, block_bytes: int) -> None:
        self.block_bytes = block_bytes
        self.num_blocks, self.num_copied = paged_bytes // block_bytes, slab_bytes // block_bytes
        self.paged_slab = HostSlab(self.num_blocks, block_bytes)
        self.slab = HostSlab(self.num_copied, block_bytes)
        self.paged, self.blocks = self.paged_slab.numpy(), self.slab.numpy()
        self.layers = PagedLayers([self.paged], block_axis=0)
        self.places = np.arange(self.num_copied, dtype=np.uint32)
        words = np.arange(block_bytes // 8, dtype=np.uint64)
        for i in range(self.num_blocks):
            self.paged[i].view(np.uint64)[:] = words + np.uint64(i << 32)
        self._random = np.random.default_rng(0)

    def new_ids(self) -> npt.NDArray[np.uint32]:
        return self._random.permutation(self.num_blocks)[: self.num_copied].astype(np.uint32)

    def sample(self, blocks: Array) -> Array:
        return blocks.view(np.uint64)[:, ::_WORDS]

    def expected(self, ids: Array) -> Array:
        words = np.arange(0, self.block_bytes // 8, _WORDS, dtype=np.uint64)
        expected: Array = words[None, :] + (ids.astype(np.uint64) << np.uint64(32))[:, None]
        return expected


Copy = Callable[[_Memory, Array], Callable[[], object]]


def run(quick: bool) -> Iterator[Row]:
    paged, slab, rounds = (8 << 20, 1 << 20, 2) if quick else (2 << 30, 64 << 20, 21)
    sizes = (16, 64) if quick else (16, 64, 256, 1024)
    torch = find_peer("torch", "torch")
    for size in sizes:
        memory = _Memory(paged, slab, size * _KIB)
        for threads in (1, 2):
            if torch is not None:
                torch.set_num_threads(threads)
            for gathers in (True, False):
                yield _measure(memory, threads, gathers, rounds, torch)


def _measure(memory: _Memory, threads: int, gathers: bool, rounds: int, torch: Any) -> Row:
    loop = RawLoop(threads)
    peers = _peers(torch, gathers) if threads == 1 or torch is not None else {}
    limits = {
        f"raw loop, {name}": _contender(memory, gathers, _raw(loop, name, gathers))
        for name in RawLoop.names()
    }
    what = "gather" if gathers else "scatter"
    unit = "thread" if threads == 1 else "threads"
    name = f"{what} blocks of {memory.block_bytes // _KIB:,} KiB, {threads} {unit}"
    ours = _contender(memory, gathers, _kvcore(threads, gathers))
    return measure(
        Case(
            "copy",
            name,
            "us",
            ours,
            rounds,
            {peer: _contender(memory, gathers, copy) for peer, copy in peers.items()},
            limits,
        )
    )


def _contender(memory: _Memory, gathers: bool, copy: Copy) -> Contender:
    """Before each turn all that is looked at afterwards is set to something else."""

    def prepare(round_: int) -> tuple[Array, Callable[[], object]]:
        ids = memory.new_ids()
        run = copy(memory, ids)
        if gathers:
            memory.sample(memory.blocks)[:] = 0
        else:
            memory.blocks.view(np.uint64)[:] = memory.paged.view(np.uint64)[ids]
            memory.sample(memory.paged)[ids] = 0
        return ids, run

    def timed(argument: tuple[Array, Callable[[], object]]) -> Array:
        argument[1]()
        return argument[0]

    def read(ids: Array) -> bool:
        found = memory.sample(memory.blocks) if gathers else memory.sample(memory.paged)[ids]
        return bool(np.array_equal(found, memory.expected(ids)))

    return Contender(timed, prepare, always(True), read)


def _kvcore(threads: int, gathers: bool) -> Copy:
    def plan_of(memory: _Memory, ids: Array) -> TransferPlan:
        return TransferPlan(memory.layers, memory.slab, ids, memory.places)

    def here(memory: _Memory, ids: Array) -> Callable[[], object]:
        plan = plan_of(memory, ids)
        return plan.gather if gathers else plan.scatter

    if threads == 1:
        return here
    pool = CopyPool(threads)

    def in_pool(memory: _Memory, ids: Array) -> Callable[[], object]:
        plan = plan_of(memory, ids)
        start = pool.gather if gathers else pool.scatter
        return lambda: start(plan).wait()

    return in_pool


def _raw(loop: RawLoop, name: str, gathers: bool) -> Copy:
    def copy(memory: _Memory, ids: Array) -> Callable[[], object]:
        size = np.uint64(memory.block_bytes)
        paged = np.uint64(memory.paged.ctypes.data) + ids.astype(np.uint64) * size
        slab = np.uint64(memory.blocks.ctypes.data) + memory.places.astype(np.uint64) * size
        to, from_ = (slab, paged) if gathers else (paged, slab)
        loop.arm()
        return lambda: loop.run(name, to, from_, memory.block_bytes)

    return copy


def _peers(torch: Any, gathers: bool) -> dict[str, Copy]:
    """Each in the form that is fastest: elements of 8 bytes, as many as a block has."""

    def words(blocks: Array) -> Array:
        return blocks.view(np.int64)

    def take(memory: _Memory, ids: Array) -> Callable[[], object]:
        at = ids.astype(np.intp)
        return lambda: np.take(
            words(memory.paged), at, axis=0, out=words(memory.blocks), mode="clip"
        )

    def assign(memory: _Memory, ids: Array) -> Callable[[], object]:
        at, paged, blocks = ids.astype(np.intp), words(memory.paged), words(memory.blocks)

        def run() -> None:
            paged[at] = blocks

        return run

    def of_torch(memory: _Memory, ids: Array) -> tuple[Any, Any, Any]:
        tensors = (torch.from_numpy(words(b)) for b in (memory.paged, memory.blocks))
        return (*tensors, torch.from_numpy(ids.astype(np.int64)))

    def index_select(memory: _Memory, ids: Array) -> Callable[[], object]:
        paged, blocks, at = of_torch(memory, ids)
        return lambda: torch.index_select(paged, 0, at, out=blocks)

    def index_copy(memory: _Memory, ids: Array) -> Callable[[], object]:
        paged, blocks, at = of_torch(memory, ids)
        return lambda: paged.index_copy_(0, at, blocks)

    def copy_loop(memory: _Memory, ids: Array) -> Callable[[], object]:
        paged, blocks, _ = of_torch(memory, ids)
        pairs = [(i, block) for i, block in enumerate(ids.tolist())]
        if gathers:
            return lambda: [blocks[i].copy_(paged[block]) for i, block in pairs]
        return lambda: [paged[block].copy_(blocks[i]) for i, block in pairs]

    peers: dict[str, Copy] = {"np.take(out=)": take} if gathers else {"numpy assignment": assign}
    if torch is not None:
        fused = index_select if gathers else index_copy
        peers |= {f"torch.{fused.__name__}{'(out=)' if gathers else '_'}": fused}
        peers |= {"loop of tensor.copy_": copy_loop}
    return peers
