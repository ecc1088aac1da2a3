from __future__ import annotations

import csv
import io
import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from sciencessl.errors import RunError
from sciencessl.evaluate.groups import GroupScore
from sciencessl.evaluate.results import RESULT, Detail, Endpoint, Row, TransferResult, read_result
from sciencessl.evaluate.tables import GROUPS, aligned, difference_text, endpoint_text, table_csv, table_text


def _row(**changes: Any) -> Row:
    values: dict[str, Any] = {
        "encoder": "byol", "arm": "frozen", "budget": "50", "n_labels": 50, "subsets": 10, "encoders": 1,
        "metric": "balanced_accuracy", "score": 0.61, "low": 0.58, "high": 0.64, "difference": 0.08,
        "difference_low": 0.05, "difference_high": 0.11, "trials": 4.25, "saw": "none",
        "metrics": {"auroc": math.nan, "nll": 0.5}, "baseline": "random",
    }
    return Row(**{**values, **changes})


ROWS = (
    _row(each=(0.6, 0.62), parts={"units": 0.5, "subsets": 0.25}),
    _row(budget="750", n_labels=750, score=0.7, low=0.69, high=0.71, difference=0.01, difference_low=-0.01,
         difference_high=0.03),
    _row(encoder="a-run-with-a-name-far-too-long-for-any-table", arm="knn", budget="100/class", n_labels=12345,
         saw="transductive", note="class 'spiral' has only 57 labels"),
    _row(encoder="random", arm="random", encoders=5, difference=None, difference_low=None, difference_high=None),
)
ENDS = (
    Endpoint("byol", "random", True, 50, 750, 0.04, 0.02, 0.06, 0.001, 0.001),
    Endpoint("hybrid", "random", False, 50, 750, 0.03, 0.001, 0.059, 0.04, 0.08),
)


@pytest.fixture
def result(tmp_path: Path) -> TransferResult:
    return TransferResult(
        out=tmp_path, task="morphology", unit="object", classes=("edge-on", "elliptical", "spiral"), n_pool=2853,
        n_test=647, resolution=0.046, marks={"byol": "Neither test samples nor related labels were seen. " * 4},
        rows=ROWS, cost={"byol": {"wall_seconds": math.inf}}, dropped={"merger": 74}, seconds=1.5, fits=3,
        endpoints=ENDS, notes=("random: logistic regression on 5 encoders",), store="digest",
    )


def test_the_text_fits_and_its_numbers_are_aligned(result: TransferResult) -> None:
    lines = table_text(result).splitlines()
    assert max(map(len, lines)) <= 120
    assert lines[1] == (
        "a difference below about 0.046 in balanced accuracy is not expected to show (if arms disagree on 20 % of the "
        "test)"
    )
    table = lines[3:8]
    assert table[0].split() == ["encoder", "arm", "budget", "labels", "sets", "score", "minus",
                                "random", "trials", "saw"]
    for number in ("0.610 +-0.030", "+0.080 +-0.030"):
        places = {line.index(number) for line in table[1:] if number in line}
        assert len(places) == 1
    assert {line.index(" 4.2") for line in table[1:]} == {table[1].index(" 4.2")}
    labels = (" 50    10", "750    10", "12345    10")
    ends = [line.index(label) + len(label) for line, label in zip(table[1:4], labels, strict=True)]
    assert len(set(ends)) == 1


def test_the_text_says_what_is_not_resolved_and_what_was_seen(result: TransferResult) -> None:
    text = table_text(result)
    lines = text.splitlines()
    assert "not resolved" not in lines[4]
    assert "resolved" in lines[4]
    assert "not resolved" in lines[5]
    assert lines[6].startswith("a-run-with-a-name...  knn ")
    assert "...  knn" in lines[6]
    assert "random (5 encoders)" in lines[7]
    assert "transductive" in lines[6]
    for part in ("left out of the task: 74 merger", "100/class: class 'spiral' has only 57 labels",
                 "random: logistic regression on 5 encoders", "byol: Neither test samples", "this checkpoint only",
                 "difference excludes zero, not adjusted for the number of rows"):
        assert part in " ".join(text.split())


