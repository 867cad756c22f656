"""Draws hit ratios against capacity. Needs matplotlib: pip install 'kvcore[plot]'."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from io import BytesIO

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import NullLocator

from kvcore.cli.lines import LineStyle, line_styles
from kvcore.sim import ReplayResult

_PANEL_INCHES = (5.0, 3.8)
_LEGEND_INCHES = 1.3
_DPI = 120


def hit_ratio_png(results: Sequence[ReplayResult], infinite: Mapping[str, float]) -> bytes:
    """Token hit ratio against capacity as the bytes of a PNG: a panel a trace, a line a policy.

    `infinite` has for each trace the token hit ratio of a cache that never evicts.
    """
    traces = list(dict.fromkeys(result.trace for result in results))
    styles = line_styles(result.policy for result in results)
    width, height = _PANEL_INCHES
    size = (width * len(traces) + _LEGEND_INCHES, height)
    figure = Figure(figsize=size, dpi=_DPI, layout="constrained")
    panels = figure.subplots(1, len(traces), squeeze=False)[0]
    for axes, trace in zip(panels, traces, strict=True):
        mine = [result for result in results if result.trace == trace]
        axes.axhline(100 * infinite[trace], color="0.5", linestyle=":", label="infinite cache")
        _draw_panel(axes, trace, mine, styles)
    handles, labels = panels[0].get_legend_handles_labels()
    figure.legend(handles, labels, title="policy", loc="outside right upper", fontsize="small")
    image = BytesIO()
    figure.savefig(image, format="png")
    return image.getvalue()


def _draw_panel(
    axes: Axes, trace: str, results: Sequence[ReplayResult], styles: Mapping[str, LineStyle]
) -> None:
    for policy in dict.fromkeys(result.policy for result in results):
        line = sorted(
            (result.capacity_blocks, 100 * result.token_hit_ratio)
            for result in results
            if result.policy == policy
        )
        blocks, percent = zip(*line, strict=True)
        style = styles[policy]
        axes.plot(
            blocks,
            percent,
            color=style.color or "black",
            linestyle=(0, style.dashes) if style.dashes else "-",
            linewidth=1.3,
            marker=style.marker,
            markersize=4,
            label=policy,
        )
    labels = {result.capacity_blocks: result.capacity for result in results}
    axes.set_xscale("log")
    axes.set_xticks(list(labels), list(labels.values()))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.set_ylim(bottom=0)
    axes.set(title=trace, xlabel="capacity (log scale)", ylabel="token hit ratio (%)")
    axes.grid(alpha=0.3)
