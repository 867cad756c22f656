"""Copies by Triton: bit-exact in its interpreter on the CPU, and what it compiles them to."""

from __future__ import annotations

import importlib.util
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from models.paged_memory import PagedMemory

import kvcore

torch = pytest.importorskip("torch")
triton = pytest.importorskip("triton")
# Triton warns of its own settings and of numpy's arithmetic in its interpreter.
pytestmark = pytest.mark.filterwarnings("ignore")

Bytes = npt.NDArray[np.uint8]


def load_module(interpreted: bool) -> ModuleType:
    """The module; whether its kernels are interpreted or compiled is decided as it is loaded."""
    path = Path(kvcore.__file__).with_name("triton_copy.py")
    spec = importlib.util.spec_from_file_location(f"triton_copy_{interpreted}", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TRITON_INTERPRET", "1" if interpreted else "0")
        spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def triton_copy() -> Iterator[ModuleType]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TRITON_INTERPRET", "1")
        yield load_module(interpreted=True)


def memory_of(planes: int, layers: int, run_bytes: int, misaligned: int, gap: int) -> PagedMemory:
    random = np.random.default_rng(run_bytes)

    def new(num_bytes: int) -> tuple[Bytes, int]:
        buffer = random.integers(0, 256, num_bytes, np.uint8)
        return buffer, buffer.ctypes.data

    return PagedMemory(
        random,
        new,
        new,
        planes=planes,
        layers=layers,
        run_bytes=run_bytes,
        misaligned=misaligned,
        gap=gap,
    )


SHAPES = [
    pytest.param(planes, layers, run_bytes, misaligned, gap, id=f"{run_bytes}+{misaligned}")
    for planes, layers, run_bytes, misaligned, gap in [
        (4, 2, 16384, 0, 0),
        (6, 3, 18432, 0, 32),  # more than a unit
        (2, 2, 40, 0, 0),  # words of 4 bytes
        (3, 3, 16400, 4, 16),
        (2, 1, 33, 0, 0),
        (2, 2, 16391, 1, 5),
    ]
]


@pytest.mark.parametrize(("planes", "layers", "run_bytes", "misaligned", "gap"), SHAPES)
@pytest.mark.parametrize("layers_a_step", [None, 1, 2])
def test_copies_are_those_of_a_naive_loop(
    triton_copy: ModuleType,
    planes: int,
    layers: int,
    run_bytes: int,
    misaligned: int,
    gap: int,
    layers_a_step: int | None,
) -> None:
    memory = memory_of(planes, layers, run_bytes, misaligned, gap)
    transfer = triton_copy.TritonTransfer(
        memory, memory.slab_memory, memory.block_ids, memory.slab_blocks, device="cpu"
    )
    assert transfer.bytes == 5 * planes * run_bytes
    expected = memory.slab.copy()
    for paged, packed in memory.runs():
        expected[packed] = memory.paged[paged]
    paged_before = memory.paged.copy()
    handle = transfer.gather(layers_a_step=layers_a_step)
    assert handle.wait(timeout_s=0)
    assert np.array_equal(memory.slab, expected)
    assert np.array_equal(memory.paged, paged_before)

    memory.slab[:] = np.random.default_rng(1).integers(0, 256, memory.slab.size, np.uint8)
    expected = memory.paged.copy()
    for paged, packed in memory.runs():
        expected[paged] = memory.slab[packed]
    assert transfer.scatter(layers_a_step=layers_a_step).done()
    assert np.array_equal(memory.paged, expected)


def test_nothing_to_copy_is_done_at_once(triton_copy: ModuleType) -> None:
    memory = memory_of(2, 1, 64, 0, 0)
    transfer = triton_copy.TritonTransfer(memory, memory.slab_memory, [], [], device="cpu")
    assert transfer.bytes == 0
    assert transfer.gather().done()


def test_bad_arguments_are_named_before_anything_moves(triton_copy: ModuleType) -> None:
    memory = memory_of(2, 2, 64, 0, 0)
    before = memory.slab.copy()
    make = triton_copy.TritonTransfer
    with pytest.raises(ValueError, match="block_ids must be below 7, got 7"):
        make(memory, memory.slab_memory, [7], [0], device="cpu")
    with pytest.raises(ValueError, match="max_programs must be an int of at least 0, got -1"):
        make(memory, memory.slab_memory, [1], [0], device="cpu", max_programs=-1)
    transfer = make(memory, memory.slab_memory, [1], [0], device="cpu")
    with pytest.raises(ValueError, match="layers_a_step must be an int of at least 1, got 0"):
        transfer.gather(layers_a_step=0)
    assert np.array_equal(memory.slab, before)
    with pytest.raises(ValueError, match="layer must be from 0 to 1, got 2"):
        transfer.gather().wait_layer(2)


@pytest.mark.parametrize(
    ("target", "assembly", "load", "store"),
    [
        (("cuda", 90, 32), "ptx", r"ld\.global\.v4\.b32", r"st\.global\.v4\.b32"),
        (("hip", "gfx942", 64), "amdgcn", r"buffer_load_dwordx4", r"buffer_store_dwordx4"),
    ],
)
@pytest.mark.parametrize("gathers", [True, False])
def test_compiled_kernels_move_16_bytes_at_a_time(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    target: tuple[Any, Any, int],
    assembly: str,
    load: str,
    store: str,
    gathers: bool,
) -> None:
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path))
    monkeypatch.setenv("TRITON_INTERPRET", "0")
    kernel = load_module(interpreted=False)._copy_runs
    constants = {"gathers": gathers, "word_bytes": 16, "unit_bytes": 16 << 10}
    types = dict.fromkeys(kernel.arg_names, "i64") | dict.fromkeys(constants, "constexpr")
    types |= dict.fromkeys(("plane_bases", "paged_blocks", "slab_blocks"), "*i64")
    compiled = triton.compile(
        ASTSource(kernel, types, constexprs=constants),
        target=GPUTarget(*target),
        options={"num_warps": 8},
    )
    text = compiled.asm[assembly]
    assert len(re.findall(load, text)) == len(re.findall(store, text)) >= 2
    assert not re.search(r"st\.global\.b32|_store_dword ", text)
