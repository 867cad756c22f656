"""Synthetic workloads: the same bytes for a seed, a valid trace, the shape they claim."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import numpy as np
import pytest

from kvcore.sim import Capacity, Trace, read_trace, replay
from kvcore.sim.dice import Popularity
from kvcore.sim.workload import BLOCK_TOKENS, KINDS, generate

GOLDEN_SHA256 = {
    "chat": "28d5daefa892a3d3b751bc028f91cceb1204f265e1e44c8948b271b8c5d1a2dd",
    "agent": "19eabb23e2a07de8cfdbdbb4c1f88e3c138d6cbad3e2bbea8f9783f453565785",
    "rag": "8d08fdd31609a0ee6880e83a05e42894356af3936710aed8e0a92a6e196e0566",
    "scan": "448c0d8c3d6be81be865e60c78a99d752ba94f41f2e63e7ca179fa0aaf56688b",
}


@pytest.mark.parametrize("kind", KINDS)
def test_bytes_follow_from_the_seed(kind: str) -> None:
    data = b"".join(generate(kind, seed=1, num_requests=200))
    assert hashlib.sha256(data).hexdigest() == GOLDEN_SHA256[kind]
    assert b"".join(generate(kind, seed=2, num_requests=200)) != data
    assert data.startswith(b"".join(generate(kind, seed=1, num_requests=10)))


@pytest.mark.parametrize("kind", KINDS)
def test_lines_are_mooncake_records(kind: str) -> None:
    records = [json.loads(line) for line in generate(kind, seed=3, num_requests=300)]
    assert len(records) == 300
    parents: dict[int, int] = {}
    for record in records:
        assert list(record) == ["timestamp", "input_length", "output_length", "hash_ids"]
        assert len(record["hash_ids"]) == -(-record["input_length"] // BLOCK_TOKENS)
        assert record["input_length"] >= 1
        assert record["output_length"] >= 1
        for parent, child in zip([-1, *record["hash_ids"]], record["hash_ids"], strict=False):
            assert parents.setdefault(child, parent) == parent
    times = [record["timestamp"] for record in records]
    assert times == sorted(times)
    assert sorted(parents) == list(range(len(parents)))


def trace_of(kind: str, num_requests: int, directory: Path) -> Trace:
    path = directory / kind
    path.write_bytes(b"".join(generate(kind, seed=5, num_requests=num_requests)))
    return read_trace(path)


def hit_percent(trace: Trace, capacity: str) -> float:
    return 100 * replay(trace, "lru", Capacity(capacity)).token_hit_ratio


def test_chat_has_the_lengths_and_the_reuse_it_claims(tmp_path: Path) -> None:
    trace = trace_of("chat", 5_000, tmp_path)
    assert np.mean(trace.input_tokens) == pytest.approx(12_000, rel=0.1)
    assert np.median(trace.input_tokens) == pytest.approx(7_000, rel=0.1)
    assert np.mean(trace.output_tokens) == pytest.approx(340, rel=0.1)
    assert hit_percent(trace, "100%") == pytest.approx(37, abs=4)


def test_agent_contexts_are_long_and_nearly_all_reused(tmp_path: Path) -> None:
    trace = trace_of("agent", 3_000, tmp_path)
    assert np.mean(trace.input_tokens) > 60_000
    assert hit_percent(trace, "100%") > 94
    assert hit_percent(trace, "2%") < hit_percent(trace, "20%") - 30


def test_rag_popularity_has_the_skew_it_claims() -> None:
    cumulative = Popularity.zipf(5_000, 1.0).cumulative
    assert cumulative[149] / cumulative[-1] == pytest.approx(0.60, abs=0.02)


def test_scan_is_where_arc_beats_lru(tmp_path: Path) -> None:
    trace = trace_of("scan", 3_000, tmp_path)
    arc = 100 * replay(trace, "arc", Capacity("1%")).token_hit_ratio
    assert arc > 1.2 * hit_percent(trace, "1%")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("chats", 1, 1), "kind is 'chats'; allowed are chat, agent, rag, scan"),
        (("chat", -1, 1), "seed is -1"),
        (("chat", 1, 0), "num_requests is 0"),
    ],
)
def test_bad_arguments(arguments: tuple[str, int, int], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        generate(*arguments)
