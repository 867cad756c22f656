"""How lines to InfiniStore over RDMA are started: by which Python, on which device."""

from __future__ import annotations

import os
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

DEVICES = Path("/sys/class/infiniband")
_LINE = Path(__file__).with_name("rdma_line.py")
_FIND_S = 30.0
TRANSPORTS = ("tcp", "rdma", "auto")


def line_command(transport: str, python: str | None, device: str | None) -> list[str] | None:
    """What starts the process of a line, or None for TCP.

    Parameters
    ----------
    transport : str
        "tcp", "rdma", or "auto": RDMA where there are a device and the package.
    python : str, optional
        A Python with the package; by default the one that runs this.
    device : str, optional
        As "mlx5_1" or "mlx5_1:2" for its second port; by default the client's first.

    Raises
    ------
    ValueError
        An argument is not allowed.
    ImportError
        Without the package, where RDMA is asked for.
    OSError
        The system cannot do it: Linux 5.4 is needed.
    """
    if transport not in TRANSPORTS:
        raise ValueError(f"transport must be one of {', '.join(TRANSPORTS)}, got {transport!r}")
    name, _, port = (device or "").partition(":")
    if port and not (port.isdecimal() and int(port) > 0):
        raise ValueError(f"rdma_device must be a device or device:port, got {device!r}")
    if transport == "tcp" or (transport == "auto" and not _devices()):
        return None
    python = python or sys.executable
    if not _has_package(python):
        if transport == "auto":
            return None
        raise ImportError(
            f"RDMA needs the package infinistore, which {python or 'this program'} has not: "
            "pip install 'kvcore[infinistore]'"
        )
    os.close(os.pidfd_open(os.getpid()))
    ib_port = port or "1"
    return [python, str(_LINE), name, ib_port, _link_of(name, ib_port)]


def _devices() -> list[str]:
    return sorted(os.listdir(DEVICES)) if DEVICES.is_dir() else []


def _link_of(device: str, port: str) -> str:
    """What the client must be told of the port, though it knows."""
    name = device or next(iter(_devices()), "")
    try:
        layer = (DEVICES / name / "ports" / port / "link_layer").read_text().strip()
    except OSError:
        layer = "Ethernet"
    return "IB" if layer == "InfiniBand" else "Ethernet"


def _has_package(python: str) -> bool:
    if python == sys.executable:
        return find_spec("infinistore") is not None
    code = "import importlib.util, sys; sys.exit(importlib.util.find_spec('infinistore') is None)"
    try:
        return subprocess.run([python, "-c", code], timeout=_FIND_S).returncode == 0
    except (OSError, subprocess.TimeoutExpired):
        return False