def test_the_foot_speaks_of_random_encoders_where_there_are_several(result: TransferResult) -> None:
    assert "encoders too" not in table_text(result)
    several = replace(result, rows=(*ROWS[:3], replace(ROWS[3], seeds=5)))
    assert "label subsets and test units (random: encoders too); this checkpoint only" in \
        " ".join(table_text(several).split())


def test_groups_say_what_their_intervals_are_worth(result: TransferResult) -> None:
    assert GROUPS not in table_text(result)
    detail = Detail("byol", "frozen", "all", groups=(GroupScore("a", 9, 9, 0.5, 0.4, 0.6), GroupScore(
        "b", 1, 1, 1.0, None, None, note="1 units: too few")))
    text = table_text(replace(result, details=(detail,), by="site"))
    assert "byol frozen at all labels, by site:" in text
    assert " ".join(text.split()).endswith(GROUPS)


def test_endpoints_in_words() -> None:
    assert endpoint_text(ENDS[0]) == (
        "primary endpoint: byol frozen minus random, mean over log labels 50 to 750: +0.040 [+0.020, +0.060], "
        "p = 0.001, resolved"
    )
    # Its own interval excludes zero; after the adjustment it is not resolved.
    assert endpoint_text(ENDS[1]).endswith("[+0.001, +0.059], p = 0.04, Holm-adjusted 0.08, not resolved")
    single = Endpoint("a", "random", True, 50, 50, 0.0, -1.0, 1.0, 1.0, 1.0)
    assert "mean at 50 labels" in endpoint_text(single)


def test_differences_in_words() -> None:
    assert difference_text(ROWS[0]) == "+0.080 [+0.050, +0.110]"
    assert difference_text(ROWS[1]) == "+0.010 [-0.010, +0.030] not resolved"
    assert difference_text(ROWS[3]) == ""


def test_aligned_columns() -> None:
    assert aligned([("a", "b"), ("cc", "10")], frozenset({1})) == ["a    b", "cc  10"]


def test_csv_holds_every_number() -> None:
    rows = list(csv.DictReader(io.StringIO(table_csv(ROWS))))
    assert len(rows) == 4
    for found, row in zip(rows, ROWS, strict=True):
        assert (found["encoder"], found["budget"], found["note"]) == (row.encoder, row.budget, row.note)
        assert float(found["score"]) == row.score
        assert found["difference"] == ("" if row.difference is None else repr(row.difference))
        assert found["resolved"] == ("" if row.resolved is None else str(row.resolved))
        assert float(found["nll"]) == 0.5
        assert math.isnan(float(found["auroc"]))
        assert json.loads(found["each"]) == list(row.each)
        assert json.loads(found["parts"]) == row.parts


def test_json_is_strict_and_reads_back(result: TransferResult) -> None:
    raw = json.dumps(result.to_json(), allow_nan=False)
    values = json.loads(raw, parse_constant=lambda word: pytest.fail(f"{word} is no JSON"))
    assert [row["resolved"] for row in values["rows"]] == [True, False, True, None]
    assert [end["resolved"] for end in values["endpoints"]] == [True, False]
    assert values["rows"][0]["metrics"] == {"auroc": None, "nll": 0.5}
    assert values["cost"] == {"byol": {"wall_seconds": None}}
    (result.out / RESULT).write_text(raw)
    found = read_result(result.out)
    assert json.dumps(found.to_json()) == raw
    assert math.isnan(found.rows[0].metrics["auroc"])
    assert found.endpoints == ENDS
    assert found.out == result.out


def test_a_table_that_is_not_there_or_damaged(tmp_path: Path) -> None:
    with pytest.raises(RunError, match=r"has no transfer.json; make one with `sciencessl transfer`"):
        read_result(tmp_path)
    (tmp_path / RESULT).write_text('{"rows": 3}')
    with pytest.raises(RunError, match=r"transfer.json is damaged \(TypeError"):
        read_result(tmp_path)


def test_names_that_share_a_mark_stand_together(make_transfer: Any) -> None:
    result = make_transfer(marks={"byol-1": "Nothing.", "hybrid-1": "Votes.", "byol-2": "Nothing."})
    assert result.said() == {"byol-1, byol-2": "Nothing.", "hybrid-1": "Votes."}
    assert "byol-1, byol-2: Nothing." in table_text(result)
