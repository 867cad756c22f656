"""MooncakeStore: blocks in a Mooncake cluster, in the memory of its nodes."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from kvcore._core import Batch, BatchSource, Outcome
from kvcore.planes import SlabMemory
from kvcore.stores.lane import (
    ENVELOPE_BYTES,
    Call,
    Lane,
    LaneOptions,
    Part,
    ServerLostError,
    check_fingerprint,
    check_integer,
)
from kvcore.stores.lane_store import LaneStore

_MOST_PART_KEYS = 256
_MOST_SLABS = 8
# Of mooncake's answers.
_NO_ROOM, _NOT_READY, _NOT_THERE, _IS_THERE = -200, -703, -704, -705
_RPC_FAILED = range(-999, -899)


class MooncakeStore(LaneStore):
    """A store in the memory that the nodes of a Mooncake cluster give.

    A block is one object, its envelope in front, gathered from two places and scattered to two, so
    that there is no half of one and no copy of it; slabs are registered when they are first used,
    the last eight of them. The cluster forgets by its own rule. Mooncake's calls have no time
    limit: a master that is gone holds a thread, and the memory of what that thread does, until
    mooncake gives up (`MC_RPC_TIMEOUT_MS`, 30 s where it is not set); deadlines hold all the same.

    Mooncake listens on every interface of the node for what others want of its memory.

    Parameters
    ----------
    master : str
        ``HOST:PORT`` of mooncake_master.
    fingerprint : bytes
        16 bytes: `Namespace.fingerprint`.
    value_bytes : int
        Bytes of a block, up to 2**30.
    hostname : str
        As other nodes reach this one.
    metadata : str
        Mooncake's metadata server; by default nodes ask each other.
    protocol, device : str
        "tcp", or "rdma" and its devices.
    segment_bytes : int
        Memory that this node gives to the cluster; 0 gives none.
    client : MooncakeDistributedStore, optional
        One that is set up already; it stays open. Then the five above are not used.
    connections : int
        Threads, 1 to 64.
    stall_s : float
        A call that takes so long gives the cluster up.
    first_probe_s, last_probe_s, record_age_s, max_queued_bytes
        As of `RedisStore`.

    Raises
    ------
    ImportError
        Mooncake is missing: ``pip install 'kvcore[mooncake]'``.
    TypeError, ValueError
        An argument has the wrong type or is not allowed; the message names it.
    """

    def __init__(
        self,
        master: str,
        fingerprint: bytes,
        value_bytes: int,
        *,
        hostname: str = "127.0.0.1",
        metadata: str = "P2PHANDSHAKE",
        protocol: str = "tcp",
        device: str = "",
        segment_bytes: int = 0,
        client: Any = None,
        connections: int = 2,
        stall_s: float = 1.0,
        first_probe_s: float = 0.1,
        last_probe_s: float = 5.0,
        record_age_s: float = 60.0,
        max_queued_bytes: int = 256 << 20,
    ) -> None:
        check_fingerprint(fingerprint)
        check_integer("value_bytes", value_bytes, 1, 1 << 30)
        check_integer("segment_bytes", segment_bytes, 0, 1 << 46)
        check_integer("connections", connections, 1, 64)
        for name, text in (
            ("master", master),
            ("hostname", hostname),
            ("metadata", metadata),
            ("protocol", protocol),
            ("device", device),
        ):
            if not isinstance(text, str):
                raise TypeError(f"{name} must be a str, got {type(text).__name__}")
        host, _, port = master.rpartition(":")
        if not host or not port.isdecimal():
            raise ValueError(f"master must be HOST:PORT, got {master!r}")
        if protocol not in ("tcp", "rdma"):
            raise ValueError(f"protocol must be 'tcp' or 'rdma', got {protocol!r}")
        options = LaneOptions(stall_s, first_probe_s, last_probe_s, record_age_s, max_queued_bytes)
        setup = (hostname, metadata, segment_bytes, 0, protocol, device, master)
        self._client = _Client(client, setup)
        lanes: list[Lane] = [
            _MooncakeLane(self._client, fingerprint, value_bytes, stall_s)
            for _ in range(connections)
        ]
        super().__init__(lanes, value_bytes, options)

    def _submit(self, call: Call, source: BatchSource, memory: SlabMemory) -> Batch:
        submit = super()._submit
        return self._client.with_slab(memory, lambda: submit(call, source, memory))

    def close(self) -> None:
        super().close()
        if self._lanes.has_ended():  # else a thread hangs in the client, which thus stays
            self._client.close()


@dataclass
class _Slab:
    """Memory that is registered, or will be when there is a client, and the batches that use it."""

    memory: SlabMemory
    num_bytes: int
    batches: list[Batch] = field(default_factory=list)

    def holds(self, other: _Slab) -> bool:
        first, last = other.memory.address, other.memory.address + other.num_bytes
        return self.memory.address <= first and last <= self.memory.address + self.num_bytes

    def is_used(self) -> bool:
        self.batches = [batch for batch in self.batches if not batch.is_quiet()]
        return bool(self.batches)


class _Client:
    """Mooncake's client, which all lanes share, and the memory that it may use."""

    def __init__(self, client: Any, setup: tuple[Any, ...]) -> None:
        self._lock = threading.Lock()
        self._setup = setup
        self._is_ours = client is None
        self._client = client
        self._slabs: list[_Slab] = []  # what was used last is last
        self._envelopes: list[npt.NDArray[np.uint8]] = []
        if client is None:
            self._new = _import_client()

    def new_envelopes(self) -> npt.NDArray[np.uint8]:
        """Memory for the envelopes of a part, uint8[_MOST_PART_KEYS, 128]."""
        envelopes = np.zeros((_MOST_PART_KEYS, ENVELOPE_BYTES), np.uint8)
        with self._lock:
            self._envelopes.append(envelopes)
            if self._client is not None:
                self._client.register_buffer(envelopes.ctypes.data, envelopes.nbytes)
        return envelopes

    def connect(self) -> Any:
        """The client, once the master has answered."""
        with self._lock:
            if self._client is None:
                client = self._new()
                if (error := client.setup(*self._setup)) != 0:
                    raise ServerLostError(f"mooncake cannot be set up: error {error}")
                for envelopes in self._envelopes:
                    client.register_buffer(envelopes.ctypes.data, envelopes.nbytes)
                for slab in self._slabs:
                    client.register_buffer(slab.memory.address, slab.num_bytes)
                self._client = client
        # Its own check of its health goes by what it knew last.
        _heard(self._client.batch_is_exist(["kv1/ping"]))
        return self._client

    def with_slab(self, memory: SlabMemory, begin: Callable[[], Batch]) -> Batch:
        """Begin a batch that uses this memory, which stays registered while it does."""
        size = (memory.num_blocks - 1) * memory.stride_bytes + memory.block_bytes
        slab = _Slab(memory, size)
        with self._lock:
            known = next((each for each in self._slabs if each.holds(slab)), None)
            if known is not None:
                self._slabs.remove(known)
                slab = known
            elif self._client is not None:
                # Refused where the engine has registered it, which is as good.
                self._client.register_buffer(memory.address, size)
            self._slabs.append(slab)
            batch = begin()
            slab.batches.append(batch)
            for old in self._slabs[:-_MOST_SLABS]:
                if not old.is_used():
                    self._let_go(old)
            return batch

    def close(self) -> None:
        with self._lock:
            for slab in list(self._slabs):
                self._let_go(slab)
            client, self._client = self._client, None
            if client is not None:
                for envelopes in self._envelopes:
                    client.unregister_buffer(envelopes.ctypes.data)
                if self._is_ours:
                    client.close()

    def _let_go(self, slab: _Slab) -> None:
        self._slabs.remove(slab)
        if self._client is not None:
            self._client.unregister_buffer(slab.memory.address)


