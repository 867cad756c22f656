"""`kvcore doctor`: what was compiled, what was found, what is used."""

from __future__ import annotations

import json

import click

from kvcore.cli.output import console, new_table
from kvcore.diagnosis import Facts, diagnose


@click.command()
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def doctor(as_json: bool) -> None:
    """Say what kvcore was compiled with, what it finds on this machine, and what it uses."""
    diagnosis = diagnose()
    if as_json:
        click.echo(json.dumps(diagnosis, indent=1))
        return
    for title, facts in diagnosis.items():
        _print_table(title, facts)


def _print_table(title: str, facts: Facts) -> None:
    table = new_table(title)
    table.show_header = False
    table.add_column(no_wrap=True)
    table.add_column()
    for name, fact in facts.items():
        table.add_row(name.replace("_", " "), _text(fact))
    console().print(table)


def _text(fact: object) -> str:
    if fact is None or fact == []:
        return "none"
    if isinstance(fact, bool):
        return "yes" if fact else "no"
    if isinstance(fact, list):
        return "\n".join(map(_text, fact)) if isinstance(fact[0], dict) else " ".join(fact)
    if isinstance(fact, dict):
        return ", ".join(f"{name.replace('_', ' ')} {_text(value)}" for name, value in fact.items())
    return f"{fact:,}" if isinstance(fact, int) else str(fact)
