"""Times to first token: queues whose waits are known, and what a replay tells of them."""

from __future__ import annotations

import heapq
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from models.traces import build

from kvcore.sim import Capacity, Prefill, Trace, Ttft, optimum, ttft_s
from kvcore.sim import replay as replay_policy
from kvcore.sim.timing import summarise

NOTHING_CACHED = np.zeros(4, np.uint32)


def arrivals(seconds: list[float], tokens: list[int], block_tokens: int = 10) -> Trace:
    """Requests of so many prompt tokens at these times."""
    trace = build([[i] for i in range(len(seconds))], block_tokens)
    return replace(
        trace,
        arrival_us=np.array([round(1e6 * s) for s in seconds], np.int64),
        input_tokens=np.array(tokens, np.int64),
    )


def test_a_queue_that_grows() -> None:
    """D/D/1: one comes each second and takes two, so each waits a second longer."""
    trace = arrivals([0, 1, 2, 3], [200] * 4)
    times = ttft_s(trace, NOTHING_CACHED, Prefill(tokens_per_s=100))
    assert times.tolist() == [2, 3, 4, 5]


def test_a_queue_that_stays_empty() -> None:
    trace = arrivals([0, 1, 2, 3], [50] * 4)
    times = ttft_s(trace, NOTHING_CACHED, Prefill(tokens_per_s=100))
    assert times.tolist() == [0.5] * 4


def test_cached_blocks_are_not_computed() -> None:
    trace = arrivals([0, 1, 2, 3], [200] * 4)
    hit_blocks = np.array([0, 15, 20, 10], np.uint32)
    times = ttft_s(trace, hit_blocks, Prefill(tokens_per_s=100))
    assert times.tolist() == [2.0, 1.5, 0.5, 1.0]


def test_two_engines_share_the_rate() -> None:
    """Each computes 50 tokens a second; the third request gets the one that is free first."""
    trace = arrivals([0, 0, 1, 9], [100, 50, 50, 50])
    times = ttft_s(trace, NOTHING_CACHED, Prefill(engines=2, tokens_per_s=100))
    assert times.tolist() == [2, 1, 1, 1]


def test_default_rate_is_twice_that_of_the_prompts() -> None:
    trace = arrivals([5, 6, 7, 9], [100, 100, 100, 500])
    assert Prefill().rate(trace) == 2 * 800 / 4
    assert Prefill(tokens_per_s=3.5).rate(trace) == 3.5


@pytest.mark.parametrize("trace", [build([]), build([[]]), arrivals([1], [0])])
def test_default_rate_of_hardly_any_trace(trace: Trace) -> None:
    assert Prefill().rate(trace) >= 1
    result = replay_policy(trace, "lru", Capacity("1"))
    assert 0 <= result.ttft.mean_s <= 3


@given(
    st.lists(st.tuples(st.integers(0, 5), st.integers(0, 9)), min_size=1, max_size=30),
    st.integers(1, 4),
)
def test_work_is_done_in_order_and_never_idles(
    requests: list[tuple[int, int]], engines: int
) -> None:
    """Beside a simulation of events: whenever an engine is free, the first in the queue has it."""
    seconds = np.cumsum([gap for gap, _ in requests]).tolist()
    work = [tokens for _, tokens in requests]
    trace = arrivals(seconds, work)
    times = ttft_s(trace, np.zeros(len(work), np.uint32), Prefill(engines, float(engines)))
    queue = list(range(len(work)))
    done = [0.0] * len(work)
    running: list[tuple[float, int]] = []
    now = 0.0
    while queue or running:
        while queue and seconds[queue[0]] <= now and len(running) < engines:
            request = queue.pop(0)
            heapq.heappush(running, (now + work[request], request))
        soonest = [running[0][0]] if running else []
        if queue and len(running) < engines:
            soonest.append(seconds[queue[0]])
        now = min(soonest)
        while running and running[0][0] <= now:
            finished, request = heapq.heappop(running)
            done[request] = finished
    assert times.tolist() == pytest.approx([d - s for d, s in zip(done, seconds, strict=True)])


def test_summary() -> None:
    assert summarise(np.arange(101.0)) == Ttft(50.0, 50.0, 90.0, 99.0)
    assert summarise(np.empty(0)) == Ttft(0.0, 0.0, 0.0, 0.0)


def test_replays_tell_the_hits_and_times_of_each_request() -> None:
    trace = build([[1, 2, 3], [9], [8], [1, 2, 3], [1, 2]])
    prefill = Prefill(tokens_per_s=1)
    for result, hits in [
        (replay_policy(trace, "lru", Capacity("2"), prefill), [0, 0, 0, 0, 2]),
        (optimum(trace, Capacity("2"), prefill), [0, 0, 0, 2, 2]),
    ]:
        assert result.hit_blocks.tolist() == hits
        assert result.hit_blocks.dtype == np.uint32
        assert result.ttft == summarise(ttft_s(trace, result.hit_blocks, prefill))
        row = result.row()
        assert "hit_blocks" not in row
        assert [row[f"ttft_{name}_s"] for name in ("mean", "p50", "p90", "p99")] == [
            result.ttft.mean_s,
            result.ttft.p50_s,
            result.ttft.p90_s,
            result.ttft.p99_s,
        ]


def test_hits_of_another_trace() -> None:
    with pytest.raises(ValueError, match=r"hit_blocks has shape \(4,\); it must be \(1,\)"):
        ttft_s(build([[1]]), NOTHING_CACHED, Prefill())


@pytest.mark.parametrize(
    ("engines", "tokens_per_s", "message"),
    [
        (0, None, "engines is 0; it must be from 1 to 1,000,000"),
        (1, 0.0, "tokens_per_s is 0.0; it must be at least 0.001"),
        (1, float("nan"), "tokens_per_s is nan"),
        (1, float("inf"), "tokens_per_s is inf"),
        (1, 1e-305, "tokens_per_s is 1e-305"),
        (1.5, None, "engines is 1.5; it must be an int"),
        (True, None, "engines is True; it must be an int"),
        (1, "5", "tokens_per_s is '5'; it must be a number"),
    ],
)
def test_bad_prefill(engines: Any, tokens_per_s: Any, message: str) -> None:
    with pytest.raises((TypeError, ValueError), match=message):
        Prefill(engines, tokens_per_s)
