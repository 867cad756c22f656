"""Line charts as SVG, to stand inside a page that gives colours and fonts."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from html import escape
from math import ceil, floor, log, log10

from kvcore.cli.lines import LineStyle

_WIDTH, _HEIGHT = 520, 320
_LEFT, _RIGHT, _TOP, _BOTTOM = 52, 14, 12, 42
_MAX_Y_TICKS = 6
_MARKER_RADIUS = 3.5
# Corners on a circle of radius 1, by marker; "o" is the circle itself.
_CORNERS = {
    "s": ((-0.8, -0.8), (0.8, -0.8), (0.8, 0.8), (-0.8, 0.8)),
    "^": ((0, -1.1), (1, 0.8), (-1, 0.8)),
    "v": ((0, 1.1), (1, -0.8), (-1, -0.8)),
    "D": ((0, -1.2), (1.2, 0), (0, 1.2), (-1.2, 0)),
}


@dataclass(frozen=True, slots=True)
class Line:
    """`points` are (x, y), x above 0; each has a marker where `has_markers`."""

    name: str
    style: LineStyle
    points: Sequence[tuple[float, float]]
    has_markers: bool = True


@dataclass(frozen=True, slots=True)
class Chart:
    """Lines over an x axis on a logarithmic scale and a y axis from 0.

    Parameters
    ----------
    title : what it shows, for who cannot see it
    x_label, y_label : of the axes
    x_ticks : texts by place
    lines : what is drawn
    level : the y of a dotted line across
    y_top : where the y axis ends at least
    """

    title: str
    x_label: str
    y_label: str
    x_ticks: Mapping[float, str]
    lines: Sequence[Line]
    level: float | None = None
    y_top: float = 0.0

    def html(self) -> str:
        """The drawing and its legend."""
        entries = "".join(map(_legend_entry, self.lines))
        return f'{self._svg()}<ul class="legend">{entries}</ul>'

    def _svg(self) -> str:
        heights = [y for line in self.lines for _, y in line.points]
        highest = max(*heights, self.level or 0.0, self.y_top) or 1.0
        step = _tick_step(highest)
        top = step * ceil(highest / step)
        places = [x for line in self.lines for x, _ in line.points] + list(self.x_ticks)
        to = _Scale(min(places), max(places), top)
        parts = [*self._axes(to, step, top), *self._level(to)]
        parts += [part for line in self.lines for part in _line(line, to)]
        return (
            f'<svg viewBox="0 0 {_WIDTH} {_HEIGHT}" role="img" aria-label="{escape(self.title)}">'
            f"{''.join(parts)}</svg>"
        )

    def _axes(self, to: _Scale, step: float, top: float) -> Iterator[str]:
        left, right, bottom = _LEFT, _WIDTH - _RIGHT, _HEIGHT - _BOTTOM
        for number in range(round(top / step) + 1):
            y = to.y(number * step)
            yield f'<path class="grid" d="M{left} {y:.1f}H{right}"/>'
            yield _text(left - 7, y + 4, f"{number * step:g}", "end")
        for place, text in self.x_ticks.items():
            x = to.x(place)
            yield f'<path class="grid" d="M{x:.1f} {_TOP}V{bottom}"/>'
            yield _text(x, bottom + 16, text, "middle")
        yield _text((left + right) / 2, _HEIGHT - 6, self.x_label, "middle")
        middle = (_TOP + bottom) / 2
        turned = f' transform="rotate(-90 13 {middle:g})"'
        yield _text(13, middle, self.y_label, "middle", turned)

    def _level(self, to: _Scale) -> Iterator[str]:
        if self.level is not None:
            yield f'<path class="level" d="M{_LEFT} {to.y(self.level):.1f}H{_WIDTH - _RIGHT}"/>'


@dataclass(frozen=True, slots=True)
class _Scale:
    """From values to places in the picture."""

    low: float
    high: float
    top: float

    def x(self, value: float) -> float:
        inner = _WIDTH - _LEFT - _RIGHT
        if self.low == self.high:
            return _LEFT + inner / 2
        return _LEFT + inner * log(value / self.low) / log(self.high / self.low)

    def y(self, value: float) -> float:
        return _HEIGHT - _BOTTOM - (_HEIGHT - _BOTTOM - _TOP) * value / self.top


def _legend_entry(line: Line) -> str:
    marker = _marker(line.style, 17, 6) if line.has_markers else ""
    return (
        f'<li><svg class="swatch" viewBox="0 0 34 12"><g {_paint(line.style)}>'
        f'<path {_dashes(line.style)} d="M1 6H33"/>{marker}</g></svg>{escape(line.name)}</li>'
    )


def _line(line: Line, to: _Scale) -> Iterator[str]:
    places = [(to.x(x), to.y(y)) for x, y in line.points]
    path = "L".join(f"{x:.1f} {y:.1f}" for x, y in places)
    yield f'<g class="line" {_paint(line.style)}><title>{escape(line.name)}</title>'
    if places:
        yield f'<path {_dashes(line.style)} d="M{path}"/>'
    if line.has_markers:
        yield from (_marker(line.style, x, y) for x, y in places)
    yield "</g>"


def _paint(style: LineStyle) -> str:
    return f'style="color:{style.color}"' if style.color else ""


def _dashes(style: LineStyle) -> str:
    return f'stroke-dasharray="{" ".join(map(str, style.dashes))}"' if style.dashes else ""


def _marker(style: LineStyle, x: float, y: float) -> str:
    if style.marker == "o":
        return f'<circle cx="{x:.1f}" cy="{y:.1f}" r="{_MARKER_RADIUS - 0.5}"/>'
    corners = " ".join(
        f"{x + _MARKER_RADIUS * dx:.1f},{y + _MARKER_RADIUS * dy:.1f}"
        for dx, dy in _CORNERS[style.marker]
    )
    return f'<polygon points="{corners}"/>'


def _text(x: float, y: float, text: str, anchor: str, more: str = "") -> str:
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}"{more}>{escape(text)}</text>'


def _tick_step(top: float) -> float:
    """The least of 1, 2 and 5 times a power of ten that needs few ticks."""
    rough = top / _MAX_Y_TICKS
    power = 10.0 ** floor(log10(rough))
    return next(m * power for m in (1, 2, 5, 10) if m * power >= rough)
