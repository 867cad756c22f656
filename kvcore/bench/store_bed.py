"""Who moves blocks in `kvcore bench store`: kvcore, a bare loop, and InfiniStore's own client."""

from __future__ import annotations

import secrets
import subprocess
from pathlib import Path

import numpy as np
import numpy.typing as npt

from kvcore._core import RawSockets
from kvcore.slabs import HostSlab
from kvcore.stores import Batch, InfiniStoreStore, Server

KIB = 1024
TIMEOUT_S = 60.0
# kvcore trusts a record no longer than that, so each fetch begins with the records.
RECORD_AGE_S = 0.001
_OFFICIAL_CLIENT = Path(__file__).with_name("official_client.py")
# A larger value would end the server.
_MOST_VALUE_BYTES = 2 << 20

Blocks = npt.NDArray[np.uint8]


class OfficialClient:
    """InfiniStore's own client, in a process of its own; its blocks are random."""

    def __init__(self, python: str, server: Server, connections: int) -> None:
        command = [python, str(_OFFICIAL_CLIENT), server.address or server.host]
        self._process = subprocess.Popen(
            [*command, str(server.port), str(connections)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        self._answer()

    def __enter__(self) -> OfficialClient:
        return self

    def __exit__(self, *_: object) -> None:
        self._process.communicate()

    def ask(self, what: str, block_bytes: int, num_blocks: int, prefix: str) -> list[str]:
        assert self._process.stdin is not None
        print(what, block_bytes, num_blocks, prefix, file=self._process.stdin, flush=True)
        return self._answer()

    def _answer(self) -> list[str]:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            if line.startswith("= "):
                return line.split()[1:]
        raise ChildProcessError(f"{self._process.args!r} ended with status {self._process.wait()}")


class BareLoop:
    """Sockets that move the bytes of some blocks as values, and do nothing else.

    Parameters
    ----------
    server : Server
    connections : int
    blocks : uint8[num_blocks, block_bytes]
        What is put; what is got comes to a memory of its own, `came`.
    value_bytes : int
        Of a value; cut to what a server survives. What is left at the end is left out.
    """

    def __init__(self, server: Server, connections: int, blocks: Blocks, value_bytes: int) -> None:
        self._sockets = RawSockets(server.address or server.host, server.port, connections)
        self._value_bytes = min(value_bytes, _MOST_VALUE_BYTES, blocks.size)
        self._num_values = blocks.size // self._value_bytes
        self._bytes = self._num_values * self._value_bytes
        self._slab = HostSlab(*blocks.shape)
        self._slab.numpy()[:] = blocks
        self._expected = blocks.reshape(-1)[: self._bytes]
        self._addresses = np.arange(self._num_values, dtype=np.uint64)
        self._addresses *= np.uint64(self._value_bytes)
        self._addresses += np.uint64(self._slab.slab_memory.address)

    def keys(self, prefix: str) -> list[str]:
        return [f"{prefix}{i}" for i in range(self._num_values)]

    def put(self, prefix: str) -> None:
        self._sockets.put(self.keys(prefix), self._addresses, self._value_bytes)

    def get(self, prefix: str) -> None:
        self._sockets.get(self.keys(prefix), self._addresses, self._value_bytes)

    def get_one(self, prefix: str, i: int) -> None:
        self._sockets.get([f"{prefix}{i}"], self._addresses[i : i + 1], self._value_bytes)

    def clear(self) -> None:
        self._slab.numpy()[:] = 0

    def is_right(self) -> bool:
        return np.array_equal(self._slab.numpy().reshape(-1)[: self._bytes], self._expected)

    def remove(self, prefix: str) -> None:
        self.remove_keys(self.keys(prefix))

    def remove_keys(self, keys: list[str]) -> None:
        if keys:
            self._sockets.remove(keys)


class KvcoreStore:
    """A chain of blocks in a slab, and a store for it.

    Attributes
    ----------
    slab : HostSlab
        Has the blocks.
    chunk_blocks, value_bytes : int
        Of the values that kvcore makes of them.
    """

    def __init__(
        self,
        server: Server,
        connections: int,
        blocks: Blocks,
        *,
        chunk_blocks: int | None = None,
        record_age_s: float = RECORD_AGE_S,
    ) -> None:
        num_blocks, block_bytes = blocks.shape
        self.blocks = blocks
        self.slab = HostSlab(num_blocks, block_bytes)
        self.slab.numpy()[:] = blocks
        self._places = np.arange(num_blocks, dtype=np.uint32)
        self._store = InfiniStoreStore(
            [server],
            secrets.token_bytes(16),
            block_bytes,
            connections=connections,
            chunk_blocks=chunk_blocks,
            stall_s=TIMEOUT_S,
            record_age_s=record_age_s,
            max_queued_bytes=1 << 40,
            max_queue_delay_s=3600.0,
        )
        self.chunk_blocks = self._store.chunk_blocks
        self.value_bytes = min(self.chunk_blocks, num_blocks) * block_bytes
        self.new_hashes()

    def new_hashes(self) -> None:
        """From now on these are other blocks."""
        random = secrets.token_bytes(16 * len(self._places))
        self._hashes = np.frombuffer(random, np.uint8).reshape(-1, 16)

    def save(self) -> set[int]:
        batch = self._store.put_from(
            self._hashes, self.slab, self._places, TIMEOUT_S, positions=self._places
        )
        return _outcomes(batch)

    def start_fetch(self, part: slice = slice(None)) -> Batch:
        places = self._places[part]
        return self._store.get_into(
            self._hashes[part], self.slab, places, TIMEOUT_S, positions=places
        )

    def fetch(self) -> set[int]:
        return _outcomes(self.start_fetch())

    def fetch_one(self, i: int) -> None:
        self._store.get_into(
            self._hashes[i : i + 1], self.slab, self._places[i : i + 1], TIMEOUT_S
        ).wait()

    def clear(self) -> None:
        self.slab.numpy()[:] = 0

    def is_right(self) -> bool:
        return np.array_equal(self.slab.numpy(), self.blocks)

    def remove(self) -> None:
        self._store.remove(self._hashes, TIMEOUT_S, positions=self._places).wait()

    def close(self) -> None:
        """Leaves nothing on the server."""
        self.remove()
        self._store.close()


def _outcomes(batch: Batch) -> set[int]:
    batch.wait()
    return set(batch.outcomes.tolist())
