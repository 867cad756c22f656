"""Small traces for tests."""

from __future__ import annotations

from array import array

from kvcore.sim import Trace
from kvcore.sim.trace import TraceBuilder


def build(prompts: list[list[int]], block_tokens: int = 16) -> Trace:
    """A trace of prompts given as block contents; equal beginnings are shared."""
    builder = TraceBuilder("small", block_tokens)
    names: dict[tuple[int, ...], int] = {}
    for arrival_us, prompt in enumerate(prompts):
        blocks = array("I")
        for depth in range(len(prompt)):
            blocks.append(names.setdefault(tuple(prompt[: depth + 1]), len(names)))
        builder.add(
            blocks,
            arrival_us=arrival_us,
            input_tokens=block_tokens * len(prompt) + 3,
            output_tokens=1,
        )
    return builder.build()
