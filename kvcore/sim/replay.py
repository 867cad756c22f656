"""Replays a trace through the real cache and counts what it finds there."""

from __future__ import annotations

import re
from array import array
from dataclasses import asdict, dataclass, field, fields
from fractions import Fraction
from time import perf_counter

import numpy as np
import numpy.typing as npt

from kvcore._core import PrefixCache
from kvcore.sim.requests import requests_of
from kvcore.sim.timing import HALF_BUSY, Prefill, Ttft, summarise, ttft_s
from kvcore.sim.trace import Trace

_SHARE = re.compile(r"(\d{1,3}(?:\.\d{1,9})?)%", re.ASCII)
_BLOCKS = re.compile(r"\d{1,10}", re.ASCII)
_MAX_BLOCKS = 1 << 30  # of a PrefixCache


@dataclass(frozen=True, slots=True)
class Capacity:
    """Size of a cache: a number of blocks ("4096"), or a share of a trace's unique blocks ("0.5%").

    Attributes
    ----------
    text : str
        The capacity as it was asked for.

    Raises
    ------
    ValueError
        If the text is neither a share above 0% and up to 100%, nor a whole number from 1.
    """

    text: str

    def __post_init__(self) -> None:
        if (share := _SHARE.fullmatch(self.text)) and 0 < Fraction(share[1]) <= 100:
            return
        if _BLOCKS.fullmatch(self.text) and 1 <= int(self.text) <= _MAX_BLOCKS:
            return
        raise ValueError(
            f"capacity is {self.text[:40]!r}; allowed are a share of the unique blocks above 0% "
            f"and up to 100%, or a number of blocks from 1 to {_MAX_BLOCKS}"
        )

    def blocks(self, num_unique_blocks: int) -> int:
        """The capacity in blocks for a trace with so many unique blocks, at least 1."""
        if share := _SHARE.fullmatch(self.text):
            return max(1, round(Fraction(share[1]) * num_unique_blocks / 100))
        return int(self.text)


@dataclass(frozen=True, slots=True)
class ReplayResult:
    """What one policy reached on one trace at one capacity.

    Attributes
    ----------
    trace, policy : str
    capacity : str
        As it was asked for.
    capacity_blocks : int
    token_hit_ratio : float
        Tokens in cached prefixes over tokens of all prompts, 0 to 1.
    block_hit_ratio : float
        Blocks in cached prefixes over block references, 0 to 1.
    evictions : int
        Blocks that were evicted.
    ttft : Ttft
        Time to first token, by the model that was asked for.
    seconds : float
        Time of the whole replay: hashing, matching, reserving, evicting, publishing.
    ns_per_block : float
        The same, for each block reference.
    hit_blocks : uint32[num_requests]
        Blocks of the cached prefix of each request.
    """

    trace: str
    policy: str
    capacity: str
    capacity_blocks: int
    token_hit_ratio: float
    block_hit_ratio: float
    evictions: int
    ttft: Ttft
    seconds: float
    ns_per_block: float
    hit_blocks: npt.NDArray[np.uint32] = field(repr=False, compare=False)

    def row(self) -> dict[str, object]:
        """The fields of a report's row: all but `hit_blocks`, those of `ttft` by themselves."""
        row = {f.name: getattr(self, f.name) for f in fields(self)}
        del row["hit_blocks"]
        return row | {f"ttft_{name}": s for name, s in asdict(row.pop("ttft")).items()}


def replay(
    trace: Trace, policy: str, capacity: Capacity, prefill: Prefill = HALF_BUSY
) -> ReplayResult:
    """Drive a fresh `PrefixCache` with the requests of a trace, one after the other.

    Each request acquires its cached prefix, reserves all of its blocks, publishes the new ones
    and ends, so the next request finds them. Time is that of the trace.

    Parameters
    ----------
    trace : Trace
    policy : name of an eviction policy of `PrefixCache`
    capacity : Capacity
    prefill : how prompts are computed, for the times to first token

    Returns
    -------
    ReplayResult

    Raises
    ------
    ValueError
        If the policy is not known.
    """
    cache = PrefixCache(capacity.blocks(trace.num_unique_blocks), policy)
    start = perf_counter()
    hit_blocks = _drive(cache, trace)
    seconds = perf_counter() - start
    evictions = cache.stats().evictions
    return replay_result(trace, policy, capacity, prefill, hit_blocks, evictions, seconds)


def replay_result(
    trace: Trace,
    policy: str,
    capacity: Capacity,
    prefill: Prefill,
    hit_blocks: npt.NDArray[np.uint32],
    evictions: int,
    seconds: float,
) -> ReplayResult:
    """The row of a report, from what was counted."""
    references = max(1, trace.num_blocks)
    input_tokens = max(1, int(trace.input_tokens.sum()))
    total_hit_blocks = int(hit_blocks.sum())
    return ReplayResult(
        trace=trace.name,
        policy=policy,
        capacity=capacity.text,
        capacity_blocks=capacity.blocks(trace.num_unique_blocks),
        token_hit_ratio=total_hit_blocks * trace.block_tokens / input_tokens,
        block_hit_ratio=total_hit_blocks / references,
        evictions=evictions,
        ttft=summarise(ttft_s(trace, hit_blocks, prefill)),
        seconds=seconds,
        ns_per_block=seconds * 1e9 / references,
        hit_blocks=hit_blocks,
    )


def _drive(cache: PrefixCache, trace: Trace) -> npt.NDArray[np.uint32]:
    """Returns the number of blocks that were found, for each request."""
    hit_blocks = array("I")
    for hashes, request, output_tokens in requests_of(trace):
        lease = cache.acquire(hashes, request)
        hit_blocks.append(lease.num_blocks)
        cache.reserve(hashes, request).commit()
        lease.release()
        cache.finish(request, output_tokens)
    return np.array(hit_blocks, np.uint32)
