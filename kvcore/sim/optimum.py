"""What no cache can beat: the offline optimum, and the cache that never evicts."""

from __future__ import annotations

from time import perf_counter

from kvcore._core import OptimalReplay
from kvcore.sim.replay import Capacity, ReplayResult, replay_result
from kvcore.sim.timing import HALF_BUSY, Prefill
from kvcore.sim.trace import Trace

OPTIMUM = "opt"
"""What results call the optimum, beside the names of policies."""


def optimum(trace: Trace, capacity: Capacity, prefill: Prefill = HALF_BUSY) -> ReplayResult:
    """What the best possible prefix cache finds, knowing the future: Belady with bypass.

    After each request, of the blocks that were cached or came, those that are asked for soonest
    stay; of equal ones the deepest leaves first. So what stays is closed under prefixes, and the
    count is exact: no policy finds more blocks.

    Parameters
    ----------
    trace : Trace
    capacity : Capacity
    prefill : how prompts are computed, for the times to first token

    Returns
    -------
    ReplayResult
        `policy` is ``"opt"``, `evictions` are blocks that were kept and left to make room,
        `seconds` is the time to find all this out.

    Raises
    ------
    ValueError
        If a block id of the trace does not name one prefix.

    Notes
    -----
    Thread safe; releases the GIL.

    Source: Belady, "A study of replacement algorithms for a virtual-storage computer", 1966.
    """
    num_blocks = capacity.blocks(trace.num_unique_blocks)
    start = perf_counter()
    hit_blocks, evictions = OptimalReplay(trace.block_ids, trace.offsets).run(num_blocks)
    seconds = perf_counter() - start
    return replay_result(trace, OPTIMUM, capacity, prefill, hit_blocks, evictions, seconds)


def infinite_token_hit_ratio(trace: Trace) -> float:
    """The token hit ratio of a cache that never evicts, 0 to 1."""
    hit_blocks = trace.num_blocks - trace.num_unique_blocks
    return hit_blocks * trace.block_tokens / max(1, int(trace.input_tokens.sum()))
