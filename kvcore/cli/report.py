"""The page of `kvcore replay --report`: curves, tables and what they mean."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from html import escape
from statistics import fmean

from kvcore.cli.chart import Chart, Line
from kvcore.cli.lines import LineStyle, line_styles
from kvcore.cli.page import Cell, figure, page, table
from kvcore.machine import describe_machine, source_commit
from kvcore.sim import EqualCapacity, Prefill, ReplayResult, Survival, Trace, survival
from kvcore.sim.equal import LRU, effective_gain, mean_less
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
        _Section(number, trace, results, equals, prefill, styles)
        for number, trace in enumerate(traces)
    ]
    machine = describe_machine()
    body = [
        "<h1>Cache replay</h1>",
        f"<p>{len(styles)} policies on {len(traces)} trace{'s' if len(traces) > 1 else ''}.</p>",
        _summary(sections),
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
    all_results: Sequence[ReplayResult]
    all_equals: Sequence[EqualCapacity]
    prefill: Prefill
    styles: Mapping[str, LineStyle]

    def results(self) -> dict[str, dict[str, ReplayResult]]:
        """By policy, then capacity; the smallest first."""
        found: dict[str, dict[str, ReplayResult]] = {}
        for result in sorted(self.all_results, key=lambda result: result.capacity_blocks):
            if result.trace == self.trace.name:
                found.setdefault(result.policy, {})[result.capacity] = result
        return {policy: found[policy] for policy in self.styles}

    def equals(self) -> list[EqualCapacity]:
        return [equal for equal in self.all_equals if equal.trace == self.trace.name]

    def gaps(self) -> dict[str, list[float | None]]:
        """Share of the gap between LRU and the optimum that is closed; None where there is none."""
        results = self.results()
        lru, best = results[LRU], results[OPTIMUM]

        def closed(capacity: str, result: ReplayResult) -> float | None:
            low = lru[capacity].token_hit_ratio
            gap = best[capacity].token_hit_ratio - low
            return (result.token_hit_ratio - low) / gap if gap > 0 else None

        return {
            policy: [closed(capacity, result) for capacity, result in row.items()]
            for policy, row in results.items()
        }

    def faster(self) -> dict[str, list[float]]:
        """By how much the p90 of the time to first token is below LRU's, as a share."""
        results = self.results()
        return {
            policy: [
                1 - result.ttft.p90_s / (results[LRU][capacity].ttft.p90_s or 1.0)
                for capacity, result in row.items()
            ]
            for policy, row in results.items()
        }

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
        level = 100 * infinite_token_hit_ratio(self.trace)
        chart = self._chart(
            "token hit ratio (%)", lambda result: 100 * result.token_hit_ratio, level
        )
        return figure("Token hit ratio", "dotted: infinite cache", chart.html())

    def _ttft_chart(self) -> str:
        chart = self._chart("p90 TTFT (s)", lambda result: result.ttft.p90_s, None)
        return figure("Time to first token, p90", self._model(), chart.html())

    def _chart(
        self, y_label: str, figure_of: Callable[[ReplayResult], float], level: float | None
    ) -> Chart:
        results = self.results()
        ticks = {float(r.capacity_blocks): r.capacity for r in results[LRU].values()}
        lines = [
            Line(policy, style, [(r.capacity_blocks, figure_of(r)) for r in row.values()])
            for (policy, row), style in zip(results.items(), self.styles.values(), strict=True)
        ]
        title = f"{y_label} against capacity on {self.trace.name}"
        return Chart(title, "capacity (log scale)", y_label, ticks, lines, level)

    def _survival_chart(self, curves: Sequence[Survival]) -> str:
        ages = [age for curve in curves for age in curve.age_us.tolist() if age > 0]
        low = min(ages, default=1_000_000)
        high = max(10 * low, max(ages, default=0))
        grid = [
            round(low * (high / low) ** (i / _SURVIVAL_POINTS)) for i in range(_SURVIVAL_POINTS + 1)
        ]
        names = {curve: f"kind {curve.kind}" if curve.kind else "all requests" for curve in curves}
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
        results = self.results()
        infinite = infinite_token_hit_ratio(self.trace)
        rows = {
            policy: [r.token_hit_ratio for r in row.values()] for policy, row in results.items()
        }
        cells = _cells(rows, lambda ratio: f"{100 * ratio:.2f}", max)
        cells["infinite"] = [Cell(f"{100 * infinite:.2f}") for _ in results[LRU]]
        return table(f"hits-{self.number}", "Token hit ratio", "%", list(results[LRU]), cells)

    def _gap_table(self) -> str:
        cells = _cells(self.gaps(), lambda gap: f"{100 * gap:.1f}", max)
        columns = list(self.results()[LRU])
        return table(
            f"gap-{self.number}", "Gap closed", "% of the way from LRU to opt", columns, cells
        )

    def _equal_table(self) -> str:
        columns = list(self.results()[LRU])
        found = {(equal.policy, equal.capacity): equal for equal in self.equals()}
        rows = {p: [found[p, capacity].less for capacity in columns] for p in self.styles}
        for row in rows.values():
            mean = fmean(row)
            row += [mean, effective_gain(mean)]
        cells = _cells(rows, lambda less: f"{100 * less:.1f}", max)
        return table(
            f"equal-{self.number}",
            "Capacity needed to equal LRU",
            "% less than LRU's",
            [*columns, "mean", "effective, % more"],
            cells,
        )

    def _ttft_table(self) -> str:
        results = self.results()
        rows = {p: [r.ttft.p90_s for r in row.values()] for p, row in results.items()}
        cells = _cells(rows, _seconds, min)
        columns = list(results[LRU])
        return table(f"ttft-{self.number}", "Time to first token, p90", "s", columns, cells)

    def _ttft_details(self) -> str:
        results = self.results()
        faster = self.faster()
        all_rows = {
            f"{policy} {capacity}": [
                *(Cell(_seconds(s)) for s in (r.ttft.mean_s, r.ttft.p50_s, r.ttft.p90_s)),
                Cell(_seconds(r.ttft.p99_s)),
                Cell(f"{100 * below:.1f}"),
            ]
            for policy, row in results.items()
            for (capacity, r), below in zip(row.items(), faster[policy], strict=True)
        }
        columns = ["mean", "p50", "p90", "p99", "p90 below LRU's, %"]
        figures = table(f"ttft-all-{self.number}", "Time to first token", "s", columns, all_rows)
        return f"<details><summary>All times to first token</summary>{figures}</details>"

    def _model(self) -> str:
        number = self.prefill.engines
        rate = self.prefill.rate(self.trace)
        engines = "1 engine" if number == 1 else f"{number} engines"
        return f"{engines}, {rate:,.0f} tokens/s"


