"""The CSV has every number under a documented name; the text lines up and says how to read it."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from sciencessl.evaluate.compare import Comparison, join
from sciencessl.evaluate.compare_output import (
    COLUMNS,
    columns_csv,
    comparison_json,
    comparison_text,
    records,
    table_csv,
)
from sciencessl.evaluate.results import Row, TransferResult

RowFactory = Callable[..., Row]
TransferFactory = Callable[..., TransferResult]
CostFactory = Callable[..., dict[str, Any]]


@pytest.fixture
def comparison(
    make_transfer: TransferFactory, make_row: RowFactory, make_cost: CostFactory, tmp_path: Path
) -> Comparison:
    """Two tasks: accuracies of three encoders, and a loss where a metric is undefined."""
    unresolved = {"difference": 0.01, "difference_low": -0.01, "difference_high": 0.03}
    one = make_transfer(
        rows=(make_row(), make_row("hybrid", seeds=3, encoders=3, **unresolved), make_row("vit", saw="unknown"),
              make_row("random", "random", seeds=5)),
        members={"hybrid": ("h1", "h2")}, marks={"byol": "Nothing seen."}, notes=("random: five encoders",),
        cost={"byol": make_cost(), "h1": make_cost(1000, 0.3), "h2": make_cost(1020, 0.4)}, tested="on SURVEY2",
    )
    two = make_transfer(
        "votes", task="votes", kind="counts", metric="nll", lower_is_better=True, resolution=math.nan,
        rows=(make_row(metric="nll", score=1.2, low=1.1, high=1.3, metrics={"nll": 1.2, "rmse": math.nan}),),
    )
    return Comparison(tmp_path / "out", join([one, two]))


def _lines(text: str, start: str) -> list[str]:
    return [line for line in text.splitlines() if line.startswith(start)]


def test_the_csv_has_every_row_with_its_cost(comparison: Comparison) -> None:
    rows = list(csv.DictReader(io.StringIO(table_csv(comparison))))
    lines = [line for task in comparison.tasks for line in task.lines]
    assert len(rows) == len(lines) == 5
    for found, line in zip(rows, lines, strict=True):
        row = line.row
        assert (found["encoder"], found["arm"], found["budget"], found["saw"]) == (row.encoder, row.arm, "50", row.saw)
        assert [float(found[name]) for name in ("score", "low", "high")] == [row.score, row.low, row.high]
        assert found["difference"] == ("" if row.difference is None else repr(row.difference))
        assert found["resolved"] == ("" if row.resolved is None else str(row.resolved))
        assert found["transfer"] == str(line.transfer)
    assert [row["task"] for row in rows] == ["morphology"] * 4 + ["votes"]
    assert [row["steps"] for row in rows] == ["1000", "1010.0", "", "0", ""]
    assert [row["runs"] for row in rows] == ["1", "2", "1", "0", "1"]
    assert float(rows[1]["device_hours"]) == pytest.approx(0.35)
    assert [row["device"] for row in rows] == ["cpu", "cpu", "", "", ""]
    assert [row["auroc"] for row in rows] == ["0.9"] * 4 + [""]
    assert math.isnan(float(rows[4]["rmse"]))


def test_every_column_is_documented(comparison: Comparison) -> None:
    header = next(csv.reader(io.StringIO(table_csv(comparison))))
    documented = list(csv.DictReader(io.StringIO(columns_csv(comparison))))
    assert [row["column"] for row in documented] == header
    assert header == [*COLUMNS, "auroc", "nll", "rmse"]
    assert all(row["meaning"] for row in documented)
    assert "mean over runs" in COLUMNS["steps"]


def test_json_has_the_rows_of_the_csv(comparison: Comparison) -> None:
    values = comparison_json(comparison)
    assert values["rows"] == records(comparison)
    assert [task["task"] for task in values["tasks"]] == ["morphology", "votes"]
    assert "lines" not in values["tasks"][0]
    assert values["tasks"][0]["runs"]["h2"]["steps"] == 1020
    assert values["tasks"][0]["matching"]["unknown"] == ["vit"]


def test_the_text_has_scores_and_costs_in_aligned_columns(comparison: Comparison) -> None:
    text = comparison_text(comparison)
    assert max(map(len, text.splitlines())) <= 120
    table = _lines(text, "byol") + _lines(text, "hybrid") + _lines(text, "vit") + _lines(text, "random")
    scores = [line for line in table if "0.610 +-0.030" in line]
    assert len(scores) == 4
    assert len({line.index("0.610 +-0.030") for line in scores}) == 1
    assert "+0.080 +-0.030        random  none" in scores[0]
    assert "+0.010 +-0.020  n.r.  random  none" in scores[1]
    assert scores[3].split() == ["random", "(mean", "of", "5)", "random", "50", "50", "5", "0.610", "+-0.030", "none"]
    costs = [line.split() for line in table if line.endswith(("FLOP", "unknown"))]
    assert costs[0] == ["byol", "1", "1,000", "64,000", "0.2", "cpu", "1.0", "GiB", "1", "TFLOP"]
    assert ["hybrid", "2", "1,010", "64,640", "0.35", "cpu", "1.0", "GiB", "1.01", "TFLOP"] in costs
    assert ["vit", "1", *["unknown"] * 6] in costs


def test_the_text_says_how_to_read_it(comparison: Comparison) -> None:
    one, two = (" ".join(part.split()) for part in comparison_text(comparison).split("task votes"))
    for part in (
        "task morphology: balanced accuracy; 735 test samples (on SURVEY2), unit object; a difference below about "
        "0.042 in balanced accuracy is not expected",
        "3 pretrained runs are matched by steps (1,000 to 1,020) and images",
        "no cost is on record of vit", "of this checkpoint only: byol and vit", "byol: Nothing seen.",
        "random: five encoders", "n.r.: not resolved", "for one transfer both in one call",
    ):  # fmt: skip
        assert part in one
    for part in (": nll, lower is better; 735 test", "what this test set can resolve in nll is not known",
                 "below zero is better", "one pretrained run: there is nothing to match"):
        assert part in two
    assert "below zero is better" not in one
    assert "for one transfer both in one call" not in two


def test_another_metric_has_no_intervals_in_the_text(make_transfer: TransferFactory, make_row: RowFactory) -> None:
    rows = (make_row(), make_row("hybrid", metrics={"brier": math.nan}), make_row("vit", metrics={"brier": 0.25}))
    tasks = join([make_transfer(rows=rows)], metric="brier")
    text = comparison_text(Comparison(Path("out"), tasks))
    assert "brier, lower is better" in text
    assert "+-" not in text
    assert _lines(text, "byol ")[0].split() == ["byol", "frozen", "50", "50", "1", "undefined", "none"]
    assert _lines(text, "vit ")[0].split() == ["vit", "frozen", "50", "50", "1", "0.250", "none"]
    assert "brier: mean over label subsets; intervals and differences are known of balanced accuracy only" in text


def test_an_interval_that_is_unknown_is_left_out(make_transfer: TransferFactory, make_row: RowFactory) -> None:
    row = make_row(low=-math.inf, high=math.inf, difference_low=None, difference_high=None)
    (table,) = join([make_transfer(rows=(row,))])
    line = _lines(comparison_text(Comparison(Path("out"), (table,))), "byol ")[0]
    assert line.split() == ["byol", "frozen", "50", "50", "1", "0.610", "+0.080", "n.r.", "random", "none"]


def test_without_random_encoders_there_are_no_differences(make_transfer: TransferFactory, make_row: RowFactory) -> None:
    row = replace(make_row(), difference=None, difference_low=None, difference_high=None, baseline="")
    text = comparison_text(Comparison(Path("out"), join([make_transfer(rows=(row,))])))
    assert "n.r." not in text
    assert "scores with half of their 95 % interval" in text
