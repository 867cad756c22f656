"""Draws hit ratios against capacity. Needs matplotlib: pip install 'kvcore[plot]'."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from io import BytesIO

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import NullLocator

from kvcore.sim import ReplayResult
from kvcore.sim.optimum import OPTIMUM

_PANEL_INCHES = (5.0, 3.8)
_DPI = 120


def hit_ratio_png(results: Sequence[ReplayResult], infinite: Mapping[str, float]) -> bytes:
    """Token hit ratio against capacity as the bytes of a PNG: a panel a trace, a line a policy.

    `infinite` has for each trace the token hit ratio of a cache that never evicts.
    """
    traces = list(dict.fromkeys(result.trace for result in results))
    width, height = _PANEL_INCHES
    figure = Figure(figsize=(width * len(traces), height), dpi=_DPI, layout="constrained")
    for axes, trace in zip(figure.subplots(1, len(traces), squeeze=False)[0], traces, strict=True):
        _draw_panel(axes, trace, [result for result in results if result.trace == trace])
        axes.axhline(100 * infinite[trace], color="0.5", linestyle=":", label="infinite cache")
        axes.legend(title="policy")
    image = BytesIO()
    figure.savefig(image, format="png")
    return image.getvalue()


def _draw_panel(axes: Axes, trace: str, results: Sequence[ReplayResult]) -> None:
    for policy in dict.fromkeys(result.policy for result in results):
        line = sorted(
            (result.capacity_blocks, 100 * result.token_hit_ratio)
            for result in results
            if result.policy == policy
        )
        blocks, percent = zip(*line, strict=True)
        color, dashes = ("black", "--") if policy == OPTIMUM else (None, "-")
        axes.plot(blocks, percent, dashes, color=color, marker="o", markersize=4, label=policy)
    labels = {result.capacity_blocks: result.capacity for result in results}
    axes.set_xscale("log")
    axes.set_xticks(list(labels), list(labels.values()))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.set_ylim(bottom=0)
    axes.set(title=trace, xlabel="capacity (log scale)", ylabel="token hit ratio (%)")
    axes.grid(alpha=0.3)
