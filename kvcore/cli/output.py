"""What commands write: checked before any work, tables of one kind."""

from __future__ import annotations

import sys
from pathlib import Path

from rich import box
from rich.console import Console
from rich.table import Table

from kvcore.cli import InputError
from kvcore.machine import check_writable

_PIPED_WIDTH = 160


def check_output(option: str, path: Path | None) -> None:
    try:
        if path is not None:
            check_writable(path)
    except OSError as error:
        raise InputError(f"{option} {path}: {error.strerror}") from None


def new_table(title: str) -> Table:
    return Table(title=title, title_justify="left", box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0))


def console() -> Console:
    """Of the terminal's width; a pipe gets as many columns as tables take."""
    return Console(width=None if sys.stdout.isatty() else _PIPED_WIDTH)
