"""`kvcore bench store`: blocks fetched from and saved to a real InfiniStore server.

Beside InfiniStore's own client, and beside a bare loop over sockets that moves values of the same
size as kvcore's and does nothing else. All have used their connections before. kvcore trusts
nothing that it learnt before: a fetch begins with the records, and every byte is verified. The
server's memory was used before too, as memory that never was is slow at first.
"""

from __future__ import annotations

import secrets
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from statistics import median
from time import perf_counter, sleep

import numpy as np
import numpy.typing as npt

from kvcore._core import RawSockets
from kvcore.bench.harness import (
    Case,
    Contender,
    Row,
    always,
    check,
    collector_off,
    make_row,
    measure,
)
from kvcore.slabs import HostSlab
from kvcore.stores import Batch, InfiniStoreStore, Outcome, Server

_KIB = 1024
_SMALL_BYTES = 16 * _KIB
_TIMEOUT_S = 60.0
_RECORD_AGE_S = 0.001
_US = 1e6
_OFFICIAL_CLIENT = Path(__file__).with_name("official_client.py")


@dataclass(frozen=True, slots=True)
class Plan:
    """What is measured.

    Parameters
    ----------
    block_bytes, connections : sequence of int
    total_bytes : int
        Of the blocks of a fetch.
    rounds : int
    num_small : int
        Blocks of 16 KiB that are fetched one at a time.
    official : str, optional
        A Python that has infinistore.
    """

    block_bytes: Sequence[int] = (64 * _KIB, 256 * _KIB, 1024 * _KIB)
    connections: Sequence[int] = (1, 4, 8)
    total_bytes: int = 128 << 20
    rounds: int = 11
    num_small: int = 300
    official: str | None = None


