"""Copies between a paged cache on a GPU and a slab, beside peers and limits.

    tests/gpu/run.sh OUT_DIR                                     builds kvcore and runs it
    python -P -m benchmarks.gpu.copy OUT_DIR [--seconds S] [--dry-run]

Writes OUT_DIR/copy.json and OUT_DIR/copy.txt. Contenders of a case take turns, and the answer of
each is checked; figures are medians in GB/s of payload. The most telling cases come first, so that
time is well spent, however much there is. (Not to be run as a script: its name would hide the
standard library's copy.)
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from statistics import median
from time import monotonic, perf_counter
from typing import Any

import torch

from benchmarks.gpu.beside import slowdowns
from benchmarks.gpu.cases import Case, Job, Pools, all_cases
from benchmarks.gpu.contenders import Contender, limits, ours, peers
from benchmarks.gpu.machines import Gpu, find_gpu
from kvcore.machine import write_report

Row = dict[str, Any]
PLACES = ("device", "host")
DIRECTIONS = ("gather", "scatter")
CAPS = {"device": (1, 8, 33, 66, 132, 264, 528), "host": (1, 2, 4, 8, 16, 32)}
SWEPT_TOKENS = (16, 64)
_ROUNDS_TAKE_US = 60_000
_MOST_ROUNDS = 15


def main() -> None:
    arguments = _arguments()
    if arguments.dry_run:
        os.environ["TRITON_INTERPRET"] = "1"
    gpu = find_gpu(arguments.dry_run)
    arguments.out.mkdir(parents=True, exist_ok=True)
    until = monotonic() + arguments.seconds
    cases = all_cases(arguments.dry_run)
    rows: list[Row] = []
    for row in _all_rows(gpu, cases, until):
        rows.append({"gpu": gpu.name, **row})
        print(_line(row), flush=True)
    text = "\n".join(map(_line, rows)) + "\n"
    (arguments.out / "copy.txt").write_text(text)
    write_report(arguments.out / "copy.json", rows)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Copies on a GPU beside peers and limits.")
    parser.add_argument("out", type=Path, help="folder for copy.json and copy.txt")
    parser.add_argument("--seconds", type=float, default=300.0, help="start no case after these")
    parser.add_argument("--dry-run", action="store_true", help="no GPU: small, means nothing")
    return parser.parse_args()


def _all_rows(gpu: Gpu, cases: list[Case], until: float) -> Iterator[Row]:
    pools = Pools(gpu, cases)
    first, *others = _by_tokens(cases)
    yield from _measured(gpu, first, pools, until)
    yield from _cap_rows(gpu, [case for case in first if _is_swept(case, gpu)], pools, until)
    yield from _step_rows(gpu, first[0], pools)
    yield from slowdowns(gpu, first[0], pools)
    for group in others:
        yield from _measured(gpu, group, pools, until)


def _by_tokens(cases: list[Case]) -> list[list[Case]]:
    """Groups that differ in the size of blocks alone, in the order in which they come first."""
    groups: dict[object, list[Case]] = {}
    for case in cases:
        is_full = case.num_blocks * case.block_tokens == cases[0].num_blocks * cases[0].block_tokens
        key = (case.kind, case.layers, "full" if is_full else case.num_blocks, case.order)
        groups.setdefault(key, []).append(case)
    return list(groups.values())


def _is_swept(case: Case, gpu: Gpu) -> bool:
    return case.block_tokens in SWEPT_TOKENS or not gpu.is_real


def _measured(gpu: Gpu, cases: list[Case], pools: Pools, until: float) -> Iterator[Row]:
    for case in cases:
        for place in PLACES:
            job = Job(gpu, case, pools, place)
            for direction in DIRECTIONS:
                if monotonic() < until:
                    yield _case_row(gpu, job, direction)


def _case_row(gpu: Gpu, job: Job, direction: str) -> Row:
    stream = _stream_after_all(gpu)
    start = perf_counter()
    chosen = job.transfer(gpu)
    plan_us = 1e6 * (perf_counter() - start)
    start = perf_counter()
    getattr(chosen, direction)(stream)
    enqueue_us = 1e6 * (perf_counter() - start)
    with gpu.on(stream):
        our_paths = ours(gpu, job, direction, stream)
        others = peers(gpu, job, direction, stream)
        limit = limits(job)[0 if direction == "gather" else 1]
        for contender in [*our_paths, *others]:
            _check(gpu, job, direction, contender)
        times = _take_turns(gpu, stream, [*our_paths, *others, limit])
    speeds = {name: job.case.payload_bytes / us / 1e3 for name, us in times.items()}
    best_peer = max((speeds[peer.name] for peer in others), default=None)
    figure = speeds[chosen.path]
    return {
        "bench": "copy",
        **_described(job, direction),
        "path": chosen.path,
        "thread_blocks": chosen.thread_blocks,
        "plan_us": round(plan_us, 1),
        "enqueue_us": round(enqueue_us, 1),
        "us": round(times[chosen.path], 2),
        "gb_s": _rounded(figure),
        "paths_gb_s": {path.name: _rounded(speeds[path.name]) for path in our_paths},
        "peers_gb_s": {peer.name: _rounded(speeds[peer.name]) for peer in others},
        "limit_gb_s": _rounded(speeds[limit.name]),
        "of_limit": _rounded(figure / speeds[limit.name]),
        "ratio": None if best_peer is None else _rounded(figure / best_peer),
    }


def _cap_rows(gpu: Gpu, cases: list[Case], pools: Pools, until: float) -> Iterator[Row]:
    """What a cap on thread blocks costs."""
    for case in cases:
        for place in PLACES:
            job = Job(gpu, case, pools, place)
            for direction in DIRECTIONS:
                if monotonic() >= until:
                    return
                stream = _stream_after_all(gpu)
                with gpu.on(stream):
                    contenders = [
                        Contender(f"{path.name}, {cap}", path.run)
                        for cap in CAPS[place]
                        for path in ours(gpu, job, direction, stream, cap)
                        if path.name != "batch"
                    ]
                    times = _take_turns(gpu, stream, contenders)
                speeds = {
                    name: _rounded(case.payload_bytes / us / 1e3) for name, us in times.items()
                }
                yield {"bench": "caps", **_described(job, direction), "paths_gb_s": speeds}


def _step_rows(gpu: Gpu, case: Case, pools: Pools) -> Iterator[Row]:
    """What it costs that each layer can be waited for by itself."""
    for place in PLACES:
        job = Job(gpu, case, pools, place)
        for direction in DIRECTIONS:
            stream = _stream_after_all(gpu)
            copy = getattr(job.transfer(gpu), direction)
            contenders = [
                Contender(f"{step} a step", partial(copy, stream, layers_a_step=step))
                for step in dict.fromkeys((1, 4, case.layers))
            ]
            times = _take_turns(gpu, stream, contenders)
            speeds = {name: _rounded(case.payload_bytes / us / 1e3) for name, us in times.items()}
            yield {"bench": "steps", **_described(job, direction), "paths_gb_s": speeds}


def _take_turns(gpu: Gpu, stream: Any, contenders: list[Contender]) -> dict[str, float]:
    """Medians in microseconds; another one first in each round."""
    times: list[list[float]] = [[gpu.time_us(stream, contender.run)] for contender in contenders]
    rounds = max(3, min(_MOST_ROUNDS, int(_ROUNDS_TAKE_US / max(t for (t,) in times))))
    for round_ in range(rounds):
        for turn in range(len(contenders)):
            i = (round_ + turn) % len(contenders)
            times[i].append(gpu.time_us(stream, contenders[i].run))
    return {
        contender.name: median(series[1:])
        for contender, series in zip(contenders, times, strict=True)
    }


def _check(gpu: Gpu, job: Job, direction: str, contender: Contender) -> None:
    job.spoil(direction)
    contender.run()
    gpu.synchronize()
    if not job.agrees(contender.by_plane):
        where = f"{job.case}, {direction}, {job.place}"
        raise SystemExit(f"{where}: {contender.name} copies wrong bytes")


def _stream_after_all(gpu: Gpu) -> Any:
    gpu.synchronize()
    return gpu.new_stream()


def _described(job: Job, direction: str) -> Row:
    case = job.case
    return {
        "case": f"{direction} {job.place}: {case}",
        "kind": case.kind.name,
        "block_tokens": case.block_tokens,
        "layers": case.layers,
        "num_blocks": case.num_blocks,
        "order": case.order,
        "place": job.place,
        "direction": direction,
        "run_bytes": case.run_bytes,
        "payload_bytes": case.payload_bytes,
    }


def _line(row: Row) -> str:
    lines = [f"{row['bench']}: {row['case']}"]
    if "gb_s" in row:
        ratio = "" if row["ratio"] is None else f", {row['ratio']:.2f} x the best peer"
        lines.append(
            f"{row['path']} {row['gb_s']:.4g} GB/s, {row['of_limit']:.1%} of the limit{ratio}; "
            f"plan {row['plan_us']} us, enqueue {row['enqueue_us']} us"
        )
    for figures in ("paths_gb_s", "peers_gb_s", "slowdown"):
        if figures in row:
            named = (f"{name} = {figure:.4g}" for name, figure in row[figures].items())
            lines.append(f"{figures}: {'; '.join(named)}")
    return "\n    ".join(lines)


def _rounded(figure: float) -> float:
    return float(f"{figure:.4g}")


if __name__ == "__main__":
    torch.manual_seed(0)
    main()
