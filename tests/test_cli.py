"""The command line: outputs, errors in one line with exit code 2, a quiet end on an interrupt."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

import kvcore
from kvcore.cli import main
from kvcore.machine import describe_machine, source_commit, write_report
from kvcore.sim.workload import generate

RUN_MAIN = [sys.executable, "-c", "from kvcore.cli import main; main(prog_name='kvcore')"]


def run(*arguments: object) -> Result:
    return CliRunner().invoke(main, [str(argument) for argument in arguments])


@pytest.fixture
def chat(tmp_path: Path) -> Path:
    path = tmp_path / "chat.jsonl"
    path.write_bytes(b"".join(generate("chat", seed=1, num_requests=60)))
    return path


def test_help_lists_commands_without_importing_them() -> None:
    code = (
        "import sys; from kvcore.cli import main; main(['--help'], standalone_mode=False); "
        "assert not {'rich', 'zstandard', 'matplotlib', 'kvcore.sim'} & set(sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    for command in ("bench", "mrc", "replay", "workload"):
        assert f"\n  {command} " in done.stdout


def test_version() -> None:
    assert run("--version").output == f"kvcore {kvcore.__version__}\n"


def test_unknown_command() -> None:
    assert run("play").exit_code == 2


def test_replay_report(chat: Path, tmp_path: Path) -> None:
    report_path = tmp_path / "report.json"
    options = ("--policy", "lru,arc", "--capacity", "10%,64", "--json", report_path, "--jobs", 2)
    result = run("replay", chat, *options)
    assert result.exit_code == 0, result.output
    report = json.loads(report_path.read_text())
    assert set(report) == {"machine", "commit", "rows"}
    assert {key: type(value) for key, value in report["machine"].items()} == {
        "cpu": str,
        "cores": int,
        "os": str,
        "python": str,
    }
    assert report["commit"] == source_commit()
    assert [(row["policy"], row["capacity"]) for row in report["rows"]] == [
        ("lru", "10%"),
        ("lru", "64"),
        ("arc", "10%"),
        ("arc", "64"),
    ]
    for row in report["rows"]:
        assert {key: type(value) for key, value in row.items()} == {
            "trace": str,
            "policy": str,
            "capacity": str,
            "capacity_blocks": int,
            "token_hit_ratio": float,
            "block_hit_ratio": float,
            "evictions": int,
            "seconds": float,
            "ns_per_block": float,
            "ttft_mean_s": float,
            "ttft_p50_s": float,
            "ttft_p90_s": float,
            "ttft_p99_s": float,
            "blocks_to_equal_lru": type(None),
        }
        assert row["trace"] == "chat.jsonl"
        assert 0 < row["token_hit_ratio"] < row["block_hit_ratio"] < 1
        assert f"{100 * row['token_hit_ratio']:.2f}" in result.output
        assert f"{row['ttft_p90_s']:.3f}" in result.output
    assert "\x1b" not in result.output


def test_times_to_first_token_follow_the_engines(chat: Path, tmp_path: Path) -> None:
    report = tmp_path / "report.json"
    p90_s = []
    for options in ((), ("--prefill-tokens-per-s", 1e12), ("--engines", 1_000)):
        run("replay", chat, "--policy", "lru", "--capacity", 64, "--json", report, *options)
        p90_s.append(json.loads(report.read_text())["rows"][0]["ttft_p90_s"])
    # By default some wait; nobody waits for a quick engine, or for one of very many slow ones.
    assert p90_s[1] < 1e-6 < p90_s[0] < p90_s[2]


@pytest.mark.parametrize("rate", ["0", "-1", "nan", "inf"])
def test_bad_rate_of_prefill(chat: Path, rate: str) -> None:
    result = run("replay", chat, "--prefill-tokens-per-s", rate)
    assert result.exit_code == 2
    assert result.output.startswith("Error: --prefill-tokens-per-s: tokens_per_s is ")


def test_replay_of_all_policies_and_the_optimum(chat: Path, tmp_path: Path) -> None:
    report = tmp_path / "report.json"
    options = ("--policy", "all,opt,lru", "--capacity", "64", "--json", report, "--jobs", 1)
    assert run("replay", chat, *options).exit_code == 0
    rows = json.loads(report.read_text())["rows"]
    assert [row["policy"] for row in rows] == [*kvcore.POLICIES, "opt"]
    assert rows[-1]["token_hit_ratio"] == max(row["token_hit_ratio"] for row in rows)


def test_mrc_prints_both_curves_and_the_knee(chat: Path, tmp_path: Path) -> None:
    report = tmp_path / "report.json"
    result = run("mrc", chat, "--capacity", "10%,64", "--json", report)
    assert result.exit_code == 0, result.output
    rows = json.loads(report.read_text())["rows"]
    assert [row["capacity"] for row in rows] == ["10%", "64", "knee"]
    replayed = tmp_path / "replay.json"
    run("replay", chat, "--policy", "lru", "--capacity", "10%,64", "--json", replayed)
    ratios = [row["token_hit_ratio"] for row in json.loads(replayed.read_text())["rows"]]
    assert [row["token_hit_ratio"] for row in rows[:2]] == ratios
    for row in rows:
        # So few blocks are all in the sample.
        assert row["sampled_token_hit_ratio"] == pytest.approx(row["token_hit_ratio"], rel=0.05)
        assert f"{100 * row['token_hit_ratio']:.2f}" in result.output
    assert "unique blocks sampled for LRU, rate 100%" in result.output


def test_mrc_of_other_policies(chat: Path, tmp_path: Path) -> None:
    report, replayed = tmp_path / "report.json", tmp_path / "replay.json"
    options = ("--policy", "arc,lru,hazard", "--capacity", "10%,64")
    result = run("mrc", chat, *options, "--json", report)
    assert result.exit_code == 0, result.output
    rows = json.loads(report.read_text())["rows"]
    policies = ("lru", "arc", "hazard")
    assert [(row["policy"], row["capacity"]) for row in rows] == [
        (policy, capacity) for policy in policies for capacity in ("10%", "64", "knee")
    ]
    # So few blocks are all in the sample.
    run("replay", chat, *options, "--json", replayed)
    exact = {
        (row["policy"], row["capacity"]): row for row in json.loads(replayed.read_text())["rows"]
    }
    for row in rows[3:]:
        assert row["token_hit_ratio"] is None
        assert f"{100 * row['sampled_token_hit_ratio']:.2f}" in result.output
        if row["capacity"] != "knee":
            replayed_ratio = exact[row["policy"], row["capacity"]]["token_hit_ratio"]
            assert row["sampled_token_hit_ratio"] == pytest.approx(replayed_ratio)


def test_mrc_of_bad_input(chat: Path, tmp_path: Path) -> None:
    missing = tmp_path / "none"
    for arguments, message in [
        ((missing,), f"Error: {missing}: No such file or directory\n"),
        ((chat, "--json", tmp_path), f"Error: --json {tmp_path}: Is a directory\n"),
        ((chat, "--capacity", "x"), "Error: --capacity: capacity is 'x'; allowed are"),
        ((chat, "--policy", "opt"), "Error: --policy: policy must be one of lru, "),
        (
            (chat, "--policy", "arc", "--capacity", "1000000000"),
            "Error: --capacity: capacities times sample_ratio must be at most 1048576, got",
        ),
    ]:
        result = run("mrc", *arguments)
        assert result.exit_code == 2
        assert result.output.startswith(message)


def test_traces_of_one_name_are_told_apart(chat: Path, tmp_path: Path) -> None:
    other = tmp_path / "other" / chat.name
    other.parent.mkdir()
    other.write_bytes(chat.read_bytes())
    report = tmp_path / "report.json"
    options = ("--policy", "lru", "--capacity", "9", "--json", report)
    assert run("replay", chat, other, *options).exit_code == 0
    names = [row["trace"] for row in json.loads(report.read_text())["rows"]]
    assert names == [str(chat), str(other)]


def test_plot_is_a_png(chat: Path, tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    plot = tmp_path / "hits.png"
    options = ("--policy", "lru,opt", "--capacity", "1%,64", "--plot", plot)
    assert run("replay", chat, *options).exit_code == 0
    assert plot.read_bytes().startswith(b"\x89PNG\r\n\x1a\n")


def test_plot_without_matplotlib_names_the_extra(
    chat: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    result = run("replay", chat, "--plot", tmp_path / "hits.png")
    assert result.exit_code == 2
    assert result.output == "Error: --plot needs matplotlib: pip install 'kvcore[plot]'\n"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--policy", "lru,belady"), "--policy: policy must be one of lru, "),
        (("--policy", ""), "--policy: policy must be one of lru, "),
        (("--capacity", "1%,zero"), "--capacity: capacity is 'zero'; allowed are"),
        (("--json", "{tmp}/none/report.json"), "/none/report.json: No such file or directory"),
        (("--json", "{tmp}"), ": Is a directory"),
        (("--plot", "{tmp}/hits.svg"), "/hits.svg: the name must end in .png"),
        (("--report", "{tmp}/none/page.html"), "/none/page.html: No such file or directory"),
    ],
)
def test_bad_options_are_told_before_any_work(
    tmp_path: Path, options: tuple[str, str], message: str
) -> None:
    name, value = options
    result = run("replay", tmp_path / "none.jsonl", name, value.replace("{tmp}", str(tmp_path)))
    assert result.exit_code == 2
    assert message in result.output
    assert result.output.startswith("Error: ")
    assert result.output.count("\n") == 1


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_file_without_write_permission(chat: Path, tmp_path: Path) -> None:
    report = tmp_path / "report.json"
    report.touch(mode=0o400)
    result = run("replay", chat, "--json", report)
    assert (result.exit_code, result.output) == (2, f"Error: --json {report}: Permission denied\n")


def test_bad_traces(chat: Path, tmp_path: Path) -> None:
    bad = tmp_path / "bad.jsonl"
    bad.write_text('{"timestamp": 0}\n')
    result = run("replay", chat, bad)
    assert result.exit_code == 2
    assert result.output == f"Error: {bad}:1: input_length is missing\n"
    missing = tmp_path / "none"
    result = run("replay", missing)
    assert (result.exit_code, result.output) == (
        2,
        f"Error: {missing}: No such file or directory\n",
    )


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_interrupt_ends_cleanly(number: signal.Signals, chat: Path, tmp_path: Path) -> None:
    temporary = tmp_path / "tmp"
    temporary.mkdir()
    capacities = ",".join(str(size) for size in range(100, 5_000))
    # What a shell runs in the background ignores SIGINT, and so do its children.
    heed = "import signal; signal.signal(signal.SIGINT, signal.default_int_handler)"
    program, option, start = RUN_MAIN
    options = ("--capacity", capacities, "--jobs", "2")
    replay = subprocess.Popen(
        [program, option, f"{heed}; {start}", "replay", str(chat), *options],
        env={**os.environ, "TMPDIR": str(temporary)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    deadline = time.monotonic() + 60
    while not list(temporary.glob("kvcore-replay-*/0/trace.json")) and time.monotonic() < deadline:
        time.sleep(0.02)
    replay.send_signal(number)
    output, errors = replay.communicate(timeout=60)
    assert replay.returncode == (1 if number == signal.SIGINT else 128 + number)
    assert "Traceback" not in errors
    assert output == ""
    assert list(temporary.iterdir()) == []


def test_workload_writes_the_generated_bytes(tmp_path: Path) -> None:
    expected = b"".join(generate("rag", seed=4, num_requests=20))
    options = ("--kind", "rag", "--seed", 4, "--requests", 20)
    assert run("workload", *options).stdout_bytes == expected
    path = tmp_path / "rag.jsonl"
    result = run("workload", *options, "--output", path)
    assert (result.exit_code, result.output) == (0, "")
    assert path.read_bytes() == expected


def test_bad_workloads(tmp_path: Path) -> None:
    for options in (("--kind", "chats", "--seed", 1), ("--kind", "chat"), ("--seed", 1)):
        assert run("workload", *options).exit_code == 2
    for change in (("--seed", -1), ("--requests", 0), ("--requests", "many")):
        assert run("workload", "--kind", "chat", "--seed", 1, *change).exit_code == 2
    output = tmp_path / "none" / "chat.jsonl"
    result = run("workload", "--kind", "chat", "--seed", 1, "--output", output)
    assert result.exit_code == 2
    assert result.output == f"Error: --output {output}: No such file or directory\n"


def test_report_replaces_the_old_one_or_leaves_it(tmp_path: Path) -> None:
    path = tmp_path / "report.json"
    write_report(path, [{"unit": "ns", "ours": 1.5}])
    report = json.loads(path.read_text())
    assert report["machine"] == describe_machine()
    assert report["rows"] == [{"unit": "ns", "ours": 1.5}]
    before = path.read_bytes()
    with pytest.raises(ValueError, match="JSON compliant"):
        write_report(path, [{"ours": float("nan")}])
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]


def test_report_follows_links_and_writes_into_pipes(tmp_path: Path) -> None:
    target, link, pipe = (tmp_path / name for name in ("target.json", "link.json", "pipe"))
    link.symlink_to(target)
    write_report(link, [])
    assert link.is_symlink()
    assert json.loads(target.read_text())["rows"] == []
    os.mkfifo(pipe)
    reader = os.open(pipe, os.O_RDONLY | os.O_NONBLOCK)
    write_report(pipe, [])
    assert json.loads(os.read(reader, 1 << 16))["rows"] == []
    os.close(reader)
