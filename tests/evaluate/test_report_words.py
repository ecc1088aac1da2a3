"""Numbers and verdicts of the report in words."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest

from sciencessl.evaluate import report_words as words
from sciencessl.evaluate.curves import ARMS
from sciencessl.evaluate.results import Row, TransferResult


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


def test_a_mark_is_of_one_test(full_result: TransferResult) -> None:
    name = next(iter(full_result.marks))
    told = words.seen_sentence({}, "", [full_result, replace(full_result, tested="")], name)
    for part in ("saw of task morphology, tested on telescope = B: ", " saw of task morphology: "):
        assert f"{part}{full_result.marks[name]}" in told


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


@pytest.mark.parametrize(
    ("kind", "metric", "name", "unit"),
    [
        ("class", "balanced_accuracy", "balanced accuracy", ""),
        ("multilabel", "auroc", "area under the ROC curve", ""),
        ("counts", "nll", "negative log-likelihood", "nats a vote"),
        ("class", "nll", "negative log-likelihood", "nats a sample"),
        ("retrieval", "mean_average_precision", "mean average precision", ""),
    ],
)
def test_metrics_have_words_and_units(
    full_result: TransferResult, kind: str, metric: str, name: str, unit: str
) -> None:
    result = replace(full_result, kind=kind, metric=metric)
    assert (words.metric_name(result), words.metric_unit(result)) == (name, unit)


def test_every_arm_has_words(full_result: TransferResult) -> None:
    assert set(words.ARMS) == set(ARMS)
    told = words.few_label_sentences(full_result)
    assert any(text.startswith("byol, a linear layer trained by gradient descent on frozen features") for text in told)


@pytest.mark.parametrize(
    ("kind", "asks"),
    [("class", "tells a and b apart"), ("bag", "tells bags of a and b apart"),
     ("multilabel", "asks which of a and b are present"),
     ("counts", "predicts the votes for a and b"), ("retrieval", "looks for samples of the same class among a and b")],
)
def test_the_first_sentence_fits_the_kind_of_task(full_result: TransferResult, kind: str, asks: str) -> None:
    told = words.few_label_sentences(replace(full_result, kind=kind, classes=("a", "b")))
    assert told[0] == (
        f"Task morphology {asks}. It was tested on telescope = B. Its 590 test samples: a difference below about "
        "0.041 in balanced accuracy is not expected to show (if arms disagree on 20 % of the test)."
    )


def test_a_metric_without_a_bound_says_so(full_result: TransferResult) -> None:
    votes = replace(full_result, metric="nll", lower_is_better=True, resolution=math.nan, tested="")
    first = words.few_label_sentences(votes)[0]
    assert first.endswith("no bound is known beforehand for negative log-likelihood. Lower is better.")
    assert "nan" not in first


def test_variances_are_told_in_percent_at_the_largest_budget(full_result: TransferResult) -> None:
    told = words.variance_sentences(full_result)
    space = "\N{NO-BREAK SPACE}"
    assert told[0] == (
        f"byol, frozen at 2,853 labels: 60{space}% from the pretraining seed, 10{space}% from the label "
        f"subset, 30{space}% from the test units and 0{space}% from their interactions."
    )
    assert told[-1].startswith(f"random at 2,853 labels: 60{space}% from the random encoder,")
    assert len(told) == 5  # the curve from scratch knows no parts
    single = tuple(replace(row, parts={"units": 1e-4}) for row in full_result.rows)
    assert words.variance_sentences(replace(full_result, rows=single)) == []


def test_the_note_of_the_bands_says_what_they_speak_for(full_result: TransferResult) -> None:
    rows = full_result.rows
    assert words.band_note(rows) == (
        "95 % intervals over pretraining seeds, label subsets and test units (random: encoders too)"
    )
    mixed = [replace(row, seeds=1) if row.encoder == "hybrid" else row for row in rows]
    assert words.band_note(mixed).endswith("; for this checkpoint only: hybrid")
    alone = [replace(row, seeds=1) for row in rows]
    assert words.band_note(alone) == "95 % intervals over label subsets and test units, for this checkpoint only"
    assert words.one_checkpoint_each(alone)
    assert not words.one_checkpoint_each(rows)


@pytest.mark.parametrize(
    ("middle", "lower_is_better", "expected"),
    [(0.1, False, "good"), (-0.1, False, "bad"), (0.1, True, "bad"), (-0.1, True, "good"), (0.01, True, "unresolved"),
     (None, False, "unresolved")],
)
def test_lower_may_be_better(middle: float | None, lower_is_better: bool, expected: str) -> None:
    ends = (None, None) if middle is None else (middle - 0.05, middle + 0.05)
    row = Row("run", "frozen", "20", 20, 3, 1, "nll", 0.6, 0.5, 0.7, middle, *ends, 1.0, "none")
    assert words.tone(row, lower_is_better) == expected


def test_curves_rise_in_labels_and_keep_their_order(full_result: TransferResult) -> None:
    found = words.curves(full_result.rows[::-1])
    assert (found[0][0].encoder, found[0][0].arm) == ("random", "random")
    assert all([row.n_labels for row in rows] == [20, 60, 200, 2853] for rows in found)
    assert words.curve_name("byol", "knn") == "byol, knn"
    assert words.curve_name("scratch", "scratch") == "scratch"


def test_how_samples_were_drawn_is_said_where_it_is_not_each_once() -> None:
    cost = {"images_seen": 96, "steps": 6, "epoch_samples": 40, "sampling": ["an epoch is 40 draws", "  more"]}
    plain = {"batch": 16, "sampling": {"balance": "", "exponent": 1.0, "rates": [], "labelled_share": 0.0}}
    drawn = {"batch": 16, "data": ["a.zarr", "b.zarr"], "sampling": {"balance": "class"}}
    assert "2.0 passes over 48 training samples" in words.length_sentence(plain, cost, 48, 6, True)
    grown = words.length_sentence({**plain, "phases": ["32@1.5"]}, cost, 48, 6, True)
    assert grown.startswith("It took 6 steps of 16 images at first, 32 from epoch 1.5 on, 96 images seen, 2.0 passes")
    assert words.length_sentence(drawn, cost, 48, 6, True) == (
        "It took 6 steps of 16 images, 96 images seen, 2.4 epochs; an epoch is 40 draws."
    )
    assert words.seen_sentence(drawn, "by hand", [], "run") == (
        "Pretraining read the images of split=train, as often as column class says, and no labels (by hand)."
    )
    assert "on split=train of a.zarr and b.zarr (galaxy domain)" in words.training_sentence("r", drawn, "galaxy", True)
    assert not words.drawn_otherwise(plain)
    assert not words.drawn_otherwise({})
