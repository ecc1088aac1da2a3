"""Each kind's frozen fit and scores, as a transfer would ask for them."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from sciencessl.evaluate import metrics
from sciencessl.evaluate.fits import run_fit
from sciencessl.evaluate.kinds import frozen_fit, held_out_loss, output_width, sample_scores
from sciencessl.evaluate.linear import fit_logistic, unit_folds
from sciencessl.evaluate.multilabel import fit_labels
from sciencessl.evaluate.retrieval import retrieval_scores
from sciencessl.evaluate.statistics import hierarchical_interval
from sciencessl.evaluate.tasks import TaskData
from sciencessl.evaluate.votes import fit_votes, mean_fractions, vote_metrics
from sciencessl.spec import PRIMARY_METRICS, TransferTask

N, M = 120, 60
RNG = np.random.default_rng(0)
FEATURES = RNG.normal(size=(N + M, 6))
CLASSES = (FEATURES[:, :3] + 0.7 * RNG.normal(size=(N + M, 3))).argmax(axis=1)
PRESENT = (FEATURES[:, :3] + RNG.normal(size=(N + M, 3)) > 0.4).astype(float)
PRESENT[:30, 1] = np.nan
FRACTIONS = np.exp(FEATURES[:, :3]) / np.exp(FEATURES[:, :3]).sum(axis=1, keepdims=True)
COUNTS = np.array([RNG.multinomial(20, p) for p in FRACTIONS]).astype(float)
TARGETS = {"multilabel": PRESENT, "counts": COUNTS}
ROWS = np.arange(0, N, 2)


def task_data(kind: str, metric: str = "") -> TaskData:
    columns = ("a", "b", "c")
    several = kind in TARGETS
    task = TransferTask("t", "" if several else "x", kind=kind, metric=metric, columns=columns if several else (),  # type: ignore[arg-type]
                        ordered=metric == "quadratic_kappa")
    targets = TARGETS[kind] if several else None
    return TaskData(
        task, columns, np.arange(N), CLASSES[:N], np.arange(N), N + np.arange(M), CLASSES[N:], N + np.arange(M), "", {},
        None if targets is None else targets[:N], None if targets is None else targets[N:],
    )


def fit(data: TaskData):
    return frozen_fit(data, ROWS, FEATURES[:N][ROWS], FEATURES[N:], 0)


@pytest.mark.parametrize("kind", ["class", "multilabel", "counts", "retrieval"])
def test_every_primary_metric_is_the_mean_of_its_sample_scores(kind: str) -> None:
    for metric in PRIMARY_METRICS[kind]:
        data = task_data(kind, metric)
        found = fit(data)
        assert found.probabilities.shape == (M, output_width(data))
        strata = data.test_labels if metric == "balanced_accuracy" else None
        scores = sample_scores(data, found.probabilities)
        interval = hierarchical_interval(np.stack([scores, scores]), data.test_units, strata)
        known = {**found.metrics, **(metrics.ordered_metrics(found.probabilities, CLASSES[N:]) if data.task.ordered
                                     else {})}
        assert interval.mean == pytest.approx(known[metric], abs=1e-6)
        assert interval.standard_error > 0
        assert found.n_labels == len(ROWS)


def test_classes_are_fitted_as_ever() -> None:
    data = task_data("class")
    ever = run_fit("logistic", FEATURES[ROWS], CLASSES[ROWS], ROWS, FEATURES[N:], CLASSES[N:], 3, 0)
    assert fit(data).metrics == ever.metrics
    np.testing.assert_array_equal(sample_scores(data, ever.probabilities),
                                  metrics.correct(ever.probabilities, CLASSES[N:]))


def test_labels_report_each_label_and_its_setting() -> None:
    found = fit(task_data("multilabel"))
    alone = fit_labels(FEATURES[ROWS], PRESENT[ROWS], ROWS, 0)
    np.testing.assert_allclose(found.probabilities, alone.probabilities(FEATURES[N:]), atol=1e-6)
    assert found.metrics["auroc"] == pytest.approx(np.mean([found.metrics[f"auroc {name}"] for name in "abc"]))
    assert found.chosen == ", ".join(f"{n}: C={h.c:g}" for n, h in zip("abc", alone.heads, strict=True))
    assert found.trials == alone.trials


def test_votes_report_the_mean_predictor_and_the_scatter() -> None:
    found = fit(task_data("counts"))
    alone = fit_votes(FEATURES[ROWS], COUNTS[ROWS], ROWS, 0, dispersion=True)
    expected = vote_metrics(alone.fractions(FEATURES[N:]), COUNTS[N:], mean_fractions(COUNTS[ROWS]))
    assert {name: found.metrics[name] for name in expected} == pytest.approx(expected)
    assert found.metrics["nll"] < found.metrics["mean_nll"]
    assert found.metrics["dirichlet_nll"] == pytest.approx(found.metrics["nll"], rel=0.05)


def test_retrieval_searches_the_budget_only() -> None:
    found = fit(task_data("retrieval"))
    alone = retrieval_scores(FEATURES[ROWS], CLASSES[ROWS], FEATURES[N:], CLASSES[N:])
    np.testing.assert_allclose(found.probabilities[:, 0], alone.average_precision, rtol=1e-6)
    assert (found.chosen, found.trials) == ("k=10 (fixed)", 1)


def test_the_held_out_loss_is_that_of_the_kinds_own_search() -> None:
    train, found = FEATURES[:N][ROWS], {}
    for kind in ("class", "multilabel", "counts"):
        found[kind] = held_out_loss(task_data(kind), ROWS, train, 0)
    assert found["class"] == min(fit_logistic(train, CLASSES[ROWS], ROWS, 0).search.values())
    heads = fit_labels(train, PRESENT[ROWS], ROWS, 0).heads
    assert found["multilabel"] == pytest.approx(np.mean([min(head.search.values()) for head in heads if head]))
    assert found["counts"] == min(fit_votes(train, COUNTS[ROWS], ROWS, 0).search.values())


def test_the_held_out_loss_of_retrieval_searches_other_units() -> None:
    every, units = np.arange(N), np.arange(N) // 2
    data = replace(task_data("retrieval"), train_units=units)
    precision = np.full(N, np.nan)
    for pool, held in unit_folds(CLASSES[:N], units, 3):
        assert not {*units[pool]} & {*units[held]}
        bank, asked = (
            values / np.linalg.norm(values, axis=1, keepdims=True)
            for values in (FEATURES[rows] - FEATURES[pool].mean(axis=0) for rows in (pool, held))
        )
        for i, query in zip(held, asked, strict=True):
            relevant = CLASSES[pool][np.argsort(-bank @ query)] == CLASSES[i]
            precision[i] = (np.cumsum(relevant) / (1 + np.arange(len(pool))))[relevant].mean()
    assert held_out_loss(data, every, FEATURES[:N], 3) == pytest.approx(1 - precision.mean())


@pytest.mark.parametrize("kind", ["class", "multilabel", "counts", "retrieval"])
def test_with_few_labels_there_is_no_held_out_loss_and_the_test_is_never_read(kind: str) -> None:
    data = task_data(kind)
    few = np.arange(0, 60, 3)
    assert held_out_loss(data, few, FEATURES[:N][few], 0) is None
    blind = replace(data, test_labels=np.full(M, -99), test_targets=np.full((M, 3), np.inf))
    train = FEATURES[:N][ROWS]
    assert held_out_loss(blind, ROWS, train, 0) == held_out_loss(data, ROWS, train, 0)
