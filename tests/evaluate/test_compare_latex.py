"""The LaTeX table prints names as they stand, needs booktabs alone, and says beside each number what it is worth."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from sciencessl.evaluate.compare import Comparison, join
from sciencessl.evaluate.compare_latex import escape, latex
from sciencessl.evaluate.results import Row, TransferResult

RowFactory = Callable[..., Row]
TransferFactory = Callable[..., TransferResult]
CostFactory = Callable[..., dict[str, Any]]

AWKWARD = r"a_b & c% $x^2$ #1 {d} ~e \f [g] h* <i|j> 'k' ``l'' m--n---o" + ' "p"'
WORDS = {r"\textbackslash{}": "\\", r"\textasciicircum{}": "^", r"\textasciitilde{}": "~", r"\textless{}": "<",
         r"\textgreater{}": ">", r"\textbar{}": "|", r"\textasciigrave{}": "`", r"\char34{}": '"'}


def _printed(text: str) -> str:
    """What LaTeX prints of escaped text: commands, escaped signs, then groups."""
    found = re.sub(r"\\(?:[a-z]+(?:34)?\{\}|[{}$&#_%])", lambda m: WORDS.get(m[0], m[0][1:]).translate(
        str.maketrans({"{": "\0", "}": "\1"})), text)
    return found.replace("{", "").replace("}", "").replace("\0", "{").replace("\1", "}")


def test_every_awkward_sign_is_printed_as_it_stands() -> None:
    assert _printed(escape(AWKWARD)) == AWKWARD


@pytest.mark.parametrize(("text", "expected"), [
    ("hybrid_50%", r"hybrid\_50\%"),
    ("50 & more", r"50 \& more"),
    ("a\\b", r"a\textbackslash{}b"),
    ("[x]", "{[}x]"),
    ("*", "{*}"),
    ("a--b---c", "a-{}-b-{}-{}-c"),
    ("two\n\nlines\t", "two lines"),
    ("plain-name.v2 (x)", "plain-name.v2 (x)"),
])  # fmt: skip
def test_escapes(text: str, expected: str) -> None:
    assert escape(text) == expected


def test_no_sign_of_latex_is_left_bare() -> None:
    escaped = escape(AWKWARD)
    assert not re.search(r"(?<!\\)[$&#_%^~]", escaped)
    assert not re.search(r"--|''|``|,,", escaped)
    assert escaped.count("{") - escaped.count(r"\{") == escaped.count("}") - escaped.count(r"\}")


@pytest.fixture
def table(make_transfer: TransferFactory, make_row: RowFactory, make_cost: CostFactory) -> str:
    unresolved = {"difference": -0.01, "difference_low": -0.03, "difference_high": 0.01}
    one = make_transfer(
        rows=(make_row("by_ol"), make_row("by_ol", budget="all", score=0.7, low=0.69, high=0.71, **unresolved),
              make_row("hybrid", budget="all", baseline="random resnet_18"), make_row("random", "random")),
        marks={"by_ol": "Nothing seen.", "hybrid": "Labels of a_b seen."}, cost={"by_ol": make_cost()},
    )  # fmt: skip
    return latex(Comparison(Path("out"), join([one, make_transfer("two", task="t & u")])))


def test_each_task_has_a_table_of_plain_latex_and_booktabs(table: str) -> None:
    assert table.count(r"\begin{table}") == table.count(r"\end{table}") == 2
    assert re.findall(r"\\label\{(.*)\}", table) == ["tab:compare-1", "tab:compare-2"]
    assert r"\caption{Task t \& u: balanced accuracy" in table
    commands = set(re.findall(r"\\([a-zA-Z]+)", table))
    booktabs = {"toprule", "midrule", "bottomrule"}
    kernel = {"usepackage", "begin", "end", "centering", "caption", "label", "quad", "pm", "medskip", "linewidth",
              "footnotesize", "par", "textsuperscript"}
    assert commands == booktabs | kernel
    assert "bf" not in table


def test_rows_have_a_cell_for_each_budget(table: str) -> None:
    first = table.partition(r"\end{table}")[0]
    body = first.partition(r"\midrule")[2].partition(r"\bottomrule")[0]
    rows = [[cell.strip() for cell in row.split("&")] for row in body.replace(r"\\", "").strip().splitlines()]
    assert r"Encoder & Arm & 50 & all \\" in first
    assert rows == [
        [r"by\_ol\textsuperscript{1}", "frozen", r"$0.610 \pm 0.030$", r"$0.700 \pm 0.010$"],
        [r"\quad minus random", "", r"$+0.080 \pm 0.030$", r"$-0.010 \pm 0.020$ n.r."],
        [r"hybrid\textsuperscript{2}", "frozen", "--", r"$0.610 \pm 0.030$"],
        [r"\quad minus random resnet\_18", "", "", r"$+0.080 \pm 0.030$"],
        ["random (mean of 5)", "random", r"$0.610 \pm 0.030$", "--"],
    ]


def test_the_foot_says_what_the_numbers_are_worth(table: str) -> None:
    first = table.partition(r"\end{table}")[0]
    for part in (
        r"A difference below about 0.042 in balanced accuracy is not expected to show (if arms disagree on 20 \% of "
        r"the test).\par",
        r"By what 2 pretrained runs are matched is unknown: no cost is on record of hybrid.\par",
        r"\textsuperscript{1}Nothing seen.\par", r"\textsuperscript{2}Labels of a\_b seen.\par",
        r"by\_ol: 1,000 steps, 64,000 images, 0.2 device-hours on cpu; hybrid: no cost on record.\par",
        r"this checkpoint only: by\_ol and hybrid.\par",
    ):  # fmt: skip
        assert part in first


def test_another_metric_stands_alone(make_transfer: TransferFactory) -> None:
    text = latex(Comparison(Path("out"), join([make_transfer()], metric="auroc")))
    assert r"byol & frozen & $0.900$ \\" in text
    assert r"\pm" not in text
    assert "minus" not in text
