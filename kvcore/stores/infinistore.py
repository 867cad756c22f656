"""InfiniStoreStore: blocks on InfiniStore servers, shared by many nodes."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

from kvcore._core import RemoteStoreCore, ServerStats
from kvcore.cluster import Members, Server, Source, StaticSource, Watcher
from kvcore.stores.core import CoreStore
from kvcore.stores.rdma import line_command

_WASTE = 0.05
_MOST_CHUNK_BYTES = 16 << 20
_MOST_CHUNK_BLOCKS = 1024
_FIRST_ANSWER_S = 2.0

__all__ = ["InfiniStoreStore", "Server", "chunk_blocks_for"]


def chunk_blocks_for(value_bytes: int, granule_bytes: int) -> int:
    """Blocks that are kept as one value, so that servers waste no more than 5 % of their memory.

    A server gives whole granules, to the value and to its record of 128 bytes.

    Parameters
    ----------
    value_bytes : int
        Bytes of a block.
    granule_bytes : int
        What the server allocates at least: its ``--minimal-allocate-size``.

    Returns
    -------
    int
        A power of two; where none up to 1,024 blocks and 16 MiB does, the one that wastes least.
    """
    best, least = 1, float("inf")
    blocks = 1
    while blocks == 1 or (
        blocks <= _MOST_CHUNK_BLOCKS and blocks * value_bytes <= _MOST_CHUNK_BYTES
    ):
        payload = blocks * value_bytes
        taken = -(-payload // granule_bytes) * granule_bytes + granule_bytes
        waste = taken / payload - 1
        if waste < least:
            best, least = blocks, waste
        if waste <= _WASTE:
            break
        blocks *= 2
    return best


class InfiniStoreStore(CoreStore):
    """A store on InfiniStore servers, over TCP or RDMA.

    Neighbouring blocks of a chain are kept as one value. What another process wrote is found by
    asking: `match` tells what this process knows, `contains` asks the servers, and then `match`
    knows it too. A server that is slow or dead costs `stall_s` once, then nothing until it is well
    again.

    Parameters
    ----------
    servers : sequence of Server
        Without one, all is a miss; see also `follow`.
    fingerprint : bytes
        16 bytes: `Namespace.fingerprint`.
    value_bytes : int
        Bytes of a block, up to 2**30.
    chunk_blocks : int, optional
        Blocks of a value, a power of two; the same for all who share the servers. By default as few
        as waste no more than 5 % of the servers' memory.
    granule_bytes : int
        What a server allocates at least, its ``--minimal-allocate-size``.
    replicas : int
        Servers that keep each value.
    connections : int, optional
        To each server: 4 over TCP, 2 over RDMA. There, each is a process, and 0.5 GB of locked
        memory on both sides.
    stall_s : float
        A server that has requests and says nothing for so long is given up.
    first_probe_s, last_probe_s : float
        When a server that was given up is asked again: at first, and at most.
    record_age_s : float
        How long a process relies on where it knows a value to be.
    patience_s : float
        How long one of several replicas may say nothing, to anybody, before the next is asked. One
        that is only busy is waited for.
    max_queued_bytes : int
        What may wait to be written. What is above is not written.
    max_queue_delay_s : float
        What would wait longer, by the speed of late, is not written.
    transport : {"tcp", "rdma", "auto"}
        RDMA needs ``kvcore[infinistore]``, and servers of IPv4 addresses; "auto" is RDMA where that
        is installed and this machine has a device. See docs/infinistore.md.
    rdma_python : str, optional
        A Python that has the package, where this one has not.
    rdma_device : str, optional
        As "mlx5_1", or "mlx5_1:2" for its second port; by default the first device.

    Raises
    ------
    TypeError, ValueError
        An argument has the wrong type or is not allowed; the message names it.
    ImportError
        RDMA is asked for, and its package is missing.
    OSError
        A server's name has no address, or the system has no descriptors of processes (Linux 5.4).
    """

    def __init__(
        self,
        servers: Sequence[Server],
        fingerprint: bytes,
        value_bytes: int,
        *,
        chunk_blocks: int | None = None,
        granule_bytes: int = 64 << 10,
        replicas: int = 1,
        connections: int | None = None,
        stall_s: float = 0.05,
        first_probe_s: float = 0.1,
        last_probe_s: float = 5.0,
        record_age_s: float = 60.0,
        patience_s: float = 0.02,
        max_queued_bytes: int = 256 << 20,
        max_queue_delay_s: float = 2.0,
        transport: str = "tcp",
        rdma_python: str | None = None,
        rdma_device: str | None = None,
    ) -> None:
        if chunk_blocks is None:
            chunk_blocks = chunk_blocks_for(value_bytes, granule_bytes)
        command = line_command(transport, rdma_python, rdma_device)
        if connections is None:
            connections = 4 if command is None else 2
        scope = hashlib.blake2b(
            f"infinistore {value_bytes} {chunk_blocks}".encode(), key=fingerprint, digest_size=16
        ).digest()
        self._core: RemoteStoreCore = RemoteStoreCore(
            scope=scope,
            value_bytes=value_bytes,
            chunk_blocks=chunk_blocks,
            replicas=replicas,
            connections=connections,
            stall_s=stall_s,
            first_probe_s=first_probe_s,
            last_probe_s=last_probe_s,
            record_age_s=record_age_s,
            patience_s=patience_s,
            max_queued_bytes=max_queued_bytes,
            max_queue_delay_s=max_queue_delay_s,
            line_command=command,
        )
        self._chunk_blocks = chunk_blocks
        self._watcher: Watcher | None = None
        self.set_servers(servers)

    @property
    def chunk_blocks(self) -> int:
        """Blocks of a value, at most."""
        return self._chunk_blocks

    @property
    def watcher(self) -> Watcher | None:
        """What follows the cluster; see `follow`."""
        return self._watcher

    def set_servers(self, servers: Sequence[Server] | Members) -> None:
        """Use these servers from now on; those that stay keep their values and connections.

        Ends what `follow` began.

        Parameters
        ----------
        servers : sequence of Server, or Members

        Raises
        ------
        ValueError
            Two have one name.
        OSError
            A server's name has no address.
        """
        members = servers if isinstance(servers, Members) else StaticSource(servers).read()
        self._stop_following()
        self._set_members(members)

    def follow(self, source: Source, refresh_s: float = 5.0) -> None:
        """Use the servers that a source tells, and what it tells later, until `close`.

        Returns when it has told, or after 2 s; while there are no servers, all is a miss.

        Parameters
        ----------
        source : Source
            Asked on a thread of its own.
        refresh_s : float
            How often, up to 3600; jittered by a quarter.

        Raises
        ------
        TypeError, ValueError
            `refresh_s` is not allowed.
        """
        watcher = Watcher(source, self._set_members, refresh_s)
        self._stop_following()
        self._watcher = watcher
        watcher.start()
        watcher.wait_first(_FIRST_ANSWER_S)

    def server_stats(self) -> dict[str, ServerStats]:
        """What each server was asked and answered, by ``host:port``."""
        return self._core.server_stats()

    def close(self) -> None:
        self._stop_following()
        super().close()

    def _stop_following(self) -> None:
        if self._watcher is not None:
            self._watcher.close()

    def _set_members(self, members: Members) -> None:
        servers = [(s.name, s.address or s.host, s.port) for s in members.servers]
        self._core.set_servers(servers, members.placement())
