"""Slabs: equal blocks in one mapping, seen by arrays and tensors without a copy."""

from __future__ import annotations

import ctypes
import gc
import itertools
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from kvcore import DeviceSlab, HostSlab, PagedLayers, cuda
from kvcore.copies import CopyPool, TransferPlan

PAGE = 4096
HUGE_PAGE = 2 << 20


@pytest.mark.parametrize(
    ("block_bytes", "stride"), [(1, 64), (63, 64), (64, 64), (65, 128), (100, 128), (4096, 4096)]
)
def test_blocks_are_apart_and_aligned(block_bytes: int, stride: int) -> None:
    slab = HostSlab(5, block_bytes)
    blocks = slab.numpy()
    assert (slab.num_blocks, slab.block_bytes, slab.stride_bytes) == (5, block_bytes, stride)
    assert blocks.shape == (5, block_bytes)
    assert blocks.strides == (stride, 1)
    assert blocks.ctypes.data % HUGE_PAGE == 0
    assert slab.nbytes == HUGE_PAGE
    assert not blocks.any()
    blocks[:] = np.arange(5)[:, None]
    assert np.array_equal(slab.numpy(), blocks)


@pytest.mark.parametrize("huge_pages", ["off", "try"])
@pytest.mark.parametrize("threads", [1, 3, 200])
def test_all_pages_are_there(huge_pages: str, threads: int) -> None:
    slab = HostSlab(9, 1 << 20, huge_pages=huge_pages, threads=threads)
    pages = slab.nbytes // PAGE
    present = (ctypes.c_ubyte * pages)()
    libc = ctypes.CDLL(None, use_errno=True)
    address = ctypes.c_void_p(slab.numpy().ctypes.data)
    assert libc.mincore(address, ctypes.c_size_t(slab.nbytes), present) == 0
    assert slab.nbytes == 10 << 20
    assert sum(flag & 1 for flag in present) == pages


def test_memory_may_be_of_one_node() -> None:
    slab = HostSlab(1, 100, numa_node=0)
    slab.numpy()[:] = 1
    with pytest.raises(ValueError, match=r"numa_node must be a node of this machine .* got 1000"):
        HostSlab(1, 100, numa_node=1000)


def test_huge_pages_that_are_not_there_are_an_error() -> None:
    if int(Path("/proc/sys/vm/nr_hugepages").read_text()) > 0:
        pytest.skip("this machine has huge pages in reserve")
    with pytest.raises(OSError, match=r"vm\.nr_hugepages"):
        HostSlab(1, 100, huge_pages="require")


# --- Views --------------------------------------------------------------------------------------


def resident_bytes() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * PAGE


def test_views_keep_the_memory_and_nothing_else_does() -> None:
    def make() -> Any:
        return HostSlab(64, 1 << 20)

    before = resident_bytes()
    view = np.asarray(make())[3:5, 7:9]
    gc.collect()
    assert resident_bytes() - before > 50 << 20
    view[:] = 5
    assert view.tolist() == [[5, 5], [5, 5]]
    del view
    assert resident_bytes() - before < 10 << 20


def test_blocks_have_any_type_and_shape() -> None:
    slab = HostSlab(3, 96)
    view = slab.view(np.float32, (2, 3, 4))
    assert view.shape == (3, 2, 3, 4)
    view[2, 1, 2, 3] = 1.5
    assert slab.numpy()[2, -4:].view(np.float32)[0] == 1.5
    with pytest.raises(ValueError, match=r"must make 96 bytes.* got float32\[5\] of 20"):
        slab.view(np.float32, (5,))


def test_arrays_share_the_memory() -> None:
    slab = HostSlab(3, 100)
    for view in (np.asarray(slab), np.from_dlpack(slab)):
        assert np.shares_memory(view, slab.numpy())
        assert view.shape == (3, 100)
    assert slab.__dlpack_device__() == (1, 0)


def test_tensors_share_the_memory() -> None:
    torch = pytest.importorskip("torch")
    slab = HostSlab(3, 100)
    for tensor in (slab.torch(), torch.from_dlpack(slab)):
        tensor[1, 2] = 9
        assert slab.numpy()[1, 2] == 9
        slab.numpy()[1, 2] = 0
        assert tensor[1, 2] == 0