def _summary(sections: Sequence[_Section]) -> str:
    """A row a policy, the best first; each capacity of each trace counts the same."""
    gaps: dict[str, list[float]] = {}
    faster: dict[str, list[float]] = {}
    equals: dict[str, list[EqualCapacity]] = {}
    for section in sections:
        for policy, row in section.gaps().items():
            gaps.setdefault(policy, []).extend(gap for gap in row if gap is not None)
        for policy, shares in section.faster().items():
            faster.setdefault(policy, []).extend(shares)
        for equal in section.equals():
            equals.setdefault(equal.policy, []).append(equal)
    less = {policy: mean_less(found) for policy, found in equals.items()}
    columns: dict[str, dict[str, float | None]] = {
        "gap closed, %": {p: fmean(found) if found else None for p, found in gaps.items()},
        "capacity needed to equal LRU, % less": dict(less),
        "effective capacity, % more": {p: effective_gain(share) for p, share in less.items()},
        "p90 TTFT, % less": {p: fmean(shares) for p, shares in faster.items()},
    }
    order = sorted(less, key=lambda policy: -less[policy])
    rows = {policy: [column[policy] for column in columns.values()] for policy in order}
    remark = "means over all capacities and traces, against LRU"
    cells = _cells(rows, lambda share: f"{100 * share:.1f}", max)
    return table("summary", "Policies", remark, list(columns), cells)


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


def _seconds(seconds: float) -> str:
    return f"{seconds:.3f}"
