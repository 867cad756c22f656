"""The command `kvcore`. A subcommand is imported when it runs, so that `--help` is quick."""

from __future__ import annotations

from importlib import import_module
from typing import Any

import click

from kvcore import __version__

_COMMANDS = {
    "bench": "Measure parts of kvcore, and a store's server, beside their peers.",
    "cluster": "Say how a cluster's servers are, and what a change of them would move.",
    "doctor": "Say what was compiled and found, and what is used; or whether a store works.",
    "mrc": "Print hit ratios against capacity, exact for LRU and from a sample for any policy.",
    "replay": "Replay traces through the cache: hit ratio by policy and capacity.",
    "serve": "Start a store's real server, with a health endpoint.",
    "workload": "Write a synthetic trace.",
}


class InputError(click.ClickException):
    """The user's input is wrong: one line, exit code 2."""

    exit_code = 2


class _LazyGroup(click.Group):
    """Finds the command `name` in the module `kvcore.cli.<name>`."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(_COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in _COMMANDS:
            return None
        command: click.Command = getattr(import_module(f"kvcore.cli.{cmd_name}"), cmd_name)
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl(list(_COMMANDS.items()))


def _print_version(ctx: click.Context, param: click.Parameter, value: Any) -> None:
    if value and not ctx.resilient_parsing:
        click.echo(f"kvcore {__version__}")
        ctx.exit()


@click.group(cls=_LazyGroup, context_settings={"help_option_names": ["-h", "--help"]})
@click.option(
    "--version",
    is_flag=True,
    is_eager=True,
    expose_value=False,
    callback=_print_version,
    help="Show the version and exit.",
)
def main() -> None:
    """Keep, find, move and share the KV-cache blocks of LLM inference engines."""
