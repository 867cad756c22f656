"""How much less room than LRU a policy needs to find as much."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from math import exp, log
from statistics import fmean

import numpy as np

from kvcore.sim.curve import lru_curve
from kvcore.sim.parallel import map_traces
from kvcore.sim.replay import Capacity, ReplayResult
from kvcore.sim.sweep import replay_any
from kvcore.sim.trace import Trace

LRU = "lru"
PRECISION = 0.01


@dataclass(frozen=True, slots=True)
class EqualCapacity:
    """Where one policy finds on one trace what LRU finds with a capacity.

    Attributes
    ----------
    trace, policy : str
    capacity : str
        Of LRU, as it was asked for.
    lru_blocks : int
        The least capacity at which LRU finds what it finds with `capacity`; exact.
    policy_blocks : int
        A capacity at which the policy finds as much, while it does not with 1 % less. For policies
        that never find less in a larger cache that is the least, at most 1 % too high.
    """

    trace: str
    policy: str
    capacity: str
    lru_blocks: int
    policy_blocks: int

    @property
    def less(self) -> float:
        """Share of LRU's capacity that the policy does without; below 0 where it needs more."""
        return 1 - self.policy_blocks / self.lru_blocks


def mean_less(equals: Iterable[EqualCapacity]) -> float:
    """The mean of `EqualCapacity.less`, of one at least: each of each trace counts the same."""
    less = [equal.less for equal in equals]
    if not less:
        raise ValueError("equals is empty; it must have at least one")
    return fmean(less)


def effective_gain(less: float) -> float:
    """What a capacity is worth to who needs so much less of it: 0.26 less is 0.35 more.

    ``less`` is below 1.
    """
    if not less < 1:
        raise ValueError(f"less is {less}; it must be below 1")
    return 1 / (1 - less) - 1


def equal_capacities(
    traces: Sequence[Trace],
    results: Sequence[ReplayResult],
    jobs: int,
    on_result: Callable[[EqualCapacity], None] = lambda equal: None,
) -> list[EqualCapacity]:
    """For each result of a sweep, how many blocks its policy needs to find what LRU finds there.

    Each takes some five replays, beside those of the sweep; LRU itself takes none.

    Parameters
    ----------
    traces : those of the sweep
    results : of `sweep`
    jobs, on_result : as for `sweep`

    Returns
    -------
    list[EqualCapacity]
        By trace, those of a trace in the order of `results`.

    Raises
    ------
    ValueError
        If a result is of a trace that is not among `traces`.
    """
    names = [trace.name for trace in traces]
    for result in results:
        if result.trace not in names:
            raise ValueError(f"results has one of the trace {result.trace!r}; allowed are {names}")

    def searches(trace: Trace) -> Iterator[_Search]:
        curve = lru_curve(trace).hit_blocks
        mine = [result for result in results if result.trace == trace.name]
        for result in mine:
            target = int(curve[min(result.capacity_blocks, len(curve) - 1)])
            # Where nothing is evicted, all policies find the same.
            known = {trace.num_unique_blocks: int(curve[-1])} | {
                other.capacity_blocks: int(other.hit_blocks.sum())
                for other in mine
                if other.policy == result.policy
            }
            lru_blocks = max(1, int(np.searchsorted(curve, target)))
            yield _Search(result.policy, result.capacity, lru_blocks, target, known)

    return map_traces(_search, traces, searches, jobs, on_result)


@dataclass(frozen=True, slots=True)
class _Search:
    policy: str
    capacity: str
    lru_blocks: int
    target_blocks: int
    known: Mapping[int, int]  # what the policy finds, by capacity


def _search(trace: Trace, search: _Search) -> EqualCapacity:
    def find(num_blocks: int) -> int:
        result = replay_any(trace, search.policy, Capacity(str(num_blocks)))
        return int(result.hit_blocks.sum())

    blocks = (
        search.lru_blocks
        if search.policy == LRU
        else least_capacity(find, search.target_blocks, search.known)
    )
    return EqualCapacity(trace.name, search.policy, search.capacity, search.lru_blocks, blocks)


def least_capacity(find: Callable[[int], int], target: int, known: Mapping[int, int]) -> int:
    """A capacity at which `find` reaches the target, and does not with 1 % less.

    Parameters
    ----------
    find : what is found at a capacity from 1
    target : how much to find
    known : what is found, by capacity; at least at one that reaches the target
    """
    if target == 0:
        return 1
    found = dict(known)
    high = min(blocks for blocks in found if found[blocks] >= target)
    low = max((blocks for blocks in found if blocks < high), default=0)
    while low == 0 and high > 1:  # no second point for a line
        half = high // 2
        found[half] = find(half)
        if found[half] >= target:
            high = half
        else:
            low = half
    step = 0
    while high - low > 1 and high > low * (1 + PRECISION):
        step += 1
        blocks = _between(low, high, (target - found[low]) / (found[high] - found[low]), step)
        found[blocks] = find(blocks)
        if found[blocks] >= target:
            high = blocks
        else:
            low = blocks
    return high


def _between(low: int, high: int, share: float, step: int) -> int:
    """Where to look next: where a straight line on log capacity leads, and then the middle.

    Half the precision is added towards the far end: the next look from there mostly ends the
    search, where the line is good. The middle, each third time, ends it where it is not.
    """
    if step % 3 == 0:
        share = 0.5
    aim = log(low) * (1 - share) + log(high) * share
    aim += PRECISION / 2 if share < 0.5 else -PRECISION / 2
    return min(max(round(exp(aim)), low + 1), high - 1)
