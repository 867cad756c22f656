"""`kvcore replay`: hit ratios of traces by policy and capacity."""

from __future__ import annotations

import signal
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from dataclasses import asdict
from itertools import groupby
from pathlib import Path
from types import FrameType

import click
from rich import box
from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

from kvcore._core import POLICIES
from kvcore.cli import InputError
from kvcore.cli.inputs import check_output, listed, open_trace, parse_capacities
from kvcore.machine import replace_file, usable_cores, write_report
from kvcore.sim import ReplayResult, Trace, sweep
from kvcore.sim.optimum import OPTIMUM, infinite_token_hit_ratio

_PIPED_WIDTH = 160
_HEADINGS = (
    "capacity",
    "blocks",
    "token\nhit %",
    "block\nhit %",
    "evictions",
    "seconds",
    "ns/block",
)


@click.command()
@click.argument(
    "traces", metavar="TRACE...", nargs=-1, required=True, type=click.Path(path_type=Path)
)
@click.option(
    "--policy",
    "policies",
    default="lru,arc",
    show_default=True,
    help="Policies, with commas; all: every one of the cache; opt: the offline optimum.",
)
@click.option(
    "--capacity",
    "capacities",
    metavar="CAPACITY",
    default="0.5%,1%,2%,5%",
    show_default=True,
    help="Shares of a trace's unique blocks (0.5%) or numbers of blocks (4096), with commas.",
)
@click.option("--json", "json_path", type=click.Path(path_type=Path), help="Write a report here.")
@click.option("--plot", "plot_path", type=click.Path(path_type=Path), help="Draw a PNG here.")
@click.option(
    "--jobs", type=click.IntRange(min=1), help="Processes at a time, by default one a core."
)
def replay(
    traces: tuple[Path, ...],
    policies: str,
    capacities: str,
    json_path: Path | None,
    plot_path: Path | None,
    jobs: int | None,
) -> None:
    """Replay traces through the cache: hit ratio by policy and capacity.

    A TRACE is Mooncake JSONL, Qwen-Bailian JSONL or kvt CSV, plain or compressed with gzip or
    zstd; what it is shows from its content.
    """
    policy_names = _policies(policies)
    sizes = parse_capacities(capacities)
    _check_outputs(json_path, plot_path)
    infinite: dict[str, float] = {}
    with _progress(len(traces) + len(traces) * len(policy_names) * len(sizes)) as advance:
        try:
            with _terminable():
                results = sweep(
                    _read(traces, infinite, advance),
                    policy_names,
                    sizes,
                    jobs or usable_cores(),
                    lambda result: advance("replaying"),
                )
        except BrokenProcessPool:
            raise click.ClickException(
                "a replay process died; was there too little memory?"
            ) from None
        except OSError as error:
            raise click.ClickException(f"the replay could not go on: {error}") from None
    _print_tables(results)
    if json_path is not None:
        write_report(json_path, [asdict(result) for result in results])
    if plot_path is not None:
        from kvcore.cli.plot import hit_ratio_png

        replace_file(plot_path, hit_ratio_png(results, infinite))


def _policies(text: str) -> list[str]:
    """Names of policies; "all" stands for those of the cache."""
    names: dict[str, None] = {}
    for name in listed(text):
        if name != "all" and name not in (*POLICIES, OPTIMUM):
            allowed = ", ".join((*POLICIES, OPTIMUM, "all"))
            raise InputError(f"--policy: policy must be one of {allowed}, got {name[:40]!r}")
        names |= dict.fromkeys(POLICIES if name == "all" else [name])
    return list(names)


def _check_outputs(json_path: Path | None, plot_path: Path | None) -> None:
    check_output("--json", json_path)
    check_output("--plot", plot_path)
    if plot_path is None:
        return
    if plot_path.suffix.lower() != ".png":
        raise InputError(f"--plot {plot_path}: the name must end in .png")
    try:
        import matplotlib  # noqa: F401
    except ImportError:
        raise InputError("--plot needs matplotlib: pip install 'kvcore[plot]'") from None


def _read(
    paths: tuple[Path, ...], infinite: dict[str, float], advance: Callable[[str], None]
) -> Iterator[Trace]:
    """Traces by file name, by path where two files have the same name.

    Notes in `infinite` what a cache that never evicts finds in each.
    """
    names = Counter(path.name for path in paths)
    for path in paths:
        trace = open_trace(path, path.name if names[path.name] == 1 else str(path))
        infinite[trace.name] = infinite_token_hit_ratio(trace)
        yield trace
        advance("reading")


@contextmanager
def _progress(total: int) -> Iterator[Callable[[str], None]]:
    """A bar on stderr if that is a terminal. Yields what moves it one step on."""
    console = Console(stderr=True)
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
    )
    with Progress(
        *columns, console=console, transient=True, disable=not console.is_terminal
    ) as bar:
        task = bar.add_task("reading", total=total)
        yield lambda description: bar.update(task, advance=1, description=description)


@contextmanager
def _terminable() -> Iterator[None]:
    """SIGTERM ends the work as Ctrl-C does: processes stopped, temporary files removed."""

    def end(signum: int, frame: FrameType | None) -> None:
        raise SystemExit(128 + signum)

    handler = signal.signal(signal.SIGTERM, end)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, handler)


def _print_tables(results: list[ReplayResult]) -> None:
    """One table a trace, of hits in percent, in 80 columns; a pipe gets as many as it takes."""
    console = Console(width=None if sys.stdout.isatty() else _PIPED_WIDTH)
    for trace, rows in groupby(results, lambda result: result.trace):
        table = Table(
            title=escape(trace), title_justify="left", box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0)
        )
        table.add_column("policy", no_wrap=True)
        for heading in _HEADINGS:
            table.add_column(heading, justify="right", no_wrap=True)
        for row in rows:
            table.add_row(
                row.policy,
                row.capacity,
                f"{row.capacity_blocks:,}",
                f"{100 * row.token_hit_ratio:.2f}",
                f"{100 * row.block_hit_ratio:.2f}",
                f"{row.evictions:,}",
                f"{row.seconds:.3f}",
                f"{row.ns_per_block:.1f}",
            )
        console.print(table)
