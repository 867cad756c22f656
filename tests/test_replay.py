"""Replay: counts equal those of a plain block-level LRU, and properties that must always hold."""

from __future__ import annotations

from array import array
from collections import OrderedDict
from importlib import import_module
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given
from hypothesis import strategies as st
from models.traces import build

from kvcore import PrefixCache, RequestInfo, Reservation
from kvcore.sim import Capacity, ReplayResult, Trace, read_trace, replay, sweep
from kvcore.sim.trace import TraceBuilder
from kvcore.sim.workload import generate


def reference_lru(trace: Trace, num_blocks: int) -> tuple[int, int]:
    """Hits and evictions of LRU over blocks, touched deepest first."""
    cached: OrderedDict[int, None] = OrderedDict()
    hits = evictions = 0
    for begin, end in zip(trace.offsets[:-1], trace.offsets[1:], strict=True):
        chain = trace.block_ids[begin:end].tolist()
        found = next((i for i, block in enumerate(chain) if block not in cached), len(chain))
        hits += found
        for block in reversed(chain[:num_blocks]):
            cached[block] = None
            cached.move_to_end(block)
        while len(cached) > num_blocks:
            cached.popitem(last=False)
            evictions += 1
    return hits, evictions


def replayed(trace: Trace, policy: str, num_blocks: int) -> tuple[int, int]:
    result = replay(trace, policy, Capacity(str(num_blocks)))
    return round(result.block_hit_ratio * trace.num_blocks), result.evictions


