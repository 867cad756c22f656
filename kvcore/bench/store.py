"""`kvcore bench store`: blocks fetched from and saved to a real InfiniStore server.

Beside InfiniStore's own client, and beside a bare loop over sockets that moves values of the same
size as kvcore's and does nothing else. All have used their connections before. kvcore trusts
nothing that it learnt before: a fetch begins with the records, and every byte is verified. The
server's memory was used before too, as memory that never was is slow at first; only blocks that
come one by one are measured before that.

Blocks of bfloat16 are also kept as fp8: fetched to the slab, where they stay so, and converted back
to where an engine has them. InfiniStore's own client moves the bfloat16.
"""

from __future__ import annotations

import secrets
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from statistics import median
from time import perf_counter, sleep

import numpy as np

from kvcore._core import Outcome
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
from kvcore.bench.store_bed import (
    KIB,
    RECORD_AGE_S,
    BareLoop,
    Blocks,
    KvcoreStore,
    OfficialClient,
)
from kvcore.codecs import Fp8, slab_block_bytes
from kvcore.copies import CopyPool, TransferHandle, TransferPlan
from kvcore.layers import PagedLayers
from kvcore.slabs import HostSlab
from kvcore.stores import Server

_SMALL_BYTES = 16 * KIB
_US = 1e6
_ALL_DONE = {int(Outcome.DONE)}
_CODEC = Fp8("bfloat16", group=128)
# A fetch that is converted is asked for in so many parts: one is converted while others come.
_PARTS = 8


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

    block_bytes: Sequence[int] = (64 * KIB, 256 * KIB, 1024 * KIB)
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
    with _official(plan, server, 1) as official:
        yield _one_by_one(server, plan.num_small, official)
    _use_memory(server, plan.total_bytes)
    for connections in plan.connections:
        with _official(plan, server, connections) as official:
            for block_bytes in plan.block_bytes:
                case = _Cases(server, connections, block_bytes, plan, official)
                yield from case.as_they_are()
                yield from case.as_fp8()


@contextmanager
def _official(plan: Plan, server: Server, connections: int) -> Iterator[OfficialClient | None]:
    if plan.official is None:
        yield None
        return
    with OfficialClient(plan.official, server, connections) as client:
        yield client


def _random_blocks(num_blocks: int, block_bytes: int) -> Blocks:
    return np.random.default_rng(0).integers(0, 256, (num_blocks, block_bytes), np.uint8)


def _use_memory(server: Server, total_bytes: int) -> None:
    """Have the server touch as much memory as all of it takes at a time."""
    loop = BareLoop(server, 1, _random_blocks(max(1, total_bytes >> 20), 1 << 20), 1 << 20)
    for round_ in range(6):
        loop.put(f"memory/{round_}/")
    for round_ in range(6):
        loop.remove(f"memory/{round_}/")


@dataclass(frozen=True)
class _Cases:
    """All that is measured with blocks of one size over so many connections."""

    server: Server
    connections: int
    block_bytes: int
    plan: Plan
    official: OfficialClient | None

    @property
    def num_blocks(self) -> int:
        return self.plan.total_bytes // self.block_bytes

    def as_they_are(self) -> Iterator[Row]:
        with ExitStack() as stack:
            kvcore, loop = self._bed(_random_blocks(self.num_blocks, self.block_bytes), stack)
            yield self._measure_saves(kvcore, loop)
            check("store: written", kvcore.save(), _ALL_DONE)
            yield self._measure_fetches("", _fetching(kvcore), loop)

    def as_fp8(self) -> Iterator[Row]:
        with ExitStack() as stack:
            pages = _Pages(self.num_blocks, self.block_bytes)
            kvcore, loop = self._bed(pages.converted, stack)
            check("store: written", kvcore.save(), _ALL_DONE)
            yield self._measure_fetches(" as fp8", _fetching(kvcore), loop)

            def prepare(round_: int) -> None:
                pages.clear()
                _forget(kvcore, round_)

            ours = Contender(
                lambda _: pages.fetch_and_convert(kvcore),
                prepare,
                always((_ALL_DONE, True)),
                lambda outcomes: (outcomes, pages.is_right()),
            )
            yield self._measure_fetches(" as fp8, and back", ours, loop)

    def _bed(self, blocks: Blocks, stack: ExitStack) -> tuple[KvcoreStore, BareLoop]:
        kvcore = KvcoreStore(self.server, self.connections, blocks)
        stack.callback(kvcore.close)
        return kvcore, BareLoop(self.server, self.connections, blocks, kvcore.value_bytes)

    def _name(self, what: str, how: str = "") -> str:
        plural = "s" if self.connections > 1 else ""
        size = f"{self.num_blocks:,} blocks of {self.block_bytes // KIB:,} KiB"
        return f"{what} {size}{how}, {self.connections} connection{plural}"

    def _measure_saves(self, kvcore: KvcoreStore, loop: BareLoop) -> Row:
        """Each round writes other blocks; those of the last are removed."""
        raw, official = (f"{secrets.token_hex(4)}/" for _ in range(2))

        def prepare(_: int) -> None:
            kvcore.remove()
            kvcore.new_hashes()

        def prepare_raw(_: int) -> str:
            loop.remove(raw)
            return raw

        def prepare_official(_: int) -> str:
            self._remove_official(loop, official)
            return official

        peers = {}
        if self.official is not None:
            put = partial(self._ask_official, "put")
            peers["official client"] = Contender(put, prepare_official, always(["done"]))
        case = Case(
            "store",
            self._name("save"),
            "us",
            Contender(lambda _: kvcore.save(), prepare, always(_ALL_DONE)),
            self.plan.rounds,
            peers,
            {"bare loop": Contender(loop.put, prepare_raw, always(None))},
        )
        row = measure(case)
        loop.remove(raw)
        self._remove_official(loop, official)
        return row

    def _measure_fetches(self, how: str, ours: Contender, loop: BareLoop) -> Row:
        """What was written first is read in every round."""
        raw, official = (f"{secrets.token_hex(4)}/" for _ in range(2))
        loop.put(raw)
        peers = {}
        if self.official is not None:
            self._ask_official("put", official)
            ask = partial(self._ask_official, prefix=official)
            peers["official client"] = Contender(
                lambda _: ask("get"),
                lambda _: ask("clear"),
                always(["True"]),
                lambda _: ask("check"),
            )

        def prepare_raw(_: int) -> str:
            loop.clear()
            return raw

        bare = Contender(loop.get, prepare_raw, always(True), lambda _: loop.is_right())
        case = Case(
            "store",
            self._name("fetch", how),
            "us",
            ours,
            self.plan.rounds,
            peers,
            {"bare loop": bare},
        )
        row = measure(case)
        loop.remove(raw)
        self._remove_official(loop, official)
        return row

    def _ask_official(self, what: str, prefix: str) -> list[str]:
        assert self.official is not None
        return self.official.ask(what, self.block_bytes, self.num_blocks, prefix)

    def _remove_official(self, loop: BareLoop, prefix: str) -> None:
        if self.official is not None:
            loop.remove_keys([f"{prefix}{i}" for i in range(self.num_blocks)])


