"""Codecs to 8 bits: every way that this machine's CPU has gives the bits that the format says."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from test_codecs import there_and_back, to_bits, to_float

from kvcore._core import RunCodec, codec_paths, fp8_codec, int8_codec
from kvcore.copies import TransferPlan
from kvcore.layers import PagedLayers

Array = npt.NDArray[Any]
TYPES = ["bfloat16", "float16", "float32"]
# One, less than a vector, vectors and a rest, several strips and a rest.
WIDTHS = [1, 3, 7, 8, 16, 17, 33, 96, 128, 129, 257, 600]


@dataclass(frozen=True)
class PathFp8:
    dtype: str
    group: int
    path: str | None

    def of(self, run_bytes: int) -> RunCodec:
        return fp8_codec(run_bytes, self.dtype, self.group, self.path)


@dataclass(frozen=True)
class PathInt8:
    dtype: str
    rows: int
    channels: int
    path: str | None

    def of(self, run_bytes: int) -> RunCodec:
        return int8_codec(run_bytes, self.dtype, self.rows, self.channels, self.path)


def e4m3_values() -> Array:
    """What the codes 0 to 126 say: OCP 8-bit Floating Point Specification 1.0, table 1."""
    codes = np.arange(127)
    exponents, mantissas = codes >> 3, codes & 7
    normal = (1 + mantissas / 8) * 2.0 ** (exponents - 7)
    return np.where(exponents == 0, mantissas / 8 * 2.0**-6, normal)


def e4m3_of(values: Array) -> Array:
    """The nearest codes, ties to even."""
    known = e4m3_values()
    magnitudes = np.minimum(np.abs(values.astype(np.float64)), 448)
    upper = np.clip(np.searchsorted(known, magnitudes), 1, 126)
    below, above = magnitudes - known[upper - 1], known[upper] - magnitudes
    takes_lower = (below < above) | ((below == above) & (upper % 2 == 1))
    codes = np.where(takes_lower, upper - 1, upper)
    codes = np.where(np.isnan(values), 127, codes)
    return (codes | np.where(np.signbit(values), 0x80, 0)).astype(np.uint8)


def any_bits(dtype: str, count: int, seed: int) -> Array:
    """Bits of a type: of all magnitudes, with infinities, NaN and subnormals among them."""
    rng = np.random.default_rng(seed)
    width = np.uint32 if dtype == "float32" else np.uint16
    bits = rng.integers(0, np.iinfo(width).max, count, width, endpoint=True)
    near_one = to_bits(rng.standard_normal(count).astype(np.float32), dtype).view(width)
    return np.where(rng.random(count) < 0.5, bits, near_one).astype(width)


def test_the_portable_way_is_always_there() -> None:
    assert codec_paths()[-1] == "portable"


@pytest.mark.parametrize("path", codec_paths())
@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_every_value_becomes_the_nearest_code(path: str, dtype: str) -> None:
    """All values that one scale brings into the range of the codes; it is a power of two."""
    bits = np.arange(1 << 16, dtype=np.uint16)
    if dtype == "float16":
        bits = bits.view(np.float16)
    values = to_float(bits, dtype)
    kept = bits[~(np.abs(values) > 224)]
    kept[0] = to_bits(np.array([224], np.float32), dtype)[0]
    slab, back = there_and_back(kept[None], PathFp8(dtype, len(kept), path))
    scale, codes = slab[0, :4].view(np.float32), slab[0, 4 : 4 + len(kept)]
    assert scale == 0.5
    values = to_float(kept, dtype)
    with np.errstate(invalid="ignore"):
        assert np.array_equal(codes, e4m3_of(values * 2))
    came = to_float(back[0].view(kept.dtype), dtype)
    decoded = np.concatenate([e4m3_values(), [np.nan]])[codes & 0x7F] * 0.5
    decoded = np.where(codes & 0x80, -decoded, decoded).astype(np.float32)
    expected = to_float(to_bits(decoded, dtype), dtype)
    assert np.array_equal(came, expected, equal_nan=True)
    assert np.array_equal(np.signbit(came), np.signbit(values))


@pytest.mark.parametrize("width", WIDTHS)
@pytest.mark.parametrize("dtype", TYPES)
def test_all_ways_give_the_same_bits(dtype: str, width: int) -> None:
    pages = any_bits(dtype, 5 * 12 * width, seed=width).reshape(5, 12 * width)
    for new in (
        lambda path: PathFp8(dtype, width, path),
        lambda path: PathInt8(dtype, 4, width, path),
    ):
        slab, back = there_and_back(pages, new("portable"))
        for path in codec_paths()[:-1]:
            other_slab, other_back = there_and_back(pages, new(path))
            assert np.array_equal(slab, other_slab)
            assert back.tobytes() == other_back.tobytes()


@pytest.mark.parametrize("path", codec_paths())
def test_any_code_is_decoded(path: str) -> None:
    codes = np.arange(256, dtype=np.uint8)
    slab = np.concatenate([np.array([0.25], np.float32).view(np.uint8), codes])[None].copy()
    back = np.zeros((1, 256), np.float32)
    layers = PagedLayers([back], block_axis=0)
    TransferPlan(layers, slab, [0], [0], codec=PathFp8("float32", 256, path)).scatter()
    magnitudes = np.concatenate([e4m3_values(), [np.nan]]) * 0.25
    assert np.array_equal(back[0, :128], magnitudes.astype(np.float32), equal_nan=True)
    assert np.array_equal(back[0, 128:], -magnitudes.astype(np.float32), equal_nan=True)


def test_a_wrong_path_is_named() -> None:
    with pytest.raises(ValueError, match=r"path must be one of codec_paths\(\), got str 'mmx'"):
        fp8_codec(256, "bfloat16", 128, "mmx")
    with pytest.raises(TypeError, match="path must be"):
        int8_codec(256, "bfloat16", 8, 16, 5)  # type: ignore[arg-type]
