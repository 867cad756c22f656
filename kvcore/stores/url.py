"""Stores by URL, as configurations and command lines name them."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any
from urllib.parse import SplitResult, parse_qsl, unquote, urlencode, urlsplit

from kvcore.cluster import AibrixSource, DnsSource, Server, Source, StaticSource
from kvcore.stores.contract import Store
from kvcore.stores.infinistore import InfiniStoreStore
from kvcore.stores.local import DiskStore, MemoryStore
from kvcore.stores.mooncake import MooncakeStore
from kvcore.stores.redis import CONNECTION_OPTIONS, REDIS_SCHEMES, RedisStore

_SIZE = re.compile(r"(\d+)(?:\.(\d+))?\s*(B|KiB|MiB|GiB|TiB)?")
_PLACE = re.compile(r"(?:\[([0-9a-fA-F:]+)\]|([^\s:\[\]/=]+))(?::(\d+))?(?:=([\d.]+))?")
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


def parse_server(name: str, text: str) -> Server:
    """A server of "host:port", "[::1]:port", "host" or "host:port=weight"; the port is 22345.

    Raises
    ------
    ValueError
        If it is none; as `name`.
    """
    found = _PLACE.fullmatch(text)
    if not found:
        raise ValueError(f"{name} must have servers as host:port or host:port=weight, got {text!r}")
    options: dict[str, Any] = {}
    if found[3]:
        options["port"] = _integer("port", found[3])
    if found[4]:
        options["weight"] = _number("weight", found[4])
    return Server(found[1] or found[2], **options)


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
    source = _source_of(parts, options.pop("key", None))
    refresh_s = options.pop("refresh_s", 5.0)
    # A name in a list that has no address is an error; later, it stays where it was.
    servers = source.read().servers if isinstance(source, StaticSource) else ()
    store = InfiniStoreStore(servers, fingerprint, size, **options)
    try:
        if not (isinstance(source, StaticSource) and source.is_constant):
            store.follow(source, refresh_s)
    except BaseException:
        store.close()
        raise
    return store


def _open_redis(parts: SplitResult, fingerprint: bytes, size: int, options: Options) -> Store:
    told = {name: options.pop(name) for name in CONNECTION_OPTIONS if name in options}
    place = f"{parts.scheme}://{parts.netloc}{parts.path}?{urlencode(told)}"
    return RedisStore(place, fingerprint, size, **options)


def _open_mooncake(parts: SplitResult, fingerprint: bytes, size: int, options: Options) -> Store:
    if parts.path not in ("", "/"):
        raise ValueError(f"url must have no path after its master, got {unquote(parts.path)!r}")
    return MooncakeStore(parts.netloc, fingerprint, size, **options)


_CLUSTER_OPTIONS: dict[str, Callable[[str, str], Any]] = {
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
    "refresh_s": _number,
    "transport": _text,
    "rdma_python": _text,
    "rdma_device": _text,
}
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
    "infinistore": _Scheme(_CLUSTER_OPTIONS, _open_infinistore),
    "infinistore+dns": _Scheme(_CLUSTER_OPTIONS, _open_infinistore),
    "infinistore+aibrix": _Scheme({**_CLUSTER_OPTIONS, "key": _text}, _open_infinistore),
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
        ``infinistore://HOST:PORT,HOST:PORT=WEIGHT?replicas=2&stall_s=0.05``,
        ``infinistore+dns://NAME:PORT?refresh_s=5`` for all addresses of a name,
        ``infinistore+aibrix://REDIS_HOST:PORT/DB?key=kvcache_nodes`` for what AIBrix manages.
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
    parts, options = _split(url)
    return _SCHEMES[parts.scheme].open(parts, fingerprint, value_bytes, options)


def cluster_of(url: str) -> tuple[Source, dict[str, Any]]:
    """Where it is written which servers the cluster of a URL has, and the options of its store.

    Raises
    ------
    TypeError, ValueError, ImportError
        The URL names no cluster or a wrong option; says why.
    """
    parts, options = _split(url)
    if not parts.scheme.startswith("infinistore"):
        raise ValueError(f"url must begin with infinistore, got {url!r}")
    return _source_of(parts, options.pop("key", None)), options


def _split(url: str) -> tuple[SplitResult, Options]:
    """The parts of a URL, and its options as what they are."""
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
    return parts, options


def _source_of(parts: SplitResult, key: str | None) -> Source:
    path = unquote(parts.path)
    if parts.scheme == "infinistore+aibrix":
        db = path.removeprefix("/")
        return AibrixSource(
            _host_of(parts),
            _port_of(parts, 6379),
            _integer("url's database", db) if db else 0,
            key="kvcache_nodes" if key is None else key,
            username=unquote(parts.username) if parts.username else None,
            password=unquote(parts.password) if parts.password else None,
        )
    if path not in ("", "/"):
        raise ValueError(f"url must have no path after its servers, got {path!r}")
    if parts.scheme == "infinistore+dns":
        if parts.username is not None:
            raise ValueError("url must have no user in front of a name")
        return DnsSource(_host_of(parts), _port_of(parts, 22345))
    return StaticSource([parse_server("url", place) for place in parts.netloc.split(",")])


def _host_of(parts: SplitResult) -> str:
    if not parts.hostname or "," in parts.hostname:
        raise ValueError(f"url must have one host after {parts.scheme}://, got {parts.hostname!r}")
    return parts.hostname


def _port_of(parts: SplitResult, default: int) -> int:
    try:
        return default if parts.port is None else parts.port
    except ValueError:
        raise ValueError(
            f"url must have a port from 1 to 65535, got {parts.netloc.rpartition('@')[2]!r}"
        ) from None
