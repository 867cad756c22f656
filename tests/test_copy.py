"""CPU copies: every byte where a naive loop puts it, and no other byte touched."""

from __future__ import annotations

import os
import subprocess
import threading
from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from models.processes import PYTHON

from kvcore import HostSlab
from kvcore.copies import CopyPool, TransferPlan
from kvcore.layers import PagedLayers

Array = npt.NDArray[Any]

NUM_BLOCKS = 7
GUARD = 96  # bytes around what a copy may touch

# Each layout: how a layer's array is made of a number of layers, elements a page and a dtype, and
# its block axis. The array's elements are all of the memory between guards.
LAYOUTS: dict[str, tuple[tuple[str, ...], tuple[str, ...]]] = {
    # axes as the engine sees them, axes as they lie in memory
    "nhd": (("kv", "block", "token", "head", "dim"),) * 2,
    "hnd": (("kv", "block", "head", "token", "dim"),) * 2,
    "hnd seen as nhd": (
        ("kv", "block", "token", "head", "dim"),
        ("kv", "block", "head", "token", "dim"),
    ),
    "blocks first": (("block", "kv", "token", "head", "dim"),) * 2,
    "blocks first, seen kv first": (
        ("kv", "block", "token", "head", "dim"),
        ("block", "kv", "token", "head", "dim"),
    ),
    "mla": (("block", "token", "dim"),) * 2,
    "heads apart": (("head", "block", "token", "dim"),) * 2,
    "tokens apart": (("token", "head", "block", "dim"),) * 2,
    "blocks last": (("token", "block"),) * 2,
}
SIZES = {"kv": 2, "block": NUM_BLOCKS, "token": 4, "head": 3, "dim": 5}


class Guarded:
    """Bytes between two guards, at an odd place if wanted."""

    def __init__(self, num_bytes: int, misaligned: int, random: np.random.Generator) -> None:
        self._all = random.integers(256, size=num_bytes + 2 * GUARD + misaligned, dtype=np.uint8)
        self._before = self._all.copy()
        self._inside = slice(GUARD + misaligned, GUARD + misaligned + num_bytes)
        self.bytes = self._all[self._inside]

    def check(self) -> None:
        changed = self._all != self._before
        changed[self._inside] = False
        assert not changed.any()


class Case:
    """A paged cache of some layers, a slab, ids; and where a naive loop would move bytes."""

    def __init__(
        self, layout: str, dtype: str, num_layers: int, ids: Any, slab_ids: Any, misaligned: int = 0
    ) -> None:
        seen, lying = LAYOUTS[layout]
        random = np.random.default_rng(len(ids))
        shape = [SIZES[axis] for axis in lying]
        num_bytes = int(np.prod(shape)) * np.dtype(dtype).itemsize
        self.memories = [Guarded(num_bytes, misaligned, random) for _ in range(num_layers)]
        self.tensors = [
            memory.bytes.view(dtype).reshape(shape).transpose([lying.index(a) for a in seen])
            for memory in self.memories
        ]
        self.block_axis = seen.index("block")
        self.layers = PagedLayers(self.tensors, block_axis=self.block_axis)
        self.ids, self.slab_ids = np.array(ids, np.uint32), np.array(slab_ids, np.uint32)
        stride = self.layers.block_bytes + 8 * misaligned
        self.slab_memory = Guarded(9 * stride, misaligned, random)
        self.slab = self.slab_memory.bytes.reshape(9, stride)[:, : self.layers.block_bytes]
        self.plan = TransferPlan(self.layers, self.slab, self.ids, self.slab_ids)
        self._lying = lying
        self._seen = seen

    def block(self, layer: int, block: int) -> Array:
        """A block of a layer in the order of a slab: planes by axis, a run as it lies."""
        tensor = np.moveaxis(self.tensors[layer], self.block_axis, 0)[block]
        axes = [a for a in self._seen if a != "block"]
        run_axes = self._lying[self._lying.index("block") + 1 :]
        planes = [a for a in axes if a not in run_axes]
        order = [axes.index(a) for a in [*planes, *run_axes]]
        return np.ascontiguousarray(tensor.transpose(order)).view(np.uint8).ravel()

    def expected_slab(self) -> Array:
        expected = self.slab.copy()
        for block, place in zip(self.ids, self.slab_ids, strict=True):
            layers = [self.block(layer, block) for layer in range(len(self.tensors))]
            expected[place] = np.concatenate(layers)
        return expected

    def check_guards(self) -> None:
        for memory in [*self.memories, self.slab_memory]:
            memory.check()