def run(server: Server, plan: Plan) -> Iterator[Row]:
    """Measure; a row each. The server needs room for six times `total_bytes`.

    Raises
    ------
    WrongAnswerError
        Something was not found, or other bytes.
    """
    _use_memory(server, plan)
    for connections in plan.connections:
        with ExitStack() as stack:
            official = None
            if plan.official is not None:
                official = stack.enter_context(_Official(plan.official, server, connections))
            for block_bytes in plan.block_bytes:
                bed = _Bed(server, connections, block_bytes, plan.total_bytes // block_bytes)
                yield measure(bed.saving(plan.rounds, official))
                yield measure(bed.fetching(plan.rounds, official))
                bed.close()
    with ExitStack() as stack:
        official = None
        if plan.official is not None:
            official = stack.enter_context(_Official(plan.official, server, 1))
        yield _one_by_one(server, plan.num_small, official)


def _use_memory(server: Server, plan: Plan) -> None:
    """Have the server touch as much memory as all of it takes at a time."""
    bed = _Bed(server, 1, 1 << 20, max(1, plan.total_bytes >> 20))
    for round_ in range(6):
        bed.put_raw(f"memory/{round_}/")
    for round_ in range(6):
        bed.sockets.remove(bed.raw_keys(f"memory/{round_}/"))


class _Official:
    """InfiniStore's own client, in a process of its own."""

    def __init__(self, python: str, server: Server, connections: int) -> None:
        command = [python, str(_OFFICIAL_CLIENT), server.address or server.host]
        self._process = subprocess.Popen(
            [*command, str(server.port), str(connections)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        self._answer()

    def __enter__(self) -> _Official:
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


@dataclass
class _Bed:
    """Blocks of one size, and who moves them over so many connections."""

    server: Server
    connections: int
    block_bytes: int
    num_blocks: int

    def __post_init__(self) -> None:
        shape = self.num_blocks, self.block_bytes
        self.blocks = np.random.default_rng(0).integers(0, 256, shape, np.uint8)
        self.places = np.arange(self.num_blocks, dtype=np.uint32)
        self.slab, self.raw_slab = (HostSlab(*shape) for _ in range(2))
        for slab in (self.slab, self.raw_slab):
            slab.numpy()[:] = self.blocks
        self.sockets = RawSockets(
            self.server.address or self.server.host, self.server.port, self.connections
        )
        self.store = InfiniStoreStore(
            [self.server],
            secrets.token_bytes(16),
            self.block_bytes,
            connections=self.connections,
            stall_s=_TIMEOUT_S,
            record_age_s=_RECORD_AGE_S,
            max_queued_bytes=1 << 40,
            max_queue_delay_s=3600.0,
        )
        self.value_blocks = min(self.store.chunk_blocks, self.num_blocks)
        self.new_hashes()

    def new_hashes(self) -> None:
        self.hashes = np.frombuffer(secrets.token_bytes(16 * self.num_blocks), np.uint8)
        self.hashes = self.hashes.reshape(-1, 16)

    def close(self) -> None:
        self.store.remove(self.hashes, _TIMEOUT_S, positions=self.places).wait()
        self.store.close()

    @property
    def name(self) -> str:
        size = self.block_bytes // _KIB
        plural = "s" if self.connections > 1 else ""
        return f"{self.num_blocks:,} blocks of {size:,} KiB, {self.connections} connection{plural}"

    # Blocks as values of the size that kvcore makes of them.
    def raw_keys(self, prefix: str) -> list[str]:
        return [f"{prefix}{i}" for i in range(self.num_blocks // self.value_blocks)]

    def _raw_addresses(self) -> npt.NDArray[np.uint64]:
        values = np.arange(self.num_blocks // self.value_blocks, dtype=np.uint64)
        values *= np.uint64(self.value_blocks * self.block_bytes)
        values += np.uint64(self.raw_slab.slab_memory.address)
        return values

    def put_raw(self, prefix: str) -> None:
        value_bytes = self.value_blocks * self.block_bytes
        self.sockets.put(self.raw_keys(prefix), self._raw_addresses(), value_bytes)

    def save(self, _: None = None) -> Batch:
        batch = self.store.put_from(
            self.hashes, self.slab, self.places, _TIMEOUT_S, positions=self.places
        )
        batch.wait()
        return batch

    def saving(self, rounds: int, official: _Official | None) -> Case:
        prefix = secrets.token_hex(4)

        def prepare(round_: int) -> None:
            self.store.remove(self.hashes, _TIMEOUT_S, positions=self.places).wait()
            self.new_hashes()

        def prepare_raw(round_: int) -> str:
            if round_ > 0:
                self.sockets.remove(self.raw_keys(f"{prefix}/raw/{round_ - 1}/"))
            return f"{prefix}/raw/{round_}/"

        def prepare_official(round_: int) -> str:
            if round_ > 0:
                old = f"{prefix}/official/{round_ - 1}/"
                self.sockets.remove([f"{old}{i}" for i in range(self.num_blocks)])
            return f"{prefix}/official/{round_}/"

        peers = {}
        if official is not None:
            peers["official client"] = Contender(
                lambda to: self._ask(official, "put", to),
                prepare_official,
                always(["done"]),
            )
        return Case(
            "store",
            f"save {self.name}",
            "us",
            Contender(self.save, prepare, always({int(Outcome.DONE)}), _outcomes),
            rounds,
            peers,
            {"bare loop": Contender(self.put_raw, prepare_raw, always(None))},
        )

    def fetching(self, rounds: int, official: _Official | None) -> Case:
        """What was written first is read in every round."""
        prefix = secrets.token_hex(4)
        self.slab.numpy()[:] = self.blocks
        check("store: written", _outcomes(self.save()), {int(Outcome.DONE)})
        raw_prefix, official_prefix = f"{prefix}/raw/", f"{prefix}/official/"
        self.put_raw(raw_prefix)

        def prepare(round_: int) -> None:
            self.slab.numpy()[:] = 0
            sleep(2 * _RECORD_AGE_S)

        def fetch(_: None) -> Batch:
            batch = self.store.get_into(
                self.hashes, self.slab, self.places, _TIMEOUT_S, positions=self.places
            )
            batch.wait()
            return batch

        def prepare_raw(round_: int) -> str:
            self.raw_slab.numpy()[:] = 0
            return raw_prefix

        def fetch_raw(prefix: str) -> None:
            value_bytes = self.value_blocks * self.block_bytes
            self.sockets.get(self.raw_keys(prefix), self._raw_addresses(), value_bytes)

        whole = self.num_blocks // self.value_blocks * self.value_blocks
        peers = {}
        if official is not None:
            self._ask(official, "put", official_prefix)
            ask = partial(self._ask, official, prefix=official_prefix)
            peers["official client"] = Contender(
                lambda _: ask("get"),
                lambda _: ask("clear"),
                always(["True"]),
                lambda _: ask("check"),
            )
        ours = Contender(
            fetch,
            prepare,
            always(({int(Outcome.DONE)}, True)),
            lambda batch: (_outcomes(batch), np.array_equal(self.slab.numpy(), self.blocks)),
        )
        raw = Contender(
            fetch_raw,
            prepare_raw,
            always(True),
            lambda _: np.array_equal(self.raw_slab.numpy()[:whole], self.blocks[:whole]),
        )
        return Case("store", f"fetch {self.name}", "us", ours, rounds, peers, {"bare loop": raw})

    def _ask(self, official: _Official, what: str, prefix: str) -> list[str]:
        return official.ask(what, self.block_bytes, self.num_blocks, prefix)


def _outcomes(batch: Batch) -> set[int]:
    return set(batch.outcomes.tolist())


def _one_by_one(server: Server, num_blocks: int, official: _Official | None) -> Row:
    """Each fetched when the one before has come; kvcore and the bare loop by turns."""
    bed = _Bed(server, 1, _SMALL_BYTES, num_blocks)
    store = InfiniStoreStore(
        [server], secrets.token_bytes(16), _SMALL_BYTES, connections=1, chunk_blocks=1
    )
    batch = store.put_from(bed.hashes, bed.slab, bed.places, _TIMEOUT_S)
    batch.wait()
    check("store: written", _outcomes(batch), {int(Outcome.DONE)})
    prefix = secrets.token_hex(4)
    bed.value_blocks = 1
    bed.put_raw(prefix)
    keys, addresses = bed.raw_keys(prefix), bed._raw_addresses()
    for slab in (bed.slab, bed.raw_slab):
        slab.numpy()[:] = 0
    ours, raws = [], []
    with collector_off():
        for i in range(num_blocks):
            hashes, places = bed.hashes[i : i + 1], bed.places[i : i + 1]
            start = perf_counter()
            batch = store.get_into(hashes, bed.slab, places, _TIMEOUT_S)
            batch.wait()
            ours.append(perf_counter() - start)
            start = perf_counter()
            bed.sockets.get(keys[i : i + 1], addresses[i : i + 1], _SMALL_BYTES)
            raws.append(perf_counter() - start)
    store.close()
    for slab in (bed.slab, bed.raw_slab):
        check("store: read one by one", np.array_equal(slab.numpy(), bed.blocks), True)
    peers = {}
    if official is not None:
        few = min(num_blocks, 20)
        ask = partial(official.ask, block_bytes=_SMALL_BYTES, num_blocks=few, prefix=f"{prefix}o")
        ask("put")
        ask("clear")
        (took,) = ask("get_one_by_one")
        check("store: the official client, one by one", ask("check"), ["True"])
        peers["official client"] = float(took) * _US
    return make_row(
        "store",
        "fetch one block of 16 KiB, 1 connection",
        "us",
        median(ours) * _US,
        peers,
        {"bare loop": median(raws) * _US},
    )
