"""The offline optimum is the best of all choices, and no policy finds more."""

from __future__ import annotations

from dataclasses import replace
from itertools import combinations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from models.traces import build

from kvcore import POLICIES
from kvcore.sim import Capacity, Trace, optimum, replay, sweep
from kvcore.sim.optimum import infinite_token_hit_ratio

PROMPTS = st.lists(st.lists(st.integers(0, 1), max_size=3), min_size=1, max_size=6)
LONG_PROMPTS = st.lists(st.lists(st.integers(0, 2), max_size=7), min_size=1, max_size=40)


def chains(trace: Trace) -> list[list[int]]:
    return [
        trace.block_ids[begin:end].tolist()
        for begin, end in zip(trace.offsets[:-1], trace.offsets[1:], strict=True)
    ]


def most_hits(trace: Trace, num_blocks: int) -> int:
    """Tries every set of blocks that a cache could keep after each request."""
    best = {frozenset[int](): 0}
    for chain in chains(trace):
        after: dict[frozenset[int], int] = {}
        for cached, hits in best.items():
            found = next((i for i, block in enumerate(chain) if block not in cached), len(chain))
            candidates = cached | frozenset(chain)
            for size in range(min(num_blocks, len(candidates)) + 1):
                for kept in map(frozenset, combinations(candidates, size)):
                    after[kept] = max(after.get(kept, 0), hits + found)
        best = after
    return max(best.values())


def hit_blocks(trace: Trace, policy: str, num_blocks: int) -> int:
    capacity = Capacity(str(num_blocks))
    result = optimum(trace, capacity) if policy == "opt" else replay(trace, policy, capacity)
    return round(result.block_hit_ratio * trace.num_blocks)


@given(PROMPTS, st.integers(1, 5))
def test_no_choice_reaches_more(prompts: list[list[int]], num_blocks: int) -> None:
    trace = build(prompts)
    assert hit_blocks(trace, "opt", num_blocks) == most_hits(trace, num_blocks)


@given(LONG_PROMPTS, st.integers(1, 12), st.sampled_from(POLICIES))
def test_no_policy_finds_more(prompts: list[list[int]], num_blocks: int, policy: str) -> None:
    trace = build(prompts)
    assert hit_blocks(trace, policy, num_blocks) <= hit_blocks(trace, "opt", num_blocks)


@given(LONG_PROMPTS)
def test_what_fits_whole_misses_once_and_evicts_nothing(prompts: list[list[int]]) -> None:
    trace = build(prompts)
    result = optimum(trace, Capacity("100%"))
    assert result.token_hit_ratio == pytest.approx(infinite_token_hit_ratio(trace))
    assert result.evictions == 0


def test_hand_counted() -> None:
    trace = build([[1, 2, 3], [9], [8], [1, 2, 3], [1, 2]])
    result = optimum(trace, Capacity("2"))
    assert (result.trace, result.policy, result.capacity) == ("small", "opt", "2")
    assert result.capacity_blocks == 2
    # 1 2 wait for the fourth request and for the fifth.
    assert result.block_hit_ratio == 4 / 10
    assert result.token_hit_ratio == 4 * 16 / (10 * 16 + 5 * 3)
    assert result.evictions == 0
    assert result.ns_per_block == pytest.approx(result.seconds * 1e9 / 10)


def test_sweep_takes_it_as_a_policy() -> None:
    trace = build([[1, 2], [1, 3], [1, 2]])
    results = sweep([trace], ["lru", "opt"], [Capacity("2")], jobs=2)
    assert [(r.policy, r.block_hit_ratio) for r in results] == [("lru", 2 / 6), ("opt", 3 / 6)]


def test_trace_without_blocks() -> None:
    result = optimum(build([[], []]), Capacity("5%"))
    assert (result.capacity_blocks, result.token_hit_ratio, result.block_hit_ratio) == (1, 0.0, 0.0)


def test_bad_traces() -> None:
    trace = build([[1, 2], [1, 2]])
    for wrong, message in [
        ([0, 1, 1, 0], r"block_ids\[2\] is 1; an id stands for one prefix"),
        ([0, 1, 0, 9], r"block_ids\[3\] is 9; ids are dense, so allowed are 0 to 3"),
    ]:
        with pytest.raises(ValueError, match=message):
            optimum(replace(trace, block_ids=np.array(wrong, np.uint32)), Capacity("1"))
    with pytest.raises(ValueError, match=r"offsets\[1\] is 9; allowed are 0 to 4"):
        optimum(replace(trace, offsets=np.array([0, 9, 4])), Capacity("1"))
