"""Survival of blocks until their next use: small cases by hand, and against the definition."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from models.traces import build

from kvcore.sim import Trace, survival


def with_times(prompts: list[list[int]], arrival_us: list[int], kinds: str) -> Trace:
    """Kinds are a letter a request."""
    names = tuple(dict.fromkeys(kinds))
    return replace(
        build(prompts),
        arrival_us=np.array(arrival_us, np.int64),
        kind=np.array([names.index(kind) for kind in kinds], np.uint16),
        kinds=names,
    )


def test_counted_by_hand() -> None:
    """The first uses 1 2 3: 1 is used again after 10, 2 after 30, 3 never in the 100 until the end.

    The second uses 1 and 4: 1 again after 20, 4 waits for 90. The third uses 1 2, which wait for
    70; so does the last one's 9 for 0.
    """
    trace = with_times([[1, 2, 3], [1, 4], [1, 2], [9]], [0, 10, 30, 100], "aaaa")
    (curve,) = survival(trace)
    assert (curve.kind, curve.num_blocks) == ("a", 8)
    assert curve.age_us.tolist() == [10, 20, 30]
    # 9 leaves at 0. At 10, 20 and 30 one each of 7, 6 and 5.
    assert curve.waiting.tolist() == pytest.approx([6 / 7, 5 / 7, 4 / 7])
    assert [curve.at(age) for age in (0, 9, 10, 29, 30, 10**9)] == pytest.approx(
        [1, 1, 6 / 7, 5 / 7, 4 / 7, 4 / 7]
    )


def test_censored_blocks_are_at_risk_until_the_end() -> None:
    """Of two, one is used again after 40, when the other, seen for 20 only, does not count."""
    trace = with_times([[1], [1], [2]], [0, 40, 60], "aba")
    a, b = survival(trace)
    assert (a.kind, a.age_us.tolist(), a.waiting.tolist()) == ("a", [40], [0.0])
    assert (b.kind, b.age_us.tolist(), b.waiting.tolist()) == ("b", [], [])
    assert b.at(10**9) == 1


def test_kinds_are_those_of_the_first_use() -> None:
    trace = with_times([[1, 2], [1, 3], [1]], [0, 5, 7], "xyx")
    x, y = survival(trace)
    assert (x.num_blocks, x.age_us.tolist()) == (3, [5])
    assert (y.num_blocks, y.age_us.tolist()) == (2, [2])


def test_kinds_without_blocks_are_left_out() -> None:
    assert survival(build([])) == []
    assert [curve.kind for curve in survival(with_times([[], [1]], [0, 1], "ab"))] == ["b"]


PROMPTS = st.lists(
    st.tuples(st.lists(st.integers(0, 1), max_size=4), st.integers(0, 9), st.sampled_from("ab")),
    min_size=1,
    max_size=20,
)


@given(PROMPTS)
def test_equals_the_definition(requests: list[tuple[list[int], int, str]]) -> None:
    times = np.cumsum([gap for _, gap, _ in requests]).tolist()
    trace = with_times([p for p, _, _ in requests], times, "".join(k for _, _, k in requests))
    waits: dict[str, list[tuple[int, bool]]] = {}
    chains = [
        trace.block_ids[begin:end].tolist()
        for begin, end in zip(trace.offsets[:-1], trace.offsets[1:], strict=True)
    ]
    for i, chain in enumerate(chains):
        for block in chain:
            next_use = next((j for j in range(i + 1, len(chains)) if block in chains[j]), None)
            until = times[-1] if next_use is None else times[next_use]
            waits.setdefault(requests[i][2], []).append((until - times[i], next_use is not None))
    curves = {curve.kind: curve for curve in survival(trace)}
    assert set(curves) == set(waits)
    for kind, ages in waits.items():
        waiting = 1.0
        for age in sorted({age for age, _ in ages}):
            at_risk = sum(other >= age for other, _ in ages)
            used = sum(other == age and is_used for other, is_used in ages)
            waiting *= 1 - used / at_risk
            assert curves[kind].at(age) == pytest.approx(waiting)
