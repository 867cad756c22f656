"""`kvcore replay`: hit ratios of traces by policy and capacity."""

from __future__ import annotations

import signal
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from itertools import groupby
from pathlib import Path
from types import FrameType

import click
from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from kvcore.cli import InputError
from kvcore.cli.inputs import open_trace, parse_capacities, parse_policies
from kvcore.cli.output import check_output, console, new_table
from kvcore.machine import replace_file, usable_cores, write_report
from kvcore.sim import EqualCapacity, Prefill, ReplayResult, Trace, equal_capacities, sweep
from kvcore.sim.equal import LRU, effective_gain, mean_less
from kvcore.sim.optimum import OPTIMUM, infinite_token_hit_ratio

_HEADINGS = (
    "capacity",
    "blocks",
    "token\nhit %",
    "block\nhit %",
    "evictions",
    "p90\nTTFT s",
    "ns/block",
)


_REPORT_HELP = (
    "Write a page (HTML) here: curves, how much of the gap to the optimum is closed, the capacity "
    "needed to equal LRU, times to first token, survival of blocks. LRU and the optimum are added."
)


@click.command()
@click.argument(
    "traces", metavar="TRACE...", nargs=-1, required=True, type=click.Path(path_type=Path)
)
@click.option(
    "--policy",
    "policies",
    default="lru,auto",
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
@click.option("--report", "report_path", type=click.Path(path_type=Path), help=_REPORT_HELP)
@click.option(
    "--engines",
    type=click.IntRange(min=1),
    default=1,
    show_default=True,
    help="Engines that prefill, for the times to first token.",
)
@click.option(
    "--prefill-tokens-per-s",
    type=float,
    help="Of all engines; by default twice what the trace asks for.",
)
@click.option(
    "--jobs", type=click.IntRange(min=1), help="Processes at a time, by default one a core."
)
@click.option(
    "--verify-bytes",
    is_flag=True,
    help="Move bytes too, through a KVCache, and check each one that it hands out.",
)
@click.option(
    "--store",
    "store_url",
    metavar="URL",
    help="Behind it, with --verify-bytes: memory:, disk:PATH or infinistore://HOST:PORT.",
)
@click.option(
    "--block-bytes",
    type=click.IntRange(min=64),
    default=4096,
    show_default=True,
    help="Bytes of a block, a multiple of 64, with --verify-bytes.",
)
def replay(
    traces: tuple[Path, ...],
    policies: str,
    capacities: str,
    json_path: Path | None,
    plot_path: Path | None,
    report_path: Path | None,
    engines: int,
    prefill_tokens_per_s: float | None,
    jobs: int | None,
    verify_bytes: bool,
    store_url: str | None,
    block_bytes: int,
) -> None:
    """Replay traces through the cache: hit ratio by policy and capacity.

    A TRACE is Mooncake JSONL, Qwen-Bailian JSONL or kvt CSV, plain or compressed with gzip or
    zstd; what it is shows from its content.

    Times to first token (TTFT) are those of a simple model: requests wait, first come, first
    served, for an engine that then computes their uncached tokens.
    """
    policy_names = parse_policies(policies, OPTIMUM)
    sizes = parse_capacities(capacities)
    prefill = _prefill(engines, prefill_tokens_per_s)
    _check_outputs(json_path, plot_path, report_path)
    if verify_bytes:
        from kvcore.cli.verify import replay_with_bytes

        if OPTIMUM in policy_names or plot_path is not None or report_path is not None:
            raise InputError("--verify-bytes goes with policies of the cache and --json alone")
        rows = replay_with_bytes(
            _read(traces, lambda done: None), policy_names, sizes, block_bytes, store_url
        )
        return None if json_path is None else write_report(json_path, rows)
    if store_url is not None:
        raise InputError("--store goes with --verify-bytes")
    if report_path is not None:
        policy_names = list(dict.fromkeys([LRU, *policy_names, OPTIMUM]))
    equals: list[EqualCapacity] = []
    num_replays = len(traces) * len(policy_names) * len(sizes)
    num_searches = 0 if report_path is None else num_replays
    with _progress(len(traces) + num_replays + num_searches) as advance:
        try:
            with _terminable():
                requests = list(_read(traces, advance))
                workers = jobs or usable_cores()
                results = sweep(
                    requests,
                    policy_names,
                    sizes,
                    workers,
                    lambda result: advance("replaying"),
                    prefill,
                )
                if report_path is not None:
                    equals = equal_capacities(
                        requests, results, workers, lambda equal: advance("searching")
                    )
        except BrokenProcessPool:
            raise click.ClickException(
                "a replay process died; was there too little memory?"
            ) from None
        except OSError as error:
            raise click.ClickException(f"the replay could not go on: {error}") from None
    _print_tables(results)
    if report_path is not None:
        _print_equals(equals)
    if json_path is not None:
        write_report(json_path, _rows(results, equals))
    if plot_path is not None:
        from kvcore.cli.plot import hit_ratio_png

        infinite = {trace.name: infinite_token_hit_ratio(trace) for trace in requests}
        replace_file(plot_path, hit_ratio_png(results, infinite))
    if report_path is not None:
        from kvcore.cli.report import report_page

        page = report_page(requests, results, equals, prefill)
        replace_file(report_path, page.encode())


def _prefill(engines: int, tokens_per_s: float | None) -> Prefill:
    try:
        return Prefill(engines, tokens_per_s)
    except ValueError as error:
        raise InputError(f"--prefill-tokens-per-s: {error}") from None


def _rows(results: list[ReplayResult], equals: list[EqualCapacity]) -> list[dict[str, object]]:
    """Rows of the report; `blocks_to_equal_lru` is None where nobody searched for it."""
    found = {(e.trace, e.policy, e.capacity): e.policy_blocks for e in equals}
    return [
        result.row()
        | {"blocks_to_equal_lru": found.get((result.trace, result.policy, result.capacity))}
        for result in results
    ]


def _check_outputs(
    json_path: Path | None, plot_path: Path | None, report_path: Path | None
) -> None:
    check_output("--json", json_path)
    check_output("--plot", plot_path)
    check_output("--report", report_path)
    if plot_path is None:
        return
    if plot_path.suffix.lower() != ".png":
        raise InputError(f"--plot {plot_path}: the name must end in .png")
    try:
        import matplotlib  # noqa: F401
    except ImportError:
        raise InputError("--plot needs matplotlib: pip install 'kvcore[plot]'") from None


def _read(paths: tuple[Path, ...], advance: Callable[[str], None]) -> Iterator[Trace]:
    """Traces by file name, by path where two files have the same name."""
    names = Counter(path.name for path in paths)
    for path in paths:
        yield open_trace(path, path.name if names[path.name] == 1 else str(path))
        advance("reading")


@contextmanager
def _progress(total: int) -> Iterator[Callable[[str], None]]:
    """A bar on stderr if that is a terminal. Yields what moves it one step on."""
    errors = Console(stderr=True)
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
    )
    with Progress(*columns, console=errors, transient=True, disable=not errors.is_terminal) as bar:
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


def _print_equals(equals: list[EqualCapacity]) -> None:
    """How much less room than LRU each policy needs, over all traces and capacities."""
    table = new_table("capacity needed to equal LRU, mean of all capacities and traces")
    table.add_column("policy", no_wrap=True)
    for heading in ("% less", "effective\ncapacity, % more"):
        table.add_column(heading, justify="right", no_wrap=True)
    for policy in dict.fromkeys(equal.policy for equal in equals):
        less = mean_less(equal for equal in equals if equal.policy == policy)
        table.add_row(policy, f"{100 * less:.1f}", f"{100 * effective_gain(less):.1f}")
    console().print(table)


def _print_tables(results: list[ReplayResult]) -> None:
    """One table a trace, of hits in percent, in 80 columns; a pipe gets as many as it takes."""
    printer = console()
    for trace, rows in groupby(results, lambda result: result.trace):
        table = new_table(escape(trace))
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
                f"{row.ttft.p90_s:.3f}",
                f"{row.ns_per_block:.1f}",
            )
        printer.print(table)
