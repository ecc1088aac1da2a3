"""Transfers are joined as they are, and only where their numbers are of one test and their names of one thing."""

from __future__ import annotations

import csv
import json
import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from sciencessl import cli
from sciencessl.errors import ConfigError, RunError
from sciencessl.evaluate.compare import compare, join
from sciencessl.evaluate.matching import NO_PRETRAINING
from sciencessl.evaluate.results import RESULT, Row, TransferResult

RowFactory = Callable[..., Row]
TransferFactory = Callable[..., TransferResult]
CostFactory = Callable[..., dict[str, Any]]


@pytest.fixture
def pair(
    make_transfer: TransferFactory, make_row: RowFactory, make_cost: CostFactory
) -> tuple[TransferResult, TransferResult]:
    """Two transfers of one task with equal random rows: byol at 50 and 750 labels, hybrid and scratch at 750."""
    random = tuple(make_row("random", "random", budget) for budget in ("50", "750"))
    one = make_transfer(
        "one", rows=(make_row(budget="50"), make_row(budget="750"), *random), marks={"byol": "Nothing seen."},
        cost={"byol": make_cost()}, notes=("random: five encoders",),
    )
    two = make_transfer(
        "two", rows=(make_row("scratch", "scratch", "750"), make_row("hybrid", budget="750", note="few"), *random),
        cost={"hybrid": make_cost(2000)}, notes=("random: five encoders",),
    )
    return one, two


def test_rows_of_both_transfers_stand_in_one_table(pair: tuple[TransferResult, TransferResult]) -> None:
    (table,) = join(pair)
    assert [(line.row.encoder, line.row.budget, line.transfer.name) for line in table.lines] == [
        ("byol", "50", "one"), ("byol", "750", "one"), ("hybrid", "750", "two"), ("scratch", "750", "two"),
        ("random", "50", "one"), ("random", "750", "one"),
    ]
    assert table.budgets == ("50", "750")
    assert [line.cost.steps for line in table.lines] == [1000, 1000, 2000, 0, 0, 0]
    assert table.lines[-1].cost == NO_PRETRAINING
    assert table.marks == {"byol": ("Nothing seen.",), "hybrid": ()}
    assert table.notes == ("random: five encoders", "750: few")
    assert table.matching.by == ("hours",)


def test_order_of_transfers_changes_only_the_order(pair: tuple[TransferResult, TransferResult]) -> None:
    (forward,), (back,) = join(pair), join(pair[::-1])
    key = {(line.row.encoder, line.row.budget): (line.row, line.cost) for line in forward.lines}
    assert key == {(line.row.encoder, line.row.budget): (line.row, line.cost) for line in back.lines}
    assert forward.matching.by == back.matching.by


def test_tasks_have_tables_of_their_own(
    pair: tuple[TransferResult, TransferResult], make_transfer: TransferFactory
) -> None:
    other = make_transfer("three", task="tissue", store="other", n_test=10)
    assert [(table.task, table.n_test) for table in join([other, *pair])] == [("tissue", 10), ("morphology", 735)]


@pytest.mark.parametrize(("name", "value", "shown"), [
    ("store", "other", r"store \('digest' and 'other'\)"),
    ("n_test", 700, r"n_test \(735 and 700\)"),
    ("n_pool", 9, r"n_pool \(2765 and 9\)"),
    ("unit", "patient", r"unit \('object' and 'patient'\)"),
    ("metric", "accuracy", r"metric \('balanced_accuracy' and 'accuracy'\)"),
    ("tested", "on SURVEY2", r"tested \('' and 'on SURVEY2'\)"),
    ("classes", ("a", "b"), r"classes \(edge-on, spiral and a, b\)"),
])  # fmt: skip
def test_transfers_of_another_test_are_refused(
    name: str, value: Any, shown: str, make_transfer: TransferFactory, make_row: RowFactory
) -> None:
    one = make_transfer("one")
    two = make_transfer("two", rows=(make_row("hybrid"),), **{name: value})
    with pytest.raises(ConfigError, match=f"one and .*two are both of task 'morphology', but differ in {shown}"):
        join([one, two])
    join([one, replace(two, task="another")])


