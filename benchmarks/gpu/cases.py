"""What is measured: paged caches of many shapes in one pool of memory, and the slab beside them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import product
from typing import Any

import numpy as np
import torch

from benchmarks.gpu.machines import Gpu
from kvcore.planes import SlabMemory

FULL_TOKENS = 8192
_SPREAD = 4  # a paged cache has that many times the blocks that are copied
_MAX_PAYLOAD_BYTES = 5 << 29
BLOCK_TOKENS = (16, 32, 64, 128, 256)
LAYERS = (32, 80)
NUM_BLOCKS = ("full", 256, 16, 1)
ORDERS = ("random", "contiguous")


@dataclass(frozen=True)
class Kind:
    """What a layer keeps of a token: `planes` pages, `token_bytes` in each."""

    name: str
    planes: int
    token_bytes: int


KINDS = (
    Kind("GQA bf16", 2, 8 * 128 * 2),
    Kind("MLA bf16", 1, 576 * 2),
    Kind("GQA fp8", 2, 8 * 128),
    Kind("MLA fp8", 1, 656),  # 512 values, 4 scales, 64 values in bf16
)


@dataclass(frozen=True)
class Case:
    kind: Kind
    block_tokens: int
    layers: int
    num_blocks: int
    order: str

    @property
    def planes(self) -> int:
        return self.kind.planes * self.layers

    @property
    def run_bytes(self) -> int:
        return self.kind.token_bytes * self.block_tokens

    @property
    def payload_bytes(self) -> int:
        return self.num_blocks * self.planes * self.run_bytes

    def __str__(self) -> str:
        return (
            f"{self.kind.name}, {self.layers} layers, {self.num_blocks} blocks of "
            f"{self.block_tokens} tokens, {self.order}"
        )


def all_cases(dry: bool) -> list[Case]:
    """Those that tell the most first; in a dry run, few and small ones."""
    if dry:
        kinds = (Kind("GQA bf16", 2, 64), Kind("MLA odd", 1, 33))
        return [Case(kind, 4, 2, 3, order) for kind, order in product(kinds, ORDERS)]
    return sorted(dict.fromkeys(_matrix()), key=_priority)


def _matrix() -> Iterator[Case]:
    for kind, tokens, layers, blocks, order in product(
        KINDS, BLOCK_TOKENS, LAYERS, NUM_BLOCKS, ORDERS
    ):
        num_blocks = FULL_TOKENS // tokens if blocks == "full" else int(blocks)
        case = Case(kind, tokens, layers, num_blocks, order)
        if case.payload_bytes <= _MAX_PAYLOAD_BYTES:
            yield case


def _priority(case: Case) -> tuple[bool, bool, bool, int, int]:
    return (
        case.order != "random",
        case.layers != LAYERS[0],
        case.num_blocks * case.block_tokens != FULL_TOKENS,
        KINDS.index(case.kind),
        case.block_tokens,
    )


class Pools:
    """Memory for any of the cases, allocated once."""

    def __init__(self, gpu: Gpu, cases: list[Case]) -> None:
        payload = max(case.payload_bytes for case in cases)
        paged = max(num_paged_blocks(case) * case.planes * case.run_bytes for case in cases)
        self.paged = gpu.empty(paged)
        self.slabs = {"device": gpu.empty(payload), "host": gpu.pinned(payload)}
        self.peer = gpu.empty(payload)


def num_paged_blocks(case: Case) -> int:
    return _SPREAD * max(case.num_blocks, 16)


class Job:
    """A case in the pools: tensors for peers, and what our transfers take.

    Attributes
    ----------
    paged : uint8[planes, num_blocks, run_bytes]
    slab : uint8[num_blocks, planes, run_bytes], block by block
    peer : uint8[planes, num_blocks, run_bytes] on the device, plane by plane as peers want it
    """

    def __init__(self, gpu: Gpu, case: Case, pools: Pools, place: str) -> None:
        self.case, self.place = case, place
        blocks, planes, run = num_paged_blocks(case), case.planes, case.run_bytes
        self.paged = pools.paged[: planes * blocks * run].view(planes, blocks, run)
        self.slab = pools.slabs[place][: case.payload_bytes].view(case.num_blocks, planes, run)
        self.peer = pools.peer[: case.payload_bytes].view(planes, case.num_blocks, run)
        random = np.random.default_rng(case.block_tokens)
        if case.order == "random":
            ids = random.permutation(blocks)[: case.num_blocks]
            self.slab_ids = random.permutation(case.num_blocks)
        else:
            ids, self.slab_ids = np.arange(case.num_blocks) + 5, np.arange(case.num_blocks)
        self.ids = ids.astype(np.int64)
        self.ids_there = gpu.tensor(self.ids)
        self.slab_ids_there = gpu.tensor(self.slab_ids)
        self.paged.random_(0, 256)
        self.peer.random_(0, 256)

    # What transfers take as their layers.
    @property
    def plane_bases(self) -> Any:
        plane_bytes = self.paged.shape[1] * self.case.run_bytes
        bases = np.arange(self.case.planes, dtype=np.uint64) * np.uint64(plane_bytes)
        return np.uint64(self.paged.data_ptr()) + bases

    @property
    def num_layers(self) -> int:
        return self.case.layers

    @property
    def num_blocks(self) -> int:
        return self.paged.shape[1]

    @property
    def block_stride(self) -> int:
        return self.case.run_bytes

    @property
    def run_bytes(self) -> int:
        return self.case.run_bytes

    def transfer(self, gpu: Gpu, **options: Any) -> Any:
        slab = SlabMemory(
            self.slab.data_ptr(),
            self.case.planes * self.run_bytes,
            self.case.planes * self.run_bytes,
            self.case.num_blocks,
            self.slab,
        )
        return gpu.transfer(self, slab, self.ids, self.slab_ids, **options)

    def pieces(self) -> Iterator[tuple[int, int]]:
        """Addresses of each run in the paged cache and in the slab."""
        slab = self.slab.data_ptr()
        for block, place in zip(self.ids, self.slab_ids, strict=True):
            for plane, base in enumerate(self.plane_bases):
                run_number = int(place) * self.case.planes + plane
                yield int(base) + int(block) * self.run_bytes, slab + run_number * self.run_bytes

    def agrees(self, by_plane: bool) -> bool:
        """Whether paged cache and slab have the same bytes in the blocks of the case."""
        there = self.slab.to(self.paged.device)
        if by_plane:
            packed = self.peer
            if self.place == "host" and not torch.equal(there.view(-1), packed.view(-1)):
                return False
        else:
            packed = there[self.slab_ids_there].transpose(0, 1)
        return all(
            bool(torch.equal(packed[plane], self.paged[plane][self.ids_there]))
            for plane in range(self.case.planes)
        )

    def spoil(self, direction: str) -> None:
        """Take away some of what a copy is to bring, from each run."""
        targets = (self.paged,) if direction == "scatter" else (self.slab, self.peer)
        for target in targets:
            target[..., :16].zero_()
            target[..., -16:].zero_()
