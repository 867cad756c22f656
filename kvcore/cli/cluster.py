"""`kvcore cluster`: how the servers of a cluster are, and what a change of them would move."""

from __future__ import annotations

import json
import secrets
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from typing import Any

import click
import numpy as np

from kvcore.cli import InputError
from kvcore.cli.health import Prober
from kvcore.cli.output import console, new_table
from kvcore.cluster import (
    ClusterError,
    Members,
    Plan,
    Server,
    Source,
    StaticSource,
    plan_change,
    shares,
)
from kvcore.stores import InfiniStoreStore
from kvcore.stores.round_trip import RoundTripError
from kvcore.stores.url import cluster_of, parse_server

_JSON = click.option("--json", "as_json", is_flag=True, help="Print JSON.")


@click.group()
def cluster() -> None:
    """Say how a cluster's servers are, and what a change of them would move."""


@dataclass(frozen=True, slots=True)
class _Row:
    """What is known of one member; `round_trip_ms` without the time to connect."""

    name: str
    label: str
    address: str
    reachable: bool
    round_trip_ms: float | None
    error: str | None
    share: float
    breaker: str


@cluster.command()
@click.argument("url")
@click.option(
    "--timeout-s",
    type=click.FloatRange(min=0, min_open=True, max=60),
    default=2.0,
    show_default=True,
    help="A server that takes longer is not reachable.",
)
@_JSON
def status(url: str, timeout_s: float, as_json: bool) -> None:
    """Make a round trip to each server of the cluster that URL names.

    \b
    infinistore://a:22345,b:22345?replicas=2
    infinistore+dns://name:22345
    infinistore+aibrix://redis-host:6379/0

    The breaker is that of a store that has just asked each server: open where it gave it up.
    Exit status 1 when a server is not reachable, or there is none.
    """
    source, options = _cluster_of(url)
    members = _looked_up(source) if isinstance(source, StaticSource) else _read(source)
    rows = _rows(members, options, timeout_s)
    if as_json:
        replicas = options.get("replicas", 1)
        members_of = [asdict(row) for row in rows]
        click.echo(json.dumps({"replicas": replicas, "members": members_of}, indent=1))
    else:
        _print_rows(rows)
    if not all(row.reachable for row in rows):
        raise click.exceptions.Exit(1)


@cluster.command()
@click.argument("url")
@click.option("--add", metavar="HOST:PORT[=WEIGHT]", multiple=True, help="A server that comes.")
@click.option("--remove", metavar="HOST:PORT", multiple=True, help="A server that goes.")
@click.option(
    "--chunks",
    type=click.IntRange(1, 1_000_000),
    default=10_000,
    show_default=True,
    help="How many to sample.",
)
@_JSON
def plan(
    url: str, add: tuple[str, ...], remove: tuple[str, ...], chunks: int, as_json: bool
) -> None:
    """Say which chunks would have other servers, and which would be lost.

    Nobody is asked and nothing is moved: servers cannot list what they have. A chunk that has
    other servers is a miss until it is written again, unless another copy is where it is looked
    for: then it is given back when it is read.
    """
    source, options = _cluster_of(url)
    before = Members(source.servers) if isinstance(source, StaticSource) else _read(source)
    if before.slots is not None:
        raise InputError(
            "AIBrix's own watcher gives slots to servers; what it would do is not known here"
        )
    after = _changed(before, add, remove)
    replicas = options.get("replicas", 1)
    try:
        planned = plan_change(before, after, replicas, chunks)
    except ValueError as error:
        raise InputError(str(error)) from None
    if as_json:
        click.echo(json.dumps({"replicas": replicas, **asdict(planned)}, indent=1))
    else:
        _print_plan(planned, replicas)


def _cluster_of(url: str) -> tuple[Source, dict[str, Any]]:
    try:
        source, options = cluster_of(url)
    except (ValueError, ImportError) as error:
        raise InputError(str(error)) from None
    if not 1 <= options.get("replicas", 1) <= 16:
        raise InputError(f"replicas must be from 1 to 16, got {options['replicas']}")
    return source, options


def _read(source: Source) -> Members:
    try:
        return source.read()
    except ClusterError as error:
        raise click.ClickException(str(error)) from None


def _looked_up(source: StaticSource) -> Members:
    """Of a list, those too whose names have no address."""
    servers: list[Server] = []
    for server in source.servers:
        try:
            servers += StaticSource([server]).read().servers
        except ClusterError:
            servers.append(server)
    return Members(tuple(servers))


