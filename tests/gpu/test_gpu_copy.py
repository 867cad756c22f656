"""Copies on a GPU beside a naive loop, to the last byte; `tests/gpu/run.sh` runs it on one.

Without a GPU a loop of memmove stands in for the CUDA module: that shows that the checks run and
what they expect, and nothing of the kernels.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from models.paged_memory import PagedMemory

from kvcore import cuda

torch = pytest.importorskip("torch")
sys.path.insert(0, str(Path(__file__).parents[2]))

from benchmarks.gpu.machines import Gpu, find_gpu  # noqa: E402

PLACES = ("device", "host")
PATHS = ("load_store", "bulk", "batch", "staged")
WAIT_S = 30.0


@dataclass(frozen=True)
class Shape:
    planes: int
    layers: int
    run_bytes: int
    misaligned: int = 0
    gap: int = 0

    def __str__(self) -> str:
        return f"{self.planes}x{self.run_bytes}+{self.misaligned}"


SHAPES = [
    # Pages of 16 tokens in bf16 and fp8, K and V apart or together; MLA; all layers in one tensor.
    Shape(8, 4, 32768),
    Shape(8, 4, 16384),
    Shape(4, 4, 65536),
    Shape(4, 4, 18432),
    Shape(1, 1, 10496),
    Shape(1, 1, 5 * 32768),
    # Words of 16, 4 and 1 bytes, units cut short, gaps.
    Shape(6, 3, 16, gap=16),
    Shape(2, 1, 32768 + 48, gap=32),
    Shape(3, 3, 4100, misaligned=4, gap=12),
    Shape(2, 2, 16388),
    Shape(3, 3, 1, gap=3),
    Shape(2, 2, 4097, misaligned=1),
    Shape(2, 1, 70001, misaligned=15, gap=7),
]
# A run, and a block, that are more than a slot of the ring of staged copies; memmove has none.
LARGE = [Shape(3, 3, 17 << 20), Shape(40, 20, 600 << 10)] if cuda.available() else []


@pytest.fixture(scope="module")
def gpu() -> Gpu:
    return find_gpu(dry=not cuda.available())


class Copied:
    """A transfer over random bytes on a GPU, and what it should have done."""

    def __init__(self, gpu: Gpu, shape: Shape, place: str, **options: Any) -> None:
        self.gpu = gpu
        torch.manual_seed(shape.run_bytes)

        def new(allocate: Any) -> Any:
            def make(num_bytes: int) -> tuple[Any, int]:
                buffer = allocate(num_bytes)
                return buffer.random_(0, 256), buffer.data_ptr()

            return make

        self.memory = PagedMemory(
            np.random.default_rng(shape.run_bytes),
            new(gpu.empty),
            new(gpu.empty if place == "device" else gpu.pinned),
            planes=shape.planes,
            layers=shape.layers,
            run_bytes=shape.run_bytes,
            misaligned=shape.misaligned,
            gap=shape.gap,
        )
        self.transfer = gpu.transfer(
            self.memory,
            self.memory.slab_memory,
            self.memory.block_ids,
            self.memory.slab_blocks,
            **options,
        )
        gpu.synchronize()

    def expect(self, direction: str) -> tuple[Any, Any]:
        """What paged cache and slab should be like after a copy; all of their bytes."""
        paged, slab = self.memory.paged.clone(), self.memory.slab.clone()
        for in_paged, in_slab in self.memory.runs():
            if direction == "gather":
                slab[in_slab] = paged[in_paged]
            else:
                paged[in_paged] = slab[in_slab]
        return paged, slab

    def check(self, expected: tuple[Any, Any]) -> None:
        self.gpu.synchronize()
        assert torch.equal(self.memory.paged, expected[0])
        assert torch.equal(self.memory.slab, expected[1])

    def spoil(self) -> None:
        """Other bytes in the slab, so that a copy back has something to do."""
        self.memory.slab.bitwise_xor_(0x5A)
        self.gpu.synchronize()


def is_possible(gpu: Gpu, shape: Shape, place: str, path: str) -> bool:
    aligned = all(size % 16 == 0 for size in (shape.run_bytes, shape.misaligned, shape.gap))
    if path == "bulk":
        return aligned and gpu.has_bulk
    return path != "staged" or place == "host"


@pytest.mark.parametrize("path", [None, *PATHS])
@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("shape", SHAPES + LARGE, ids=str)
def test_both_directions_are_bit_exact(
    gpu: Gpu, shape: Shape, place: str, path: str | None
) -> None:
    if path is not None and not is_possible(gpu, shape, place, path):
        pytest.skip("this path cannot do it")
    copied = Copied(gpu, shape, place, path=path)
    assert path is None or copied.transfer.path == path
    for direction in ("gather", "scatter"):
        for layers_a_step in (None, 1, 3):
            expected = copied.expect(direction)
            handle = getattr(copied.transfer, direction)(layers_a_step=layers_a_step)
            assert handle.wait(WAIT_S)
            assert handle.done()
            copied.check(expected)
            copied.spoil()


@pytest.mark.parametrize("max_thread_blocks", [1, 3, 1000])
@pytest.mark.parametrize("path", ["load_store", "bulk", "staged"])
@pytest.mark.parametrize("shape", [SHAPES[0], SHAPES[7], replace(SHAPES[3], gap=16)], ids=str)
def test_any_number_of_thread_blocks_copies_all(
    gpu: Gpu, shape: Shape, path: str, max_thread_blocks: int
) -> None:
    if not is_possible(gpu, shape, "host", path):
        pytest.skip("this path cannot do it")
    copied = Copied(gpu, shape, "host", path=path, max_thread_blocks=max_thread_blocks)
    expected = copied.expect("gather")
    assert copied.transfer.gather().wait(WAIT_S)
    copied.check(expected)


@pytest.mark.parametrize("path", PATHS)
def test_copies_run_in_the_order_of_their_stream(gpu: Gpu, path: str) -> None:
    copied = Copied(gpu, SHAPES[0], "host", path=path)
    stream = gpu.new_stream()
    stream.wait_stream(gpu.current_stream())
    paged, slab = copied.expect("gather")
    with gpu.on(stream):
        copied.transfer.gather(stream)
        copied.memory.paged.zero_()  # after the gather has read it
        handle = copied.transfer.scatter(stream)
        seen = copied.memory.paged.clone()  # after the scatter has written it
    assert handle.wait(WAIT_S)
    expected = torch.zeros_like(paged)
    for in_paged, _ in copied.memory.runs():
        expected[in_paged] = paged[in_paged]
    copied.check((expected, slab))
    assert torch.equal(seen, expected)


@pytest.mark.parametrize("path", PATHS)
def test_another_stream_waits_for_a_layer(gpu: Gpu, path: str) -> None:
    copied = Copied(gpu, SHAPES[0], "host", path=path)
    shape = SHAPES[0]
    expected, _ = copied.expect("scatter")
    copying, reading = gpu.new_stream(), gpu.new_stream()
    handle = copied.transfer.scatter(copying, layers_a_step=1)
    plane_bytes = len(expected) // shape.planes
    layers = []
    for layer in range(shape.layers):
        handle.hold_stream(reading, layer)
        with gpu.on(reading):
            start = layer * 2 * plane_bytes
            layers.append(copied.memory.paged[start : start + 2 * plane_bytes].clone())
    assert handle.wait_layer(0, WAIT_S)
    assert handle.wait_layer(shape.layers - 1, WAIT_S)
    gpu.synchronize()
    assert torch.equal(torch.cat(layers), expected)


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("place", PLACES)
def test_a_graph_replays_what_it_captured(gpu: Gpu, place: str, path: str) -> None:
    if not is_possible(gpu, SHAPES[0], place, path):
        pytest.skip("this path cannot do it")
    copied = Copied(gpu, SHAPES[0], place, path=path)
    stream = gpu.new_stream()

    def there_and_back() -> None:
        copied.transfer.gather(stream, layers_a_step=2)
        copied.memory.paged.zero_()
        copied.transfer.scatter(stream)

    replay = gpu.capture(stream, there_and_back)
    for value in (1, 2):
        copied.memory.paged.bitwise_xor_(value)
        paged, slab = copied.expect("gather")
        expected = torch.zeros_like(paged)
        for in_paged, _ in copied.memory.runs():
            expected[in_paged] = paged[in_paged]
        replay()
        copied.check((expected, slab))
    # It is as good as new for copies that no graph has.
    expected_now = copied.expect("scatter")
    assert copied.transfer.scatter().wait(WAIT_S)
    copied.check(expected_now)


def test_a_transfer_may_be_forgotten_while_it_copies(gpu: Gpu) -> None:
    for shape in (SHAPES[0], *LARGE):
        copied = Copied(gpu, shape, "host")
        expected = copied.expect("gather")
        copied.transfer.gather(gpu.new_stream())
        copied.transfer.gather(gpu.new_stream(), layers_a_step=1)
        copied.transfer = None  # waits for both
        copied.check(expected)


def real_only(gpu: Gpu) -> None:
    if not gpu.is_real:
        pytest.skip("only the module on a GPU refuses this")


def test_memory_in_the_wrong_place_is_refused(gpu: Gpu) -> None:
    real_only(gpu)
    copied = Copied(gpu, SHAPES[0], "device")
    memory = copied.memory
    pageable = torch.zeros(6, memory.slab_stride, dtype=torch.uint8)
    with pytest.raises(ValueError, match=r"slab must lie .* got host memory that is not pinned"):
        gpu.transfer(memory, pageable, [0], [0])
    memory.plane_bases = memory.plane_bases + np.uint64(1 << 44)
    with pytest.raises(ValueError, match="layers must lie in the memory of CUDA device 0"):
        gpu.transfer(memory, memory.slab_memory, [0], [0])


def test_paths_that_cannot_are_refused(gpu: Gpu) -> None:
    real_only(gpu)
    with pytest.raises(ValueError, match="'bulk', which needs 16-byte alignment"):
        Copied(gpu, SHAPES[-1], "device", path="bulk")
    with pytest.raises(ValueError, match="'staged', which needs a slab in pinned host memory"):
        Copied(gpu, SHAPES[0], "device", path="staged")
    with pytest.raises(ValueError, match="path must be None or one of"):
        Copied(gpu, SHAPES[0], "device", path="carrier pigeon")


@pytest.fixture
def registered() -> Iterator[Any]:
    from kvcore import _cuda

    memory = np.zeros(4 << 20, np.uint8)
    start = -memory.ctypes.data % 4096
    _cuda.pin(memory.ctypes.data + start, 3 << 20)
    yield memory[start : start + (3 << 20)]
    _cuda.unpin(memory.ctypes.data + start)


def test_memory_that_we_pinned_is_a_slab(gpu: Gpu, request: pytest.FixtureRequest) -> None:
    real_only(gpu)
    registered = request.getfixturevalue("registered")
    copied = Copied(gpu, SHAPES[0], "device")
    memory = copied.memory
    slab = registered[: 6 * memory.slab_stride].reshape(6, memory.slab_stride)
    transfer = gpu.transfer(memory, slab, memory.block_ids, memory.slab_blocks)
    assert transfer.gather().wait(WAIT_S)
    paged = memory.paged.cpu().numpy()
    for in_paged, in_slab in memory.runs():
        assert np.array_equal(slab.reshape(-1)[in_slab], paged[in_paged])


def test_triton_copies_the_same(gpu: Gpu) -> None:
    real_only(gpu)
    triton_copy = pytest.importorskip("kvcore.triton_copy")
    for shape in SHAPES:
        for place in PLACES:
            copied = Copied(gpu, shape, place)
            memory = copied.memory
            transfer = triton_copy.TritonTransfer(
                memory, memory.slab_memory, memory.block_ids, memory.slab_blocks, device="cuda:0"
            )
            for direction in ("gather", "scatter"):
                expected = copied.expect(direction)
                handle = getattr(transfer, direction)(layers_a_step=1)
                assert handle.wait_layer(0, WAIT_S)
                assert handle.wait(WAIT_S)
                copied.check(expected)
                copied.spoil()
