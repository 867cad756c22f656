"""The capacity that equals LRU: the search for it, and policies of known order."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from models.traces import build

from kvcore.sim import Capacity, EqualCapacity, Trace, equal_capacities, read_trace, replay, sweep
from kvcore.sim.equal import effective_gain, least_capacity, mean_less
from kvcore.sim.workload import generate


@pytest.fixture(scope="module")
def chat(tmp_path_factory: pytest.TempPathFactory) -> Trace:
    path = tmp_path_factory.mktemp("equal") / "chat"
    path.write_bytes(b"".join(generate("chat", seed=7, num_requests=400)))
    return read_trace(path)


def replay_hits(trace: Trace, policy: str, num_blocks: int) -> int:
    return int(replay(trace, policy, Capacity(str(num_blocks))).hit_blocks.sum())


@given(
    steps=st.lists(st.integers(0, 50), min_size=2, max_size=400),
    known=st.sets(st.integers(1, 399), max_size=4),
    target=st.integers(0, 10_000),
)
def test_search_ends_at_the_least_capacity(steps: list[int], known: set[int], target: int) -> None:
    found = [0]
    for step in steps:
        found.append(found[-1] + step)
    target = min(target, found[-1])
    known = {blocks for blocks in known if blocks < len(found)} | {len(steps)}
    asked: list[int] = []

    def find(blocks: int) -> int:
        asked.append(blocks)
        return found[blocks]

    blocks = least_capacity(find, target, {n: found[n] for n in known})
    least = max(1, next(n for n, hits in enumerate(found) if hits >= target))
    assert least <= blocks <= max(least, least * 1.01)
    assert len(asked) == len(set(asked) - known)
    assert len(asked) <= 30


def test_search_is_short_where_the_curve_is_smooth() -> None:
    asked: list[int] = []

    def find(blocks: int) -> int:
        asked.append(blocks)
        return round(1e6 * blocks**0.5)

    known = {blocks: round(1e6 * blocks**0.5) for blocks in (1_000, 2_000, 4_000, 100_000)}
    assert 1_400 <= least_capacity(find, round(1e6 * 1_400**0.5), known) <= 1_414
    assert len(asked) <= 4


@pytest.mark.parametrize("jobs", [1, 2])
def test_lru_equals_itself_and_the_optimum_needs_less(chat: Trace, jobs: int) -> None:
    capacities = [Capacity("5%"), Capacity("20%"), Capacity("100%")]
    results = sweep([chat], ["lru", "opt", "arc"], capacities, 1)
    seen: list[EqualCapacity] = []
    equals = equal_capacities([chat], results, jobs, seen.append)
    assert [(e.trace, e.policy, e.capacity) for e in equals] == [
        (r.trace, r.policy, r.capacity) for r in results
    ]
    assert sorted(map(str, seen)) == sorted(map(str, equals))
    lru, opt, arc = equals[:3], equals[3:6], equals[6:]
    assert [e.less for e in lru] == [0, 0, 0]
    # Where LRU finds as much with less than it is given, that is what others are held against.
    for equal, result in zip(lru, results, strict=False):
        assert replay_hits(chat, "lru", equal.lru_blocks) == result.hit_blocks.sum()
        assert replay_hits(chat, "lru", equal.lru_blocks - 1) < result.hit_blocks.sum()
    assert all(0.2 < e.less < 1 for e in opt)
    for equal, result in zip(arc, results, strict=False):
        target = result.hit_blocks.sum()
        assert replay_hits(chat, "arc", equal.policy_blocks) >= target
        assert replay_hits(chat, "arc", int(equal.policy_blocks / 1.02)) < target


def test_means() -> None:
    equals = [EqualCapacity("t", "p", "1%", 100, blocks) for blocks in (50, 90, 120)]
    assert [e.less for e in equals] == pytest.approx([0.5, 0.1, -0.2])
    assert mean_less(equals) == pytest.approx(0.4 / 3)
    assert effective_gain(0.4) == pytest.approx(2 / 3)
    assert effective_gain(0.26) == pytest.approx(0.351, abs=0.001)


def test_results_of_another_trace(chat: Trace) -> None:
    results = sweep([build([[1]])], ["lru"], [Capacity("1")], 1)
    with pytest.raises(
        ValueError, match=r"results has one of the trace 'small'; allowed are \['ch"
    ):
        equal_capacities([chat], results, 1)


def test_a_trace_without_hits() -> None:
    trace = build([[1], [2]])
    results = sweep([trace], ["lru", "arc"], [Capacity("1")], 1)
    assert [e.less for e in equal_capacities([trace], results, 1)] == [0, 0]
