"""The servers of a cluster, and how keys are placed on them."""

from __future__ import annotations

import ipaddress
import math
from dataclasses import dataclass

from kvcore._core import Placement


class ClusterError(OSError):
    """It cannot be told now which servers there are; says why."""


@dataclass(frozen=True, slots=True)
class Server:
    """One server.

    Attributes
    ----------
    host : str
        Name or address.
    port : int
    weight : float
        Its share beside others', above 0.
    address : str, optional
        The host in numbers, IPv4 or IPv6; looked up where it is not given.
    label : str
        What its cluster calls it; for people alone.
    """

    host: str
    port: int = 22345
    weight: float = 1.0
    address: str | None = None
    label: str = ""

    @property
    def name(self) -> str:
        """``host:port``: what has another name is another server, with values of its own."""
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"

    def __post_init__(self) -> None:
        if not isinstance(self.host, str) or not self.host:
            raise ValueError(f"host must be a name or an address, got {self.host!r}")
        if isinstance(self.port, bool) or not isinstance(self.port, int):
            raise TypeError(f"port must be an int, got {type(self.port).__name__}")
        if not 0 < self.port < 65536:
            raise ValueError(f"port must be from 1 to 65535, got {self.port}")
        if isinstance(self.weight, bool) or not isinstance(self.weight, (int, float)):
            raise TypeError(f"weight must be a number, got {type(self.weight).__name__}")
        if not 0 < self.weight < math.inf:
            raise ValueError(f"weight must be above 0, got {self.weight}")
        if self.address is not None and not is_address(self.address):
            raise ValueError(f"address must be of IPv4 or IPv6, got {self.address!r}")


@dataclass(frozen=True, slots=True)
class SlotRange:
    """Slots that a server has, from `first` to `last`; where that is below, they go round.

    Attributes
    ----------
    server : int
        Index into `Members.servers`.
    first, last : int
    """

    server: int
    first: int
    last: int


@dataclass(frozen=True, slots=True)
class Members:
    """All servers of a cluster.

    Attributes
    ----------
    servers : tuple of Server
        Of different names.
    slots : tuple of SlotRange, optional
        How AIBrix gives keys to servers. By default they are placed by weighted rendezvous hashing.
    """

    servers: tuple[Server, ...] = ()
    slots: tuple[SlotRange, ...] | None = None

    def __post_init__(self) -> None:
        names = [server.name for server in self.servers]
        for name in names:
            if names.count(name) > 1:
                raise ValueError(f"servers must have different names, got {name!r} twice")

    def placement(self) -> Placement:
        """Which servers have a chunk.

        Raises
        ------
        ValueError
            The slots make no sense.
        """
        if self.slots is None:
            return Placement.rendezvous([(s.name, float(s.weight)) for s in self.servers])
        ranges = [(r.server, r.first, r.last) for r in self.slots]
        return Placement.aibrix(ranges, len(self.servers))


def is_address(text: object) -> bool:
    """Whether it is an address in numbers, which a socket can be given as it is."""
    try:
        ipaddress.ip_address(text if isinstance(text, str) else "")
    except ValueError:
        return False
    return isinstance(text, str) and "%" not in text
