"""Posteriors against votes: sums worked by hand, simulated votes, and models that are too sure."""

from __future__ import annotations

import csv
import io
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from scipy import stats

from sciencessl.evaluate.vote_calibration import (
    Baseline,
    QuestionCalibration,
    calibration_csv,
    calibration_sums,
    find_votes,
    fit_baseline,
    summarise,
)
from sciencessl.evaluate.vote_figures import calibration_figure
from sciencessl.spec import LabelSchema, Question
from sciencessl.store.reader import Store
from sciencessl.store.tables import write_table
from sciencessl.views.figures import png_bytes

SCHEMA = LabelSchema("two", (Question("ring", ("yes", "no")), Question("arms", ("1", "2", "more"), ("ring_no",))))
LEVELS = (0.5, 0.9)
FLAT = Baseline(np.array([0.4, 0.6, 0.2, 0.3, 0.5]), np.array([10.0, np.inf]))


def _simulated(samples: int, votes: int, members: int = 2, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Concentrations, and votes of fractions drawn from their mixture."""
    rng = np.random.default_rng(seed)
    alpha = rng.uniform(1, 20, (members, samples, 5))
    counts = np.zeros((samples, 5))
    chosen = alpha[rng.integers(members, size=samples), np.arange(samples)]
    for low, high in SCHEMA.groups:
        gammas = rng.gamma(chosen[:, low:high])
        counts[:, low:high] = rng.multinomial(votes, gammas / gammas.sum(axis=1, keepdims=True))
    return alpha, counts


def _judged(alpha: np.ndarray, counts: np.ndarray) -> tuple[QuestionCalibration, ...]:
    return summarise(calibration_sums(alpha, counts, SCHEMA.groups, FLAT, LEVELS), SCHEMA, LEVELS)


def test_two_galaxies_by_hand() -> None:
    alpha = np.array([[[3.0, 1.0, 1.0, 1.0, 2.0], [1.0, 1.0, 5.0, 4.0, 1.0]]])
    counts = np.array([[3.0, 1.0, 0.0, 0.0, 0.0], [1.0, 5.0, 2.0, 0.0, 0.0]])
    ring, arms = _judged(alpha, counts)
    assert (ring.samples, ring.votes, arms.samples, arms.votes) == (2, 10.0, 1, 2.0)
    assert ring.effective == pytest.approx(100 / 52)
    answer = ring.answers[0]
    assert answer.expected == pytest.approx((4 * 0.75 + 6 * 0.5) / 10)
    assert answer.observed == pytest.approx(0.4)
    assert answer.rmse == pytest.approx(np.sqrt(6 * (1 / 6 - 0.5) ** 2 / 10))
    assert answer.baseline_rmse == pytest.approx(np.sqrt((4 * 0.35**2 + 6 * (1 / 6 - 0.4) ** 2) / 10))
    assert [(found.samples, found.votes, found.expected, found.observed) for found in answer.bins] == [
        (1, 6.0, 0.5, pytest.approx(1 / 6)), (1, 4.0, 0.75, 0.75),
    ]  # fmt: skip
    assert answer.gap == pytest.approx(6 * (0.5 - 1 / 6) / 10)
    logs = stats.betabinom.logpmf([3, 1], [4, 6], [3, 1], [1, 1])
    assert ring.nll == pytest.approx(-logs.mean())
    assert ring.baseline_nll == pytest.approx(-stats.betabinom.logpmf([3, 1], [4, 6], 4, 6).mean())
    assert arms.nll == pytest.approx(-stats.dirichlet_multinomial.logpmf([2, 0, 0], [5, 4, 1], 2))
    # Infinitely strong: votes scatter as dice.
    assert arms.baseline_nll == pytest.approx(-np.log(0.2**2), abs=1e-4)


def test_an_interval_counts_the_votes_at_its_edge_in_part() -> None:
    # One of one vote: F steps from 0.25 to 1 at `yes`, and the central half is [0.25, 0.75]: two thirds of the step.
    found = _judged(np.array([[[3.0, 1.0, 1.0, 1.0, 1.0]]]), np.array([[1.0, 0.0, 0.0, 0.0, 0.0]]))
    yes, no = found[0].answers
    assert yes.coverage[0.5] == pytest.approx(2 / 3)
    assert no.coverage[0.5] == pytest.approx(2 / 3)
    assert yes.coverage[0.9] == pytest.approx(0.7 / 0.75)


@pytest.mark.parametrize("votes", [1, 5, 40])
def test_a_posterior_that_is_right_covers_what_it_says_however_few_the_votes(votes: int) -> None:
    for found in _judged(*_simulated(3000, votes, seed=votes)):
        for level in LEVELS:
            assert found.coverage[level] == pytest.approx(level, abs=4 * found.coverage_error(level))
        assert all(answer.gap < 0.04 for answer in found.answers)


def test_a_posterior_that_is_too_sure_covers_too_little_and_one_that_is_not_sure_enough_too_much() -> None:
    alpha, counts = _simulated(2000, 40, members=1)
    right, sure, unsure = (_judged(alpha * factor, counts)[1] for factor in (1.0, 8.0, 0.2))
    assert sure.coverage[0.5] < right.coverage[0.5] - 0.1 < right.coverage[0.5] + 0.1 < unsure.coverage[0.5]
    assert right.nll < min(sure.nll, unsure.nll)
    assert sure.answers[0].rmse == pytest.approx(right.answers[0].rmse)


def test_sums_of_parts_are_those_of_all_and_votes_may_be_fractional() -> None:
    alpha, counts = _simulated(50, 7)
    counts += np.random.default_rng(1).random(counts.shape)
    whole = calibration_sums(alpha, counts, SCHEMA.groups, FLAT, LEVELS)
    parts = [calibration_sums(alpha[:, rows], counts[rows], SCHEMA.groups, FLAT, LEVELS)
             for rows in (slice(0, 13), slice(13, 50))]
    for name, values in whole.items():
        np.testing.assert_allclose(parts[0][name] + parts[1][name], values, rtol=1e-10)
    assert whole["inside"].shape == (5, 2)
    assert (whole["inside"] <= np.repeat(whole["votes"], (2, 3))[:, None]).all()


def test_a_line_for_each_answer() -> None:
    found = _judged(*_simulated(20, 5))
    lines = list(csv.DictReader(io.StringIO(calibration_csv(found))))
    assert [line["column"] for line in lines] == list(SCHEMA.columns)
    assert float(lines[2]["rmse"]) == found[1].answers[0].rmse
    assert float(lines[4]["coverage_90pc"]) == found[1].answers[2].coverage[0.9]
    assert _judged(np.ones((1, 3, 5)), np.zeros((3, 5))) == ()


@pytest.fixture
def voted(tmp_path: Path, make_store: Any) -> Store:
    """Twelve galaxies; votes on rings of eleven scatter with a strength of about 5, those on arms have a table too."""
    store = make_store(tmp_path / "s.zarr", [f"g{i:03d}" for i in range(12)])
    rng = np.random.default_rng(0)
    fractions = rng.beta(3, 2, 11)
    yes = rng.binomial(50, fractions)
    write_table(store.path, "rings", pa.table({"id": store.ids[1:], "ring_yes": yes, "ring_no": 50 - yes}),
                schema=LabelSchema("rings", SCHEMA.questions[:1]))
    arms = {column: [1, 0, 3] for column in SCHEMA.questions[1].columns}
    write_table(store.path, "spirals", pa.table({"id": store.ids[:3], **arms}), schema=SCHEMA)
    return Store(store.path)


def test_votes_of_several_tables_are_one_row_a_sample(voted: Store) -> None:
    votes = find_votes(voted, SCHEMA)
    assert votes.homes == {"ring": "rings", "arms": "spirals"}
    assert votes.digests().keys() == {"rings", "spirals"}
    counts = votes.counts(np.arange(12))
    np.testing.assert_array_equal(counts[:, :2].sum(axis=1), [0, *[50] * 11])
    np.testing.assert_array_equal(counts[:4, 2:], [[1] * 3, [0] * 3, [3] * 3, [0] * 3])
    np.testing.assert_array_equal(votes.voted(np.array([11, 0, 1])), [11, 0, 1])
    other = LabelSchema("other", (Question("bar", ("yes", "no")), Question("ring", ("no", "yes", "maybe"))))
    assert len(find_votes(voted, other).voted(np.arange(12))) == 0


def test_votes_are_those_of_the_table_that_training_reads_and_of_questions_it_has(voted: Store) -> None:
    # Volunteers' tables carry the whole schema and the columns of the questions that were asked.
    one = pa.table({"id": voted.ids[:2], "arms_1": [7, 0], "arms_2": [0, 7], "arms_more": [0, 0]})
    write_table(voted.path, "a", one, schema=SCHEMA)
    write_table(voted.path, "z", pa.table({"id": voted.ids[:1], "ring_yes": [2], "ring_no": [1]}), schema=SCHEMA)
    votes = find_votes(Store(voted.path), SCHEMA)
    assert votes.homes == {"ring": "z", "arms": "spirals"}
    np.testing.assert_array_equal(votes.counts(np.arange(2)), [[2, 1, 1, 1, 1], [0, 0, 0, 0, 0]])


def test_the_baseline_is_the_pooled_fractions_and_their_likeliest_scatter(voted: Store) -> None:
    votes = find_votes(voted, SCHEMA)
    baseline = fit_baseline(votes, np.arange(12))
    pooled = votes.counts(np.arange(12)).sum(axis=0)
    np.testing.assert_allclose(baseline.fractions[:2], pooled[:2] / pooled[:2].sum())
    assert 1.5 < baseline.strength[0] < 15
    assert fit_baseline(votes, np.arange(0)).fractions.tolist() == [0.5, 0.5, *[1 / 3] * 3]
    # No other strength is likelier, which makes the baseline as hard to beat as it can be.
    rows = votes.counts(np.arange(1, 12))[:, :2]
    own = baseline.concentrations(SCHEMA.groups)[:2]
    at = [stats.betabinom.logpmf(rows[:, 0], 50, *(own * factor)).sum() for factor in (0.8, 1.0, 1.25)]
    assert max(at) == at[1]


def test_the_figure_names_its_questions_and_leaves_out_those_with_few_votes() -> None:
    (ring, arms) = _judged(*_simulated(60, 9))
    figure = calibration_figure([ring, arms], 0.9, "test")
    left, right = figure.axes
    assert [text.get_text() for text in figure.legends[0].get_texts()] == ["ring (60 samples)", "arms (60 samples)"]
    assert left.get_title(loc="left") == "Reliability, votes of split=test"
    np.testing.assert_allclose(right.lines[2].get_xydata()[1:3, 1], list(ring.coverage.values()))
    many = [QuestionCalibration(f"q{i}", 9, i + 1.0, 9.0, 1.0, 2.0, ring.coverage, ring.answers) for i in range(20)]
    figure = calibration_figure(many, 0.9, "val")
    names = [text.get_text() for text in figure.legends[0].get_texts()]
    assert names == [f"q{i} (9 samples)" for i in range(19, 5, -1)]
    assert "14 of 20 questions" in figure.axes[0].get_title(loc="left")
    assert png_bytes(figure, dpi=40).startswith(b"\x89PNG")
