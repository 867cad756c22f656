"""Time to first token, from the hits of a replay and a simple model of the engines."""

from __future__ import annotations

import heapq
from dataclasses import dataclass
from math import isfinite

import numpy as np
import numpy.typing as npt

from kvcore.sim.trace import Trace

_IDLE_FACTOR = 2.0
_MAX_ENGINES = 1_000_000
_MIN_TOKENS_PER_S = 0.001


@dataclass(frozen=True, slots=True)
class Prefill:
    """How prompts are computed: first come, first served, one at a time by each engine.

    A request waits for an engine and takes it while its uncached tokens are computed; then it has
    its first token. Requests arrive when the trace says, however long those before them wait, and
    what they find does not depend on waiting either. Decoding costs nothing here.

    Parameters
    ----------
    engines : int
        Number of engines, 1 to 1,000,000.
    tokens_per_s : float, optional
        Prompt tokens that all engines together compute a second, from 0.001. By default twice the
        prompt tokens a second of the trace, so that without a cache they would be busy half of the
        time. That depends on the trace alone, and queues are short enough to drain.

    Raises
    ------
    TypeError, ValueError
        If a value is no number, or out of range.
    """

    engines: int = 1
    tokens_per_s: float | None = None

    def __post_init__(self) -> None:
        engines, rate = self.engines, self.tokens_per_s
        if isinstance(engines, bool) or not isinstance(engines, int):
            raise TypeError(f"engines is {engines!r}; it must be an int")
        if not 1 <= engines <= _MAX_ENGINES:
            raise ValueError(f"engines is {engines}; it must be from 1 to {_MAX_ENGINES:,}")
        if rate is None:
            return
        if isinstance(rate, bool) or not isinstance(rate, (int, float)):
            raise TypeError(f"tokens_per_s is {rate!r}; it must be a number")
        if not (isfinite(rate) and rate >= _MIN_TOKENS_PER_S):
            raise ValueError(f"tokens_per_s is {rate}; it must be at least {_MIN_TOKENS_PER_S}")

    def rate(self, trace: Trace) -> float:
        """Prompt tokens a second of all engines on this trace."""
        if self.tokens_per_s is not None:
            return self.tokens_per_s
        arrivals = trace.arrival_us
        seconds = (int(arrivals[-1]) - int(arrivals[0])) / 1e6 if len(arrivals) else 0.0
        # A trace may be shorter than a second, or ask for nothing.
        return max(1.0, _IDLE_FACTOR * int(trace.input_tokens.sum()) / max(1.0, seconds))


HALF_BUSY = Prefill()


@dataclass(frozen=True, slots=True)
class Ttft:
    """Time to first token over the requests of a trace, in seconds."""

    mean_s: float
    p50_s: float
    p90_s: float
    p99_s: float


def ttft_s(
    trace: Trace, hit_blocks: npt.NDArray[np.uint32], prefill: Prefill
) -> npt.NDArray[np.float64]:
    """Time to first token of each request.

    Parameters
    ----------
    trace : Trace
    hit_blocks : uint32[num_requests]
        Blocks of each prompt that were cached.
    prefill : Prefill

    Returns
    -------
    float64[num_requests]
        Seconds.

    Raises
    ------
    ValueError
        If `hit_blocks` has not one entry a request.
    """
    if hit_blocks.shape != (trace.num_requests,):
        raise ValueError(
            f"hit_blocks has shape {hit_blocks.shape}; it must be ({trace.num_requests},)"
        )
    uncached_tokens = trace.input_tokens - hit_blocks.astype(np.int64) * trace.block_tokens
    work_s = uncached_tokens * (prefill.engines / prefill.rate(trace))
    free_s = [0.0] * prefill.engines
    times = np.empty(trace.num_requests)
    for i, (arrival_s, seconds) in enumerate(
        zip((trace.arrival_us / 1e6).tolist(), work_s.tolist(), strict=True)
    ):
        done_s = max(arrival_s, free_s[0]) + seconds
        heapq.heapreplace(free_s, done_s)
        times[i] = done_s - arrival_s
    return times


def summarise(times_s: npt.NDArray[np.float64]) -> Ttft:
    """Mean and quantiles of the times of all requests; 0 where there are none."""
    if len(times_s) == 0:
        return Ttft(0.0, 0.0, 0.0, 0.0)
    p50, p90, p99 = np.quantile(times_s, (0.5, 0.9, 0.99)).tolist()
    return Ttft(float(times_s.mean()), p50, p90, p99)