def _forget(kvcore: KvcoreStore, _: int) -> None:
    """Before a fetch: what was fetched, and the records."""
    kvcore.clear()
    sleep(2 * RECORD_AGE_S)


def _fetching(kvcore: KvcoreStore) -> Contender:
    return Contender(
        lambda _: kvcore.fetch(),
        partial(_forget, kvcore),
        always((_ALL_DONE, True)),
        lambda outcomes: (outcomes, kvcore.is_right()),
    )


class _Pages:
    """Blocks of bfloat16 as an engine has them, and converted as a slab has them."""

    def __init__(self, num_blocks: int, block_bytes: int) -> None:
        values = np.random.default_rng(0).standard_normal(
            (num_blocks, block_bytes // 2), np.float32
        )
        self._pages = (values.view(np.uint32) >> 16).astype(np.uint16)
        self._layers = PagedLayers([self._pages], block_axis=0)
        self._pool = CopyPool(1)
        self._ids = np.arange(num_blocks)
        slab = HostSlab(num_blocks, slab_block_bytes(self._layers, _CODEC))
        self._plan(slab, slice(None)).gather()
        self.converted = slab.numpy().copy()
        # What comes back is not what there was before.
        self._plan(slab, slice(None)).scatter()
        self._expected = self._pages.copy()

    def _plan(self, slab: HostSlab, part: slice) -> TransferPlan:
        ids = self._ids[part]
        return TransferPlan(self._layers, slab, ids, ids, codec=_CODEC)

    def fetch_and_convert(self, kvcore: KvcoreStore) -> set[int]:
        """Outcomes; each part is converted while those after it come."""
        step = -(-len(self._ids) // (_PARTS * kvcore.chunk_blocks)) * kvcore.chunk_blocks
        parts = [slice(at, at + step) for at in range(0, len(self._ids), step)]
        batches = [kvcore.start_fetch(part) for part in parts]
        outcomes: set[int] = set()
        copies: list[TransferHandle] = []
        for part, batch in zip(parts, batches, strict=True):
            batch.wait()
            outcomes |= set(batch.outcomes.tolist())
            copies.append(self._pool.scatter(self._plan(kvcore.slab, part)))
        for copy in copies:
            copy.wait()
        return outcomes

    def clear(self) -> None:
        self._pages[:] = 0

    def is_right(self) -> bool:
        return np.array_equal(self._pages, self._expected)


def _one_by_one(server: Server, num_blocks: int, official: OfficialClient | None) -> Row:
    """Each fetched when the one before has come; kvcore and the bare loop by turns. kvcore knows
    the records."""
    blocks = _random_blocks(num_blocks, _SMALL_BYTES)
    kvcore = KvcoreStore(server, 1, blocks, chunk_blocks=1, record_age_s=60.0)
    loop = BareLoop(server, 1, blocks, _SMALL_BYTES)
    check("store: written", kvcore.save(), _ALL_DONE)
    prefix = f"{secrets.token_hex(4)}/"
    loop.put(prefix)
    kvcore.clear()
    loop.clear()
    ours, raws = [], []
    with collector_off():
        for i in range(num_blocks):
            start = perf_counter()
            kvcore.fetch_one(i)
            ours.append(perf_counter() - start)
            start = perf_counter()
            loop.get_one(prefix, i)
            raws.append(perf_counter() - start)
    check("store: read one by one", (kvcore.is_right(), loop.is_right()), (True, True))
    kvcore.close()
    loop.remove(prefix)
    peers = {}
    if official is not None:
        few = min(num_blocks, 20)
        ask = partial(official.ask, block_bytes=_SMALL_BYTES, num_blocks=few, prefix=prefix)
        ask("put")
        ask("clear")
        (took,) = ask("get_one_by_one")
        check("store: the official client, one by one", ask("check"), ["True"])
        loop.remove_keys([f"{prefix}{i}" for i in range(few)])
        peers["official client"] = float(took) * _US
    return make_row(
        "store",
        "fetch one block of 16 KiB, 1 connection",
        "us",
        median(ours) * _US,
        peers,
        {"bare loop": median(raws) * _US},
    )
