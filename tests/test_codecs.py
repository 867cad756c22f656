"""Codecs: what comes back is what went in, or as near as is said."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from kvcore.codecs import Codec, Fp8, Int8, Transpose, slab_block_bytes
from kvcore.copies import CopyPool, TransferPlan
from kvcore.layers import PagedLayers

Array = npt.NDArray[Any]
WAIT_S = 10.0
# Rounding to a type, relative to a value, and the smallest step of it.
ROUNDING = {"float16": 2**-11, "bfloat16": 2**-8, "float32": 2**-24}
SMALLEST = {"float16": 2**-25, "bfloat16": 2**-134, "float32": 2**-150}


def to_bits(values: Array, dtype: str) -> Array:
    """float32 as the bits of a type."""
    if dtype == "bfloat16":
        bits = values.astype(np.float32).view(np.uint32)
        rounded = (bits + np.uint32(0x7FFF) + (bits >> 16 & 1)) >> 16
        return np.where(np.isnan(values), 0x7FC0, rounded).astype(np.uint16)
    with np.errstate(over="ignore"):
        return values.astype(dtype)


def to_float(bits: Array, dtype: str) -> Array:
    if dtype == "bfloat16":
        return (bits.astype(np.uint32) << 16).view(np.float32)
    return bits.astype(np.float32)


def there_and_back(pages: Array, codec: Codec, threads: int = 1) -> tuple[Array, Array]:
    """What the slab has, and what comes back, of pages [blocks, ...] as K and in reverse as V."""
    num_blocks = len(pages)
    layers = PagedLayers([np.stack([pages, pages[::-1]])], block_axis=1)
    slab = np.full((num_blocks + 1, slab_block_bytes(layers, codec) + 5), 0xA5, np.uint8)
    ids = np.random.default_rng(0).permutation(num_blocks)
    places = np.arange(1, num_blocks + 1)
    pool = CopyPool(threads)
    assert pool.gather(TransferPlan(layers, slab, ids, places, codec=codec)).wait(WAIT_S)
    assert (slab[0] == 0xA5).all()
    assert (slab[:, -5:] == 0xA5).all()
    back = np.zeros((2, *pages.shape), pages.dtype)
    target = PagedLayers([back], block_axis=1)
    assert pool.scatter(TransferPlan(target, slab, ids, places, codec=codec)).wait(WAIT_S)
    assert back[0].tobytes() == back[1][::-1].tobytes()
    in_order = np.empty_like(slab[1:, :-5])
    in_order[ids] = slab[1:, :-5]
    return in_order, back[0]


# --- Transposed ---------------------------------------------------------------------------------


@pytest.mark.parametrize("threads", [1, 3])
@pytest.mark.parametrize("cell_bytes", [1, 2, 6, 64, 128, 256, 512, 576])
@pytest.mark.parametrize(("tokens", "heads"), [(1, 1), (16, 8), (5, 3), (64, 1)])
def test_nhd_and_hnd(tokens: int, heads: int, cell_bytes: int, threads: int) -> None:
    random = np.random.default_rng(0)
    # [blocks, k and v, tokens, heads, bytes]: a run of two pages
    pages = random.integers(256, size=(7, 2, tokens, heads, cell_bytes), dtype=np.uint8)
    slab, back = there_and_back(pages, Transpose(tokens, heads, cell_bytes), threads)
    half = pages.transpose(0, 1, 3, 2, 4).reshape(7, -1)
    assert np.array_equal(slab[:, : half.shape[1]], half)
    assert np.array_equal(slab[:, half.shape[1] :], half[::-1])
    assert np.array_equal(back, pages)


def test_one_transposes_what_the_other_did() -> None:
    random = np.random.default_rng(0)
    nhd = random.integers(256, size=(4, 16, 8, 64), dtype=np.uint8)
    slab, _ = there_and_back(nhd, Transpose(16, 8, 64))
    hnd = slab[:, : nhd[0].size].reshape(4, 8, 16, 64).copy()
    slab, back = there_and_back(hnd, Transpose(8, 16, 64))
    assert np.array_equal(slab[:, : nhd[0].size].reshape(nhd.shape), nhd)
    assert np.array_equal(back, hnd)


# --- Quantised ----------------------------------------------------------------------------------


def check_fp8(values: Array, dtype: str, group: int) -> None:
    bits = to_bits(values, dtype)
    _, back = there_and_back(bits, Fp8(dtype, group))
    given, came = to_float(bits, dtype), to_float(back, dtype)
    assert np.array_equal(np.isnan(given), np.isnan(came))
    groups, came = given.reshape(-1, group), came.reshape(-1, group)
    finite = np.where(np.isfinite(groups), groups, 0).astype(np.float64)
    largest = np.abs(finite).max(axis=1, keepdims=True)
    infinity = np.maximum(largest, 448 * 2.0**-126)
    wanted = np.where(np.isinf(groups), np.sign(groups) * infinity, finite)
    allowed = np.maximum(np.abs(wanted) / 16, np.maximum(largest / 458_752, 2.0**-126 / 1024))
    allowed = allowed * (1 + 1e-6) + np.abs(wanted) * ROUNDING[dtype] * 1.1 + SMALLEST[dtype]
    assert (np.abs(np.where(np.isnan(groups), 0, came - wanted)) <= allowed).all()


def check_int8(values: Array, dtype: str, rows: int, channels: int) -> None:
    bits = to_bits(values, dtype)
    _, back = there_and_back(bits, Int8(dtype, rows, channels))
    given = to_float(bits, dtype).reshape(-1, rows, channels)
    came = to_float(back, dtype).reshape(-1, rows, channels)
    finite = np.where(np.isfinite(given), given, 0).astype(np.float64)
    largest = np.abs(finite).max(axis=1, keepdims=True)
    infinity = np.maximum(largest, 127 * 2.0**-126)
    wanted = np.where(np.isinf(given), np.sign(given) * infinity, finite)
    allowed = np.maximum(largest / 254, 2.0**-126 / 2) * (1 + 1e-6)
    allowed = allowed + np.abs(wanted) * ROUNDING[dtype] * 1.1 + SMALLEST[dtype]
    assert (np.abs(came - wanted) <= allowed).all()


@pytest.mark.parametrize("dtype", ["bfloat16", "float16", "float32"])
@pytest.mark.parametrize("scale", [1e-6, 1.0, 300.0])
def test_values_come_back_as_near_as_is_said(dtype: str, scale: float) -> None:
    values = np.random.default_rng(0).normal(size=(5, 2, 8, 64)).astype(np.float32) * scale
    check_fp8(values, dtype, 64)
    check_fp8(values, dtype, 1)
    check_fp8(values, dtype, 2 * 8 * 64)
    check_int8(values, dtype, 8, 64)
    check_int8(values, dtype, 1, 1)
    check_int8(values, dtype, 16, 64)


floats = st.floats(width=32, allow_nan=True, allow_infinity=True, allow_subnormal=True)


@example([3.4028234663852886e38] * 24, "float32")
@example([0.0] * 23 + [float("inf")], "bfloat16")
@given(st.lists(floats, min_size=24, max_size=24), st.sampled_from(list(ROUNDING)))
def test_any_values(values: list[float], dtype: str) -> None:
    pages = np.array(values, np.float32).reshape(2, 12)
    for group in (1, 4, 12):
        check_fp8(pages, dtype, group)
    for rows, channels in ((1, 12), (3, 4), (2, 2)):
        check_int8(pages, dtype, rows, channels)


def test_zeros_stay_zeros() -> None:
    for codec in (Fp8("float32", 4), Int8("float32", 2, 2)):
        _, back = there_and_back(np.zeros((3, 8), np.float32), codec)
        assert not back.any()


def test_the_bytes_of_a_slab_are_scales_and_codes() -> None:
    pages = np.array([[448.0, -224.0, 1.0, 0.015625]], np.float32)
    slab, back = there_and_back(pages, Fp8("float32", 4))
    assert slab[0, :4].view(np.float32)[0] == 1.0
    assert slab[0, 4:8].tolist() == [0x7E, 0xF6, 0x38, 0x08]
    assert np.array_equal(back, pages)
    pages = np.array([[127.0, -2.0, -64.0, 1.0]], np.float32)
    slab, back = there_and_back(pages, Int8("float32", 2, 2))
    assert slab[0, :8].view(np.float32).tolist() == [1.0, np.float32(2 / 127)]
    assert slab[0, 8:12].view(np.int8).tolist() == [127, -127, -64, 64]


def test_codes_are_those_of_torch() -> None:
    torch = pytest.importorskip("torch")
    values = np.random.default_rng(0).normal(size=(1, 4096)).astype(np.float32) * 100
    values[0, 0] = 448.0  # so that the scale is one
    values = np.clip(values, -448, 448)
    values[0, 1:300] *= np.float32(2**-14)
    slab, back = there_and_back(values, Fp8("float32", 4096))
    codes = torch.from_numpy(values).to(torch.float8_e4m3fn)
    assert np.array_equal(slab[0, 4:4100], codes.view(torch.uint8).numpy()[0])
    assert np.array_equal(back, codes.to(torch.float32).numpy())


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_all_floats_of_16_bits_survive_alone(dtype: str) -> None:
    """With a scale each, a value is its own largest, so it comes back but for rounding."""
    bits = np.arange(1 << 16, dtype=np.uint16).reshape(1, -1)
    pages = bits.view(np.float16) if dtype == "float16" else bits
    check_values = to_float(pages, dtype)
    _, back = there_and_back(pages, Int8(dtype, 1, 1))
    came = to_float(back, dtype)
    normal = np.isfinite(check_values) & (np.abs(check_values) > 2.0**-110)
    error = np.abs(came[normal] - check_values[normal]) / np.abs(check_values[normal])
    assert error.max() <= 2 * ROUNDING[dtype] + 2.0**-14 * (dtype == "float16")


# --- Wrong calls --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("codec", "message"),
    [
        (Transpose(3, 2, 64), "rows, columns and cell_bytes must divide a run of 1024 bytes"),
        (Transpose(0, 2, 64), "rows must be"),
        (Transpose(2**39, 2**39, 2**39), "must divide a run"),
        (Fp8("float32", 7), "group must divide a run of 256 values, got 7"),
        (Fp8("float64", 8), "dtype must be 'bfloat16', 'float16' or 'float32', got"),
        (Fp8("float16", 0), "group must be"),
        (Int8("float16", 16, 33), "rows and channels must divide a run of 512 values"),
        (Int8("float16", 1.5, 8), "rows must be an int"),  # type: ignore[arg-type]
    ],
)
def test_what_does_not_divide_a_run_is_refused(codec: Codec, message: str) -> None:
    layers = PagedLayers([np.zeros((4, 1024), np.uint8)], block_axis=0)
    with pytest.raises((TypeError, ValueError), match=message):
        TransferPlan(layers, np.zeros((4, 2048), np.uint8), [0], [0], codec=codec)


def test_a_slab_needs_room_for_codes_and_scales() -> None:
    layers = PagedLayers([np.zeros((4, 256), np.float32)], block_axis=0)
    codec = Fp8("float32", 64)
    assert slab_block_bytes(layers, codec) == 256 + 4 * 4
    TransferPlan(layers, np.zeros((4, 272), np.uint8), [0], [0], codec=codec)
    with pytest.raises(ValueError, match="slab must have blocks of 272 bytes at least, got 271"):
        TransferPlan(layers, np.zeros((4, 271), np.uint8), [0], [0], codec=codec)