IDS = {
    "none": ([], []),
    "one": ([6], [8]),
    "three": ([4, 0, 2], [1, 8, 0]),
    "all": ([6, 5, 4, 3, 2, 1, 0], [0, 2, 4, 6, 8, 1, 3]),
    "in order": ([2, 3, 4, 5, 6], [4, 5, 6, 7, 8]),
}


@pytest.mark.parametrize("misaligned", [0, 1])
@pytest.mark.parametrize("ids", IDS)
@pytest.mark.parametrize("dtype", ["uint8", "float16", "float32", "complex128"])
@pytest.mark.parametrize("layout", LAYOUTS)
def test_gather_and_scatter_move_what_a_loop_would(
    layout: str, dtype: str, ids: str, misaligned: int
) -> None:
    if misaligned and dtype != "uint8":
        misaligned = np.dtype(dtype).itemsize
    case = Case(layout, dtype, 3, *IDS[ids], misaligned)
    pool = CopyPool(2)
    expected = case.expected_slab()
    assert pool.gather(case.plan).wait(10.0)
    assert np.array_equal(case.slab, expected)
    case.check_guards()

    expected_layers = [tensor.copy() for tensor in case.tensors]
    for tensor in case.tensors:
        np.moveaxis(tensor, case.block_axis, 0)[case.ids] = 0
    assert pool.scatter(case.plan).wait(10.0)
    for tensor, wanted in zip(case.tensors, expected_layers, strict=True):
        assert tensor.tobytes() == wanted.tobytes()
    case.check_guards()


@pytest.mark.parametrize("threads", [1, 2, 5])
@pytest.mark.parametrize("num_blocks", [1, 2, 3, 4, 5, 9])
@pytest.mark.parametrize(
    "run_bytes", [1, 63, 64, 65, 127, 4095, 4096, 16384, 16385, 65536, 300_001, 1 << 20]
)
def test_runs_of_any_length(run_bytes: int, num_blocks: int, threads: int) -> None:
    random = np.random.default_rng(run_bytes)
    paged = Guarded(2 * 9 * run_bytes, run_bytes % 7, random)
    slab = Guarded(9 * 2 * run_bytes, run_bytes % 5, random)
    layers = [paged.bytes.reshape(2, 9, run_bytes)[i] for i in range(2)]
    blocks = slab.bytes.reshape(9, 2, run_bytes)
    ids, places = random.permutation(9)[:num_blocks], random.permutation(9)[:num_blocks]
    expected = blocks.copy()
    expected[places] = np.stack([layer[ids] for layer in layers], axis=1)
    pool = CopyPool(threads)
    plan = TransferPlan(PagedLayers(layers, block_axis=0), blocks.reshape(9, -1), ids, places)
    assert plan.nbytes == 2 * num_blocks * run_bytes
    assert pool.gather(plan).wait(10.0)
    assert np.array_equal(blocks, expected)
    blocks[places] = ~blocks[places]
    after = [layer.copy() for layer in layers]
    for i in range(2):
        after[i][ids] = blocks[places, i]
    assert pool.scatter(plan).wait(10.0)
    assert all(np.array_equal(a, b) for a, b in zip(layers, after, strict=True))
    paged.check()
    slab.check()


