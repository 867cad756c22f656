"""Replay of request traces through the cache, and synthetic traces to replay."""

from kvcore.sim.formats import read_trace
from kvcore.sim.replay import Capacity, ReplayResult, replay
from kvcore.sim.source import TraceError
from kvcore.sim.sweep import sweep
from kvcore.sim.trace import Trace

__all__ = ["Capacity", "ReplayResult", "Trace", "TraceError", "read_trace", "replay", "sweep"]
