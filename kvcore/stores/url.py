"""Stores by URL, as configurations and command lines name them."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any
from urllib.parse import SplitResult, parse_qsl, unquote, urlencode, urlsplit

from kvcore.stores.contract import Store
from kvcore.stores.infinistore import InfiniStoreStore, Server
from kvcore.stores.local import DiskStore, MemoryStore
from kvcore.stores.mooncake import MooncakeStore
from kvcore.stores.redis import CONNECTION_OPTIONS, REDIS_SCHEMES, RedisStore

_SIZE = re.compile(r"(\d+)(?:\.(\d+))?\s*(B|KiB|MiB|GiB|TiB)?")
_PLACE = re.compile(r"(?:\[([0-9a-fA-F:]+)\]|([^\s:\[\]/]+))(?::(\d+))?")
_UNITS = {"B": 0, "KiB": 1, "MiB": 2, "GiB": 3, "TiB": 4}


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


Options = dict[str, Any]


@dataclass(frozen=True)
class _Scheme:
    """How URLs with it are read: what their options are, and who opens the store."""

    options: dict[str, Callable[[str, str], Any]]
    open: Callable[[SplitResult, bytes, int, Options], Store]


def _open_memory(parts: SplitResult, fingerprint: bytes, size: int, options: Options) -> Store:
    if path := _local_path(parts):
        raise ValueError(f"url must have no path after memory:, got {path!r}")
    return MemoryStore(fingerprint, size, **{"max_bytes": 1 << 30, **options})


def _open_disk(parts: SplitResult, fingerprint: bytes, size: int, options: Options) -> Store:
    if not (path := _local_path(parts)):
        raise ValueError(f"url must have a path after disk:, got {parts.geturl()!r}")
    return DiskStore(path, fingerprint, size, **{"max_bytes": 16 << 30, **options})


def _local_path(parts: SplitResult) -> str:
    if parts.netloc:
        raise ValueError(
            f"url must have a path after {parts.scheme}: and no host, got {parts.netloc!r}"
        )
    return unquote(parts.path)


def _open_infinistore(parts: SplitResult, fingerprint: bytes, size: int, options: Options) -> Store:
    if unquote(parts.path) not in ("", "/"):
        raise ValueError(f"url must have no path after its servers, got {unquote(parts.path)!r}")
    return InfiniStoreStore(_servers(parts.netloc), fingerprint, size, **options)


def _open_redis(parts: SplitResult, fingerprint: bytes, size: int, options: Options) -> Store:
    told = {name: options.pop(name) for name in CONNECTION_OPTIONS if name in options}
    place = f"{parts.scheme}://{parts.netloc}{parts.path}?{urlencode(told)}"
    return RedisStore(place, fingerprint, size, **options)


def _open_mooncake(parts: SplitResult, fingerprint: bytes, size: int, options: Options) -> Store:
    if parts.path not in ("", "/"):
        raise ValueError(f"url must have no path after its master, got {unquote(parts.path)!r}")
    return MooncakeStore(parts.netloc, fingerprint, size, **options)


_REDIS = _Scheme(
    {
        "connections": _integer,
        "ttl_s": _number,
        "stall_s": _number,
        "first_probe_s": _number,
        "last_probe_s": _number,
        "record_age_s": _number,
        "max_queued_bytes": parse_size,
        **dict.fromkeys(CONNECTION_OPTIONS, _text),
    },
    _open_redis,
)
_SCHEMES = {
    "memory": _Scheme({"max_bytes": parse_size}, _open_memory),
    "disk": _Scheme(
        {
            "max_bytes": parse_size,
            "fsync": _text,
            "direct": _truth,
            "depth": _integer,
            "io": _text,
        },
        _open_disk,
    ),
    "infinistore": _Scheme(
        {
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
        _open_infinistore,
    ),
    "mooncake": _Scheme(
        {
            "hostname": _text,
            "metadata": _text,
            "protocol": _text,
            "device": _text,
            "segment_bytes": parse_size,
            "connections": _integer,
            "stall_s": _number,
            "first_probe_s": _number,
            "last_probe_s": _number,
            "record_age_s": _number,
            "max_queued_bytes": parse_size,
        },
        _open_mooncake,
    ),
    **dict.fromkeys(REDIS_SCHEMES, _REDIS),
}


def open_store(url: str, fingerprint: bytes, value_bytes: int) -> Store:
    """Open the store that a URL names.

    Parameters
    ----------
    url : str
        ``memory:?max_bytes=4GiB`` or ``disk:PATH?max_bytes=1TiB&fsync=each&depth=32&io=threads``.
        ``infinistore://HOST:PORT,HOST:PORT?replicas=2&stall_s=0.05``.
        ``redis://USER:PASSWORD@HOST:PORT/DB?ttl_s=86400``, and the other schemes of `RedisStore`.
        ``mooncake://MASTER:PORT?hostname=HOST&segment_bytes=64GiB&protocol=rdma``.
        Options are those of `MemoryStore`, `DiskStore`, `InfiniStoreStore`, `RedisStore` and
        `MooncakeStore`; `max_bytes` is 1 GiB in memory and 16 GiB on disk if it is not given.
    fingerprint : bytes
        16 bytes: `Namespace.fingerprint`.
    value_bytes : int

    Raises
    ------
    TypeError, ValueError, OSError
        The URL names no store or a wrong option, or the store cannot be opened; says why.
    ImportError
        What the store needs is not installed; names the extra to install.
    """
    if not isinstance(url, str):
        raise TypeError(f"url must be a str, got {type(url).__name__}")
    parts = urlsplit(url)
    if parts.scheme not in _SCHEMES:
        raise ValueError(
            f"url must begin with {' or '.join(f'{s}:' for s in _SCHEMES)}, got {url!r}"
        )
    if parts.fragment or "#" in url:
        raise ValueError(f"url must have %23 for each '#', got {url!r}")
    known = _SCHEMES[parts.scheme]
    options: Options = {}
    for name, value in parse_qsl(parts.query, keep_blank_values=True):
        if name not in known.options:
            names = ", ".join(known.options)
            raise ValueError(f"url must have options of {names} for {parts.scheme}:, got {name!r}")
        options[name] = known.options[name](name, value)
    return known.open(parts, fingerprint, value_bytes, options)
