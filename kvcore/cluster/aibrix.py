"""Which servers there are, as AIBrix's watcher writes it to Redis."""

from __future__ import annotations

import json
from typing import Any

from kvcore.cluster.members import ClusterError, Members, Server, SlotRange, is_address

_TIMEOUT_S = 2.0


class AibrixSource:
    """The servers and slots of an InfiniStore cluster that AIBrix manages.

    Its watcher keeps them in one string of Redis. Their `version` is not looked at: it starts again
    where the key was lost.

    Parameters
    ----------
    host : str
        Of Redis.
    port : int
    db : int
    key : str
        Of Redis.
    username, password : str, optional

    Raises
    ------
    ImportError
        Without the package redis; names the extra to install.
    """

    def __init__(
        self,
        host: str,
        port: int = 6379,
        db: int = 0,
        *,
        key: str = "kvcache_nodes",
        username: str | None = None,
        password: str | None = None,
    ) -> None:
        try:
            import redis
        except ImportError:
            raise ImportError(
                "an AIBrix cluster is read from Redis, whose package is missing: "
                "pip install 'kvcore[redis]'"
            ) from None
        if not key:
            raise ValueError(f"key must be a key of Redis, got {key!r}")
        Server(host, port)  # checks both
        self._key = key
        self._error: type[Exception] = redis.RedisError
        self._redis = redis.Redis(
            host=host,
            port=port,
            db=db,
            username=username,
            password=password,
            socket_timeout=_TIMEOUT_S,
            socket_connect_timeout=_TIMEOUT_S,
        )

    def read(self) -> Members:
        try:
            text = self._redis.get(self._key)
        except (self._error, OSError) as error:
            raise ClusterError(f"Redis: {error}") from None
        if text is None:
            raise ClusterError(f"Redis: there is no key {self._key!r}")
        assert isinstance(text, bytes)
        try:
            return parse_nodes(text)
        except ValueError as error:
            raise ClusterError(f"Redis: {self._key}: {error}") from None


def parse_nodes(text: bytes) -> Members:
    """Servers and slots of ``{"nodes":[{"name","addr","port","slots":[{"start","end"}]}]}``.

    Nodes of one address are one server: a pod that is gone may still be listed when another has
    its address.

    Raises
    ------
    ValueError
        It is not that, or there is no server.
    """
    try:
        nodes = json.loads(text)["nodes"]
        places = [_place(node) for node in nodes]
    except (KeyError, TypeError, UnicodeDecodeError, RecursionError) as error:
        raise ValueError(f"makes no sense ({type(error).__name__}: {error})") from None
    servers: dict[str, Server] = {}
    for server, _ in places:
        servers.setdefault(server.name, server)
    if not servers:
        raise ValueError("has no nodes")
    index = {name: i for i, name in enumerate(servers)}
    slots = tuple(
        SlotRange(index[server.name], *ends) for server, ranges in places for ends in ranges
    )
    members = Members(tuple(servers.values()), slots)
    members.placement()  # checks the slots
    if not slots:
        raise ValueError("has no slots")
    return members


def _place(node: dict[str, Any]) -> tuple[Server, list[tuple[int, int]]]:
    address, label = node["addr"], node.get("name", "")
    if not is_address(address):
        raise ValueError(f"addr must be an address in numbers, got {address!r}")
    ranges = [(_slot(r["start"]), _slot(r["end"])) for r in node["slots"] or ()]
    return Server(address, node["port"], address=address, label=str(label)), ranges


def _slot(number: object) -> int:
    if isinstance(number, bool) or not isinstance(number, int) or not 0 <= number < 1 << 32:
        raise ValueError(f"slots must be whole numbers from 0 on, got {number!r}")
    return number
