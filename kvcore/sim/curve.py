"""Hit ratio against capacity, for all capacities at once."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from kvcore._core import MissRatioCurve, lru_hits
from kvcore.sim.requests import requests_of
from kvcore.sim.trace import Trace


@dataclass(frozen=True, slots=True, eq=False)
class LruCurve:
    """What LRU finds in a trace at every capacity.

    Attributes
    ----------
    trace : str
        Name of the trace.
    num_blocks : int
        Block references of the trace.
    block_tokens : int
        Tokens of a block.
    input_tokens : int
        Tokens of all prompts.
    hit_blocks : uint64[num_unique_blocks + 1]
        Element `c` is the number of blocks that a cache of `c` blocks finds. Never falls.
    """

    trace: str
    num_blocks: int
    block_tokens: int
    input_tokens: int
    hit_blocks: npt.NDArray[np.uint64] = field(repr=False)

    def block_hit_ratio(self, capacity_blocks: int) -> float:
        """Blocks in cached prefixes over block references, 0 to 1, as a replay counts it."""
        return self._hits(capacity_blocks) / max(1, self.num_blocks)

    def token_hit_ratio(self, capacity_blocks: int) -> float:
        """Tokens in cached prefixes over tokens of all prompts, 0 to 1, as a replay counts it."""
        return self._hits(capacity_blocks) * self.block_tokens / max(1, self.input_tokens)

    def knee_blocks(self) -> int:
        """The capacity behind which more blocks bring less than they did on the way.

        It is where the curve is highest above the straight line from nothing to the least capacity
        that finds all there is to find, which it is itself where the curve is nowhere above; 0
        where nothing hits.

        Source: Satopaa et al., "Finding a 'Kneedle' in a haystack", 2011.
        """
        end = int(np.searchsorted(self.hit_blocks, self.hit_blocks[-1]))
        if end == 0:
            return 0
        hits = self.hit_blocks[: end + 1].astype(np.float64)
        height = hits / hits[-1] - np.arange(end + 1) / end
        return end - int(np.argmax(height[::-1]))

    def _hits(self, capacity_blocks: int) -> int:
        if capacity_blocks < 0:
            raise ValueError(f"capacity_blocks is {capacity_blocks}; it must be at least 0")
        return int(self.hit_blocks[min(capacity_blocks, len(self.hit_blocks) - 1)])


def lru_curve(trace: Trace) -> LruCurve:
    """Count what LRU finds in a trace at every capacity, exactly, in one pass.

    Each request's blocks are touched deepest first, so the counts equal those of a replay.

    Parameters
    ----------
    trace : Trace

    Returns
    -------
    LruCurve

    Raises
    ------
    ValueError
        If a block id of the trace does not name one prefix.

    Notes
    -----
    Thread safe; releases the GIL.

    Source: stack distances (Mattson et al., 1970).
    """
    return LruCurve(
        trace=trace.name,
        num_blocks=trace.num_blocks,
        block_tokens=trace.block_tokens,
        input_tokens=int(trace.input_tokens.sum()),
        hit_blocks=lru_hits(trace.block_ids, trace.offsets),
    )


def feed(curve: MissRatioCurve, trace: Trace) -> None:
    """Show every request of a trace to an online curve, in order, and end it."""
    for hashes, request, output_tokens in requests_of(trace):
        curve.update(hashes, request)
        curve.finish(request, output_tokens)
