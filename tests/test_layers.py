"""No file reaches above its floor; see docs/design.md for the floors."""

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]

# Each floor, with the floors that it may use besides itself.
CPP_FLOORS = {
    "common": set(),
    "hash": {"common"},
    "table": {"common", "hash"},
    "evict": {"common", "hash", "table"},
    "cache": {"common", "hash", "table", "evict"},
    "sim": {"common", "hash", "table", "evict", "cache"},
    "slab": {"common"},
    "copy": {"common", "slab"},
    "store": {"common", "hash", "slab", "copy"},
    "bindings": {
        "common",
        "hash",
        "table",
        "evict",
        "cache",
        "sim",
        "slab",
        "copy",
        "store",
    },
}
PYTHON_FLOORS = {
    "machine": set(),
    "_core": set(),
    "_tokens": set(),
    "_cuda": {"planes"},
    "hashing": {"_core", "_tokens"},
    "planes": set(),
    "layers": {"planes"},
    "codecs": {"_core", "layers"},
    "copies": {"_core", "planes", "layers", "codecs"},
    "cuda": {"_cuda", "planes"},
    "triton_copy": {"_core", "planes"},
    "device_copy": {"cuda", "triton_copy", "planes"},
    "slabs": {"_core", "planes", "cuda"},
    "ownership": set(),
    "shared_slab": {"_core", "slabs", "ownership"},
    "cluster": {"_core"},
    "stores": {"_core", "hashing", "planes", "cluster"},
    "succession": {"hashing", "stores"},
    "operations": {"_core", "hashing", "stores"},
    "cache": {
        "_core",
        "hashing",
        "planes",
        "layers",
        "codecs",
        "copies",
        "device_copy",
        "slabs",
        "stores",
        "succession",
        "operations",
    },
    "diagnosis": {"machine", "_core", "cuda", "device_copy"},
    "store_diagnosis": {"_core", "diagnosis", "planes", "hashing", "slabs", "stores", "cluster"},
    "sim": {"machine", "_core", "hashing"},
    "verify": {"hashing", "layers", "cache", "sim"},
    "bench": {
        "machine",
        "_core",
        "hashing",
        "layers",
        "codecs",
        "copies",
        "slabs",
        "stores",
        "sim",
        "verify",
    },
    "cli": {
        "machine",
        "_core",
        "hashing",
        "cluster",
        "stores",
        "sim",
        "verify",
        "bench",
        "diagnosis",
        "store_diagnosis",
    },
}
# The package itself may be named by what stands above its public names.
MAY_IMPORT_THE_PACKAGE = {"machine", "sim", "diagnosis", "bench", "cli"}


def cpp_files() -> list[Path]:
    return [p for p in (ROOT / "csrc").rglob("*") if p.suffix in {".h", ".cpp", ".cu", ".pyx"}]


def python_files() -> list[Path]:
    return [p for p in (ROOT / "kvcore").rglob("*.py") if p != ROOT / "kvcore/__init__.py"]


@pytest.mark.parametrize("path", cpp_files(), ids=lambda p: str(p.relative_to(ROOT)))
def test_cpp_file_includes_nothing_above_its_floor(path: Path) -> None:
    floor = path.relative_to(ROOT / "csrc").parts[0]
    text = path.read_text()
    for included in re.findall(r'#include "([^"]+)"', text):
        other = included.split("/")[0]
        if other in CPP_FLOORS:
            assert other == floor or other in CPP_FLOORS[floor], included
        else:
            assert other in {"xxhash", "farmhash", "doctest"}, included
    if floor != "bindings":
        assert not re.search(r"#include <(Python\.h|pybind11/)", text)
    if path.suffix == ".cu":
        assert set(re.findall(r'#include "(\w+)/', text)) <= {"common", floor}


@pytest.mark.parametrize("path", python_files(), ids=lambda p: str(p.relative_to(ROOT)))
def test_python_file_imports_nothing_above_its_floor(path: Path) -> None:
    floor = path.relative_to(ROOT / "kvcore").parts[0].removesuffix(".py")
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "imports are absolute"
            module = node.module or ""
            names = [f"{module}.{alias.name}" for alias in node.names]
        else:
            continue
        for name in names:
            package, _, rest = name.partition(".")
            if package != "kvcore":
                continue
            other = rest.split(".")[0]
            if other in PYTHON_FLOORS:
                assert other == floor or other in PYTHON_FLOORS[floor], name
            else:
                assert floor in MAY_IMPORT_THE_PACKAGE, name


def test_every_floor_is_listed() -> None:
    assert {p.name for p in (ROOT / "csrc").iterdir()} == set(CPP_FLOORS)
    found = {p.name.removesuffix(".py") for p in (ROOT / "kvcore").iterdir()}
    found -= {"__init__", "__pycache__", "py.typed", "_core.pyi", "_tokens.pyi", "_cuda.pyi"}
    assert found <= set(PYTHON_FLOORS)
