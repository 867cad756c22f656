"""Replay of request traces through the cache, bounds for it, and synthetic traces to replay."""

from kvcore.sim.curve import LruCurve, lru_curve
from kvcore.sim.equal import EqualCapacity, equal_capacities
from kvcore.sim.formats import read_trace
from kvcore.sim.optimum import optimum
from kvcore.sim.replay import Capacity, ReplayResult, replay
from kvcore.sim.source import TraceError
from kvcore.sim.survival import Survival, survival
from kvcore.sim.sweep import sweep
from kvcore.sim.timing import Prefill, Ttft, ttft_s
from kvcore.sim.trace import Trace

__all__ = [
    "Capacity",
    "EqualCapacity",
    "LruCurve",
    "Prefill",
    "ReplayResult",
    "Survival",
    "Trace",
    "TraceError",
    "Ttft",
    "equal_capacities",
    "lru_curve",
    "optimum",
    "read_trace",
    "replay",
    "survival",
    "sweep",
    "ttft_s",
]