def test_rows_that_contradict_are_refused(pair: tuple[TransferResult, TransferResult]) -> None:
    one, two = pair
    rows = tuple(replace(row, score=0.7) if row.arm == "random" and row.budget == "50" else row for row in two.rows)
    with pytest.raises(ConfigError) as refused:
        join([one, replace(two, rows=rows)])
    for part in (str(one.out), str(two.out), "random, random, budget 50", "score 0.61 and 0.7", "architecture",
                 "transfer the runs in one call"):
        assert part in str(refused.value)


def test_one_row_of_a_run_with_two_scores_is_refused(make_transfer: TransferFactory, make_row: RowFactory) -> None:
    one, two = make_transfer("one"), make_transfer("two", rows=(make_row(metrics={"auroc": 0.8, "nll": 0.5}),))
    with pytest.raises(ConfigError, match=r"with different numbers \(metrics\). Either these are two runs of one name"):
        join([one, two])


def test_equal_rows_are_one_row(make_transfer: TransferFactory, make_row: RowFactory, tmp_path: Path) -> None:
    row = make_row(metrics={"auroc": math.nan})
    make_transfer("one", rows=(row,))
    make_transfer("two", rows=(row,))
    result = compare([tmp_path / "one", tmp_path / "two", tmp_path / "one"], tmp_path / "out")
    (line,) = result.tasks[0].lines
    assert line.transfer == tmp_path / "one"
    assert math.isnan(line.row.metrics["auroc"])


def test_one_name_is_one_run(make_transfer: TransferFactory, make_row: RowFactory, make_cost: CostFactory) -> None:
    one = make_transfer("one", cost={"byol": make_cost()})
    two = make_transfer("two", rows=(make_row(arm="finetune"),), cost={"byol": make_cost(1020)})
    with pytest.raises(ConfigError, match=r"both have 'byol', but it is not the same there \(1,000 .*; 1,020 steps"):
        join([one, two])
    with pytest.raises(ConfigError, match=r"on cpu; no cost on record\)"):
        join([one, replace(two, cost={})])
    (table,) = join([one, replace(two, cost=one.cost)])
    assert list(table.curves) == [("byol", "frozen"), ("byol", "finetune")]


def test_a_method_costs_the_mean_of_its_seeds(
    make_transfer: TransferFactory, make_row: RowFactory, make_cost: CostFactory
) -> None:
    seeds = ("byol-1", "byol-2", "byol-3")
    result = make_transfer(
        rows=(make_row(encoders=3, seeds=3), make_row("hybrid")), members={"byol": seeds},
        cost={**{name: make_cost(steps) for name, steps in zip(seeds, (1000, 1010, 990), strict=True)},
              "hybrid": make_cost(1000)},
        marks={"byol-1": "One.", "byol-2": "One.", "byol-3": "Two.", "hybrid": "Three."},
    )  # fmt: skip
    (table,) = join([result], match="steps")
    assert table.lines[0].cost.steps == pytest.approx(1000)
    assert [line.cost.runs for line in table.lines] == [3, 1]
    assert list(table.runs) == [*seeds, "hybrid"]
    assert table.marks == {"byol": ("One.", "Two."), "hybrid": ("Three.",)}
    strayed = replace(result, cost={**result.cost, "byol-3": make_cost(1060)})
    with pytest.raises(ConfigError, match="byol-3: 1,060; hybrid: 1,000"):
        join([strayed], match="steps")
    others = replace(result, rows=(make_row(arm="knn"),), members={"byol": ("a", "b")})
    with pytest.raises(ConfigError, match=r"it is not the same there \(byol-1, byol-2 and byol-3; a and b\)"):
        join([result, others])


def test_matching_is_by_task(
    pair: tuple[TransferResult, TransferResult], make_transfer: TransferFactory, make_cost: CostFactory
) -> None:
    alone = make_transfer("three", task="tissue", cost={"byol": make_cost(7)})
    with pytest.raises(ConfigError, match=r"on task 'morphology' are not matched by steps.*byol: 1,000; hybrid: 2,000"):
        join([alone, *pair], match="steps")
    join([alone, *pair], match="hours")