@pytest.fixture(scope="module")
def workload(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Trace:
    path = tmp_path_factory.mktemp("workload") / "trace"
    path.write_bytes(b"".join(generate(request.param, seed=7, num_requests=300)))
    return read_trace(path)


# Hits and evictions by capacity in blocks.
GOLDEN_LRU = {
    "chat": {100: (106, 6644), 1_000: (1450, 5566), 4_000: (2756, 1260)},
    "agent": {100: (4072, 20479), 1_000: (26019, 3430), 4_000: (27840, 0)},
    "rag": {100: (536, 2069), 1_000: (763, 942), 4_000: (799, 0)},
    "scan": {100: (87, 10366), 1_000: (512, 10844), 4_000: (809, 7547)},
}


@pytest.mark.parametrize("workload", ["chat", "agent", "rag", "scan"], indirect=True)
def test_lru_equals_the_reference(workload: Trace, request: pytest.FixtureRequest) -> None:
    kind = request.node.callspec.params["workload"]
    counts = {n: replayed(workload, "lru", n) for n in (100, 1_000, 4_000)}
    assert counts == {n: reference_lru(workload, n) for n in counts}
    assert counts == GOLDEN_LRU[kind]


def test_hand_counted() -> None:
    trace = build([[1, 2, 3], [1, 2, 4], [9], [1, 2, 3], [1, 2, 4, 5, 6, 7]])
    # 0, then 1 2, then 0; 3 and then 4 have left, so 1 2 twice. The last keeps its first four.
    assert replayed(trace, "lru", 4) == (6, 4)
    result = replay(trace, "lru", Capacity("4"))
    assert (result.trace, result.policy, result.capacity) == ("small", "lru", "4")
    assert result.capacity_blocks == 4
    assert result.block_hit_ratio == 6 / 16
    assert result.token_hit_ratio == 6 * 16 / (16 * 16 + 5 * 3)
    assert result.seconds > 0
    assert result.ns_per_block == pytest.approx(result.seconds * 1e9 / 16)


def test_policies_are_told_all_that_the_trace_knows(monkeypatch: pytest.MonkeyPatch) -> None:
    told: list[tuple[object, ...]] = []

    class Listening:
        """A cache that writes down who asks, and how requests end."""

        def __init__(self, num_blocks: int, policy: str) -> None:
            self.cache = PrefixCache(num_blocks, policy)
            self.acquire, self.stats = self.cache.acquire, self.cache.stats

        def reserve(self, hashes: npt.NDArray[np.uint8], request: RequestInfo) -> Reservation:
            told.append((request.session, request.kind, request.arrival_us))
            return self.cache.reserve(hashes, request)

        def finish(self, request: RequestInfo, output_tokens: int) -> None:
            told[-1] += (output_tokens,)
            self.cache.finish(request, output_tokens)

    monkeypatch.setattr(import_module("kvcore.sim.replay"), "PrefixCache", Listening)
    builder = TraceBuilder("told", 16)
    for number, kind in enumerate(["chat", "tool", "chat"]):
        builder.add(
            array("I", [number]),
            arrival_us=1000 * number,
            input_tokens=16,
            output_tokens=7 + number,
            session=number - 1,
            kind=kind,
        )
    replay(builder.build(), "lru", Capacity("4"))
    assert told == [("", "chat", 0, 7), ("0", "tool", 1000, 8), ("1", "chat", 2000, 9)]


PROMPTS = st.lists(st.lists(st.integers(0, 2), max_size=7), min_size=1, max_size=40)


@given(PROMPTS, st.integers(1, 12))
def test_lru_equals_the_reference_on_any_trace(prompts: list[list[int]], num_blocks: int) -> None:
    trace = build(prompts)
    assert replayed(trace, "lru", num_blocks) == reference_lru(trace, num_blocks)


@given(PROMPTS)
def test_lru_hits_never_fall_as_capacity_grows(prompts: list[list[int]]) -> None:
    trace = build(prompts)
    hits = [replayed(trace, "lru", n)[0] for n in range(1, trace.num_unique_blocks + 2)]
    assert hits == sorted(hits)


@given(PROMPTS, st.sampled_from(["lru", "arc"]))
def test_what_fits_whole_misses_once_and_evicts_nothing(
    prompts: list[list[int]], policy: str
) -> None:
    trace = build(prompts)
    unique = trace.num_unique_blocks
    assert replayed(trace, policy, max(1, unique)) == (trace.num_blocks - unique, 0)


@pytest.mark.parametrize(
    ("text", "blocks"),
    [
        ("0.5%", 1),
        ("100%", 250),
        ("2%", 5),
        ("1.3%", 3),
        ("0.000000001%", 1),
        ("1", 1),
        ("4096", 4096),
    ],
)
def test_capacity(text: str, blocks: int) -> None:
    assert Capacity(text).blocks(250) == blocks


@pytest.mark.parametrize(
    "text",
    ["", "0", "0%", "-1", "1.5", "101%", "1e3", "1_000", "%", "5 %", "٣", "nan%", "9" * 30, ".5%"],
)
def test_bad_capacity(text: str) -> None:
    with pytest.raises(ValueError, match=r"capacity is '.*'; allowed are a share"):
        Capacity(text)


def test_unknown_policy() -> None:
    with pytest.raises(ValueError, match="policy"):
        replay(build([[1]]), "belady", Capacity("1"))


def test_trace_without_whole_blocks() -> None:
    result = replay(build([[], []]), "lru", Capacity("5%"))
    assert (result.capacity_blocks, result.token_hit_ratio, result.block_hit_ratio) == (1, 0.0, 0.0)


@pytest.mark.parametrize("jobs", [1, 2])
def test_sweep_is_ordered_and_cleans_up(
    jobs: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    traces = [build([[1, 2], [1, 3], [1, 2]]), build([[4, 5]], block_tokens=32)]
    seen: list[ReplayResult] = []
    results = sweep(
        iter(traces), ["lru", "arc"], [Capacity("60%"), Capacity("3")], jobs, seen.append
    )
    assert [(r.policy, r.capacity, r.capacity_blocks, r.block_hit_ratio) for r in results] == [
        ("lru", "60%", 2, 1 / 3),
        ("lru", "3", 3, 0.5),
        ("arc", "60%", 2, 1 / 3),
        ("arc", "3", 3, 0.5),
        ("lru", "60%", 1, 0),
        ("lru", "3", 3, 0),
        ("arc", "60%", 1, 0),
        ("arc", "3", 3, 0),
    ]
    assert sorted(map(str, seen)) == sorted(map(str, results))
    assert list(tmp_path.iterdir()) == []


def test_sweep_cleans_up_after_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))

    def fail(result: object) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        sweep([build([[1]])], ["lru", "arc"], [Capacity("1"), Capacity("2")], 2, fail)
    assert list(tmp_path.iterdir()) == []
