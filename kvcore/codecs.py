"""Codecs: runs that look different in a slab, converted while they are copied.

All are for copies by the CPU. Speeds and errors are in docs/data_plane.md.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol, runtime_checkable

from kvcore._core import RunCodec, fp8_codec, int8_codec, transpose_codec
from kvcore.layers import PagedLayers


@runtime_checkable
class Codec(Protocol):
    """What `TransferPlan` takes as ``codec``."""

    def of(self, run_bytes: int) -> RunCodec:
        """The codec for runs of so many bytes.

        Raises
        ------
        TypeError, ValueError
            Such runs cannot be converted; says why.
        """


def slab_block_bytes(layers: PagedLayers, codec: Codec) -> int:
    """Bytes that a block takes in a slab."""
    return len(layers.plane_bases) * codec.of(layers.run_bytes).slab_bytes


@dataclass(frozen=True, slots=True)
class Transpose:
    """Matrices of cells, row after row in the paged cache, column after column in the slab.

    ``Transpose(tokens, heads, head_bytes)`` keeps the pages of an NHD cache as HND in the slab,
    ``Transpose(heads, tokens, head_bytes)`` those of an HND cache as NHD. Bytes stay as they are.

    Parameters
    ----------
    rows, columns, cell_bytes : int
        Together they divide a run.
    """

    rows: int
    columns: int
    cell_bytes: int

    def of(self, run_bytes: int) -> RunCodec:
        return transpose_codec(run_bytes, self.rows, self.columns, self.cell_bytes)


@dataclass(frozen=True, slots=True)
class Fp8:
    """Floats as 8-bit ones (E4M3) with a float32 scale for each group: half the bytes or a quarter.

    Of a group with largest magnitude m, a value x comes back within |x| / 16 or m / 458752,
    whatever is more, and the rounding to its type. Infinities come back as m, NaN as NaN.

    Parameters
    ----------
    dtype : str
        "bfloat16", "float16" or "float32".
    group : int
        Values that follow each other and share a scale, as those of one head; divides a run.
    """

    dtype: str
    group: int

    def of(self, run_bytes: int) -> RunCodec:
        return fp8_codec(run_bytes, self.dtype, self.group)


@dataclass(frozen=True, slots=True)
class Int8:
    """Floats as integers of 8 bits with a float32 scale for each channel of a block.

    Of a channel with largest magnitude m, a value comes back within m / 254, and the rounding to
    its type. Infinities come back as m, NaN as 0.

    Parameters
    ----------
    dtype : str
        "bfloat16", "float16" or "float32".
    rows, channels : int
        A run is matrices of rows x channels: tokens x (heads * dim) of an NHD page, tokens x dim of
        each head of an HND page.
    """

    dtype: str
    rows: int
    channels: int

    def of(self, run_bytes: int) -> RunCodec:
        return int8_codec(run_bytes, self.dtype, self.rows, self.channels)
