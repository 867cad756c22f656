"""Replays many (trace, policy, capacity)."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

from kvcore.sim.optimum import OPTIMUM, optimum
from kvcore.sim.parallel import map_traces
from kvcore.sim.replay import Capacity, ReplayResult, replay
from kvcore.sim.timing import HALF_BUSY, Prefill
from kvcore.sim.trace import Trace


def sweep(
    traces: Iterable[Trace],
    policies: Sequence[str],
    capacities: Sequence[Capacity],
    jobs: int,
    on_result: Callable[[ReplayResult], None] = lambda result: None,
    prefill: Prefill = HALF_BUSY,
) -> list[ReplayResult]:
    """Replay every trace with every policy at every capacity.

    Traces are taken one by one and laid into a temporary directory, which the processes map into
    memory; it is removed at the end, also after an interrupt. Call it from the main thread.

    Parameters
    ----------
    traces : may be a generator that reads them
    policies : names of policies of `PrefixCache`; "opt" is the offline optimum
    capacities : capacities to try
    jobs : number of processes; 1 replays in this one
    on_result : called in this process after each replay, in the order in which they end
    prefill : how prompts are computed, for the times to first token

    Returns
    -------
    list[ReplayResult]
        Ordered by trace, then policy, then capacity.

    Raises
    ------
    concurrent.futures.process.BrokenProcessPool
        If a process died, for want of memory for instance.
    """
    items = [(policy, capacity, prefill) for policy in policies for capacity in capacities]
    return map_traces(_replay, traces, lambda trace: items, jobs, on_result)


def _replay(trace: Trace, item: tuple[str, Capacity, Prefill]) -> ReplayResult:
    return replay_any(trace, *item)


def replay_any(
    trace: Trace, policy: str, capacity: Capacity, prefill: Prefill = HALF_BUSY
) -> ReplayResult:
    """A replay with a policy of the cache, or with the optimum."""
    if policy == OPTIMUM:
        return optimum(trace, capacity, prefill)
    return replay(trace, policy, capacity, prefill)