@pytest.mark.parametrize("path", ["portable", "avx2", "avx512", "neon"])
def test_each_path_of_the_cpu(path: str) -> None:
    """In a process of its own, since the path is chosen once."""
    code = "from kvcore._core import cpu_path; print(cpu_path())"
    environment = os.environ | {"KVCORE_CPU": path}
    command = [*PYTHON, "-c", code]
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    if done.returncode != 0:
        assert "KVCORE_CPU must be one of" in done.stderr
        pytest.skip(f"this CPU has no {path}")
    assert done.stdout.strip() == path
    tests = [f"{__file__}::{name}" for name in ("test_runs_of_any_length", "test_large_copies")]
    command = [*PYTHON, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-x", *tests]
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout


def test_large_copies() -> None:
    """As large as takes all parts, and stores past the caches."""
    random = np.random.default_rng(0)
    pages = [random.integers(256, size=(2, 41, 70_001), dtype=np.uint8) for _ in range(4)]
    slab = HostSlab(41, 4 * 2 * 70_001)
    layers = PagedLayers(pages, block_axis=1)
    ids = random.permutation(41)
    pool = CopyPool(3)
    plan = TransferPlan(layers, slab, ids, np.arange(41))
    assert pool.gather(plan).wait(10.0)
    expected = np.stack([page[:, ids] for page in pages]).transpose(2, 0, 1, 3).reshape(41, -1)
    assert np.array_equal(slab.numpy(), expected)
    before = [page.copy() for page in pages]
    for page in pages:
        page[:] = 0
    assert pool.scatter(plan).wait(10.0)
    assert all(np.array_equal(a, b) for a, b in zip(pages, before, strict=True))


def test_a_cache_of_one_block_has_the_runs_of_others() -> None:
    for num_blocks in (1, 2):
        layers = PagedLayers([np.zeros((2, num_blocks, 4, 8), np.uint8)], block_axis=1)
        assert (layers.run_bytes, len(layers.plane_bases)) == (32, 2)


def test_one_tensor_may_have_all_layers() -> None:
    random = np.random.default_rng(0)
    pages = random.integers(256, size=(6, 3, 2, 50), dtype=np.uint8)
    for axes in ((0, 1, 2, 3), (2, 0, 1, 3), (3, 2, 1, 0)):
        seen = pages.transpose(axes)
        layers = PagedLayers(seen, block_axis=axes.index(0), layer_axis=axes.index(1))
        assert (layers.num_layers, layers.num_blocks, layers.block_bytes) == (3, 6, 300)
        slab = np.zeros((6, 300), np.uint8)
        plan = TransferPlan(layers, slab, [5, 1], [0, 3])
        assert CopyPool(1).gather(plan).wait(10.0)
        assert np.array_equal(slab[[0, 3]], pages[[5, 1]].reshape(2, -1))


def test_layers_of_torch() -> None:
    torch = pytest.importorskip("torch")
    for dtype in (torch.bfloat16, torch.float8_e4m3fn, torch.float32):
        pages = [torch.arange(2 * 5 * 64).reshape(2, 5, 64).to(dtype) for _ in range(2)]
        layers = PagedLayers(pages, block_axis=1)
        assert layers.device == "cpu"
        slab = HostSlab(2, layers.block_bytes)
        plan = TransferPlan(layers, slab, torch.tensor([4, 2]), torch.tensor([0, 1]))
        assert CopyPool(1).gather(plan).wait(10.0)
        wanted = torch.stack(pages)[:, :, [4, 2]].permute(2, 0, 1, 3).contiguous()
        assert slab.numpy().tobytes() == wanted.view(torch.uint8).numpy().tobytes()


@pytest.mark.parametrize("run_bytes", [1, 65, 4096, 300_001])
def test_a_plan_copies_on_the_calling_thread(run_bytes: int) -> None:
    random = np.random.default_rng(run_bytes)
    paged = Guarded(2 * 9 * run_bytes, run_bytes % 7, random)
    slab = Guarded(9 * 2 * run_bytes, run_bytes % 5, random)
    pages = paged.bytes.reshape(9, 2, run_bytes)
    blocks = slab.bytes.reshape(9, 2 * run_bytes)
    layers = PagedLayers(pages, block_axis=0, layer_axis=1)
    ids, places = [8, 0, 5, 3, 2], [1, 4, 0, 8, 7]
    expected = blocks.copy()
    expected[places] = pages.reshape(9, -1)[ids]
    plan = TransferPlan(layers, blocks, ids, places)
    plan.gather()
    assert np.array_equal(blocks, expected)
    blocks[places] = ~blocks[places]
    expected = pages.reshape(9, -1).copy()
    expected[ids] = blocks[places]
    plan.scatter()
    assert np.array_equal(pages.reshape(9, -1), expected)
    paged.check()
    slab.check()


# --- Handles ------------------------------------------------------------------------------------


def large_plan(num_layers: int = 8) -> TransferPlan:
    pages = [np.ones((16, 1 << 20), np.uint8) for _ in range(num_layers)]
    slab = HostSlab(16, num_layers << 20)
    return TransferPlan(PagedLayers(pages, block_axis=0), slab, np.arange(16), np.arange(16))


def test_layers_come_in_order() -> None:
    handle = CopyPool(1).gather(large_plan())
    for layer in range(8):
        assert handle.wait_layer(layer, 10.0)
    assert handle.wait(10.0)
    assert handle.done()
    assert not handle.failed()


def test_a_wait_may_be_too_short() -> None:
    handle = CopyPool(1).gather(large_plan(32))
    assert not handle.wait_layer(31, 0.0)
    assert not handle.wait(0.0)
    assert handle.wait()


def test_what_is_cancelled_fails() -> None:
    pool = CopyPool(1)
    long, short = large_plan(32), large_plan()
    first, second = pool.gather(long), pool.gather(short)
    second.cancel()
    assert second.wait(10.0)
    assert second.done()
    assert second.failed()
    assert not second.wait_layer(0, 0.0)
    assert first.wait(10.0)
    assert not first.failed()
    first.cancel()
    assert not first.failed()


def test_dropping_a_handle_or_a_pool_ends_the_copy() -> None:
    for _ in range(20):
        pool = CopyPool(2)
        pool.gather(large_plan(2))
        handle = pool.scatter(large_plan(2))
        del pool
        assert handle.wait(10.0)


def test_nothing_to_copy_is_done_at_once() -> None:
    layers = PagedLayers([np.zeros((2, 8), np.uint8)], block_axis=0)
    plan = TransferPlan(layers, np.zeros((2, 8), np.uint8), [], [])
    handle = CopyPool(1).gather(plan)
    assert handle.done()
    assert handle.wait(0.0)
    assert handle.wait_layer(0, 0.0)
    assert not handle.failed()


def test_threads_may_share_a_pool() -> None:
    pool = CopyPool(3)

    def work(seed: int) -> None:
        random = np.random.default_rng(seed)
        pages = random.integers(256, size=(20, 5000), dtype=np.uint8)
        layers = PagedLayers([pages], block_axis=0)
        slab = np.zeros((20, 5000), np.uint8)
        for _ in range(50):
            ids = random.permutation(20)[:10]
            pool.gather(TransferPlan(layers, slab, ids, np.arange(10))).wait()
            assert np.array_equal(slab[:10], pages[ids])

    failures: list[BaseException] = []

    def guarded(work: Callable[[int], None], seed: int) -> None:
        try:
            work(seed)
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=guarded, args=(work, seed)) for seed in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []


