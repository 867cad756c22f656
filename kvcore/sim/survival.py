"""How long blocks wait for their next use."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from kvcore.sim.trace import Int64Array, Trace

_NEVER = -1


@dataclass(frozen=True, slots=True, eq=False)
class Survival:
    """Which share of the blocks that a kind of request used has not been used again, by age.

    Attributes
    ----------
    kind : str
        The kind of the request that used the blocks, "" where the trace tells none.
    num_blocks : int
        Block references of requests of this kind.
    age_us : int64[n]
        Ages at which blocks were used again, ascending.
    waiting : float64[n]
        Share that waits on at each of these ages, 1 to 0, never rising. It is 1 before the first.
    """

    kind: str
    num_blocks: int
    age_us: Int64Array = field(repr=False)
    waiting: npt.NDArray[np.float64] = field(repr=False)

    def at(self, age_us: int) -> float:
        """Share of the blocks that has not been used again by an age."""
        passed = int(np.searchsorted(self.age_us, age_us, side="right"))
        return float(self.waiting[passed - 1]) if passed else 1.0


def survival(trace: Trace) -> list[Survival]:
    """For each kind of request, how long the blocks that it used wait for their next use.

    What waits when the trace ends is censored: it counts as waiting until then and not after.

    Parameters
    ----------
    trace : Trace

    Returns
    -------
    list[Survival]
        In the order of `trace.kinds`, without kinds whose requests have no block.

    Notes
    -----
    Source: the product-limit estimator (Kaplan and Meier, 1958).
    """
    request, next_use, blocks = _waits(trace)
    is_used = next_use != _NEVER
    end_us = trace.arrival_us[-1:]
    age_us = np.where(is_used, trace.arrival_us[next_use], end_us) - trace.arrival_us[request]
    kind = trace.kind[request]
    return [
        _product_limit(trace.kinds[k], age_us[kind == k], blocks[kind == k], is_used[kind == k])
        for k in range(len(trace.kinds))
        if np.any(kind == k)
    ]


def _waits(trace: Trace) -> tuple[Int64Array, Int64Array, Int64Array]:
    """Request, the request that uses its blocks next, how many blocks: a row for each such pair."""
    next_use = np.full(trace.num_unique_blocks, _NEVER, np.int64)
    rows = []
    for request in reversed(range(trace.num_requests)):
        chain = trace.block_ids[trace.offsets[request] : trace.offsets[request + 1]]
        uses, blocks = np.unique(next_use[chain], return_counts=True)
        rows.append(np.stack([np.full_like(uses, request), uses, blocks]))
        next_use[chain] = request
    request, use, blocks = np.concatenate([np.empty((3, 0), np.int64), *rows], axis=1)
    return request, use, blocks


def _product_limit(
    kind: str, age_us: Int64Array, blocks: Int64Array, is_used: npt.NDArray[np.bool_]
) -> Survival:
    ages, place = np.unique(age_us, return_inverse=True)
    left = np.bincount(place, blocks, len(ages))
    used = np.bincount(place, blocks * is_used, len(ages))
    at_risk = left[::-1].cumsum()[::-1]  # who leaves at an age is at risk at that age
    waiting = np.cumprod(1 - used / at_risk)
    return Survival(kind, int(blocks.sum()), ages[used > 0], waiting[used > 0])