# --- Wrong calls --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "options", "message"),
    [
        ((0, 64), {}, "num_blocks must be an int from 1 to 1073741824, got int 0"),
        ((2**30 + 1, 64), {}, "num_blocks must be"),
        ((1.5, 64), {}, "num_blocks must be an int from"),
        ((1, 0), {}, "block_bytes must be an int from 1 to"),
        ((1, 2**46 + 1), {}, "block_bytes must be an int from 1 to"),
        ((2**30, 2**20), {}, "num_blocks must be at most 67108864 of 1048576 bytes each"),
        ((1, 64), {"huge_pages": "yes"}, "huge_pages must be 'off', 'try' or 'require', got"),
        ((1, 64), {"huge_pages": True}, "huge_pages must be a str"),
        ((1, 64), {"numa_node": -1}, "numa_node must be an int from 0 to 1023, got int -1"),
        ((1, 64), {"threads": 0}, "threads must be an int from 1 to 256, got int 0"),
    ],
)
def test_wrong_arguments_are_named(
    arguments: tuple[Any, Any], options: dict[str, Any], message: str
) -> None:
    with pytest.raises((TypeError, ValueError), match=message):
        HostSlab(*arguments, **options)


def test_more_memory_than_there_is_is_an_error() -> None:
    with pytest.raises(OSError, match=r"cannot (reserve|map|get)"):
        HostSlab(1 << 20, 1 << 26, huge_pages="off")


def test_a_slab_can_be_pinned_only_where_a_device_is() -> None:
    slab = HostSlab(1, 64)
    assert not slab.is_pinned
    if cuda.available():
        slab.pin()
        slab.pin()
        assert slab.is_pinned
    else:
        with pytest.raises(RuntimeError, match="CUDA"):
            slab.pin()
        assert not slab.is_pinned


def test_slabs_are_made_in_threads() -> None:
    slabs: list[HostSlab] = []
    threads = [
        threading.Thread(target=lambda: slabs.append(HostSlab(4, 1 << 20))) for _ in range(8)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    addresses = sorted(slab.numpy().ctypes.data for slab in slabs)
    assert all(b - a >= 4 << 20 for a, b in itertools.pairwise(addresses))


# --- Slabs of devices ---------------------------------------------------------------------------


def test_a_device_slab_is_memory_that_was_lent() -> None:
    memory = np.arange(600, dtype=np.float32).reshape(20, 30)
    slab = DeviceSlab(memory, 240)
    assert (slab.num_blocks, slab.block_bytes, slab.device) == (10, 240, "cpu")
    assert slab.slab_memory.address == memory.ctypes.data
    assert slab.slab_memory.owner is memory
    layers = PagedLayers([np.zeros((4, 60), np.float32)], block_axis=0)
    assert CopyPool(1).gather(TransferPlan(layers, slab, [1], [9])).wait(10.0)
    assert not memory.ravel()[540:].any()
    assert memory.ravel()[1:540].all()


def test_a_device_slab_of_torch() -> None:
    torch = pytest.importorskip("torch")
    slab = DeviceSlab(torch.zeros(100, dtype=torch.bfloat16), 50)
    assert (slab.num_blocks, slab.device) == (4, "cpu")


def test_arrays_of_cuda_share_a_device_slab() -> None:
    class OnDevice:
        """Stands in for an array of a GPU: nobody looks at its memory."""

        device = "cuda:1"
        __cuda_array_interface__ = {  # noqa: RUF012
            "data": (1 << 40, False),
            "shape": (6, 4),
            "typestr": "<f4",
            "version": 3,
        }

    slab = DeviceSlab(OnDevice(), np.int64(48))
    assert (slab.num_blocks, slab.block_bytes, slab.device) == (2, 48, "cuda:1")
    again = DeviceSlab(slab, 24)
    assert again.slab_memory.address == 1 << 40
    assert again.slab_memory.owner is slab
    assert (again.num_blocks, again.device) == (4, "cuda:1")
    assert not hasattr(DeviceSlab(np.zeros(4, np.uint8), 2), "__cuda_array_interface__")


@pytest.mark.parametrize(
    ("memory", "block_bytes", "message"),
    [
        (np.zeros((4, 4), np.uint8)[:, :2], 2, "memory must be dense"),
        (np.zeros(10, np.uint8), 3, "block_bytes must divide the 10 bytes of memory, got 3"),
        (np.zeros(10, np.uint8), 0, "block_bytes must divide"),
        (np.zeros(10, np.uint8), 2.0, "block_bytes must be an int, got float"),
        (b"bytes", 1, "memory must be a tensor or array, got bytes"),
    ],
)
def test_wrong_device_slabs(memory: Any, block_bytes: Any, message: str) -> None:
    with pytest.raises((TypeError, ValueError), match=message):
        DeviceSlab(memory, block_bytes)


def test_device_memory_of_our_own_needs_a_device() -> None:
    if cuda.available():
        slab = DeviceSlab.allocate(4, 1 << 20)
        assert (slab.num_blocks, slab.device) == (4, "cuda:0")
    else:
        with pytest.raises(RuntimeError, match="CUDA is not available"):
            DeviceSlab.allocate(4, 1 << 20)
