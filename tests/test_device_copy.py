"""What device copies say of their arguments, and where there is no device for them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from kvcore import cuda
from kvcore._core import plan_word_bytes
from kvcore.planes import SlabMemory, plan_numbers, stream_number


@dataclass
class Planes:
    """Planes of a paged cache in one buffer, one after another."""

    plane_bases: npt.NDArray[np.uint64]
    num_layers: int
    num_blocks: int
    block_stride: int
    run_bytes: int


def planes(num_layers: int = 2, num_blocks: int = 4, run_bytes: int = 64) -> Planes:
    bases = 0x10000 + np.arange(2 * num_layers, dtype=np.uint64) * np.uint64(num_blocks * run_bytes)
    return Planes(bases, num_layers, num_blocks, run_bytes, run_bytes)


def slab(num_blocks: int = 3, block_bytes: int = 256) -> npt.NDArray[np.uint8]:
    return np.zeros((num_blocks, block_bytes), np.uint8)


def word_bytes(layers: Planes, memory: SlabMemory, ids: Any = (0,), slab_ids: Any = (0,)) -> int:
    return plan_word_bytes(**plan_numbers(layers, memory, ids, slab_ids))


def at(address: int, stride_bytes: int = 256) -> SlabMemory:
    return SlabMemory(address, stride_bytes, stride_bytes, 3, None)


def test_slab_memory_is_that_of_the_array() -> None:
    whole = slab(5, 100)
    memory = SlabMemory.of(whole)
    assert (memory.address, memory.stride_bytes, memory.num_blocks) == (whole.ctypes.data, 100, 5)
    part = SlabMemory.of(whole[1:4, 10:30])
    assert (part.address, part.stride_bytes, part.num_blocks) == (whole.ctypes.data + 110, 100, 3)
    one = SlabMemory.of(whole[2:3, :50])
    assert (one.stride_bytes, one.num_blocks) == (50, 1)


def test_slab_memory_of_a_tensor() -> None:
    torch = pytest.importorskip("torch")
    tensor = torch.zeros(4, 96, dtype=torch.uint8)
    memory = SlabMemory.of(tensor[1:, 32:])
    assert memory.address == tensor.data_ptr() + 96 + 32
    assert (memory.stride_bytes, memory.num_blocks) == (96, 3)
    with pytest.raises(ValueError, match=r"slab must be uint8\[.*\], got float32\[4, 96\]"):
        SlabMemory.of(tensor.float())


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        (np.zeros((2, 8), np.int8), r"slab must be uint8\[.*got int8\[2, 8\]"),
        (np.zeros(8, np.uint8), r"slab must be uint8\[.*got uint8\[8\]"),
        (np.zeros((0, 8), np.uint8), r"slab must be uint8\[.*got uint8\[0, 8\]"),
        (np.zeros((4, 8), np.uint8)[:, ::2], "bytes of a block together.*(8, 2)"),
        (np.zeros((4, 8), np.uint8)[::-1], "blocks apart.*(-8, 1)"),
        (np.broadcast_to(np.zeros(8, np.uint8), (4, 8)), "slab must"),
    ],
)
def test_slab_of_another_shape_is_refused(wrong: npt.NDArray[Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        SlabMemory.of(wrong)


def test_slab_that_is_no_array_is_refused() -> None:
    with pytest.raises(TypeError, match="slab must be a tensor or array, got bytearray"):
        SlabMemory.of(bytearray(8))


@pytest.mark.parametrize("ids", [[0, 3], np.array([0, 3], np.int8), (0, 3), np.uint64([0, 3])])
def test_any_integers_are_ids(ids: Any) -> None:
    numbers = plan_numbers(planes(), at(0x1000), ids, [])
    assert numbers["block_ids"].dtype == np.uint32
    assert numbers["block_ids"].tolist() == [0, 3]
    assert numbers["slab_blocks"].dtype == np.uint32


@pytest.mark.parametrize(
    ("ids", "error"),
    [([-1], ValueError), ([2**32], ValueError), ([0.5], TypeError), ([[1]], TypeError)],
)
def test_ids_that_are_none_are_named(ids: Any, error: type[Exception]) -> None:
    with pytest.raises(error, match="slab_blocks must be"):
        plan_numbers(planes(), at(0x1000), [0], ids)


def test_the_widest_word_divides_all_addresses_and_sizes() -> None:
    assert word_bytes(planes(run_bytes=64), at(0x1000)) == 16
    assert word_bytes(planes(run_bytes=60), at(0x1000)) == 4
    assert word_bytes(planes(run_bytes=62), at(0x1000)) == 1
    assert word_bytes(planes(run_bytes=64), at(0x1008)) == 4
    assert word_bytes(planes(run_bytes=64), at(0x1000, 257)) == 1


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"block_ids": np.array([4], np.uint32)}, "block_ids must be below 4, got 4"),
        ({"slab_blocks": np.array([3], np.uint32)}, "slab_blocks must be below 3, got 3"),
        ({"slab_block_bytes": 255}, "slab must have blocks of at least 256 bytes, got 255"),
        ({"slab_blocks": np.array([0, 1], np.uint32)}, "slab_blocks must be as many as block_ids"),
        ({"num_layers": 3}, "layers must be at least 1, with equally many planes each"),
        ({"paged_stride": 63}, "layers must have blocks that share no byte"),
        ({"run_bytes": 0}, "run_bytes must be an int from 1"),
    ],
)
def test_a_plan_that_cannot_be_is_refused(change: dict[str, Any], message: str) -> None:
    numbers = plan_numbers(planes(), at(0x1000), [1], [0])
    with pytest.raises(ValueError, match=message):
        plan_word_bytes(**{**numbers, **change})


def test_blocks_named_twice_are_refused() -> None:
    with pytest.raises(ValueError, match="block_ids must differ from each other, got 2 more than"):
        word_bytes(planes(), at(0x1000), [2, 1, 2], [0, 1, 2])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"block_ids": np.array([1], np.int32)}, r"block_ids must be .* uint32\[n\] array"),
        ({"plane_bases": [1]}, r"plane_bases must be .* uint64\[n\] array"),
        ({"strange": 1}, "an argument that no plan takes"),
    ],
)
def test_numbers_of_other_types_are_refused(change: dict[str, Any], message: str) -> None:
    numbers = plan_numbers(planes(), at(0x1000), [1], [0])
    with pytest.raises(TypeError, match=message):
        plan_word_bytes(**{**numbers, **change})
    missing = {name: number for name, number in numbers.items() if name != "slab"}
    with pytest.raises(TypeError, match="slab is missing"):
        plan_word_bytes(**missing)  # type: ignore[arg-type]


def test_streams_are_told_by_their_handles() -> None:
    class Torch:
        cuda_stream = 5

    class Cupy:
        ptr = 6

    class Core:
        def __cuda_stream__(self) -> tuple[int, int]:
            return (0, 7)

    assert [stream_number(s) for s in (4, Torch(), Cupy(), Core())] == [4, 5, 6, 7]
    with pytest.raises(TypeError, match="stream must be an int or a CUDA stream, got str"):
        stream_number("0")


@pytest.mark.skipif(cuda.available(), reason="there is a GPU")
def test_without_a_gpu_the_reason_is_told() -> None:
    why = cuda.why_unavailable()
    assert why
    assert list(cuda.devices()) == []
    with pytest.raises(RuntimeError, match="CUDA is not available: ") as caught:
        cuda.CudaTransfer(planes(), slab(), [0], [0])
    assert str(caught.value).endswith(why)
    # What is wrong with an argument comes first.
    with pytest.raises(ValueError, match="block_ids must be from 0"):
        cuda.CudaTransfer(planes(), slab(), [-1], [0])


def test_the_module_says_what_it_has_code_for() -> None:
    if not cuda.is_built():
        assert cuda.architectures() == ()
        assert "KVCORE_CUDA=on" in str(cuda.why_unavailable())
    else:
        assert {"sm_80", "sm_90"} < set(cuda.architectures())
        assert any(name.startswith("compute_") for name in cuda.architectures())
