"""Replay of request traces through the cache, bounds for it, and synthetic traces to replay."""

from kvcore.sim.curve import LruCurve, lru_curve
from kvcore.sim.formats import read_trace
from kvcore.sim.optimum import optimum
from kvcore.sim.replay import Capacity, ReplayResult, replay
from kvcore.sim.source import TraceError
from kvcore.sim.sweep import sweep
from kvcore.sim.trace import Trace

__all__ = [
    "Capacity",
    "LruCurve",
    "ReplayResult",
    "Trace",
    "TraceError",
    "lru_curve",
    "optimum",
    "read_trace",
    "replay",
    "sweep",
]
