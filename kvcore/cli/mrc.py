"""`kvcore mrc`: hit ratio against capacity, exact for LRU, and from a sample for any policy."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

import click
from rich.markup import escape

from kvcore._core import MissRatioCurve
from kvcore.cli import InputError
from kvcore.cli.inputs import open_trace, parse_capacities, parse_policies
from kvcore.cli.output import check_output, console, new_table
from kvcore.machine import write_report
from kvcore.sim import LruCurve, Trace, lru_curve
from kvcore.sim.curve import feed
from kvcore.sim.equal import LRU


@dataclass(frozen=True, slots=True)
class _Point:
    trace: str
    policy: str
    capacity: str
    capacity_blocks: int
    token_hit_ratio: float | None  # of LRU alone
    sampled_token_hit_ratio: float


@click.command()
@click.argument("trace", metavar="TRACE", type=click.Path(path_type=Path))
@click.option(
    "--policy",
    "policies",
    default=LRU,
    show_default=True,
    help="Policies to show beside LRU, with commas; all: every one of the cache.",
)
@click.option(
    "--capacity",
    "capacities",
    metavar="CAPACITY",
    default="0.5%,1%,2%,5%,10%,20%,50%,100%",
    show_default=True,
    help="Shares of the trace's unique blocks (0.5%) or numbers of blocks (4096), with commas.",
)
@click.option("--json", "json_path", type=click.Path(path_type=Path), help="Write a report here.")
def mrc(trace: Path, policies: str, capacities: str, json_path: Path | None) -> None:
    """Print what LRU finds at many capacities, and the knee of that curve.

    Exact from stack distances in one pass, and beside it as kvcore.MissRatioCurve estimates it
    online from a sample of the blocks, for LRU and for other policies. Behind the knee more blocks
    bring less than on the way.

    A TRACE is what `kvcore replay` takes.
    """
    names = list(dict.fromkeys([LRU, *parse_policies(policies)]))
    sizes = parse_capacities(capacities)
    check_output("--json", json_path)
    requests = open_trace(trace, trace.name)
    exact = lru_curve(requests)
    named = [(size.text, size.blocks(requests.num_unique_blocks)) for size in sizes]
    if knee := exact.knee_blocks():
        named.append(("knee", knee))
    curves = _curves(names, sorted({blocks for _, blocks in named}))
    for curve in curves.values():
        feed(curve, requests)
    points = list(_points(exact, curves, named))
    _print_table(names, named, points)
    _print_sample(requests, curves[LRU])
    if json_path is not None:
        write_report(json_path, [asdict(point) for point in points])


def _curves(policies: list[str], blocks: list[int]) -> dict[str, MissRatioCurve]:
    try:
        return {
            policy: MissRatioCurve(policy=policy, capacities=None if policy == LRU else blocks)
            for policy in policies
        }
    except ValueError as error:
        raise InputError(f"--capacity: {error}") from None


def _points(
    exact: LruCurve, curves: dict[str, MissRatioCurve], named: list[tuple[str, int]]
) -> Iterator[_Point]:
    """Ordered by policy, then capacity."""
    # Of the tokens that whole blocks have; the others are never found.
    tokens = exact.num_blocks * exact.block_tokens / max(1, exact.input_tokens)
    for policy, curve in curves.items():
        for text, blocks in named:
            hit_ratio = exact.token_hit_ratio(blocks) if policy == LRU else None
            sampled = curve.hit_ratio(blocks) * tokens
            yield _Point(exact.trace, policy, text, blocks, hit_ratio, sampled)


def _print_table(policies: list[str], named: list[tuple[str, int]], points: list[_Point]) -> None:
    table = new_table(f"{escape(points[0].trace)}: token hit ratio")
    headings = ("capacity", "blocks", "lru\nexact %")
    for heading in (*headings, *(f"{policy}\nsampled %" for policy in policies)):
        table.add_column(heading, justify="right", no_wrap=True)
    for at, (text, blocks) in enumerate(named):
        of_all = points[at :: len(named)]  # one a policy, LRU first
        ratios = [of_all[0].token_hit_ratio, *(point.sampled_token_hit_ratio for point in of_all)]
        table.add_row(
            text, f"{blocks:,}", *(f"{100 * ratio:.2f}" for ratio in ratios if ratio is not None)
        )
    console().print(table)


def _print_sample(trace: Trace, sample: MissRatioCurve) -> None:
    console().print(
        f"{sample.sampled_blocks:,} of {trace.num_unique_blocks:,} unique blocks sampled for LRU, "
        f"rate {100 * sample.rate:.4g}%",
        highlight=False,
    )
