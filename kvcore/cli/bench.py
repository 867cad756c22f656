"""`kvcore bench`: parts of kvcore beside their peers."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import asdict
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING

import click
from rich.console import Console

from kvcore.cli.output import check_output, console, new_table

if TYPE_CHECKING:
    from kvcore.bench.harness import Row

BENCHES = ("hash", "table", "cache", "evict", "copy", "disk")


class _PartsOrStore(click.Group):
    """`kvcore bench store` has options of its own; all else is of `parts`."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        if args[:1] != ["store"]:
            args = ["parts", *args]
        return super().parse_args(ctx, args)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name == "store":
            from kvcore.cli.bench_store import store

            return store
        return super().get_command(ctx, cmd_name)


@click.group(cls=_PartsOrStore)
def bench() -> None:
    pass


@bench.command(
    "parts", epilog="`kvcore bench store --help` is about a store's server.", hidden=True
)
@click.argument(
    "names", metavar="[hash|table|cache|evict|copy|disk]...", nargs=-1, type=click.Choice(BENCHES)
)
@click.option("--json", "json_path", type=click.Path(path_type=Path), help="Write a report here.")
@click.option("--quick", is_flag=True, help="Small sizes: shows that it runs, measures nothing.")
def parts(names: tuple[str, ...], json_path: Path | None, quick: bool) -> None:
    """Measure parts of kvcore beside their peers; all, or those that are named.

    Peers that are not installed are named and left out; `make bench BENCH=hash` brings them.
    """
    benches = {
        name: import_module(f"kvcore.bench.{name}").run(quick)
        for name in dict.fromkeys(names or BENCHES)
    }
    report(benches, json_path)


def report(benches: Mapping[str, Iterator[Row]], json_path: Path | None) -> None:
    """Run them, print a table of each, and write all to a file, if there is to be one."""
    from kvcore.bench.harness import WrongAnswerError
    from kvcore.machine import write_report

    check_output("--json", json_path)
    rows = []
    try:
        for name, results in benches.items():
            rows += _run(name, results)
    except (WrongAnswerError, ChildProcessError) as error:
        raise click.ClickException(str(error)) from None
    if json_path is not None:
        write_report(json_path, [asdict(row) for row in rows])


def _run(name: str, results: Iterator[Row]) -> list[Row]:
    rows: list[Row] = []
    errors = Console(stderr=True)
    with errors.status(f"{name} ...") as status:
        for row in results:
            rows.append(row)
            status.update(f"{name}, after {len(rows)}: {row.case}")
    _print_table(name, rows)
    return rows


def _print_table(name: str, rows: list[Row]) -> None:
    table = new_table(name)
    table.add_column("case")
    table.add_column("unit", no_wrap=True)
    table.add_column("kvcore", justify="right", no_wrap=True)
    table.add_column("peers and limits", justify="right", no_wrap=True)
    table.add_column("times\nbetter", justify="right", no_wrap=True)
    table.add_column("of\nlimit", justify="right", no_wrap=True)
    for row in rows:
        table.add_row(
            row.case,
            row.unit,
            _figure(row.ours),
            _lines({**row.peers, **row.limits}),
            "" if row.ratio is None else f"{row.ratio:,.1f}",
            "" if row.of_limit is None else f"{row.of_limit:.0%}",
        )
    console().print(table)


def _lines(figures: Mapping[str, float]) -> str:
    return "\n".join(f"{name} {_figure(figure)}" for name, figure in figures.items())


def _figure(figure: float) -> str:
    return f"{figure:,.0f}" if figure >= 100 else f"{figure:.3g}"
