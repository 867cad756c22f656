"""Where a result comes from: the machine and the source. Reports carry both."""

from __future__ import annotations

import errno
import json
import os
import platform
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path

from kvcore import __version__

_GIT_TIMEOUT_S = 10


def describe_machine() -> dict[str, object]:
    """This machine: `cpu` (model), `cores` (that this process may use), `os`, `python`."""
    return {
        "cpu": _cpu_model(),
        "cores": usable_cores(),
        "os": platform.platform(),
        "python": platform.python_version(),
    }


def usable_cores() -> int:
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def source_commit() -> str:
    """The git commit of the source tree, "-dirty" added where it was changed since.

    The tree is the one that holds this package: as source, or in an environment inside of it.
    Outside of one it is the version of the package.
    """
    here = Path(__file__).resolve().parent
    top = _git(here, "rev-parse", "--show-toplevel")
    if top is None or not Path(top, "kvcore", "machine.py").is_file():
        return __version__
    described = _git(here, "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*")
    return described or __version__


def check_writable(path: Path) -> None:
    """Find out before the work whether its result can be written to `path`.

    Raises
    ------
    OSError
        If it cannot; names the path.
    """
    if path.is_dir():
        raise _os_error(errno.EISDIR, path)
    if path.exists() and not os.access(path, os.W_OK):
        raise _os_error(errno.EACCES, path)
    if path.exists() and not path.is_file():
        return
    probe = _temporary(path)
    try:
        probe.touch()
        probe.unlink()
    except OSError as error:
        raise _os_error(error.errno or errno.EIO, path) from None


def replace_file(path: Path, data: bytes) -> None:
    """Write a file such that a reader sees the old bytes or the new ones, never a part.

    What is no regular file (a pipe, a terminal) is written directly.
    """
    if path.exists() and not path.is_file():
        path.write_bytes(data)
        return
    temporary = _temporary(path)
    try:
        temporary.write_bytes(data)
        temporary.replace(path.resolve())
    finally:
        temporary.unlink(missing_ok=True)


def write_report(path: str | os.PathLike[str], rows: Sequence[Mapping[str, object]]) -> None:
    """Write `{machine, commit, rows}` as JSON, atomically.

    Parameters
    ----------
    path : path of the report
    rows : one mapping a result, of what JSON can hold

    Raises
    ------
    OSError
        If the file cannot be written.
    ValueError
        If a number is not finite.
    """
    report = {"machine": describe_machine(), "commit": source_commit(), "rows": list(rows)}
    replace_file(Path(path), json.dumps(report, indent=1, allow_nan=False).encode() + b"\n")


def _temporary(path: Path) -> Path:
    """A name beside the file that `path` leads to, so that a rename puts it in its place."""
    return path.resolve().with_name(f".kvcore-{os.getpid()}.tmp")


def _os_error(number: int, path: Path) -> OSError:
    return OSError(number, os.strerror(number), str(path))


def _cpu_model() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        lines = []
    models = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(models, "") or platform.processor() or platform.machine()


def _git(directory: Path, *arguments: str) -> str | None:
    try:
        done = subprocess.run(
            ["git", *arguments],
            cwd=directory,
            capture_output=True,
            text=True,
            timeout=_GIT_TIMEOUT_S,
            check=True,
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip()
