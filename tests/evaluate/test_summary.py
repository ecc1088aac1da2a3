from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from scipy import stats

from sciencessl.evaluate.curves import Curve
from sciencessl.evaluate.finetune import Training
from sciencessl.evaluate.outcomes import Outcome
from sciencessl.evaluate.plan import Part, Plan
from sciencessl.evaluate.statistics import hierarchical_interval, holm
from sciencessl.evaluate.subsets import Budget, Subset
from sciencessl.evaluate.summary import make_endpoints, make_rows, resolution
from sciencessl.evaluate.tasks import TaskData
from sciencessl.evaluate.three_levels import three_level_interval
from sciencessl.spec import TransferTask

BUDGETS = (Budget("total", 10), Budget("total", 100), Budget("all"))
SIZES = (10, 100, 1000)
TEST = 40


def _plan(runs: tuple[str, ...] = ("one",), seeds: int = 1) -> Plan:
    labels = np.arange(TEST) % 2
    units = np.array([f"u{i}" for i in range(TEST)], dtype=object)
    pool = np.arange(1000)
    data = TaskData(TransferTask("t", "class"), ("a", "b"), pool, pool % 2, pool.astype(object), 1000 + np.arange(TEST),
                    labels, units, "", {})
    subsets = tuple({b: Subset(pool[:n], n) for b, n in zip(BUDGETS, SIZES, strict=True)} for _ in range(3))
    def encoders(name: str) -> Any:
        return {"": tuple(SimpleNamespace(name=f"{name}-{seed}" if seeds > 1 else name) for seed in range(seeds))}

    curves = tuple(Curve(name, "frozen", encoders(name), "random") for name in runs)
    every = (*curves, Curve("random", "random", encoders("random")))
    part = Part(data, "", subsets, np.arange(TEST))
    store: Any = None
    return Plan(store, store, data, (part,), BUDGETS, (), (), every, Path(), BUDGETS, 2, Training())


def _outcomes(rng: np.random.Generator, rate: float, encoders: int = 1) -> dict[Budget, Outcome]:
    def scores(size: int) -> np.ndarray:
        return (rng.random((encoders, 1, 1 if size == 1000 else 3, TEST)) < rate).astype(float)

    return {
        budget: Outcome(scores(size), size, 2.0, {"nll": 0.5})
        for budget, size in zip(BUDGETS, SIZES, strict=True)
    }


def test_the_area_by_hand() -> None:
    """Budgets a decade apart: weights 1/4, 1/2, 1/4; the subset of all labels counts for each seed."""
    plan, rng = _plan(), np.random.default_rng(0)
    own, random = _outcomes(rng, 0.8), _outcomes(rng, 0.5)
    found = make_endpoints(plan, {("frozen", "one"): own, ("random", "random"): random})[0]
    assert (found.from_labels, found.to_labels) == (10, 1000)
    gaps = [own[b].scores[0, 0] - random[b].scores[0, 0] for b in BUDGETS]
    per_seed = np.array([0.25 * gaps[0][s] + 0.5 * gaps[1][s] + 0.25 * gaps[2][0] for s in range(3)])
    expected = hierarchical_interval(per_seed, plan.data.test_units, strata=plan.data.test_labels)
    assert (found.difference, found.low) == pytest.approx((expected.mean, expected.low), abs=1e-12)
    assert found.each == pytest.approx([expected.mean])