def _changed(before: Members, add: tuple[str, ...], remove: tuple[str, ...]) -> Members:
    if not add and not remove:
        raise InputError("there must be an --add or a --remove")
    try:
        coming = [parse_server("--add", text) for text in add]
        going = {parse_server("--remove", text).name for text in remove}
        names = {server.name for server in before.servers}
        if unknown := going - names:
            known = ", ".join(sorted(names))
            raise InputError(f"--remove must be one of {known}, got {min(unknown)}")
        staying = [server for server in before.servers if server.name not in going]
        return Members((*staying, *coming))
    except ValueError as error:
        raise InputError(str(error)) from None


def _rows(members: Members, options: dict[str, Any], timeout_s: float) -> list[_Row]:
    if not members.servers:
        return []
    breakers = _breakers(members, options, timeout_s)
    parts = shares(members, options.get("replicas", 1))

    def row(server: Server, share: float) -> _Row:
        address = server.address or server.host
        took, error = None, None
        try:
            steps = Prober(address, server.port).probe(timeout_s)
            took = (steps.write_us + steps.read_us + steps.delete_us) / 1e3
        except (OSError, RoundTripError) as failure:
            error = str(failure)
        return _Row(
            name=server.name,
            label=server.label,
            address=Server(address, server.port).name,
            reachable=error is None,
            round_trip_ms=took,
            error=error,
            share=share,
            breaker=breakers.get(server.name, "not asked"),
        )

    with ThreadPoolExecutor(min(32, len(members.servers))) as threads:
        return list(threads.map(row, members.servers, parts))


def _breakers(members: Members, options: dict[str, Any], timeout_s: float) -> dict[str, str]:
    """What a store makes of each server that it has a reason to ask."""
    own = {name: value for name, value in options.items() if name != "refresh_s"}
    try:
        store = InfiniStoreStore((), secrets.token_bytes(16), 4096, **own)
    except (TypeError, ValueError) as error:
        raise InputError(str(error)) from None
    try:
        store.set_servers(Members(tuple(s for s in members.servers if s.address), members.slots))
        # So many that a server with a share of a thousandth is asked too, most likely.
        hashes = np.frombuffer(secrets.token_bytes(16 * 4096), np.uint8).reshape(-1, 16)
        store.contains(hashes, timeout_s).wait()
        stats = store.server_stats()
    finally:
        store.close()
    return {
        name: "open" if not s.is_well else "closed" if s.requests > 0 else "not asked"
        for name, s in stats.items()
    }


def _print_rows(rows: list[_Row]) -> None:
    table = new_table(f"{len(rows)} servers")
    table.add_column("server", no_wrap=True)
    table.add_column("called")
    table.add_column("address")
    table.add_column("reachable")
    table.add_column("round trip ms", justify="right")
    table.add_column("share %", justify="right")
    table.add_column("breaker")
    for row in rows:
        table.add_row(
            row.name,
            row.label,
            row.address,
            "yes" if row.reachable else f"no: {row.error}",
            "" if row.round_trip_ms is None else f"{row.round_trip_ms:.2f}",
            f"{100 * row.share:.1f}",
            row.breaker,
        )
    console().print(table)


def _print_plan(plan: Plan, replicas: int) -> None:
    moved = f"{plan.moved:,} of {plan.chunks:,} chunks ({_percent(plan.moved, plan)})"
    click.echo(f"{moved} get other servers")
    table = new_table("")
    table.add_column("from", no_wrap=True)
    table.add_column("to", no_wrap=True)
    table.add_column("copies" if replicas > 1 else "chunks", justify="right")
    table.add_column("% of all chunks", justify="right")
    for move in plan.moves:
        row = move.source or "nobody", move.to or "nobody"
        table.add_row(*row, f"{move.chunks:,}", f"{100 * move.chunks / plan.chunks:.1f}")
    console().print(table)
    if plan.lost:
        click.echo(
            f"WARNING: {plan.lost:,} chunks ({_percent(plan.lost, plan)}) have no copy where they "
            "are looked for then: misses, until they are written again."
        )
    if plan.gone:
        click.echo(
            f"WARNING: {plan.gone:,} of them ({_percent(plan.gone, plan)}) have their only "
            f"{'copies' if replicas > 1 else 'copy'} on servers that go."
        )


def _percent(chunks: int, plan: Plan) -> str:
    return f"{100 * chunks / plan.chunks:.1f} %"
