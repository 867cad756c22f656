"""KVCORE_CUDA=auto|on|off: when the build looks for CUDA, what it says where that is missing."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PROJECT = f"""
cmake_minimum_required(VERSION 3.28)
project(probe LANGUAGES NONE)
include("{ROOT}/cmake/cuda.cmake")
message(STATUS "with CUDA: ${{KVCORE_WITH_CUDA}}")
"""


def configure(folder: Path, *options: str) -> subprocess.CompletedProcess[str]:
    beside = Path(sys.executable).with_name("cmake")
    cmake = str(beside) if beside.exists() else shutil.which("cmake")
    if cmake is None:
        pytest.skip("there is no cmake")
    (folder / "CMakeLists.txt").write_text(PROJECT)
    command = [cmake, "-S", str(folder), "-B", str(folder / "build"), *options]
    done = subprocess.run(command, capture_output=True, text=True)
    done.stderr = " ".join(done.stderr.split())  # CMake breaks lines
    return done


def fake_nvcc(folder: Path, text: str) -> str:
    nvcc = folder / "nvcc"
    nvcc.write_text(f"#!/bin/sh\necho '{text}'\n")
    nvcc.chmod(0o755)
    return f"-DKVCORE_NVCC={nvcc}"


OLD = "Cuda compilation tools, release 12.3, V12.3.107"


def test_off_never_looks(tmp_path: Path) -> None:
    done = configure(tmp_path, "-DKVCORE_CUDA=off")
    assert done.returncode == 0, done.stderr
    assert "with CUDA: OFF" in done.stdout
    assert "NVCC" not in (tmp_path / "build/CMakeCache.txt").read_text()


def test_auto_goes_without_what_is_too_old(tmp_path: Path) -> None:
    done = configure(tmp_path, fake_nvcc(tmp_path, OLD))
    assert done.returncode == 0, done.stderr
    assert "with CUDA: OFF" in done.stdout
    assert "kvcore is built without CUDA" in done.stdout
    assert "is of CUDA 12.3, and 12.4 is the oldest that will do" in done.stdout


def test_auto_goes_without_what_cannot_compile(tmp_path: Path) -> None:
    said = OLD.replace("12.3", "13.0")
    done = configure(tmp_path, fake_nvcc(tmp_path, said))
    assert done.returncode == 0, done.stderr
    assert "with CUDA: OFF" in done.stdout
    assert "nvcc does not work with" in done.stdout


@pytest.mark.parametrize(
    ("said", "why"),
    [(OLD, "is of CUDA 12.3, and 12.4 is the oldest"), ("hello", "does not tell its version")],
)
def test_on_says_what_to_install(tmp_path: Path, said: str, why: str) -> None:
    done = configure(tmp_path, "-DKVCORE_CUDA=on", fake_nvcc(tmp_path, said))
    assert done.returncode != 0
    assert why in done.stderr
    assert "install CUDA 12.4 or newer" in done.stderr
    assert "KVCORE_CUDA=off" in done.stderr


def test_other_values_are_refused(tmp_path: Path) -> None:
    done = configure(tmp_path, "-DKVCORE_CUDA=maybe")
    assert done.returncode != 0
    assert "KVCORE_CUDA must be auto, on or off, got 'maybe'" in done.stderr
