"""The page of methods tells of every registered one, as it tells of itself."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from sciencessl.registry import load_method, methods

PAGE = Path(__file__).parents[2] / "docs" / "explanation" / "methods.md"


def _rows() -> dict[str, tuple[str, ...]]:
    lines = [line for line in PAGE.read_text(encoding="utf-8").splitlines() if line.startswith("| `")]
    rows = [tuple(cell.strip() for cell in line.strip("|").split(" | ")) for line in lines]
    return {re.match("`(.*?)`", row[0])[1]: row for row in rows}  # type: ignore[index]


def test_the_page_has_one_row_for_each_method() -> None:
    assert set(_rows()) == {entry.name for entry in methods() if entry.origin == "built in"}


@pytest.mark.parametrize("name", sorted(_rows()))
def test_a_row_has_paper_formula_sentence_status_and_cost(name: str) -> None:
    kind = load_method(name)
    cells = _rows()[name]
    assert len(cells) == 5
    assert re.findall(r"\d{4}\.\d{5}", cells[0])[0] in kind.paper
    assert cells[1]
    assert cells[2].endswith(".")
    assert cells[3:] == (kind.status, f"{kind.cost:.2f}")


def test_the_classes_of_files_that_the_page_names_are_there() -> None:
    named = set(re.findall(r"(\w+\.py):(\w+)", PAGE.read_text(encoding="utf-8")))
    assert named
    for file, kind in named:
        assert load_method(f"{PAGE.parent / file}:{kind}").__name__ == kind
