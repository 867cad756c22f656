"""How lines of one chart are told apart: by colour, dashes and marker."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from itertools import count

from kvcore.sim.optimum import OPTIMUM

# Of middle lightness, so that they show on white and on black.
_COLORS = (
    "#3b82f6",
    "#ef6c3a",
    "#16a36a",
    "#d6489a",
    "#b58a00",
    "#8b5cf6",
    "#0ea5b7",
    "#e5484d",
)
_MARKERS = ("o", "s", "^", "D", "v")  # as matplotlib calls them
_DASHES: tuple[tuple[float, ...], ...] = ((), (6, 3), (2, 2))


@dataclass(frozen=True, slots=True)
class LineStyle:
    """`color` is None for that of the text; `dashes` are lengths of dash and gap, none if solid."""

    color: str | None
    dashes: tuple[float, ...]
    marker: str


_OPTIMUM = LineStyle(None, (8, 4), "o")


def line_styles(names: Iterable[str]) -> dict[str, LineStyle]:
    """A style a name; no two of the first 24 are alike in colour and dashes."""
    styles: dict[str, LineStyle] = {}
    numbers = count()
    for name in dict.fromkeys(names):
        styles[name] = _OPTIMUM if name == OPTIMUM else _style(next(numbers))
    return styles


def _style(number: int) -> LineStyle:
    color = _COLORS[number % len(_COLORS)]
    dashes = _DASHES[number // len(_COLORS) % len(_DASHES)]
    return LineStyle(color, dashes, _MARKERS[number % len(_MARKERS)])