def _import_client() -> Any:
    try:
        from mooncake.store import MooncakeDistributedStore
    except ImportError as error:
        raise ImportError(
            f"mooncake is missing ({error}): pip install 'kvcore[mooncake]'"
        ) from None
    return MooncakeDistributedStore


class _MooncakeLane(Lane):
    """A thread that calls the client."""

    def __init__(
        self, client: _Client, fingerprint: bytes, value_bytes: int, stall_s: float
    ) -> None:
        self.limit_s = stall_s
        self._shared = client
        self._client: Any = None
        self._fingerprint = fingerprint
        self._prefix = f"kv1/{fingerprint.hex()}/{value_bytes}/"
        self._sizes = [ENVELOPE_BYTES, value_bytes]
        self._envelopes = client.new_envelopes()

    def connect(self) -> None:
        self._client = self._shared.connect()

    def disconnect(self) -> None:
        self._client = None

    def abort(self) -> None:
        """Mooncake cannot; its calls end when they end."""

    def do(self, part: Part) -> None:
        if not (keys := part.wanted()):
            return
        names = [self._prefix + part.source.hash(key).hex() for key in keys]
        match part.call:
            case Call.GET:
                self._get(part, keys, names)
            case Call.PUT:
                self._put(part, keys, names)
            case Call.CONTAINS:
                for key, there in zip(keys, self._are_there(names), strict=True):
                    part.settle(key, Outcome.DONE if there else Outcome.MISS)
            case Call.REMOVE:
                outcomes = {0: Outcome.DONE, _NOT_THERE: Outcome.MISS}
                for key, answer in zip(keys, self._remove(names), strict=True):
                    part.settle(key, outcomes.get(answer, Outcome.FAILED))

    def _get(self, part: Part, keys: list[int], names: list[str]) -> None:
        places = self._places(part, keys)
        sizes = [self._sizes] * len(keys)
        answers = self._client.batch_get_into_multi_buffers(names, places, sizes)
        corrupt = []
        for i, answer in enumerate(_heard(answers)):
            if answer == sum(self._sizes):
                envelope = memoryview(self._envelopes[i])
                is_whole = part.source.verify(keys[i], self._fingerprint, envelope)
                outcome = Outcome.DONE if is_whole else Outcome.CORRUPT
            elif answer in (_NOT_THERE, _NOT_READY):
                outcome = Outcome.MISS
            else:
                # It fails also where what is there has another size, in several ways.
                size = self._client.get_size(names[i])
                is_other = size >= 0 and size != sum(self._sizes)
                outcome = Outcome.CORRUPT if is_other else Outcome.FAILED
            if outcome == Outcome.CORRUPT:
                corrupt.append(i)
            else:
                part.settle(keys[i], outcome)
        try:
            if corrupt:
                self._remove([names[i] for i in corrupt])
        finally:  # who is told may put it again at once
            for i in corrupt:
                part.settle(keys[i], Outcome.CORRUPT)

    def _put(self, part: Part, keys: list[int], names: list[str]) -> None:
        missing = []
        for key, there in zip(keys, self._are_there(names), strict=True):
            if there:
                part.settle(key, Outcome.DONE)
            elif part.source.is_wanted(key):
                missing.append(key)
            else:
                part.settle(key, Outcome.TIMED_OUT)
        if not missing:
            return
        for i, key in enumerate(missing):
            envelope = part.source.seal(key, self._fingerprint)
            self._envelopes[i] = np.frombuffer(envelope, np.uint8)
        answers = self._client.batch_put_from_multi_buffers(
            [self._prefix + part.source.hash(key).hex() for key in missing],
            self._places(part, missing),
            [self._sizes] * len(missing),
        )
        outcomes = {0: Outcome.DONE, _IS_THERE: Outcome.DONE, _NO_ROOM: Outcome.MISS}
        for key, answer in zip(missing, _heard(answers), strict=True):
            outcome = outcomes.get(answer, Outcome.FAILED)
            part.settle(key, outcome, was_written=answer == 0)

    def _are_there(self, names: list[str]) -> list[bool]:
        return [answer == 1 for answer in _heard(self._client.batch_is_exist(names))]

    def _remove(self, names: list[str]) -> list[int]:
        # By force: who reads it at this moment finds out by the envelope.
        return _heard(self._client.batch_remove(names, True))

    def _places(self, part: Part, keys: list[int]) -> list[list[int]]:
        first = self._envelopes.ctypes.data
        return [
            [first + i * ENVELOPE_BYTES, part.source.address(key)] for i, key in enumerate(keys)
        ]


def _heard(answers: list[int]) -> list[int]:
    for answer in answers:
        if answer in _RPC_FAILED:
            raise ServerLostError(f"the master does not answer: error {answer}")
    return answers
