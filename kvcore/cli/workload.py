"""`kvcore workload`: synthetic traces."""

from __future__ import annotations

import sys
from contextlib import ExitStack
from pathlib import Path
from typing import BinaryIO

import click

from kvcore.cli import InputError
from kvcore.sim.workload import DEFAULT_REQUESTS, KINDS, generate


@click.command()
@click.option("--kind", type=click.Choice(list(KINDS)), required=True, help="What to imitate.")
@click.option(
    "--seed", type=click.IntRange(min=0), required=True, help="Equal seeds give equal bytes."
)
@click.option(
    "--requests",
    type=click.IntRange(min=1),
    default=DEFAULT_REQUESTS,
    show_default=True,
    help="Number of requests.",
)
@click.option(
    "--output", type=click.Path(path_type=Path), help="File to write, by default standard output."
)
def workload(kind: str, seed: int, requests: int, output: Path | None) -> None:
    """Write a synthetic trace in Mooncake's JSONL.

    \b
    chat   conversations below shared system prompts, in shape like Mooncake's
           conversation trace (FAST'25) and Qwen-Bailian (arXiv 2506.02634)
    agent  coding agents: long contexts that grow by little at each quick step,
           in shape like callanjfox/kv-cache-tester
    rag    questions below documents of Zipf popularity, with the skew that
           RAGCache (arXiv 2404.12457) reports
    scan   one-shot long prompts among a small hot set
    """
    with ExitStack() as stack:
        if output is None:
            file: BinaryIO = sys.stdout.buffer
        else:
            try:
                file = stack.enter_context(output.open("wb"))
            except OSError as error:
                raise InputError(f"--output {output}: {error.strerror}") from None
        for line in generate(kind, seed, requests):
            file.write(line)
