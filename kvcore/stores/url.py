"""Stores by URL, as configurations and command lines name them."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any
from urllib.parse import parse_qsl, unquote, urlsplit

from kvcore.stores.contract import Store
from kvcore.stores.infinistore import InfiniStoreStore, Server
from kvcore.stores.local import DiskStore, MemoryStore

_SIZE = re.compile(r"(\d+)(?:\.(\d+))?\s*(B|KiB|MiB|GiB|TiB)?")
_PLACE = re.compile(r"(?:\[([0-9a-fA-F:]+)\]|([^\s:\[\]/]+))(?::(\d+))?")
_UNITS = {"B": 0, "KiB": 1, "MiB": 2, "GiB": 3, "TiB": 4}
_DEFAULT_BYTES = {"memory": 1 << 30, "disk": 16 << 30}


def parse_size(name: str, text: str) -> int:
    """Bytes of "4096", "512KiB", "1.5GiB".

    Raises
    ------
    ValueError
        If it is none; as `name`.
    """
    found = _SIZE.fullmatch(text)
    if not found:
        raise ValueError(f"{name} must be bytes, as 4096, 512KiB or 1.5GiB, got {text!r}")
    whole, fraction, unit = found[1], found[2] or "0", found[3] or "B"
    scale: int = 1024 ** _UNITS[unit]
    parts: int = 10 ** len(fraction)
    return int(whole) * scale + int(fraction) * scale // parts


def _integer(name: str, text: str) -> int:
    if not text.isdecimal():
        raise ValueError(f"{name} must be a whole number, got {text!r}")
    return int(text)


def _truth(name: str, text: str) -> bool:
    if text not in ("true", "false"):
        raise ValueError(f"{name} must be true or false, got {text!r}")
    return text == "true"


def _number(name: str, text: str) -> float:
    try:
        return float(text)
    except ValueError:
        raise ValueError(f"{name} must be a number, got {text!r}") from None


def _text(name: str, text: str) -> str:
    return text


def _servers(netloc: str) -> list[Server]:
    """Of "host:port,[::1]:port,host"; the port is 22345 where none is given."""
    servers = []
    for place in netloc.split(","):
        found = _PLACE.fullmatch(place)
        if not found:
            raise ValueError(f"url must have servers as host:port,host:port, got {place!r}")
        host = found[1] or found[2]
        servers.append(Server(host, _integer("port", found[3])) if found[3] else Server(host))
    return servers


_OPTIONS: dict[str, dict[str, Callable[[str, str], Any]]] = {
    "memory": {"max_bytes": parse_size},
    "disk": {
        "max_bytes": parse_size,
        "fsync": _text,
        "direct": _truth,
        "depth": _integer,
        "io": _text,
    },
    "infinistore": {
        "chunk_blocks": _integer,
        "granule_bytes": parse_size,
        "replicas": _integer,
        "connections": _integer,
        "stall_s": _number,
        "first_probe_s": _number,
        "last_probe_s": _number,
        "record_age_s": _number,
        "patience_s": _number,
        "max_queued_bytes": parse_size,
        "max_queue_delay_s": _number,
    },
}


def open_store(url: str, fingerprint: bytes, value_bytes: int) -> Store:
    """Open the store that a URL names.

    Parameters
    ----------
    url : str
        ``memory:?max_bytes=4GiB`` or ``disk:PATH?max_bytes=1TiB&fsync=each&depth=32&io=threads``.
        ``infinistore://HOST:PORT,HOST:PORT?replicas=2&stall_s=0.05``. Options are those of
        `MemoryStore`, `DiskStore` and `InfiniStoreStore`; `max_bytes` is 1 GiB in memory and 16 GiB
        on disk if it is not given.
    fingerprint : bytes
        16 bytes: `Namespace.fingerprint`.
    value_bytes : int

    Raises
    ------
    TypeError, ValueError, OSError
        The URL names no store or a wrong option, or the store cannot be opened; says why.
    """
    if not isinstance(url, str):
        raise TypeError(f"url must be a str, got {type(url).__name__}")
    parts = urlsplit(url)
    if parts.scheme not in _OPTIONS:
        raise ValueError(
            f"url must begin with {' or '.join(f'{s}:' for s in _OPTIONS)}, got {url!r}"
        )
    if parts.fragment or "#" in url:
        raise ValueError(f"url must have %23 for each '#', got {url!r}")
    if parts.netloc and parts.scheme != "infinistore":
        raise ValueError(
            f"url must have a path after {parts.scheme}: and no host, got {parts.netloc!r}"
        )
    known = _OPTIONS[parts.scheme]
    options: dict[str, Any] = {}
    if parts.scheme in _DEFAULT_BYTES:
        options["max_bytes"] = _DEFAULT_BYTES[parts.scheme]
    for name, value in parse_qsl(parts.query, keep_blank_values=True):
        if name not in known:
            raise ValueError(
                f"url must have options of {', '.join(known)} for {parts.scheme}:, got {name!r}"
            )
        options[name] = known[name](name, value)
    path = unquote(parts.path)
    if parts.scheme == "infinistore":
        if path not in ("", "/"):
            raise ValueError(f"url must have no path after its servers, got {path!r}")
        return InfiniStoreStore(_servers(parts.netloc), fingerprint, value_bytes, **options)
    if parts.scheme == "memory":
        if path:
            raise ValueError(f"url must have no path after memory:, got {path!r}")
        return MemoryStore(fingerprint, value_bytes, **options)
    if not path:
        raise ValueError(f"url must have a path after disk:, got {url!r}")
    return DiskStore(path, fingerprint, value_bytes, **options)
