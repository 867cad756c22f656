"""Hit ratio against capacity: exact for LRU, and from a sample online for any policy."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from models.chains import hashes_of
from models.traces import build

from kvcore import POLICIES, MissRatioCurve, RequestInfo, _core
from kvcore.sim import Capacity, Trace, lru_curve, read_trace, replay
from kvcore.sim.curve import feed
from kvcore.sim.workload import generate

PROMPTS = st.lists(st.lists(st.integers(0, 2), max_size=7), min_size=1, max_size=40)


@pytest.fixture(scope="module", params=["chat", "agent", "rag", "scan"])
def workload(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Trace:
    path = tmp_path_factory.mktemp("workload") / "trace"
    path.write_bytes(b"".join(generate(request.param, seed=7, num_requests=1000)))
    return read_trace(path)


@given(PROMPTS)
def test_curve_equals_the_cache_at_every_capacity(prompts: list[list[int]]) -> None:
    trace = build(prompts)
    curve = lru_curve(trace)
    for num_blocks in range(1, trace.num_unique_blocks + 3):
        result = replay(trace, "lru", Capacity(str(num_blocks)))
        assert curve.block_hit_ratio(num_blocks) == result.block_hit_ratio
        assert curve.token_hit_ratio(num_blocks) == result.token_hit_ratio


def test_curve_equals_the_cache_on_workloads(workload: Trace) -> None:
    curve = lru_curve(workload)
    assert (curve.trace, curve.num_blocks) == (workload.name, workload.num_blocks)
    assert len(curve.hit_blocks) == workload.num_unique_blocks + 1
    for share in ("0.5%", "2%", "7%", "30%", "100%"):
        result = replay(workload, "lru", Capacity(share))
        assert curve.token_hit_ratio(result.capacity_blocks) == result.token_hit_ratio


def test_knee() -> None:
    # A cycle over three blocks is found whole or not at all.
    assert lru_curve(build([[1], [2], [3]] * 5)).knee_blocks() == 3
    # Half of all is found with one block, a little more only with five.
    often = [[1]] * 40 + [[2], [3], [4], [5], [2]]
    assert lru_curve(build(often)).knee_blocks() == 1
    assert lru_curve(build([[1], [2]])).knee_blocks() == 0
    assert lru_curve(build([[], []])).knee_blocks() == 0


def test_curve_refuses_a_negative_capacity() -> None:
    with pytest.raises(ValueError, match="capacity_blocks is -1; it must be at least 0"):
        lru_curve(build([[1]])).token_hit_ratio(-1)


@given(PROMPTS, st.integers(0, 3))
def test_whole_sample_is_exact(prompts: list[list[int]], seed: int) -> None:
    trace = build(prompts)
    exact = lru_curve(trace)
    sampled = MissRatioCurve(seed=seed)
    feed(sampled, trace)
    assert sampled.num_blocks == trace.num_blocks
    assert sampled.rate == 1
    for num_blocks in range(trace.num_unique_blocks + 3):
        assert sampled.hit_ratio(num_blocks) == pytest.approx(exact.block_hit_ratio(num_blocks))


def test_mean_error_over_seeds(workload: Trace) -> None:
    exact = lru_curve(workload)
    sizes = [Capacity(f"{share}%").blocks(workload.num_unique_blocks) for share in (2, 5, 20, 50)]
    errors = []
    for seed in range(20):
        curve = MissRatioCurve(min_sample_blocks=512, seed=seed)
        feed(curve, workload)
        assert curve.rate < 0.5
        assert 512 <= curve.sampled_blocks <= 1152
        errors.append([100 * (curve.hit_ratio(n) - exact.block_hit_ratio(n)) for n in sizes])
    assert np.abs(errors).mean(axis=0).max() < 2
    # Unbiased: errors of many seeds cancel.
    assert np.abs(np.mean(errors, axis=0)).max() < 1


def test_equal_seeds_give_equal_curves(workload: Trace) -> None:
    curves = [MissRatioCurve(min_sample_blocks=64, seed=seed) for seed in (5, 5, 6)]
    for curve in curves:
        feed(curve, workload)
    first, again, other = ([c.hit_ratio(n) for n in range(0, 5000, 50)] for c in curves)
    assert first == again
    assert first != other
    assert first == sorted(first)


def test_memory_is_bounded_and_the_distant_is_forgotten() -> None:
    curve = MissRatioCurve(sample_ratio=0.5, min_sample_blocks=64)
    memory_bytes = curve.memory_bytes
    near, far = hashes_of(range(8)), hashes_of(range(100, 108))
    curve.update(far)
    for request in range(500):
        curve.update(near)
        curve.update(hashes_of(range(1000 + 10 * request, 1010 + 10 * request)))
        assert curve.sampled_blocks <= 144
    assert curve.memory_bytes < 2 * memory_bytes + 20_000
    curve.update(far)
    assert curve.rate == 0.5
    # Nine of ten of `near` come back within 18 blocks, and nothing else ever does.
    assert curve.hit_ratio(30) == pytest.approx(499 * 8 / curve.num_blocks, rel=0.1)
    assert curve.hit_ratio(1 << 40) == pytest.approx(curve.hit_ratio(30))


POLICIES_WITH_CAPACITIES = [*POLICIES, "auto:lfu+arc"]
POLICIES_WITH_CAPACITIES.remove("lru")


@pytest.mark.parametrize("policy", POLICIES_WITH_CAPACITIES)
def test_a_rung_that_samples_all_equals_the_cache(workload: Trace, policy: str) -> None:
    capacities = [Capacity(share).blocks(workload.num_unique_blocks) for share in ("2%", "30%")]
    curve = MissRatioCurve(min_sample_blocks=capacities[-1], policy=policy, capacities=capacities)
    feed(curve, workload)
    assert curve.rate == 1
    for num_blocks in capacities:
        result = replay(workload, policy, Capacity(str(num_blocks)))
        assert curve.hit_ratio(num_blocks) == result.block_hit_ratio


@given(PROMPTS)
def test_hazard_learns_from_the_same_requests(prompts: list[list[int]]) -> None:
    """Also from those without blocks, and from the answers."""
    trace = build(prompts)
    capacities = range(1, 7)
    curve = MissRatioCurve(policy="hazard", capacities=capacities)
    feed(curve, trace)
    for num_blocks in capacities:
        result = replay(trace, "hazard", Capacity(str(num_blocks)))
        assert curve.hit_ratio(num_blocks) == result.block_hit_ratio


# What a policy does by the lengths of chains or by luck, a sample tells less well.
@pytest.mark.parametrize(
    ("policy", "points"),
    [("arc", 2), ("s3fifo", 2), ("hazard", 2), ("lru2", 2), ("mq", 2), ("wtinylfu", 4)],
)
def test_mean_error_of_a_policy_over_seeds(workload: Trace, policy: str, points: float) -> None:
    capacities = [Capacity(share).blocks(workload.num_unique_blocks) for share in ("5%", "20%")]
    exact = [replay(workload, policy, Capacity(str(n))).block_hit_ratio for n in capacities]
    errors = []
    for seed in range(10):
        curve = MissRatioCurve(
            min_sample_blocks=512, seed=seed, policy=policy, capacities=capacities
        )
        feed(curve, workload)
        assert curve.rate == 512 / capacities[-1] < 0.5
        assert 512 <= curve.sampled_blocks <= 1024
        errors.append(
            [100 * (curve.hit_ratio(n) - ratio) for n, ratio in zip(capacities, exact, strict=True)]
        )
    assert np.abs(errors).mean(axis=0).max() < points


def test_between_capacities_the_curve_is_linear() -> None:
    curve = MissRatioCurve(policy="arc", capacities=[4, 12])
    near, far = hashes_of(range(3)), hashes_of(range(100, 107))
    for chain in (near, near, far, near, far):
        curve.update(chain)
    at_4, at_12 = curve.hit_ratio(4), curve.hit_ratio(12)
    assert 0 < at_4 < at_12
    assert [curve.hit_ratio(n) for n in (0, 1, 2)] == pytest.approx([0, at_4 / 4, at_4 / 2])
    assert curve.hit_ratio(6) == pytest.approx(at_4 + (at_12 - at_4) / 4)
    assert curve.hit_ratio(13) == curve.hit_ratio(1 << 40) == at_12


def test_rates_follow_capacities() -> None:
    def rate(capacity: int, **arguments: Any) -> float:
        return MissRatioCurve(policy="fifo", capacities=[10, capacity], **arguments).rate

    assert rate(8192) == 1
    assert rate(16384) == 0.5
    assert rate(10**6) == 0.01
    assert rate(1000, min_sample_blocks=100, sample_ratio=0.001) == 0.1
    assert rate(10**6, min_sample_blocks=100, sample_ratio=0.001) == 0.001


def test_memory_of_rungs_is_bounded() -> None:
    curve = MissRatioCurve(
        sample_ratio=0.001, min_sample_blocks=64, policy="arc", capacities=[32, 64, 6400]
    )
    memory_bytes = 0
    for request in range(4000):
        curve.update(hashes_of(range(10 * request, 10 * request + 10)))
        if request == 2000:
            memory_bytes = curve.memory_bytes
    assert curve.sampled_blocks == 32 + 64 + 64
    assert curve.memory_bytes < 1.2 * memory_bytes


def test_an_empty_curve() -> None:
    curve = MissRatioCurve()
    assert curve.hit_ratio(100) == 0.0
    curve.update(np.empty((0, 16), np.uint8))
    assert (curve.num_blocks, curve.sampled_blocks, curve.rate) == (0, 0, 1.0)
    assert repr(curve) == "MissRatioCurve(num_blocks=0, sampled_blocks=0)"


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"sample_ratio": 0}, ValueError, "sample_ratio must be above 0 and at most 1, got 0"),
        ({"sample_ratio": 1.5}, ValueError, "sample_ratio must be above 0 and at most 1, got 1.5"),
        ({"sample_ratio": math.nan}, ValueError, "sample_ratio must be above 0 .* got nan"),
        ({"sample_ratio": "1%"}, TypeError, "sample_ratio must be a number, got str '1%'"),
        ({"sample_ratio": True}, TypeError, "sample_ratio must be a number, got bool True"),
        (
            {"min_sample_blocks": 0},
            ValueError,
            "min_sample_blocks must be an int from 1 to 1048576",
        ),
        ({"min_sample_blocks": 2**21}, ValueError, "min_sample_blocks must be .*, got int 2097152"),
        ({"min_sample_blocks": 8e3}, TypeError, "min_sample_blocks must be .*, got float 8000.0"),
        ({"seed": -1}, ValueError, "seed must be an int from 0 to .*, got int -1"),
        ({"seed": None}, TypeError, "seed must be an int from 0 to .*, got NoneType None"),
        ({"policy": "belady"}, ValueError, 'policy must be one of lru, .*, got "belady"'),
        ({"policy": "auto:"}, ValueError, 'policy must be one of lru, .*, got "auto:"'),
        ({"policy": None}, TypeError, "policy must be a str, got NoneType None"),
        ({"capacities": [1]}, ValueError, 'capacities must be None for policy "lru"'),
        ({"policy": "arc"}, ValueError, 'must be 1 to 64 numbers of blocks .* "arc", got 0'),
        ({"policy": "arc", "capacities": range(1, 66)}, ValueError, "1 to 64 .*, got 65"),
        ({"policy": "arc", "capacities": [2, 2]}, ValueError, "rise strictly .*, got 2 after 2"),
        (
            {"policy": "arc", "capacities": [0]},
            ValueError,
            r"capacities\[0\] must be an int from 1",
        ),
        ({"policy": "arc", "capacities": [1, 2.5]}, TypeError, r"capacities\[1\] must be an int"),
        ({"policy": "arc", "capacities": 64}, TypeError, "capacities must be a sequence of int"),
        ({"policy": "arc", "capacities": "64"}, TypeError, "capacities must be a sequence of int"),
        (
            {"policy": "arc", "capacities": [1 << 30]},
            ValueError,
            "capacities times sample_ratio must be at most 1048576, got 1073741824 times 0.01",
        ),
    ],
)
def test_bad_settings(arguments: dict[str, Any], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        MissRatioCurve(**arguments)


def test_bad_calls() -> None:
    curve = MissRatioCurve()
    wrong: Any
    for wrong in (np.zeros((2, 8), np.uint8), np.zeros(16, np.uint8), np.zeros((1, 16), np.int32)):
        with pytest.raises(ValueError, match=r"hashes must be a C-contiguous uint8\[n, 16\] array"):
            curve.update(wrong)
    with pytest.raises(TypeError, match="hashes must be"):
        curve.update([b"x" * 16])  # type: ignore[arg-type]
    for wrong, error in ((-1, ValueError), (1 << 63, ValueError), (1.5, TypeError)):
        with pytest.raises(error, match="capacity must be an int from 0 to"):
            curve.hit_ratio(wrong)
    with pytest.raises(TypeError, match="request must be a RequestInfo or None, got str 'r'"):
        curve.update(hashes_of([1]), "r")  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="request must be a RequestInfo, got NoneType None"):
        curve.finish(None)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"output_tokens must be an int from 0 to .*, got int -1"):
        curve.finish(RequestInfo(), -1)
    assert curve.num_blocks == 0


def test_bad_arrays() -> None:
    ids, offsets = np.zeros(1, np.uint32), np.array([0, 1])
    for wrong, name in (
        ((ids.astype(np.int64), offsets), r"block_ids must be a C-contiguous uint32\[num_blocks\]"),
        ((ids.reshape(1, 1), offsets), "block_ids must be"),
        ((np.zeros(4, np.uint32)[::2], offsets), "block_ids must be"),
        ((ids, offsets.astype(np.uint64)), r"offsets must be a C-contiguous int64\[num_requests"),
        ((ids, [0, 1]), "offsets must be"),
    ):
        with pytest.raises(TypeError, match=name):
            _core.lru_hits(*wrong)  # type: ignore[arg-type]
        with pytest.raises(TypeError, match=name):
            _core.OptimalReplay(*wrong)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="num_blocks must be an int from 0"):
        _core.OptimalReplay(ids, offsets).run(-1)
