"""The documentation names tests and files that there are."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PAGES = [*sorted(ROOT.glob("docs/*.md")), ROOT / "README.md"]
CASES = "".join(path.read_text() for path in (ROOT / "tests/cpp").glob("*.cpp"))


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_tests_that_are_named_are_there(page: Path) -> None:
    text = page.read_text()
    for file, test in re.findall(r"`(test_\w+\.py)::(\w+)`", text):
        assert f"def {test}(" in (ROOT / "tests" / file).read_text(), f"{file}::{test}"
    for case in re.findall(r"cpp `([^`]+)`", text):
        assert f'TEST_CASE("{case}")' in CASES, case


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_files_that_are_named_are_there(page: Path) -> None:
    pattern = r"`((?:csrc|kvcore|tests|docs|scripts|benchmarks|cmake)/[\w./]+)`"
    missing = [name for name in re.findall(pattern, page.read_text()) if not (ROOT / name).exists()]
    assert missing == []


def test_the_table_of_hazards_names_a_test_in_every_line() -> None:
    lines = (ROOT / "docs/infinistore.md").read_text().splitlines()
    rows = [line for line in lines if line.startswith("| ") and not line.startswith("| what")]
    assert len(rows) > 15
    for row in rows:
        assert re.search(r"`test_\w+\.py::\w+` ?\|?|cpp `", row.split("|")[3]), row