# --- Wrong calls --------------------------------------------------------------------------------


def small_layers() -> PagedLayers:
    return PagedLayers([np.zeros((4, 64), np.uint8)], block_axis=0)


@pytest.mark.parametrize(
    ("ids", "places", "message"),
    [
        ([0, 0], [0, 1], "block_ids"),
        ([0, 1], [2, 2], "slab_blocks"),
        ([0, 4], [0, 1], "block_ids"),
        ([0, 1], [0, 3], "slab_blocks"),
        ([-1], [0], "block_ids"),
        ([0], [-1], "slab_blocks"),
        ([2**32], [0], "block_ids"),
        ([0, 1], [0], "block_ids"),
        ([0.5], [0], "block_ids"),
        ([[0]], [0], "block_ids"),
        (["a"], [0], "block_ids"),
        ([None], [0], "block_ids"),
    ],
)
def test_wrong_ids_are_found_before_anything_moves(ids: Any, places: Any, message: str) -> None:
    with pytest.raises((TypeError, ValueError), match=message):
        TransferPlan(small_layers(), np.zeros((3, 64), np.uint8), ids, places)


@pytest.mark.parametrize(
    ("slab", "message"),
    [
        (np.zeros((3, 63), np.uint8), "slab must have blocks of 64 bytes at least"),
        (np.zeros((3, 100), np.uint8)[:, :63], "slab must have blocks of 64 bytes at least"),
        (np.zeros((3, 64), np.int8), r"slab must be uint8\[num_blocks, block_bytes\]"),
        (np.zeros(192, np.uint8), "slab must be"),
        (np.zeros((64, 3), np.uint8).T, "slab must have the bytes of a block together"),
        (np.zeros((6, 64), np.uint8)[::-2], "slab must have"),
        (np.broadcast_to(np.zeros(64, np.uint8), (3, 64)), "slab must"),
        (b"bytes", "slab must be a tensor or array"),
        (None, "slab must be a tensor or array"),
    ],
)
def test_wrong_slabs(slab: Any, message: str) -> None:
    with pytest.raises((TypeError, ValueError), match=message):
        TransferPlan(small_layers(), slab, [0], [0])


def read_only(array: Array) -> Array:
    array.flags.writeable = False
    return array


@pytest.mark.parametrize(
    ("tensors", "options", "message"),
    [
        ([], {}, "tensors must be one or more"),
        ([np.zeros((4, 8))], {"block_axis": 2}, "block_axis must be from -2 to 1, got 2"),
        ([np.zeros((4, 8))], {"block_axis": 0.0}, "block_axis must be an int, got float"),
        ([np.zeros((4, 8)), np.zeros((5, 8))], {}, "tensors must be alike"),
        ([np.zeros((4, 8)), np.zeros((4, 8), np.float32)], {}, "tensors must be alike"),
        ([np.zeros((4, 8)), np.zeros((8, 4)).T], {}, "tensors must be alike"),
        ([np.zeros((4, 0))], {}, "tensors must have elements"),
        (np.zeros((4, 0)), {"layer_axis": 1}, "tensors must have elements"),
        ([np.zeros((4, 8), object)], {}, "tensors must have numbers, got Python objects"),
        ([np.zeros((4, 8))[::-1]], {}, "tensors must have strides above 0"),
        ([np.broadcast_to(np.zeros(8), (4, 8))], {}, "tensors must"),
        ([read_only(np.zeros((4, 8)))], {}, "tensors must be writable"),
        ([[1, 2]], {}, "tensors must be a tensor or array, got list"),
        (np.zeros((4, 8)), {"layer_axis": 0}, "layer_axis must be another axis"),
        (np.zeros((4, 8)), {"layer_axis": 5}, "layer_axis must be from"),
    ],
)
def test_wrong_layers(tensors: Any, options: dict[str, Any], message: str) -> None:
    with pytest.raises((TypeError, ValueError), match=message):
        PagedLayers(tensors, **({"block_axis": 0} | options))