def test_encoders_that_never_learned_need_no_match(make_transfer: TransferFactory, make_row: RowFactory) -> None:
    rows = (make_row("random", "random"), make_row("scratch", "scratch"))
    (table,) = join([make_transfer(rows=rows)], match="images")
    assert table.runs == {}


def test_numbers_that_are_not_finite_come_back_as_nan(
    make_transfer: TransferFactory, make_row: RowFactory, tmp_path: Path
) -> None:
    make_transfer(rows=(make_row(low=-math.inf, high=math.inf), make_row(budget="750", score=math.nan)))
    (table,) = compare([tmp_path / "few"], tmp_path / "out").tasks
    assert math.isnan(table.lines[0].row.high)
    assert math.isnan(table.lines[1].row.score)
    assert table.lines[0].row.score == 0.61


def test_another_metric_is_shown_without_intervals(make_transfer: TransferFactory) -> None:
    result = make_transfer()
    (table,) = join([result], metric="auroc")
    score, low, high = table.score(table.lines[0].row)
    assert score == 0.9
    assert math.isnan(low)
    assert math.isnan(high)
    (table,) = join([result], metric="balanced_accuracy")
    assert table.score(table.lines[0].row) == (0.61, 0.58, 0.64)
    with pytest.raises(ConfigError, match=r"task 'morphology': no metric named 'aurok'. Did you mean 'auroc'\?"):
        join([result], metric="aurok")


def test_wrong_input_is_told_what_to_do(make_transfer: TransferFactory, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="needs one or more folders"):
        compare([], tmp_path / "out")
    with pytest.raises(ConfigError, match=r"no way to match runs named 'epochs'. Known: hours, images, none, steps"):
        join([make_transfer()], match="epochs")
    with pytest.raises(RunError, match=r"has no transfer.json; make one with `sciencessl transfer`"):
        compare([tmp_path], tmp_path / "out")
    make_transfer("empty", rows=())
    with pytest.raises(RunError, match=r"empty/transfer.json has no rows"):
        compare([tmp_path / "empty"], tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_the_command_writes_and_tells(
    pair: tuple[TransferResult, TransferResult], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folders, out = [str(result.out) for result in pair], tmp_path / "out"
    assert cli.run(["compare", *folders, "--out", str(out)]) == 0
    shown = capsys.readouterr().out
    assert "2 pretrained runs are matched by hours (0.2) within 5 %, not by steps (1,000 to 2,000)" in shown
    assert shown.rstrip().endswith("written to {}: {}".format(
        out, "compare.csv, columns.csv, compare.tex, compare.png, cost.png"
    ))
    assert sorted(path.name for path in out.iterdir()) == [
        "columns.csv", "compare.csv", "compare.png", "compare.tex", "cost.png"
    ]
    assert cli.run(["compare", *folders, "--out", str(out), "--json"]) == 0
    values = json.loads(capsys.readouterr().out, parse_constant=lambda word: pytest.fail(f"{word} is no JSON"))
    assert values["tasks"][0]["matching"]["by"] == ["hours"]
    with (out / "compare.csv").open() as stream:
        assert [row["encoder"] for row in csv.DictReader(stream)] == [row["encoder"] for row in values["rows"]]
    assert cli.run(["compare", *folders, "--out", str(tmp_path / "no"), "--match", "images"]) == 2
    assert "byol: 64,000; hybrid: 128,000" in capsys.readouterr().err
    assert not (tmp_path / "no").exists()


def test_a_cost_figure_of_an_earlier_comparison_is_removed(
    pair: tuple[TransferResult, TransferResult], tmp_path: Path
) -> None:
    out = tmp_path / "out"
    assert "cost.png" in compare([pair[0].out], out).files
    values = json.loads((pair[0].out / RESULT).read_text())
    (pair[0].out / RESULT).write_text(json.dumps({**values, "cost": {}}))
    assert "cost.png" not in compare([pair[0].out], out).files
    assert not (out / "cost.png").exists()
