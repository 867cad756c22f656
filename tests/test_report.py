"""The page of `kvcore replay --report`: whole, alone, and with the figures of the JSON report."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from html.parser import HTMLParser
from pathlib import Path

import pytest
from click.testing import CliRunner

from kvcore import POLICIES
from kvcore.cli import main
from kvcore.cli.chart import Chart, Line
from kvcore.cli.lines import line_styles
from kvcore.sim import read_trace
from kvcore.sim.equal import effective_gain
from kvcore.sim.optimum import infinite_token_hit_ratio
from kvcore.sim.workload import generate

# Elements that have no end, of those that a page may use.
VOID = {"meta"}
HOSTILE_NAME = "a<b>&'\".jsonl"


@dataclass
class Page(HTMLParser):
    """Tables as texts by id, row and column; and all that a page could load."""

    tables: dict[str, dict[str, dict[str, str]]] = field(default_factory=dict)
    headings: list[str] = field(default_factory=list)
    legends: list[list[str]] = field(default_factory=list)
    links: list[str] = field(default_factory=list)
    tags: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        super().__init__()
        self._open: list[str] = []
        self._text = ""
        self._table: list[list[str]] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        values = dict(attrs)
        self.tags.append(tag)
        self.links += [value or "" for name, value in attrs if name in ("src", "href")]
        self._text = ""
        if tag == "table":
            self._id, self._table = values["id"] or "", []
        elif tag == "tr":
            self._table.append([])
        elif tag == "ul":
            self.legends.append([])
        if tag not in VOID:
            self._open.append(tag)

    def handle_data(self, data: str) -> None:
        self._text += data

    def handle_endtag(self, tag: str) -> None:
        assert self._open.pop() == tag
        if tag in ("td", "th"):
            self._table[-1].append(self._text)
        elif tag == "h2":
            self.headings.append(self._text)
        elif tag == "li":
            self.legends[-1].append(self._text)
        elif tag == "table":
            columns = self._table[0][1:]
            self.tables[self._id] = {
                row[0]: dict(zip(columns, row[1:], strict=True)) for row in self._table[1:]
            }

    def is_whole(self) -> bool:
        return not self._open


@dataclass(frozen=True)
class Report:
    page: Page
    html: str
    rows: list[dict[str, object]]
    output: str
    traces: list[Path]


def percent(share: float, digits: int = 1) -> str:
    return f"{100 * share:.{digits}f}"


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> Report:
    directory = tmp_path_factory.mktemp("report")
    traces = [directory / HOSTILE_NAME, directory / "agent.jsonl"]
    for path, kind in zip(traces, ("chat", "agent"), strict=True):
        path.write_bytes(b"".join(generate(kind, seed=1, num_requests=120)))
    html, rows = directory / "page.html", directory / "rows.json"
    options = ("--policy", "all", "--capacity", "20%,5%,300", "--report", html, "--json", rows)
    result = CliRunner().invoke(main, [str(word) for word in ("replay", *traces, *options)])
    assert result.exit_code == 0, result.output
    page = Page()
    page.feed(html.read_text())
    return Report(
        page, html.read_text(), json.loads(rows.read_text())["rows"], result.stdout, traces
    )


def of(report: Report, trace: Path, policy: str) -> dict[str, dict[str, float]]:
    """Rows of the JSON report by capacity."""
    return {
        str(row["capacity"]): row  # type: ignore[misc]
        for row in report.rows
        if row["trace"] == trace.name and row["policy"] == policy
    }


def test_page_stands_alone(report: Report) -> None:
    assert report.html.startswith("<!doctype html>\n")
    assert report.page.is_whole()
    assert report.page.links == []
    assert not {"script", "link", "img", "iframe", "object"} & set(report.page.tags)
    assert "http" not in report.html
    assert "url(" not in report.html
    assert "@import" not in report.html


def test_names_are_escaped(report: Report) -> None:
    assert report.page.headings[:2] == [HOSTILE_NAME, "agent.jsonl"]
    assert HOSTILE_NAME not in report.html


def test_lru_and_the_optimum_are_added(report: Report) -> None:
    policies = list(dict.fromkeys(row["policy"] for row in report.rows))
    assert policies == [*POLICIES, "opt"]
    for number in range(2):
        assert list(report.page.tables[f"gap-{number}"]) == policies
        assert report.page.legends[3 * number : 3 * number + 2] == [policies, policies]
        assert report.page.legends[3 * number + 2] == ["all requests"]


def test_tables_have_the_figures_of_the_json(report: Report) -> None:
    for number, trace in enumerate(report.traces):
        tables = report.page.tables
        lru, opt = of(report, trace, "lru"), of(report, trace, "opt")
        infinite = percent(infinite_token_hit_ratio(read_trace(trace)), 2)
        assert set(tables[f"hits-{number}"]["infinite"].values()) == {infinite}
        assert sorted(lru) == sorted(tables[f"hits-{number}"]["lru"]) == ["20%", "300", "5%"]
        for policy in (*POLICIES, "opt"):
            less = []
            for capacity, row in of(report, trace, policy).items():
                ratio = row["token_hit_ratio"]
                assert tables[f"hits-{number}"][policy][capacity] == percent(ratio, 2)
                low, high = lru[capacity]["token_hit_ratio"], opt[capacity]["token_hit_ratio"]
                gap = percent((ratio - low) / (high - low))
                assert tables[f"gap-{number}"][policy][capacity] == gap
                assert tables[f"ttft-{number}"][policy][capacity] == f"{row['ttft_p90_s']:.3f}"
                assert tables[f"ttft-all-{number}"][f"{policy} {capacity}"] == {
                    **{name: f"{row[f'ttft_{name}_s']:.3f}" for name in ("mean", "p50", "p90")},
                    "p99": f"{row['ttft_p99_s']:.3f}",
                    "p90 below LRU's, %": percent(
                        1 - row["ttft_p90_s"] / lru[capacity]["ttft_p90_s"]
                    ),
                }
                # Both find as much, LRU with the least that does.
                share = row["blocks_to_equal_lru"] / lru[capacity]["blocks_to_equal_lru"]
                assert tables[f"equal-{number}"][policy][capacity] == percent(1 - share)
                less.append(1 - share)
            mean = sum(less) / len(less)
            assert tables[f"equal-{number}"][policy]["mean"] == percent(mean)
            gain = percent(effective_gain(mean))
            assert tables[f"equal-{number}"][policy]["effective, % more"] == gain


def test_summary_is_the_mean_of_all(report: Report) -> None:
    summary = report.page.tables["summary"]
    assert set(summary) == {*POLICIES, "opt"}
    for policy, figures in summary.items():
        less, gaps, faster = [], [], []
        for trace in report.traces:
            lru, opt = of(report, trace, "lru"), of(report, trace, "opt")
            for capacity, row in of(report, trace, policy).items():
                less.append(1 - row["blocks_to_equal_lru"] / lru[capacity]["blocks_to_equal_lru"])
                low, high = lru[capacity]["token_hit_ratio"], opt[capacity]["token_hit_ratio"]
                gaps.append((row["token_hit_ratio"] - low) / (high - low))
                faster.append(1 - row["ttft_p90_s"] / lru[capacity]["ttft_p90_s"])
        mean = sum(less) / 6
        assert figures == {
            "gap closed, %": percent(sum(gaps) / 6),
            "capacity needed to equal LRU, % less": percent(mean),
            "effective capacity, % more": percent(effective_gain(mean)),
            "p90 TTFT, % less": percent(sum(faster) / 6),
        }
        line = next(
            words
            for words in map(
                str.split, report.output.partition("needed to equal LRU")[2].split("\n")
            )
            if words[:1] == [policy]
        )
        assert line == [policy, percent(mean), percent(effective_gain(mean))]
    best = [float(figures["capacity needed to equal LRU, % less"]) for figures in summary.values()]
    assert best == sorted(best, reverse=True)


def test_lines_are_told_apart() -> None:
    names = [str(number) for number in range(23)]
    styles = line_styles([*names[:5], "opt", *names[5:]])
    assert len({(style.color, style.dashes) for style in styles.values()}) == 24
    assert list(styles)[5] == "opt"


def test_chart_puts_points_where_they_belong() -> None:
    """The axes run from (52, 278) to (506, 12); on a logarithmic scale 10 is half way to 100."""
    line = Line("<p>", line_styles(["p"])["p"], [(1, 0), (10, 20), (100, 40)])
    html = Chart("t", "x", "y", {1: "one", 100: "hundred"}, [line], level=30).html()
    assert 'd="M52.0 278.0L279.0 145.0L506.0 12.0"' in html
    assert 'class="level" d="M52 78.5H506"' in html
    assert html.count("<circle") == 4  # one in the legend
    assert [text for text in ("one", "hundred", ">40<", ">0<") if text not in html] == []
    assert "<p>" not in html


def test_chart_of_one_point_and_of_nothing() -> None:
    style = line_styles(["p"])["p"]
    chart = Chart("t", "x", "y", {7: "seven"}, [Line("p", style, [(7, 0.0)])])
    assert "M279.0 278.0" in chart.html()
    assert "NaN" not in Chart("t", "x", "y", {7: "seven"}, [Line("p", style, [])]).html()


@pytest.mark.parametrize(
    "line",
    [
        '{"timestamp": 0, "input_length": 5, "output_length": 1, "hash_ids": []}',
        '{"timestamp": 9, "input_length": 1024, "output_length": 1, "hash_ids": [3, 4]}',
    ],
)
def test_trace_with_nothing_to_find(line: str, tmp_path: Path) -> None:
    trace, html = tmp_path / "trace.jsonl", tmp_path / "page.html"
    trace.write_text(line)
    result = CliRunner().invoke(main, ["replay", str(trace), "--report", str(html), "--jobs", "1"])
    assert result.exit_code == 0, result.output
    page = Page()
    page.feed(html.read_text())
    assert page.is_whole()
    assert set(page.tables["gap-0"]["auto"].values()) == {"\N{EN DASH}"}
    assert set(page.tables["equal-0"]["auto"].values()) == {"0.0"}
    assert "nan" not in html.read_text().lower().replace("<span", "")
