"""Numbers and verdicts of the report in words."""

from __future__ import annotations

import math

import pytest

from sciencessl.evaluate import report_words as words
from sciencessl.evaluate.results import Row


@pytest.mark.parametrize(
    ("spoken", "expected"),
    [
        (words.duration(37.4), "37 s"),
        (words.duration(480), "8.0 min"),
        (words.duration(9000), "2.5 h"),
        (words.memory(1.5 * 2**30), "1.5 GiB"),
        (words.memory(200 * 2**20), "200 MiB"),
        (words.operations(1.5767e12), "1.58 TFLOP"),
        (words.operations(2e18), "2 EFLOP"),
        (words.operations(5e5), "0.5 MFLOP"),
        (words.listed(["a"]), "a"),
        (words.listed(["a", "b", "c"]), "a, b and c"),
        (words.listed([]), ""),
        (words.number(0.12345), "0.123"),
        (words.number(math.nan), "–"),
        (words.number(None), "–"),
    ],
)
def test_units(spoken: str, expected: str) -> None:
    assert spoken == expected


@pytest.mark.parametrize(
    ("low", "high", "expected"),
    [(0.01, 0.05, "above"), (-0.05, -0.01, "below"), (-0.01, 0.05, "not resolved"), (None, None, "")],
)
def test_a_gap_inside_its_interval_is_not_resolved(low: float | None, high: float | None, expected: str) -> None:
    middle = None if low is None or high is None else (low + high) / 2
    row = Row("run", "frozen", "20", 20, 3, 1, "balanced_accuracy", 0.6, 0.5, 0.7, middle, low, high, 1.0, "none")
    assert words.verdict(row) == expected


def test_the_marks_of_transfers_replace_what_the_settings_say() -> None:
    told = words.seen_sentence({"labels": []}, "", [], "run")
    assert told == "Pretraining read the images of split=train and no labels."
    told = words.seen_sentence({"labels": ["a", "b"]}, "simulated", [], "run")
    assert told == "Pretraining read the images of split=train and labels of a and b (simulated)."


@pytest.mark.parametrize(
    ("config", "expected"),
    [
        ({"method": "byol", "labels": []}, "trained by byol, on"),
        ({"method": "byol", "labels": ["q"]}, "trained by byol with labels of q, on"),
        ({"method": "labels_only", "labels": ["q"]}, "trained by labels_only from labels of q, on"),
        ({"method": "byol", "init_from": "runs/a"}, "It started from runs/a."),
    ],
)
def test_what_was_trained_on_what(config: dict[str, object], expected: str) -> None:
    assert expected in words.training_sentence("run", config, "galaxy", True)


def test_the_gauge_speaks_of_collapse() -> None:
    row = {"step": 5, "std": 0.05, "effective_rank": 9.0, "projection_std": 0.1}
    told = words.gauge_sentences([row], ["step 5: collapsing"])
    assert told[0] == "Warning in the log: step 5: collapsing"
    assert told[1].endswith("the representation has collapsed.")
    assert "No warning" not in told[1]
    assert words.gauge_sentences([{"step": 1}], []) == ["The gauge was not read."]
