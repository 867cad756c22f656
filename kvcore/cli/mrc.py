"""`kvcore mrc`: LRU's hit ratio against capacity, exact and from a sample."""

from __future__ import annotations

import sys
from dataclasses import asdict, dataclass
from pathlib import Path

import click
from rich import box
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from kvcore._core import MissRatioCurve
from kvcore.cli.inputs import check_output, open_trace, parse_capacities
from kvcore.machine import write_report
from kvcore.sim import Trace, lru_curve
from kvcore.sim.curve import feed

_PIPED_WIDTH = 160
_HEADINGS = ("capacity", "blocks", "exact\ntoken hit %", "sampled\ntoken hit %")


@dataclass(frozen=True, slots=True)
class _Point:
    trace: str
    capacity: str
    capacity_blocks: int
    token_hit_ratio: float
    sampled_token_hit_ratio: float


@click.command()
@click.argument("trace", metavar="TRACE", type=click.Path(path_type=Path))
@click.option(
    "--capacity",
    "capacities",
    metavar="CAPACITY",
    default="0.5%,1%,2%,5%,10%,20%,50%,100%",
    show_default=True,
    help="Shares of the trace's unique blocks (0.5%) or numbers of blocks (4096), with commas.",
)
@click.option("--json", "json_path", type=click.Path(path_type=Path), help="Write a report here.")
def mrc(trace: Path, capacities: str, json_path: Path | None) -> None:
    """Print what LRU finds at many capacities, and the knee of that curve.

    Exact from stack distances in one pass, and beside it as kvcore.MissRatioCurve estimates it
    online from a sample of the blocks. Behind the knee more blocks bring less than on the way.

    A TRACE is what `kvcore replay` takes.
    """
    sizes = parse_capacities(capacities)
    check_output("--json", json_path)
    requests = open_trace(trace, trace.name)
    curve = lru_curve(requests)
    named = [(size.text, size.blocks(requests.num_unique_blocks)) for size in sizes]
    if knee := curve.knee_blocks():
        named.append(("knee", knee))
    sample = MissRatioCurve()
    feed(sample, requests)
    # Of the tokens that whole blocks have; the others are never found.
    tokens = requests.num_blocks * curve.block_tokens / max(1, curve.input_tokens)
    points = [
        _Point(
            requests.name,
            text,
            blocks,
            curve.token_hit_ratio(blocks),
            sample.hit_ratio(blocks) * tokens,
        )
        for text, blocks in named
    ]
    _print_table(requests, sample, points)
    if json_path is not None:
        write_report(json_path, [asdict(point) for point in points])


def _print_table(trace: Trace, sample: MissRatioCurve, points: list[_Point]) -> None:
    console = Console(width=None if sys.stdout.isatty() else _PIPED_WIDTH)
    table = Table(
        title=escape(trace.name), title_justify="left", box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0)
    )
    for heading in _HEADINGS:
        table.add_column(heading, justify="right", no_wrap=True)
    for point in points:
        table.add_row(
            point.capacity,
            f"{point.capacity_blocks:,}",
            f"{100 * point.token_hit_ratio:.2f}",
            f"{100 * point.sampled_token_hit_ratio:.2f}",
        )
    console.print(table)
    console.print(
        f"{sample.sampled_blocks:,} of {trace.num_unique_blocks:,} unique blocks sampled, "
        f"rate {100 * sample.rate:.4g}%",
        highlight=False,
    )
