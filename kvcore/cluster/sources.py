"""Where it is written which servers there are: a list, a name of a headless service."""

from __future__ import annotations

import socket
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any, Protocol

from kvcore.cluster.members import ClusterError, Members, Server, is_address

# As `socket.getaddrinfo`, of which it gets a host, a port and `type`.
Resolve = Callable[..., Sequence[tuple[Any, ...]]]


class Source(Protocol):
    """Tells which servers there are."""

    def read(self) -> Members:
        """Ask now; may take as long as a resolver or a server takes.

        Raises
        ------
        ClusterError
            It cannot be told.
        """
        ...


class StaticSource:
    """The servers of a list. Their names stay, and with them their keys; addresses may change.

    Parameters
    ----------
    servers : sequence of Server
        Of different names.
    resolve : callable
        In the place of `socket.getaddrinfo`.
    """

    def __init__(self, servers: Sequence[Server], resolve: Resolve = socket.getaddrinfo) -> None:
        self.servers = Members(tuple(servers)).servers  # checks that names differ
        self._resolve = resolve
        self._last: dict[str, str] = {}  # by name

    @property
    def is_constant(self) -> bool:
        """Whether there is nothing to look up."""
        return all(is_address(server.address or server.host) for server in self.servers)

    def read(self) -> Members:
        found = []
        for server in self.servers:
            addresses = _addresses(self._resolve, server.address or server.host, server.port)
            # A resolver may give several in turn: it is one server all the same.
            if self._last.get(server.name) not in addresses:
                self._last[server.name] = addresses[0]
            found.append(replace(server, address=self._last[server.name]))
        return Members(tuple(found))


class DnsSource:
    """All addresses of a name, as a headless service has them: each is a server.

    Parameters
    ----------
    name : str
    port : int
        Of every server.
    resolve : callable
        In the place of `socket.getaddrinfo`.
    """

    def __init__(self, name: str, port: int = 22345, resolve: Resolve = socket.getaddrinfo) -> None:
        Server(name, port)  # checks both
        self._name, self._port, self._resolve = name, port, resolve

    def read(self) -> Members:
        addresses = _addresses(self._resolve, self._name, self._port)
        return Members(tuple(Server(a, self._port, address=a) for a in sorted(set(addresses))))


def _addresses(resolve: Resolve, host: str, port: int) -> list[str]:
    """IPv4 and IPv6, in the resolver's order."""
    try:
        found = resolve(host, port, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError) as error:  # the latter of names that cannot be one
        raise ClusterError(f"{host}: {error}") from None
    addresses = [str(entry[4][0]) for entry in found]
    usable = [address for address in addresses if is_address(address)]
    if not usable:
        raise ClusterError(f"{host}: has no address that can be used, got {addresses}")
    return usable
