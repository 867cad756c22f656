"""What this kvcore was compiled with, what it finds on this machine, and what it uses of that."""

from __future__ import annotations

import os
from importlib import metadata
from pathlib import Path
from typing import TypeAlias

from kvcore import __version__, cuda, device_copy
from kvcore._core import cpu_path, has_uring, is_uring_built
from kvcore.machine import describe_machine

Facts: TypeAlias = dict[str, object]

_VECTOR_FLAGS = ("avx2", "avx512f", "avx512bw", "avx512vl", "asimd", "sve")


def diagnose() -> dict[str, Facts]:
    """`compiled`, `found` and `used`, each of names and what JSON can hold.

    Nothing of it fails where something is missing: that is what it tells.
    """
    torch, triton = _version("torch"), _version("triton")
    return {
        "compiled": {
            "kvcore": __version__,
            "io_uring": is_uring_built(),
            "cuda": cuda.is_built(),
            "cuda_architectures": list(cuda.architectures()),
            "cuda_runtime": cuda.runtime_version(),
        },
        "found": {
            **describe_machine(),
            "cpu_features": _cpu_features(),
            "huge_pages": _huge_pages(),
            "shared_memory": _shared_memory(),
            "driver": cuda.driver_version(),
            "gpus": list(cuda.devices()),
            "numpy": _version("numpy"),
            "torch": torch,
            "torch_device": device_copy.accelerator() or None,
            "triton": triton,
        },
        "used": {
            "cpu_copies": _cpu_copies(),
            "disk_reads": "io_uring" if has_uring() else "threads",
            "device_copies": device_copy.backend() or None,
            "why_not_cuda": cuda.why_unavailable(),
        },
    }


def _cpu_copies() -> str:
    try:
        return cpu_path()
    except ValueError as error:
        return str(error)


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def _cpu_features() -> list[str]:
    """Of those that copies could use."""
    for line in _read("/proc/cpuinfo").splitlines():
        name, _, value = line.partition(":")
        if name.strip() in {"flags", "Features"}:
            flags = set(value.split())
            return [flag for flag in _VECTOR_FLAGS if flag in flags]
    return []


def _huge_pages() -> Facts:
    """`transparent` is the kernel's mode; `reserved` and `free` count those set aside."""
    modes = _read("/sys/kernel/mm/transparent_hugepage/enabled")
    memory = dict(line.partition(":")[::2] for line in _read("/proc/meminfo").splitlines())

    def count(name: str) -> int | None:
        words = memory.get(name, "").split()
        return int(words[0]) if words else None

    return {
        "transparent": modes.partition("[")[2].partition("]")[0] or None,
        "size_kib": count("Hugepagesize"),
        "reserved": count("HugePages_Total"),
        "free": count("HugePages_Free"),
    }


def _shared_memory() -> Facts | None:
    """Of the file system that POSIX shared memory is in."""
    try:
        found = os.statvfs("/dev/shm")
    except OSError:
        return None
    return {
        "bytes": found.f_blocks * found.f_frsize,
        "free_bytes": found.f_bavail * found.f_frsize,
    }


def _read(path: str) -> str:
    try:
        return Path(path).read_text()
    except OSError:
        return ""
