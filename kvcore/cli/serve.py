"""`kvcore serve`: a store's real server, with flags that work and a health endpoint."""

from __future__ import annotations

import ctypes
import os
import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import Sequence
from pathlib import Path

import click

from kvcore.cli import InputError
from kvcore.cli.health import HealthServer, Prober

_STOP_S = 5
_INSTALL = (
    "install it into an environment of its own, of Python 3.10 to 3.12: "
    "pip install --no-deps infinistore==0.2.35 && pip install numpy uvloop fastapi uvicorn"
)
OPEN_TO_ALL = """\
WARNING: this server listens on every interface, whatever its --host, on ports {service} (data) and
{manage} (management). It has no authentication: whoever reaches them can read, overwrite and delete
every value, and stop the server. Fence it off before you store anything:
  Kubernetes  a NetworkPolicy that lets only the engines' pods reach ports {service} and {manage}
  firewall    nft add table inet kvcore
              nft add chain inet kvcore in '{{ type filter hook input priority 0; }}'
              nft add rule inet kvcore in tcp dport '{{ {service}, {manage} }}' \\
                ip saddr != '{{ 127.0.0.1, ENGINES }}' drop
"""
# Their values stay strings, and the server's own task dies of that; the last does nothing.
_BROKEN_FLAGS = (
    "--evict-interval",
    "--evict-min-threshold",
    "--evict-max-threshold",
    "--auto-increase",
)
_PORT = click.IntRange(1, 65_535)


@click.group()
def serve() -> None:
    """Start a store's server with a health endpoint."""


@serve.command()
@click.option("--service-port", type=_PORT, default=22_345, show_default=True, help="For data.")
@click.option("--manage-port", type=_PORT, default=18_080, show_default=True, help="For /purge.")
@click.option(
    "--health-port", type=_PORT, default=18_081, show_default=True, help="For GET /health."
)
@click.option(
    "--health-host",
    default="127.0.0.1",
    show_default=True,
    help="Where the health endpoint listens; 0.0.0.0 for an orchestrator's probes.",
)
@click.option(
    "--health-timeout-s",
    type=click.FloatRange(min=0, min_open=True),
    default=2.0,
    show_default=True,
    help="A round trip that takes longer is unhealthy.",
)
@click.option(
    "--memory-gib",
    type=click.IntRange(min=1),
    default=16,
    show_default=True,
    help="What it keeps values in.",
)
@click.option(
    "--granule-kib",
    type=click.IntRange(min=16),
    default=64,
    show_default=True,
    help="A value takes a multiple of it.",
)
@click.option("--start-timeout-s", type=click.FloatRange(min=1), default=120.0, show_default=True)
@click.option(
    "--command",
    "command_path",
    default="infinistore",
    show_default=True,
    help="The server, on the path or as a file.",
)
@click.option("--python", help="A Python that has infinistore, in the place of --command.")
@click.argument("more", nargs=-1)
def infinistore(
    service_port: int,
    manage_port: int,
    health_port: int,
    health_host: str,
    health_timeout_s: float,
    memory_gib: int,
    granule_kib: int,
    start_timeout_s: float,
    command_path: str,
    python: str | None,
    more: tuple[str, ...],
) -> None:
    """Start the real InfiniStore server, and say at /health whether it returns what it gets.

    \b
    More flags of the server come after --, as in
    kvcore serve infinistore --memory-gib 64 -- --dev-name mlx5_0 --link-type Ethernet

    It ends with the server, with exit code 1; SIGTERM and SIGINT stop both.
    """
    command = find_command(command_path, python)
    _check_flags(more)
    if len({service_port, manage_port, health_port}) < 3:
        raise InputError("--service-port, --manage-port and --health-port must differ")
    flags = {
        "--service-port": service_port,
        "--manage-port": manage_port,
        "--prealloc-size": memory_gib,
        "--minimal-allocate-size": granule_kib,
        "--log-level": "warning",
    }
    stopped = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stopped.set())
    click.echo(OPEN_TO_ALL.format(service=service_port, manage=manage_port), err=True)
    arguments = [str(part) for flag in flags.items() for part in flag]
    server = start_server([*command, *arguments, *more])
    health: HealthServer | None = None
    try:
        prober = Prober("127.0.0.1", service_port)
        try:
            health = HealthServer(health_host, health_port, prober, health_timeout_s)
        except OSError as error:
            raise InputError(f"--health-port {health_port}: {error.strerror}") from None
        if not wait_until_ready(server, prober, stopped, start_timeout_s):
            return
        click.echo(
            f"serving on port {service_port}, "
            f"health at http://{health_host}:{health_port}/health, pid {server.pid}"
        )
        while not stopped.wait(0.2):
            _check_alive(server)
    finally:
        if health is not None:
            health.close()
        stop_server(server)


def find_command(command: str, python: str | None) -> list[str]:
    if python is not None:
        found = shutil.which(python)
        if found is None:
            raise InputError(f"--python: there is no executable {python!r}")
        has_it = [found, "-c", "import importlib.util as u; exit(not u.find_spec('infinistore'))"]
        if subprocess.run(has_it, capture_output=True).returncode != 0:
            raise InputError(f"--python: {python} has no infinistore; {_INSTALL}")
        return [found, "-m", "infinistore.server"]
    beside = str(Path(sys.executable).parent)
    found = shutil.which(command) or shutil.which(command, path=beside)
    if found is None:
        raise InputError(f"--command: there is no executable {command!r}; {_INSTALL}")
    return [found]


def _check_flags(more: Sequence[str]) -> None:
    for flag in more:
        if flag.split("=")[0] in _BROKEN_FLAGS:
            raise InputError(f"{flag} is broken in this server: it works with its defaults alone")


def start_server(command: Sequence[str]) -> subprocess.Popen[bytes]:
    """Start it so that it also ends when this process is killed."""
    libc = ctypes.CDLL(None)
    parent = os.getpid()

    def die_with_the_parent() -> None:
        libc.prctl(1, signal.SIGKILL, 0, 0, 0)  # PR_SET_PDEATHSIG
        if os.getppid() != parent:
            os._exit(1)

    return subprocess.Popen(
        command,
        stdout=2,  # ours is for one line
        preexec_fn=die_with_the_parent,
        start_new_session=True,  # a Ctrl-C at the terminal comes through here
    )


def wait_until_ready(
    server: subprocess.Popen[bytes], prober: Prober, stopped: threading.Event, timeout_s: float
) -> bool:
    """Returns whether it is ready, or was stopped."""
    waited_s = 0.0
    while not stopped.wait(0.1):
        _check_alive(server)
        try:
            prober.probe(0.4)
        except Exception as error:
            waited_s += 0.5 if isinstance(error, TimeoutError) else 0.1
            if waited_s > timeout_s:
                message = f"the server did not come up within {timeout_s:g} s: {error}"
                raise click.ClickException(message) from None
        else:
            return True
    return False


def _check_alive(server: subprocess.Popen[bytes]) -> None:
    code = server.poll()
    if code is not None:
        raise click.ClickException(
            f"the server ended with code {code}; it needs an RDMA device and libibverbs1, "
            "also where all clients come over TCP"
        )


def stop_server(server: subprocess.Popen[bytes]) -> None:
    server.terminate()
    try:
        server.wait(_STOP_S)
    except subprocess.TimeoutExpired:
        server.kill()  # after a crash it may hang, deaf to SIGTERM
        server.wait()
