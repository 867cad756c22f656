"""The frame of a page that stands alone: its style, and tables of figures."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape

_STYLE = """
:root { color-scheme: light dark; --text: #1c2024; --soft: #646b73; --rule: #d9dde1;
  --page: #fbfbfa; --card: #fff; --shade: 59 130 246; }
@media (prefers-color-scheme: dark) { :root { --text: #e6e8ea; --soft: #9aa2ab; --rule: #33393f;
  --page: #121416; --card: #1a1d20; } }
* { box-sizing: border-box; }
body { margin: 0 auto; padding: 2.5rem 1.5rem 4rem; max-width: 1180px; color: var(--text);
  background: var(--page); font: 15px/1.5 system-ui, sans-serif; }
h1 { font-size: 1.7rem; margin: 0; } h2 { font-size: 1.25rem; margin: 3rem 0 .3rem; }
p, dd { color: var(--soft); max-width: 75ch; margin: .3rem 0 1rem; }
dt { font-weight: 600; } dd { margin-left: 0; }
.cards { display: grid; gap: 1rem; align-items: start;
  grid-template-columns: repeat(auto-fit, minmax(min(420px, 100%), 1fr)); }
figure, .table { margin: 0; padding: .9rem 1rem; background: var(--card);
  border: 1px solid var(--rule); border-radius: 8px; overflow-x: auto; }
figcaption, caption { font-weight: 600; text-align: left; margin-bottom: .4rem;
  white-space: nowrap; }
figcaption span, caption span { color: var(--soft); font-weight: 400; }
figure > svg { width: 100%; height: auto; display: block; }
svg text { fill: var(--soft); font-size: 11.5px; }
.grid { stroke: var(--rule); stroke-width: .7; } .level { stroke: var(--soft); stroke-width: 1.4;
  stroke-dasharray: 1.5 3.5; }
svg g { color: var(--text); } svg g path { fill: none; stroke: currentColor; stroke-width: 1.8; }
svg g circle, svg g polygon { fill: currentColor; }
svg:has(.line:hover) .line:not(:hover) { opacity: .15; }
.legend { display: flex; flex-wrap: wrap; gap: .2rem 1.1rem; padding: 0; margin: .5rem 0 0;
  list-style: none; font-size: 13px; }
.legend li { display: flex; align-items: center; gap: .4rem; }
.swatch { width: 34px; height: 12px; }
table { border-collapse: collapse; font-size: 13.5px; font-variant-numeric: tabular-nums; }
th, td { padding: .22rem .7rem; text-align: right; white-space: nowrap; }
thead th { color: var(--soft); font-weight: 500; border-bottom: 1px solid var(--rule); }
tbody th { font-weight: 500; text-align: left; }
tbody tr:hover { background: rgb(128 128 128 / .1); }
td { background: rgb(var(--shade) / calc(var(--v, 0) * 30%)); } td.best { font-weight: 700; }
summary { cursor: pointer; font-weight: 600; margin: .5rem 0; }
footer { margin-top: 3rem; color: var(--soft); font-size: 13px; }
"""


@dataclass(frozen=True, slots=True)
class Cell:
    """A figure as text. `shade`, 0 to 1, colours its ground; `is_best` makes it bold."""

    text: str
    shade: float = 0.0
    is_best: bool = False


def page(title: str, body: str) -> str:
    """An HTML document that needs nothing from elsewhere."""
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{escape(title)}</title><style>{_STYLE}</style></head>\n<body>{body}</body></html>\n"
    )


def table(
    name: str,
    caption: str,
    remark: str,
    columns: Sequence[str],
    rows: Mapping[str, Sequence[Cell]],
) -> str:
    """A table of id `name`: a row a key of `rows`, a column a figure."""
    head = "".join(f'<th scope="col">{escape(column)}</th>' for column in ("", *columns))
    body = "\n".join(
        f'<tr><th scope="row">{escape(label)}</th>{"".join(map(_cell, cells))}</tr>'
        for label, cells in rows.items()
    )
    return (
        f'<div class="table"><table id="{name}"><caption>{escape(caption)} '
        f"<span>{escape(remark)}</span></caption>"
        f"<thead><tr>{head}</tr></thead>\n<tbody>{body}</tbody></table></div>\n"
    )


def figure(caption: str, remark: str, drawing: str) -> str:
    return (
        f"<figure><figcaption>{escape(caption)} <span>{escape(remark)}</span></figcaption>"
        f"{drawing}</figure>\n"
    )


def _cell(cell: Cell) -> str:
    best = ' class="best"' if cell.is_best else ""
    shade = f' style="--v:{cell.shade:.2f}"' if cell.shade > 0 else ""
    return f"<td{best}{shade}>{escape(cell.text)}</td>"
