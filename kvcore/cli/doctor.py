"""`kvcore doctor`: what was compiled, what was found, what is used; and whether a store works."""

from __future__ import annotations

import json
from dataclasses import asdict

import click

from kvcore.cli import InputError
from kvcore.cli.output import console, new_table
from kvcore.diagnosis import Facts, diagnose
from kvcore.store_diagnosis import StoreDiagnosis, diagnose_store


@click.command()
@click.argument("url", required=False)
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@click.option(
    "--timeout-s",
    type=click.FloatRange(min=0, min_open=True, max=3600),
    default=2.0,
    show_default=True,
    help="Of each step with a store.",
)
def doctor(url: str | None, as_json: bool, timeout_s: float) -> None:
    """Say what kvcore was compiled with, what it finds on this machine, and what it uses.

    \b
    With a store's URL, as memory:, disk:PATH or infinistore://HOST:PORT,HOST:PORT, it says
    whether that works from here instead: values are written, read, compared and removed.

    Exit status 1 where something failed.
    """
    if url is not None:
        _doctor_store(url, as_json, timeout_s)
        return
    diagnosis = diagnose()
    if as_json:
        click.echo(json.dumps(diagnosis, indent=1))
        return
    for title, facts in diagnosis.items():
        _print_table(title, facts)


def _doctor_store(url: str, as_json: bool, timeout_s: float) -> None:
    try:
        diagnosis = diagnose_store(url, timeout_s)
    except (TypeError, ValueError, ImportError) as error:
        raise InputError(str(error)) from None
    if as_json:
        click.echo(json.dumps({"is_well": diagnosis.is_well, **asdict(diagnosis)}, indent=1))
    else:
        _print_store(diagnosis)
    if not diagnosis.is_well:
        raise click.exceptions.Exit(1)


def _print_store(diagnosis: StoreDiagnosis) -> None:
    _print_table(diagnosis.url, diagnosis.store)
    for name, facts in diagnosis.servers.items():
        _print_table(name, facts)
    for finding in diagnosis.findings:
        mark = "FAILED" if finding.has_failed else "slow"
        click.echo(f"{mark}  {finding.where}: {finding.what}\n        {finding.advice}")
    if not diagnosis.findings:
        click.echo("All is well.")


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
