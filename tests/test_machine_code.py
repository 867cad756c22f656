"""What the compiler made of the CUDA kernels; there is no GPU in this."""

from __future__ import annotations

import importlib.util
import os
import re
import shutil
import subprocess
from collections import Counter
from functools import cache
from pathlib import Path

import pytest

ARCHITECTURES = ("sm_80", "sm_90", "sm_100")
MAX_REGISTERS = 64  # more, and a multiprocessor does not run two blocks of 512 threads
LOADS_IN_FLIGHT = 8


def module_file() -> Path:
    spec = importlib.util.find_spec("kvcore._cuda")
    if spec is None or spec.origin is None:
        pytest.skip("kvcore is built without CUDA")
    return Path(spec.origin)


def cuobjdump(*arguments: str) -> str:
    """Run CUDA's own, or the one that Triton brings."""
    triton = importlib.util.find_spec("triton")
    places = [os.environ["PATH"], "/usr/local/cuda/bin"]
    if triton is not None and triton.origin is not None:
        places.append(str(Path(triton.origin).parent / "backends/nvidia/bin"))
    path = os.pathsep.join(places)
    tool = shutil.which("cuobjdump", path=path)
    if tool is None or shutil.which("nvdisasm", path=path) is None:
        pytest.skip("there is no cuobjdump with nvdisasm")
    done = subprocess.run(
        [tool, *arguments, str(module_file())],
        env={**os.environ, "PATH": path},
        capture_output=True,
        text=True,
        check=True,
    )
    return done.stdout


@cache
def kernels(architecture: str) -> dict[str, list[str]]:
    """The instructions of each kernel, by its mangled name."""
    _, *functions = re.split(
        r"^\s*Function : ", cuobjdump("-sass", "-arch", architecture), flags=re.M
    )
    found = {}
    for text in functions:
        name, _, body = text.partition("\n")
        # "/*0010*/  @!P0 LDG.E.128.CONSTANT R4, desc[UR4][R2.64] ;": predicate, what, with what
        pattern = r"^\s*/\*[0-9a-f]+\*/\s+(?:@!?U?P\w+\s+)?([A-Z][\w.]*)"
        found[name.strip()] = re.findall(pattern, body, flags=re.M)
    return found


def copy_kernels(architecture: str, words: str) -> dict[str, list[str]]:
    found = {name: code for name, code in kernels(architecture).items() if words in name}
    assert len(found) == 2, "one to gather and one to scatter"
    return found


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_kernels_keep_everything_in_few_registers(architecture: str) -> None:
    usage = cuobjdump("-res-usage", "-arch", architecture)
    found = re.findall(r"Function (\S+):\s+REG:(\d+) STACK:(\d+) SHARED:\d+ LOCAL:(\d+)", usage)
    assert len(found) == 8
    for name, registers, stack, local in found:
        assert int(registers) <= MAX_REGISTERS, name
        assert (int(stack), int(local)) == (0, 0), name
    for name, code in kernels(architecture).items():
        assert not {part for part in code if part.startswith(("LDL", "STL"))}, name


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_wide_kernel_has_eight_loads_of_16_bytes_in_flight(architecture: str) -> None:
    for name, code in copy_kernels(architecture, "Words16").items():
        loads = [i for i, part in enumerate(code) if re.match(r"LDG\.E\.NA\.\S*128", part)]
        stores = [i for i, part in enumerate(code) if re.match(r"STG\.E\.EF\.128", part)]
        # Once for whole units, once for the last of a run.
        assert len(loads) == len(stores) == 2 * LOADS_IN_FLIGHT, name
        streaks = Counter(sum(store < load for store in stores) for load in loads)
        assert LOADS_IN_FLIGHT in streaks.values(), f"{name}: no eight loads before a store"


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_bulk_kernel_copies_by_the_asynchronous_engine(architecture: str) -> None:
    for name, code in copy_kernels(architecture, "bulk_kernel").items():
        bulk_copies = Counter(part for part in code if part.startswith("UBLKCP"))
        stores = [part for part in code if part.startswith(("STG", "ST.E"))]
        assert not stores, name
        if architecture == "sm_80":
            assert not bulk_copies, name
        else:
            assert {"UBLKCP.S.G", "UBLKCP.G.S"} <= set(bulk_copies), name


def test_module_has_code_for_devices_that_do_not_exist_yet() -> None:
    assert re.search(r"sm_100\.ptx", cuobjdump("-lptx"))
