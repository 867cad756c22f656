"""Growth and memory, for `kvcore bench table`: each figure from a process of its own.

``python -m kvcore.bench.growth KIND NUM_BLOCKS SPAN_BLOCKS`` is such a process; it prints a JSON
object.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator
from time import perf_counter_ns

import numpy as np
import numpy.typing as npt

from kvcore import PrefixCache
from kvcore.bench.harness import (
    Row,
    check,
    collector_off,
    in_new_process,
    make_row,
    resident_bytes,
)
from kvcore.bench.peers import DynamoTree, Hashes, OrderedBlocks, keys_of

_REFILL_BYTES = 8 << 20
_PIECE_BYTES = 64 << 10
# A hash and the id of its place: less cannot tell where a block is.
_HASH_AND_ID_BYTES = 20.0


def run(quick: bool) -> Iterator[Row]:
    num_blocks, peer_blocks = (8_192, 8_192) if quick else (10_000_000, 1_000_000)
    for call_blocks in (256,) if quick else (256, 2):
        yield from _calls(num_blocks, call_blocks)
    yield from _memory(num_blocks, peer_blocks, (16,) if quick else (2_000, 200, 16, 2))


def _calls(num_blocks: int, call_blocks: int) -> Iterator[Row]:
    """Calls that reserve and commit new chains, beside an empty loop for as long after each."""
    report = in_new_process(__spec__.name, "calls", num_blocks, call_blocks)
    for name in ("median", "p99.9", "longest"):
        case = f"grow to {num_blocks:,} in calls of {call_blocks}: {name}"
        limits = {"empty loop": report[f"idle {name}"]}
        yield make_row("table", case, "us", report[name], limits=limits)


def _memory(num_blocks: int, peer_blocks: int, spans: tuple[int, ...]) -> Iterator[Row]:
    """Peers hold fewer blocks, in chains as long as the spans."""
    names = {"OrderedDict": "ordered", "Dynamo": "dynamo"}
    if DynamoTree.find() is None:
        del names["Dynamo"]
    for span_blocks in spans:
        ours = _bytes_a_block("memory", num_blocks, span_blocks)
        peers = {
            f"{name} of {peer_blocks:,}": _bytes_a_block(kind, peer_blocks, span_blocks)
            for name, kind in names.items()
        }
        case = f"memory, {num_blocks:,} in spans of {span_blocks:,}"
        yield make_row(
            "table", case, "bytes/block", ours, peers, {"hash and id": _HASH_AND_ID_BYTES}
        )


def _bytes_a_block(kind: str, num_blocks: int, span_blocks: int) -> float:
    return in_new_process(__spec__.name, kind, num_blocks, span_blocks)["bytes a block"]


class Chains:
    """Random chains without end, in memory that is all taken before anything is measured."""

    def __init__(self, chain_blocks: int) -> None:
        self._random = np.random.default_rng(0)
        count = max(1, _REFILL_BYTES // (chain_blocks * 16))
        self._shape = (count, chain_blocks, 16)
        self._buffer: Hashes = np.zeros(self._shape, np.uint8)
        self._refill()

    def take(self, num_blocks: int) -> Iterator[Hashes]:
        """Whole chains; each is good until the next one is asked for."""
        for start in range(0, num_blocks // self._shape[1], self._shape[0]):
            self._refill()
            yield from self._buffer[: num_blocks // self._shape[1] - start]

    def _refill(self) -> None:
        flat = self._buffer.reshape(-1)
        # In pieces for which malloc asks the system for nothing.
        for start in range(0, len(flat), _PIECE_BYTES):
            piece = flat[start : start + _PIECE_BYTES]
            piece[:] = self._random.integers(0, 256, len(piece), np.uint8)


def _measure_calls(num_blocks: int, call_blocks: int) -> dict[str, float]:
    num_calls = num_blocks // call_blocks
    took, idle = np.zeros((2, num_calls), np.int64)
    cache = PrefixCache(num_blocks)
    with collector_off():
        for i, chain in enumerate(Chains(call_blocks).take(num_blocks)):
            start = perf_counter_ns()
            reservation = cache.reserve(chain)
            reservation.commit()
            took[i] = perf_counter_ns() - start
            idle[i] = _longest_gap_ns(int(took[i]))
    _check_full(cache, num_calls, chain)
    return _percentiles(took) | {f"idle {name}": us for name, us in _percentiles(idle).items()}


def _longest_gap_ns(duration_ns: int) -> int:
    """What an empty loop loses to the machine in this time."""
    longest = 0
    now = perf_counter_ns()
    end = now + duration_ns
    while now < end:
        before, now = now, perf_counter_ns()
        longest = max(longest, now - before)
    return longest


def _percentiles(nanoseconds: npt.NDArray[np.int64]) -> dict[str, float]:
    median, high, longest = np.quantile(nanoseconds, (0.5, 0.999, 1.0)) / 1000
    return {"median": median, "p99.9": high, "longest": longest}


def _measure_memory(num_blocks: int, span_blocks: int) -> dict[str, float]:
    chains = Chains(span_blocks)
    before = resident_bytes()
    cache = PrefixCache(num_blocks)
    for chain in chains.take(num_blocks):
        cache.reserve(chain).commit()
    grown = resident_bytes() - before
    _check_full(cache, num_blocks // span_blocks, chain)
    return {"bytes a block": grown / num_blocks}


def _check_full(cache: PrefixCache, num_spans: int, chain: Hashes) -> None:
    stats = cache.stats()
    check("used blocks of a grown cache", stats.used_blocks, num_spans * len(chain))
    check("spans of a grown cache", stats.num_spans, num_spans)
    check("blocks found of the last chain", cache.match(chain), len(chain))


def _measure_ordered(num_blocks: int, span_blocks: int) -> dict[str, float]:
    blocks = OrderedBlocks()
    return _measure_peer(num_blocks, span_blocks, lambda chain: blocks.fill(keys_of(chain)))


def _measure_dynamo(num_blocks: int, span_blocks: int) -> dict[str, float]:
    tree = DynamoTree.find()
    assert tree is not None
    return _measure_peer(num_blocks, span_blocks, tree.fill)


def _measure_peer(
    num_blocks: int, span_blocks: int, fill: Callable[[Hashes], None]
) -> dict[str, float]:
    chains = Chains(span_blocks)
    before = resident_bytes()
    for chain in chains.take(num_blocks):
        fill(chain)
    return {"bytes a block": (resident_bytes() - before) / num_blocks}


_KINDS = {
    "calls": _measure_calls,
    "memory": _measure_memory,
    "ordered": _measure_ordered,
    "dynamo": _measure_dynamo,
}

if __name__ == "__main__":
    kind, num_blocks, span_blocks = sys.argv[1:]
    print(json.dumps(_KINDS[kind](int(num_blocks), int(span_blocks))))
