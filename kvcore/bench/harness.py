"""Timing that can be trusted: contenders take turns, arguments are fresh, answers are checked."""

from __future__ import annotations

import gc
import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cache
from importlib import import_module
from pathlib import Path
from reprlib import repr as short_repr
from statistics import median
from time import perf_counter_ns
from types import ModuleType
from typing import Any

_SIGNIFICANT_DIGITS = 4


class WrongAnswerError(Exception):
    """A contender's answer is not the expected one, so its time means nothing."""


@dataclass(frozen=True, slots=True)
class Row:
    """One result of a report. `ratio` and `of_limit` are `None` where there is nothing to compare.

    Parameters
    ----------
    bench, case : what was measured
    unit : of `ours`, `peers` and `limits`; higher is better if it ends in ``"/s"``, else lower
    ours : kvcore's figure
    peers : figures of others that do the same job
    limits : what the machine, or arithmetic, allows at best
    ratio : how many times better than the best peer
    of_limit : which share of the best limit is reached
    """

    bench: str
    case: str
    unit: str
    ours: float
    peers: Mapping[str, float]
    limits: Mapping[str, float]
    ratio: float | None
    of_limit: float | None


def make_row(
    bench: str,
    case: str,
    unit: str,
    ours: float,
    peers: Mapping[str, float] | None = None,
    limits: Mapping[str, float] | None = None,
) -> Row:
    """A row of figures, rounded to four digits, and what follows from them."""
    ours = _rounded(ours)
    peers, limits = (
        {name: _rounded(figure) for name, figure in (others or {}).items()}
        for others in (peers, limits)
    )
    return Row(
        bench,
        case,
        unit,
        ours,
        peers,
        limits,
        ratio=_times_better(unit, ours, peers),
        of_limit=_times_better(unit, ours, limits),
    )


def always(answer: object) -> Callable[[int], object]:
    """The same answer in every round."""
    return lambda round_: answer


def unchanged(result: Any) -> Any:
    return result


@dataclass(frozen=True, slots=True)
class Contender:
    """One side of a case. In each round ``run(prepare(round))`` is done, and `run` alone is timed.

    Parameters
    ----------
    run : what is timed; its result dies after the clock has stopped
    prepare : makes the argument of a round
    expected : the right answer of a round
    read : takes the answer from the result
    """

    run: Callable[[Any], Any]
    prepare: Callable[[int], Any]
    expected: Callable[[int], object]
    read: Callable[[Any], object] = unchanged


@dataclass(frozen=True, slots=True)
class Case:
    """What is measured: kvcore beside peers that do the same job, and beside physical limits.

    Parameters
    ----------
    bench, name, unit : as in a `Row`
    ours, peers, limits : who takes turns
    rounds : how often each has its turn
    ns_per_unit : nanoseconds that make one of `unit`: 1,000 for ``"us"``, the number of blocks of
        a call for ``"ns/block"``
    """

    bench: str
    name: str
    unit: str
    ours: Contender
    rounds: int
    peers: Mapping[str, Contender] = field(default_factory=dict)
    limits: Mapping[str, Contender] = field(default_factory=dict)
    ns_per_unit: float = 1000.0


def measure(case: Case) -> Row:
    """Let all contenders take turns, another one first in each round; medians.

    Raises
    ------
    WrongAnswerError
        If an answer is not the expected one; names the contender.
    """
    contenders: list[tuple[str, Contender]] = [("kvcore", case.ours)]
    contenders += [*case.peers.items(), *case.limits.items()]
    times: list[list[int]] = [[] for _ in contenders]
    with collector_off():
        for round_ in range(case.rounds):
            for turn in range(len(contenders)):
                i = (round_ + turn) % len(contenders)
                name, contender = contenders[i]
                times[i].append(_time(f"{case.bench}, {case.name}: {name}", contender, round_))
    ours, *others = (median(series) / case.ns_per_unit for series in times)
    peers = dict(zip(case.peers, others, strict=False))
    limits = dict(zip(case.limits, others[len(case.peers) :], strict=True))
    return make_row(case.bench, case.name, case.unit, ours, peers, limits)


def check(label: str, answer: object, expected: object) -> None:
    """Raise `WrongAnswerError` unless the two are equal."""
    if answer != expected:
        raise WrongAnswerError(
            f"{label}: the answer is {short_repr(answer)}, expected {short_repr(expected)}"
        )


@contextmanager
def collector_off() -> Iterator[None]:
    """No garbage collection meanwhile."""
    gc.collect()
    was_on = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_on:
            gc.enable()


def in_new_process(module: str, *arguments: object) -> dict[str, float]:
    """What ``python -m module arguments...`` prints: a JSON object of figures."""
    command = [sys.executable, "-m", module, *map(str, arguments)]
    done = subprocess.run(command, stdout=subprocess.PIPE)
    if done.returncode != 0:
        raise ChildProcessError(f"{' '.join(command)} ended with status {done.returncode}")
    report: dict[str, float] = json.loads(done.stdout)
    return report


def resident_bytes() -> int:
    """Memory of this process, without the pages of files that are mapped."""
    gc.collect()
    _, resident, shared, *_ = map(int, Path("/proc/self/statm").read_text().split())
    return (resident - shared) * os.sysconf("SC_PAGE_SIZE")


@cache
def find_peer(module: str, package: str) -> ModuleType | None:
    """The module, or `None` and a line on stderr that says what is missing and what installs it."""
    try:
        return import_module(module)
    except ImportError as error:
        print(
            f"kvcore bench: {package} is not measured: {error}; `make bench` installs it, or "
            "`pip install -r benchmarks/peers.txt`",
            file=sys.stderr,
        )
        return None


def _time(label: str, contender: Contender, round_: int) -> int:
    argument = contender.prepare(round_)
    start = perf_counter_ns()
    result = contender.run(argument)
    elapsed = perf_counter_ns() - start
    check(f"{label}, round {round_}", contender.read(result), contender.expected(round_))
    return elapsed


def _times_better(unit: str, ours: float, others: Mapping[str, float]) -> float | None:
    if not others:
        return None
    higher_is_better = unit.endswith("/s")
    best = max(others.values()) if higher_is_better else min(others.values())
    return _rounded(ours / best if higher_is_better else best / ours)


def _rounded(figure: float) -> float:
    return float(f"{figure:.{_SIGNIFICANT_DIGITS}g}")
