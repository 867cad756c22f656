"""`kvcore bench store`: a server, with and without InfiniStore's own client beside."""

from __future__ import annotations

import socket
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import click

from kvcore.cli import InputError
from kvcore.cli.bench import report
from kvcore.cli.health import Prober
from kvcore.cli.serve import (
    OPEN_TO_ALL,
    find_command,
    start_server,
    stop_server,
    wait_until_ready,
)
from kvcore.stores.url import cluster_of, parse_size

if TYPE_CHECKING:
    from kvcore.stores import Server

_GIB = 1 << 30
_QUICK_BYTES = 8 << 20
_HAS_INFINISTORE = "import importlib.util as u; exit(not u.find_spec('infinistore'))"


def _sizes(ctx: click.Context, param: click.Parameter, value: str) -> tuple[int, ...]:
    """Bytes of "64KiB,1MiB"."""
    try:
        sizes = tuple(parse_size(f"--{param.name}", part) for part in value.split(","))
    except ValueError as error:
        raise click.BadParameter(str(error)) from None
    # InfiniStore's own client would end the server with larger ones. A group of fp8 is 256 bytes.
    if not all(16 << 10 <= size <= 2 << 20 and size % 256 == 0 for size in sizes):
        raise click.BadParameter(f"must be multiples of 256 from 16KiB to 2MiB, got {value!r}")
    return sizes


def _counts(ctx: click.Context, param: click.Parameter, value: str) -> tuple[int, ...]:
    """Numbers of "1,4,8"."""
    parts = value.split(",")
    if not all(part.isdecimal() and 1 <= int(part) <= 64 for part in parts):
        raise click.BadParameter(f"must be from 1 to 64 each, got {value!r}")
    return tuple(map(int, parts))


@click.command()
@click.argument("url", required=False)
@click.option("--block-bytes", callback=_sizes, default="64KiB,256KiB,1MiB", show_default=True)
@click.option("--connections", callback=_counts, default="1,4,8", show_default=True)
@click.option("--total", default="128MiB", show_default=True, help="Bytes of a fetch.")
@click.option("--rounds", type=click.IntRange(min=1), default=11, show_default=True)
@click.option(
    "--compare", type=click.Choice(["official"]), help="InfiniStore's own client beside kvcore."
)
@click.option(
    "--python",
    help="A Python that has infinistore, for --compare; by default the one beside the server.",
)
@click.option(
    "--command", "command_path", default="infinistore", show_default=True, help="The server."
)
@click.option("--json", "json_path", type=click.Path(path_type=Path), help="Write a report here.")
@click.option("--quick", is_flag=True, help="8 MiB, once: shows that it runs, measures nothing.")
def store(
    url: str | None,
    block_bytes: tuple[int, ...],
    connections: tuple[int, ...],
    total: str,
    rounds: int,
    compare: str | None,
    python: str | None,
    command_path: str,
    json_path: Path | None,
    quick: bool,
) -> None:
    """Measure fetches from and saves to an InfiniStore server.

    URL is infinistore://HOST:PORT, and that server loses what it has no room for beside six times
    --total; without it a server is started for the purpose.
    """
    from kvcore.bench.store import Plan, run

    try:
        total_bytes = _QUICK_BYTES if quick else parse_size("--total", total)
    except ValueError as error:
        raise InputError(str(error)) from None
    if total_bytes < max(block_bytes):
        raise InputError(f"--total must be {max(block_bytes)} at least, got {total}")
    plan = Plan(
        block_bytes,
        connections,
        total_bytes,
        1 if quick else rounds,
        20 if quick else 300,
        _official_python(python, command_path) if compare else None,
    )
    if url is not None:
        report({"store": run(_server_of(url), plan)}, json_path)
        return
    with _private_server(command_path, total_bytes) as server:
        report({"store": run(server, plan)}, json_path)


def _server_of(url: str) -> Server:
    from kvcore.cluster import ClusterError, StaticSource

    try:
        source, _ = cluster_of(url)
        if not isinstance(source, StaticSource) or len(source.servers) != 1:
            raise InputError(f"URL must have one server, as infinistore://HOST:PORT, got {url!r}")
        (server,) = source.read().servers
    except (TypeError, ValueError, ImportError, ClusterError) as error:
        raise InputError(str(error)) from None
    return server


def _official_python(python: str | None, command_path: str) -> str:
    if python is None:
        python = str(Path(find_command(command_path, None)[0]).with_name("python"))
    try:
        has_it = subprocess.run([python, "-c", _HAS_INFINISTORE], capture_output=True)
    except OSError as error:
        raise InputError(f"--python: cannot run {python}: {error.strerror}") from None
    if has_it.returncode != 0:
        raise InputError(f"--python: {python} has no infinistore")
    return python


@contextmanager
def _private_server(command_path: str, total_bytes: int) -> Iterator[Server]:
    from kvcore.stores import Server

    service, manage = _free_ports()
    click.echo(OPEN_TO_ALL.format(service=service, manage=manage), err=True)
    flags = {
        "--service-port": service,
        "--manage-port": manage,
        "--prealloc-size": -(-8 * total_bytes // _GIB),
        "--log-level": "warning",
    }
    arguments = [str(part) for flag in flags.items() for part in flag]
    process = start_server([*find_command(command_path, None), *arguments])
    try:
        wait_until_ready(process, Prober("127.0.0.1", service), threading.Event(), 60)
        yield Server("127.0.0.1", service)
    finally:
        stop_server(process)


def _free_ports() -> list[int]:
    sockets = [socket.socket() for _ in range(2)]
    try:
        for one in sockets:
            one.bind(("127.0.0.1", 0))
        return [int(one.getsockname()[1]) for one in sockets]
    finally:
        for one in sockets:
            one.close()