def test_methods_are_paired_seed_by_seed_and_random_encoders_add_their_spread() -> None:
    plan, rng = _plan(("one", "two"), seeds=3), np.random.default_rng(3)
    one, random = _outcomes(rng, 0.8, 3), _outcomes(rng, 0.5, 5)
    # The second method is right on one more of every 20 test samples, in each seed and subset.
    two = {b: Outcome(np.maximum(o.scores, np.arange(TEST) % 20 < 1), o.n_labels, 1.0, {}) for b, o in one.items()}
    outcomes = {("frozen", "one"): one, ("frozen", "two"): two, ("random", "random"): random}
    first, second, pair = make_endpoints(plan, outcomes)
    assert (pair.encoder, pair.baseline, pair.baseline_arm) == ("two", "one", "frozen")
    gaps = [two[b].scores - one[b].scores for b in BUDGETS]
    area = 0.25 * gaps[0] + 0.5 * gaps[1] + 0.25 * gaps[2]
    classes = [plan.data.test_labels == c for c in (0, 1)]
    assert pair.each == pytest.approx([np.mean([area[p, ..., c].mean() for c in classes]) for p in range(3)])
    expected = three_level_interval(area[:, 0], plan.data.test_units, strata=plan.data.test_labels)
    assert (pair.low, pair.high) == pytest.approx((expected.low, expected.high), abs=1e-12)
    # Against random encoders the same interval is wider by their variance over how many there are.
    mean = {b: o.scores.mean(axis=0, keepdims=True) for b, o in random.items()}
    fixed = {b: Outcome(scores, random[b].n_labels, 1.0, {}) for b, scores in mean.items()}
    narrow = make_endpoints(plan, {**outcomes, ("random", "random"): fixed})[0]
    assert narrow.difference == pytest.approx(first.difference, abs=1e-12)
    theta = [sum(w * np.mean([random[b].scores[p, ..., c].mean() for c in classes])
                 for w, b in zip((0.25, 0.5, 0.25), BUDGETS, strict=True)) for p in range(5)]
    assert first.high - first.low > narrow.high - narrow.low
    assert np.var(theta, ddof=1) > 0
    assert second.seeds == 3


def test_the_first_run_is_primary_and_the_others_are_adjusted_among_themselves() -> None:
    plan, rng = _plan(("one", "two", "three")), np.random.default_rng(1)
    outcomes = {("frozen", name): _outcomes(rng, rate) for name, rate in (("one", 0.8), ("two", 0.6), ("three", 0.9))}
    outcomes["random", "random"] = _outcomes(rng, 0.5)
    one, *further = make_endpoints(plan, outcomes)
    assert [(end.encoder, end.baseline) for end in further] == [
        ("two", "random"), ("three", "random"), ("two", "one"), ("three", "one")
    ]
    assert [end.primary for end in (one, *further)] == [True, *[False] * 4]
    assert one.p_adjusted == one.p_value
    assert [end.p_adjusted for end in further] == pytest.approx(holm([end.p_value for end in further]))
    smallest = min(further, key=lambda end: end.p_value)
    assert smallest.p_adjusted == pytest.approx(4 * smallest.p_value)
    assert (one.from_labels, one.to_labels, one.baseline) == (10, 1000, "random")
    assert one.resolved == (one.low > 0 or one.high < 0)


def test_rows_are_paired() -> None:
    plan, rng = _plan(), np.random.default_rng(2)
    own = _outcomes(rng, 0.8)
    # The baseline misses one more test sample in each subset: the difference is known better than either score.
    random = {b: Outcome(o.scores * (np.arange(TEST) != 3), o.n_labels, 1.0, {"nll": 1.0}) for b, o in own.items()}
    row, *_ = make_rows(plan, {("frozen", "one"): own, ("random", "random"): random}, {"one": "related, probed"})
    assert row.difference == pytest.approx(own[BUDGETS[0]].scores[..., 3].mean() / 40)
    assert row.difference_high is not None
    assert row.difference_high - row.difference < 0.7 * (row.high - row.score)
    assert (row.saw, row.n_labels, row.subsets, row.trials) == ("related, probed", 10, 3, 2.0)


def test_the_resolution_counts_units() -> None:
    plan = _plan()
    z = stats.norm.ppf(0.975)
    assert resolution(plan) == pytest.approx(z * np.sqrt(0.2 / 20 + 0.2 / 20) / 2)
    tiles = np.array([f"u{i // 4}" for i in range(TEST)], dtype=object)
    data = TaskData(**{**plan.data.__dict__, "test_units": tiles})
    assert resolution(Plan(**{**plan.__dict__, "data": data})) == pytest.approx(z * np.sqrt(0.2 / 10 * 2) / 2)
