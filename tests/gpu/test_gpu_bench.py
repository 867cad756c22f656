"""benchmarks/gpu/copy.py and tests/gpu/run.sh, as far as they go without a GPU."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("torch")
ROOT = Path(__file__).parents[2]


def test_benchmark_measures_every_kind_of_row_in_a_dry_run(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.gpu.copy", str(tmp_path), "--dry-run"],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        cwd=tmp_path,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    report = json.loads((tmp_path / "copy.json").read_text())
    rows = report["rows"]
    assert {row["bench"] for row in rows} == {"copy", "caps", "steps", "beside"}
    assert all(row["gpu"].startswith("none") for row in rows)
    cases = [row for row in rows if row["bench"] == "copy"]
    assert {(row["place"], row["direction"], row["order"], row["kind"]) for row in cases} == {
        (place, direction, order, kind)
        for place in ("device", "host")
        for direction in ("gather", "scatter")
        for order in ("random", "contiguous")
        for kind in ("GQA bf16", "MLA odd")
    }
    for row in cases:
        assert row["gb_s"] == row["paths_gb_s"][row["path"]] > 0
        assert ("bulk" in row["paths_gb_s"]) == (row["kind"] == "GQA bf16")
        assert len(row["peers_gb_s"]) >= 2
        assert row["payload_bytes"] == row["num_blocks"] * row["layers"] * row["run_bytes"] * (
            2 if row["kind"] == "GQA bf16" else 1
        )
    table = (tmp_path / "copy.txt").read_text()
    assert table == done.stdout
    assert all(row["case"] in table for row in rows)


def test_benchmark_without_a_gpu_says_so(tmp_path: Path) -> None:
    from kvcore import cuda

    if cuda.available():
        pytest.skip("there is a GPU")
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.gpu.copy", str(tmp_path)],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 1
    assert "there is no GPU to run on: " in done.stderr
    assert not list(tmp_path.iterdir())


def test_whole_matrix_is_planned_and_fits_a_gpu() -> None:
    sys.path.insert(0, str(ROOT))
    from benchmarks.gpu.cases import BLOCK_TOKENS, FULL_TOKENS, KINDS, all_cases, num_paged_blocks

    cases = all_cases(dry=False)
    assert len(set(cases)) == len(cases) > 250
    first = cases[: len(BLOCK_TOKENS)]
    assert [case.block_tokens for case in first] == list(BLOCK_TOKENS)
    assert all(case.num_blocks * case.block_tokens == FULL_TOKENS for case in first)
    assert all(case.kind == KINDS[0] for case in first)
    paged = max(num_paged_blocks(case) * case.planes * case.run_bytes for case in cases)
    assert paged + 2 * max(case.payload_bytes for case in cases) < 70 << 30


def test_run_script_explains_itself(tmp_path: Path) -> None:
    script = str(ROOT / "tests/gpu/run.sh")
    usage = subprocess.run([script], capture_output=True, text=True)
    assert usage.returncode == 2
    assert usage.stderr.startswith("run.sh OUT_DIR [SECONDS] [--dry-run]: builds kvcore")
    wrong = subprocess.run([script, str(tmp_path), "soon"], capture_output=True, text=True)
    assert wrong.returncode == 2
    assert "SECONDS must be a number, got 'soon'" in wrong.stderr
