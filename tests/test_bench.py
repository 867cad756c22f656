"""The benchmarks: what the harness makes of times, and that each bench runs and reports."""

from __future__ import annotations

import gc
import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from click.testing import CliRunner

from kvcore import POLICIES, PrefixCache, RequestInfo, Reservation
from kvcore.bench import evict, harness
from kvcore.bench.harness import (
    Case,
    Contender,
    Row,
    WrongAnswerError,
    always,
    collector_off,
    find_peer,
    make_row,
    measure,
)
from kvcore.bench.peers import (
    _SIMULATED,
    CacheSimulator,
    Hashes,
    OrderedBlocks,
    grown_cache,
    keys_of,
    numbers_of,
    random_chains,
)
from kvcore.cli import main

ROOT = Path(__file__).parents[1]
PEER_MODULES = ("dynamo.llm", "libcachesim", "xxhash")
ROW_TYPES: dict[str, tuple[type, ...]] = {
    "bench": (str,),
    "case": (str,),
    "unit": (str,),
    "ours": (float,),
    "peers": (dict,),
    "limits": (dict,),
    "ratio": (float, type(None)),
    "of_limit": (float, type(None)),
}


@pytest.fixture
def no_peers(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Peers are missing, and that has not been told yet."""
    for module in PEER_MODULES:
        monkeypatch.setitem(sys.modules, module, None)
    find_peer.cache_clear()
    yield
    find_peer.cache_clear()


class Clock:
    """Stands still but where a contender lets time pass."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now = 0
        self.turns: list[str] = []
        monkeypatch.setattr(harness, "perf_counter_ns", lambda: self.now)

    def contender(self, name: str, durations: list[int]) -> Contender:
        def run(duration: int) -> str:
            self.turns.append(name)
            self.now += duration
            return name

        def prepare(round_: int) -> int:
            self.now += 1_000_000  # is not counted
            return durations[round_]

        return Contender(run, prepare, always(name))


def test_figures_where_lower_is_better() -> None:
    row = make_row("b", "c", "us", 2.0, {"slow": 30.0, "fast": 5.0}, {"limit": 0.5, "low": 0.1})
    assert (row.ratio, row.of_limit) == (2.5, 0.05)


def test_figures_where_higher_is_better() -> None:
    row = make_row("b", "c", "GB/s", 8.0, {"slow": 1.0, "fast": 16.0}, {"limit": 10.0})
    assert (row.ratio, row.of_limit) == (0.5, 0.8)


def test_nothing_follows_from_nothing() -> None:
    row = make_row("b", "c", "us", 123.456)
    assert row == Row("b", "c", "us", 123.5, {}, {}, None, None)


def test_measure_takes_medians_in_turns(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = Clock(monkeypatch)
    case = Case(
        "bench",
        "case",
        "us",
        clock.contender("kvcore", [1_000, 9_000, 2_000]),
        rounds=3,
        peers={"peer": clock.contender("peer", [8_000, 8_000, 99_000])},
        limits={"limit": clock.contender("limit", [900, 1_000, 1_100])},
    )
    assert measure(case) == Row(
        "bench", "case", "us", 2.0, {"peer": 8.0}, {"limit": 1.0}, ratio=4.0, of_limit=0.5
    )
    first, second, third = clock.turns[:3], clock.turns[3:6], clock.turns[6:]
    assert first == ["kvcore", "peer", "limit"]
    assert second == ["peer", "limit", "kvcore"]
    assert third == ["limit", "kvcore", "peer"]


def test_times_are_in_the_unit(monkeypatch: pytest.MonkeyPatch) -> None:
    ours = Clock(monkeypatch).contender("kvcore", [5_000])
    row = measure(Case("bench", "case", "ns/block", ours, rounds=1, ns_per_unit=2_000))
    assert (row.ours, row.ratio, row.of_limit) == (2.5, None, None)


@pytest.mark.parametrize("who", ["kvcore", "peer", "limit"])
def test_wrong_answer_is_an_error(who: str) -> None:
    def contender(name: str) -> Contender:
        return Contender(lambda i: i, lambda i: i, lambda i: i + (name == who and i == 2))

    case = Case(
        "bench",
        "case",
        "us",
        contender("kvcore"),
        rounds=3,
        peers={"peer": contender("peer")},
        limits={"limit": contender("limit")},
    )
    with pytest.raises(
        WrongAnswerError, match=f"case: {who}, round 2: the answer is 2, expected 3"
    ):
        measure(case)
    assert gc.isenabled()


def test_collector_is_off_only_meanwhile() -> None:
    with collector_off():
        assert not gc.isenabled()
        with collector_off():
            pass
        assert not gc.isenabled()
    assert gc.isenabled()


@pytest.mark.usefixtures("no_peers")
def test_missing_peer_is_named_once(capsys: pytest.CaptureFixture[str]) -> None:
    assert find_peer("libcachesim", "libcachesim") is None
    assert find_peer("libcachesim", "libcachesim") is None
    assert find_peer("json", "json") is json
    errors = capsys.readouterr().err
    assert errors.count("\n") == 1
    assert errors.startswith("kvcore bench: libcachesim is not measured: ")
    assert "make bench" in errors


@pytest.mark.usefixtures("no_peers")
@pytest.mark.parametrize("name", ["hash", "table", "cache", "evict"])
def test_quick_run_without_peers_reports(name: str, tmp_path: Path) -> None:
    path = tmp_path / "report.json"
    result = CliRunner().invoke(main, ["bench", name, "--quick", "--json", str(path)])
    assert result.exit_code == 0, result.output
    report = json.loads(path.read_text())
    assert set(report) == {"machine", "commit", "rows"}
    assert report["rows"]
    for row in report["rows"]:
        assert set(row) == set(ROW_TYPES)
        for field, types in ROW_TYPES.items():
            assert isinstance(row[field], types), (field, row)
        assert row["bench"] == name
        assert row["ours"] > 0
        assert (row["ratio"] is None) == (not row["peers"])
        assert (row["of_limit"] is None) == (not row["limits"])
        assert {type(figure) for figure in (row["peers"] | row["limits"]).values()} <= {float}
        assert row["case"].partition(",")[0] in result.stdout
    missing = {
        "hash": ("xxhash", "dynamo"),
        "table": ("dynamo",),
        "cache": ("libcachesim",),
        "evict": ("libcachesim",),
    }
    for package in missing[name]:
        assert package in result.stderr


@pytest.mark.usefixtures("no_peers")
def test_evict_measures_every_policy(monkeypatch: pytest.MonkeyPatch) -> None:
    measured = {"process": 30.0, "metadata_bytes": 25.0}
    monkeypatch.setattr(evict, "in_new_process", lambda *arguments: measured)
    rows = list(evict.run(quick=True))
    assert [(row.case, row.unit) for row in rows] == [
        (f"{policy}: {what}, 1,024 resident", unit)
        for policy in POLICIES
        for what, unit in (
            ("touch", "ns/block"),
            ("replace", "ns/block"),
            ("memory, process", "bytes/block"),
            ("memory, metadata_bytes", "bytes/block"),
        )
    ]
    assert [row.ours for row in rows if row.unit == "bytes/block"] == [30, 25] * len(POLICIES)


@pytest.mark.usefixtures("no_peers")
def test_evict_checks_its_answers(monkeypatch: pytest.MonkeyPatch) -> None:
    put = evict._put

    def put_half(cache: PrefixCache, hashes: Hashes, request: RequestInfo) -> Reservation:
        return put(cache, hashes[:64], request)

    monkeypatch.setattr(evict, "_put", put_half)
    with pytest.raises(WrongAnswerError, match=r"lru: replace, 1,024 resident: kvcore, round 0: "):
        list(evict.run(quick=True))


@pytest.mark.parametrize("policy", sorted(_SIMULATED))
def test_simulator_holds_what_it_was_filled_with(policy: str) -> None:
    pytest.importorskip("libcachesim")
    numbers = numbers_of(random_chains(0, 300, 1))
    simulator = CacheSimulator.find(policy, numbers[:100], numbers[100:], table_fits=True)
    assert simulator is not None
    assert simulator.run(0, 100) == (0.0, 0.0)
    assert simulator.run(100, 200) == (1.0, 1.0)
    assert CacheSimulator.name(policy).startswith("libCacheSim")


@pytest.mark.usefixtures("no_peers")
def test_simulator_is_none_where_it_cannot_be() -> None:
    numbers = numbers_of(random_chains(0, 4, 1))
    assert CacheSimulator.find("lru", numbers) is None
    assert not CacheSimulator.has("lru")
    assert CacheSimulator.name("lru") == "libCacheSim"
    assert CacheSimulator.name("lfu") == "libCacheSim LFUDA"


@pytest.mark.usefixtures("no_peers")
def test_wrong_answer_ends_the_command(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("kvcore.bench.hash._reference", lambda algorithm, tokens: b"other")
    path = tmp_path / "report.json"
    result = CliRunner().invoke(main, ["bench", "hash", "--quick", "--json", str(path)])
    assert result.exit_code == 1
    assert "Error: hash, 1,024 tokens, xxh3_128, uint32 array: kvcore, round 0: " in result.stderr
    assert not path.exists()


@pytest.mark.usefixtures("no_peers")
def test_failed_process_ends_the_command(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "executable", "false")
    result = CliRunner().invoke(main, ["bench", "table", "--quick"])
    assert result.exit_code == 1
    assert "Error: false -m kvcore.bench.growth calls 8192 256 ended with status 1" in result.stderr


def test_bad_arguments(tmp_path: Path) -> None:
    assert CliRunner().invoke(main, ["bench", "speed"]).exit_code == 2
    path = tmp_path / "none" / "report.json"
    result = CliRunner().invoke(main, ["bench", "hash", "--json", str(path)])
    assert result.exit_code == 2
    assert result.output == f"Error: --json {path}: No such file or directory\n"


def test_script_refuses_other_names() -> None:
    done = subprocess.run([ROOT / "scripts/bench.sh", "speed"], capture_output=True, text=True)
    assert done.returncode == 2
    names = "hash, table, cache, evict, copy, disk, store"
    assert done.stderr == f"bench: there is no benchmark 'speed'; there are: {names}\n"


def test_ordered_blocks_evict_what_kvcore_evicts() -> None:
    chains, new = random_chains(0, 4, 6), random_chains(1, 1, 9)[0]
    cache = grown_cache(chains, 6)
    blocks = OrderedBlocks()
    for chain in chains:
        blocks.fill(keys_of(chain))
    assert len(cache.acquire(chains[0]).block_ids) == 6
    assert len(blocks.acquire(keys_of(chains[0]))) == 6
    ours = cache.reserve(new).evicted.hashes
    theirs = [key for key, _ in blocks.replace(keys_of(new))]
    assert sorted(keys_of(ours)) == sorted(theirs)
    assert blocks.match(keys_of(chains[1])) == 0
    assert blocks.match(keys_of(chains[2])) == cache.match(chains[2]) == 3
