"""The page of `kvcore replay --report`: curves, tables and what they mean."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import astuple, dataclass
from html import escape
from statistics import fmean

from kvcore.cli.chart import Chart, Line
from kvcore.cli.lines import LineStyle, line_styles
from kvcore.cli.page import Cell, figure, page, table
from kvcore.machine import describe_machine, source_commit
from kvcore.sim import EqualCapacity, Prefill, ReplayResult, Survival, Trace, survival
from kvcore.sim.compare import Comparison
from kvcore.sim.equal import LRU, effective_gain
from kvcore.sim.optimum import OPTIMUM, infinite_token_hit_ratio

_SURVIVAL_POINTS = 160
_AGES = {
    10**3: "1 ms",
    10**4: "10 ms",
    10**5: "0.1 s",
    10**6: "1 s",
    10 * 10**6: "10 s",
    60 * 10**6: "1 min",
    600 * 10**6: "10 min",
    3600 * 10**6: "1 h",
    6 * 3600 * 10**6: "6 h",
    24 * 3600 * 10**6: "1 d",
    7 * 24 * 3600 * 10**6: "1 w",
}
_NONE = "\N{EN DASH}"

_NOTES = """
<h2>How to read this</h2><dl>
<dt>Token hit ratio</dt><dd>Tokens in cached prefixes over tokens of all prompts. Capacity is a
number of blocks, or a share of the trace's unique blocks. The optimum knows the future (Belady with
bypass); no cache that keeps prefixes finds more. The infinite cache never evicts.</dd>
<dt>Gap closed</dt><dd>(policy &minus; LRU) / (optimum &minus; LRU), of token hit ratios.</dd>
<dt>Capacity needed to equal LRU</dt><dd>How much less than LRU's capacity a policy needs to find as
much, searched by replays to 1 % of the capacity. LRU's capacity is the least at which it finds what
it finds. Someone who needs a quarter less has in effect a third more.</dd>
<dt>Time to first token</dt><dd>A model, not a measurement: requests arrive as in the trace, wait
first come, first served for a free engine, and take it while their uncached tokens are computed.
What a request finds does not depend on how long others wait; decoding costs nothing.</dd>
<dt>Survival</dt><dd>Of the blocks that requests of a kind used, the share that no request has used
again by an age: the product-limit estimate (Kaplan and Meier), in which blocks that wait when the
trace ends count until then.</dd></dl>
"""


def report_page(
    traces: Sequence[Trace],
    results: Sequence[ReplayResult],
    equals: Sequence[EqualCapacity],
    prefill: Prefill,
) -> str:
    """A page that stands alone, for results that include LRU and the optimum.

    Parameters
    ----------
    traces : those of the sweep
    results : of the sweep
    equals : of `equal_capacities`, for the same results
    prefill : that of the sweep
    """
    styles = line_styles(result.policy for result in results)
    sections = [
        _Section(number, trace, Comparison.of(trace.name, results, equals), prefill, styles)
        for number, trace in enumerate(traces)
    ]
    machine = describe_machine()
    body = [
        "<h1>Cache replay</h1>",
        f"<p>{len(styles)} policies on {len(traces)} trace{'s' if len(traces) > 1 else ''}.</p>",
        _summary([section.comparison for section in sections]),
        *(section.html() for section in sections),
        _NOTES,
        f"<footer>kvcore {escape(source_commit())} · {escape(str(machine['cpu']))}, "
        f"{machine['cores']} cores · {escape(str(machine['os']))}</footer>",
    ]
    return page("Cache replay", "\n".join(body))


@dataclass(frozen=True, slots=True)
class _Section:
    """What is told of one trace."""

    number: int
    trace: Trace
    comparison: Comparison
    prefill: Prefill
    styles: Mapping[str, LineStyle]

    def html(self) -> str:
        trace = self.trace
        seconds = (int(trace.arrival_us[-1]) - int(trace.arrival_us[0])) / 1e6
        return "\n".join(
            [
                f"<section><h2>{escape(trace.name)}</h2>",
                f"<p>{trace.num_requests:,} requests in {seconds / 60:,.0f} minutes, "
                f"{trace.num_blocks:,} block references to {trace.num_unique_blocks:,} blocks of "
                f"{trace.block_tokens} tokens, {int(trace.input_tokens.sum()):,} prompt tokens. An "
                f"infinite cache finds {100 * infinite_token_hit_ratio(trace):.2f} % of them.</p>",
                '<div class="cards">',
                self._hit_chart(),
                self._ttft_chart(),
                self._hit_table(),
                self._ttft_table(),
                self._gap_table(),
                self._equal_table(),
                self._survival_chart(survival(trace)),
                "</div>",
                self._ttft_details(),
                "</section>",
            ]
        )

    def _hit_chart(self) -> str:
        percent = {p: [100 * r for r in row] for p, row in self.comparison.hit_ratios().items()}
        level = 100 * infinite_token_hit_ratio(self.trace)
        chart = self._chart("token hit ratio (%)", percent, level)
        return figure("Token hit ratio", "dotted: infinite cache", chart.html())

    def _ttft_chart(self) -> str:
        chart = self._chart("p90 TTFT (s)", self.comparison.p90_s(), None)
        engines = "1 engine" if self.prefill.engines == 1 else f"{self.prefill.engines} engines"
        model = f"{engines}, {self.prefill.rate(self.trace):,.0f} tokens/s"
        return figure("Time to first token, p90", model, chart.html())

    def _chart(
        self, y_label: str, rows: Mapping[str, Sequence[float]], level: float | None
    ) -> Chart:
        lru = self.comparison.results[LRU].values()
        blocks = [float(result.capacity_blocks) for result in lru]
        lines = [
            Line(policy, self.styles[policy], list(zip(blocks, row, strict=True)))
            for policy, row in rows.items()
        ]
        ticks = dict(zip(blocks, self.comparison.capacities, strict=True))
        title = f"{y_label} against capacity on {self.trace.name}"
        return Chart(title, "capacity (log scale)", y_label, ticks, lines, level)

    def _survival_chart(self, curves: Sequence[Survival]) -> str:
        ages = [age for curve in curves for age in curve.age_us.tolist() if age > 0]
        low = min(ages, default=1_000_000)
        high = max(10 * low, max(ages, default=0))
        grid = [
            round(low * (high / low) ** (i / _SURVIVAL_POINTS)) for i in range(_SURVIVAL_POINTS + 1)
        ]
        nameless = "no kind" if len(curves) > 1 else "all requests"
        names = {curve: f"kind {curve.kind}" if curve.kind else nameless for curve in curves}
        styles = line_styles(names.values())
        lines = [
            Line(name, styles[name], [(age, 100 * curve.at(age)) for age in grid], False)
            for curve, name in names.items()
        ]
        ticks = {float(age): text for age, text in _AGES.items() if low <= age <= high}
        chart = Chart(
            f"survival of blocks on {self.trace.name}",
            "age (log scale)",
            "not used again (%)",
            ticks,
            lines,
            y_top=100,
        )
        remark = "of blocks, by kind of request"
        return figure("Survival until the next use", remark, chart.html())

    def _hit_table(self) -> str:
        cells = _cells(self.comparison.hit_ratios(), lambda ratio: f"{100 * ratio:.2f}", max)
        infinite = Cell(f"{100 * infinite_token_hit_ratio(self.trace):.2f}")
        cells["infinite"] = [infinite] * len(self.comparison.capacities)
        return self._table("hits", "Token hit ratio", "%", cells)

    def _gap_table(self) -> str:
        cells = _cells(self.comparison.gaps(), _percent, max)
        return self._table("gap", "Gap closed", "% of the way from LRU to opt", cells)

    def _equal_table(self) -> str:
        rows = {
            policy: [*row, fmean(row), effective_gain(fmean(row))]
            for policy, row in self.comparison.less().items()
        }
        cells = _cells(rows, _percent, max)
        caption = "Capacity needed to equal LRU"
        return self._table(
            "equal", caption, "% less than LRU's", cells, "mean", "effective, % more"
        )

    def _ttft_table(self) -> str:
        cells = _cells(self.comparison.p90_s(), _seconds, min)
        return self._table("ttft", "Time to first token, p90", "s", cells)

    def _table(
        self, name: str, caption: str, remark: str, cells: Mapping[str, list[Cell]], *more: str
    ) -> str:
        columns = [*self.comparison.capacities, *more]
        return table(f"{name}-{self.number}", caption, remark, columns, cells)

    def _ttft_details(self) -> str:
        faster = self.comparison.faster()
        rows = {
            f"{policy} {capacity}": [
                *(Cell(_seconds(s)) for s in astuple(result.ttft)),
                Cell(_percent(below)),
            ]
            for policy, row in self.comparison.results.items()
            for (capacity, result), below in zip(row.items(), faster[policy], strict=True)
        }
        columns = ["mean", "p50", "p90", "p99", "p90 below LRU's, %"]
        figures = table(f"ttft-all-{self.number}", "Time to first token", "s", columns, rows)
        return f"<details><summary>All times to first token</summary>{figures}</details>"


def _summary(comparisons: Sequence[Comparison]) -> str:
    """A row a policy, the best first; each capacity of each trace counts the same."""
    rows: dict[str, list[float | None]] = {}
    for policy in comparisons[0].results:
        gaps = [gap for c in comparisons for gap in c.gaps()[policy] if gap is not None]
        less = fmean(share for c in comparisons for share in c.less()[policy])
        faster = fmean(share for c in comparisons for share in c.faster()[policy])
        rows[policy] = [fmean(gaps) if gaps else None, less, effective_gain(less), faster]
    columns = [
        "gap closed, %",
        "capacity needed to equal LRU, % less",
        "effective capacity, % more",
        "p90 TTFT, % less",
    ]
    cells = _cells(rows, _percent, max)
    ordered = {p: cells[p] for p in sorted(rows, key=lambda p: rows[p][1] or 0.0, reverse=True)}
    remark = "means over all capacities and traces, against LRU"
    return table("summary", "Policies", remark, columns, ordered)


def _cells(
    rows: Mapping[str, Sequence[float | None]],
    text: Callable[[float], str],
    best: Callable[[Iterable[float]], float],
) -> dict[str, list[Cell]]:
    """Figures as text; in each column the best of the policies is bold, and the better the darker.

    The optimum, which is none that one could have, is neither.
    """
    shown: dict[str, list[Cell]] = {policy: [] for policy in rows}
    for column in range(len(next(iter(rows.values())))):
        figures = {policy: row[column] for policy, row in rows.items()}
        real = [f for policy, f in figures.items() if policy != OPTIMUM and f is not None]
        first, last = (best(real), -best(-f for f in real)) if real else (0.0, 0.0)
        for policy, f in figures.items():
            if f is None:
                shown[policy].append(Cell(_NONE))
            elif policy == OPTIMUM or first == last:
                shown[policy].append(Cell(text(f)))
            else:
                shown[policy].append(Cell(text(f), (f - last) / (first - last), f == first))
    return shown


def _percent(share: float) -> str:
    return f"{100 * share:.1f}"


def _seconds(seconds: float) -> str:
    return f"{seconds:.3f}"
