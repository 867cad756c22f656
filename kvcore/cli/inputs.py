"""What commands are given: checked before any work, wrong input told in one line."""

from __future__ import annotations

from pathlib import Path

from kvcore._core import POLICIES, PrefixCache
from kvcore.cli import InputError
from kvcore.sim import Capacity, Trace, TraceError, read_trace


def listed(text: str) -> list[str]:
    """The parts between commas, each once."""
    return list(dict.fromkeys(part.strip() for part in text.split(",")))


def parse_policies(text: str, *others: str) -> list[str]:
    """Names of policies, or of what else is allowed; "all" stands for those of the cache."""
    names: dict[str, None] = {}
    for name in listed(text):
        if name not in ("all", *others) and not _is_policy(name):
            allowed = ", ".join((*POLICIES, "auto:lru+arc", *others, "all"))
            raise InputError(f"--policy: policy must be one of {allowed}, got {name[:40]!r}")
        names |= dict.fromkeys(POLICIES if name == "all" else [name])
    return list(names)


def _is_policy(name: str) -> bool:
    try:
        PrefixCache(1, name)
    except ValueError:
        return False
    return True


def parse_capacities(text: str) -> list[Capacity]:
    try:
        return [Capacity(part) for part in listed(text)]
    except ValueError as error:
        raise InputError(f"--capacity: {error}") from None


def open_trace(path: Path, name: str) -> Trace:
    try:
        return read_trace(path, name)
    except TraceError as error:
        raise InputError(str(error)) from None
    except OSError as error:
        raise InputError(f"{path}: {error.strerror or error}") from None