def test_a_codec_is_asked_for() -> None:
    with pytest.raises(TypeError, match="codec must be a Codec, got int"):
        TransferPlan(small_layers(), HostSlab(4, 1 << 12), [0], [0], codec=3)  # type: ignore[arg-type]


FORKED = """
import os, sys
import numpy as np
from kvcore import HostSlab
from kvcore.copies import CopyPool, TransferPlan
from kvcore.layers import PagedLayers

pages = np.zeros((2, 64, 1 << 20), np.uint8)
plan = TransferPlan(PagedLayers([pages], block_axis=1), HostSlab(64, 2 << 20), range(64), range(64))
pool = CopyPool(1)
handle = pool.gather(plan)
if os.fork() == 0:
    for call in (handle.wait, handle.done, lambda: pool.gather(plan)):
        try:
            call()
            os._exit(1)
        except RuntimeError:
            pass
    plan.gather()
    sys.exit(0)
assert os.wait()[1] == 0
assert handle.wait(60.0)
"""


def test_a_forked_child_ends_and_copies_by_itself_alone() -> None:
    subprocess.run([*PYTHON, "-c", FORKED], check=True, timeout=60)


DAEMON = """
import threading, time
import numpy as np
from kvcore import HostSlab
from kvcore.copies import CopyPool, TransferPlan
from kvcore.layers import PagedLayers

pages = np.zeros((2, 64, 1 << 18), np.uint8)
plan = TransferPlan(PagedLayers([pages], block_axis=1), HostSlab(64, 2 << 18), range(64), range(64))
pool = CopyPool(1)

def copy():
    while True:
        pool.gather(plan).wait()

for _ in range(4):
    threading.Thread(target=copy, daemon=True).start()
time.sleep(0.1)
"""


def test_a_process_ends_well_while_a_daemon_waits() -> None:
    for _ in range(5):
        subprocess.run([*PYTHON, "-c", DAEMON], check=True, timeout=60)


def test_layers_that_overlap_are_refused() -> None:
    memory = np.zeros(100, np.uint8)
    blocks = np.lib.stride_tricks.as_strided(memory, (5, 20), (10, 1))
    with pytest.raises(ValueError, match="layers"):
        TransferPlan(PagedLayers([blocks], block_axis=0), np.zeros((5, 20), np.uint8), [0], [0])
    pairs = np.lib.stride_tricks.as_strided(memory, (5, 2, 2), (10, 1, 1))
    with pytest.raises(ValueError, match="layers"):
        TransferPlan(PagedLayers([pairs], block_axis=0), np.zeros((5, 4), np.uint8), [0], [0])
    whole = np.zeros((4, 64), np.uint8)
    layers = PagedLayers([whole, whole], block_axis=0)
    with pytest.raises(ValueError, match="layers"):
        TransferPlan(layers, np.zeros((5, 128), np.uint8), [0], [0])


@pytest.mark.parametrize(
    ("threads", "error"), [(0, ValueError), (65, ValueError), (1.5, TypeError), (True, TypeError)]
)
def test_wrong_pools(threads: Any, error: type[Exception]) -> None:
    with pytest.raises(error, match="threads must be an int from 1 to 64"):
        CopyPool(threads)


def test_wrong_handles() -> None:
    plan = TransferPlan(small_layers(), np.zeros((3, 64), np.uint8), [0], [0])
    handle = CopyPool(1).gather(plan)
    with pytest.raises(ValueError, match="layer must be"):
        handle.wait_layer(1)
    with pytest.raises(ValueError, match="timeout_s must be"):
        handle.wait(-1.0)
    with pytest.raises(TypeError, match="plan must be a TransferPlan, got int"):
        CopyPool(1).gather(5)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="layers must be PagedLayers, got list"):
        TransferPlan([], np.zeros((3, 64), np.uint8), [0], [0])  # type: ignore[arg-type]
