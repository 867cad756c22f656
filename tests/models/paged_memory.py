"""A paged cache and a slab in two buffers, and which of their bytes belong together."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from kvcore.planes import SlabMemory

NUM_BLOCKS = 7
NUM_SLAB_BLOCKS = 6


class PagedMemory:
    """Planes one after another, each of `NUM_BLOCKS` runs with a gap behind, and a slab.

    Both begin `misaligned` bytes after where their buffers do. It is what device copies take as
    their layers.

    Parameters
    ----------
    new_paged, new_slab : makes a buffer of so many bytes, and tells its address
    """

    def __init__(
        self,
        random: np.random.Generator,
        new_paged: Callable[[int], tuple[Any, int]],
        new_slab: Callable[[int], tuple[Any, int]],
        *,
        planes: int,
        layers: int,
        run_bytes: int,
        misaligned: int = 0,
        gap: int = 0,
        copied: int = 5,
    ) -> None:
        self.num_layers, self.num_blocks, self.run_bytes = layers, NUM_BLOCKS, run_bytes
        self.block_stride = run_bytes + gap
        self.slab_stride = planes * run_bytes + gap
        plane_bytes = NUM_BLOCKS * self.block_stride
        self.paged, paged_address = new_paged(misaligned + planes * plane_bytes)
        self.slab, slab_address = new_slab(misaligned + NUM_SLAB_BLOCKS * self.slab_stride)
        self.plane_bases = np.uint64(paged_address + misaligned) + np.arange(
            planes, dtype=np.uint64
        ) * np.uint64(plane_bytes)
        self.slab_memory = SlabMemory(
            slab_address + misaligned,
            planes * run_bytes,
            self.slab_stride,
            NUM_SLAB_BLOCKS,
            self.slab,
        )
        self.block_ids = random.permutation(NUM_BLOCKS)[:copied]
        self.slab_blocks = random.permutation(NUM_SLAB_BLOCKS)[:copied]
        self._starts = (misaligned, plane_bytes)

    def runs(self) -> Iterator[tuple[slice, slice]]:
        """Where each run is in `paged` and in `slab`."""
        misaligned, plane_bytes = self._starts
        for block, place in zip(self.block_ids, self.slab_blocks, strict=True):
            for plane in range(len(self.plane_bases)):
                paged = misaligned + plane * plane_bytes + int(block) * self.block_stride
                packed = misaligned + int(place) * self.slab_stride + plane * self.run_bytes
                yield (
                    slice(paged, paged + self.run_bytes),
                    slice(packed, packed + self.run_bytes),
                )
