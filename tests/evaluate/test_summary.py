from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy import stats

from sciencessl.evaluate.finetune import Training
from sciencessl.evaluate.plan import Curve, Plan
from sciencessl.evaluate.subsets import Budget, Subset
from sciencessl.evaluate.summary import Outcome, area_difference, make_endpoints, make_rows, resolution
from sciencessl.evaluate.tasks import TaskData
from sciencessl.spec import TransferTask

BUDGETS = (Budget("total", 10), Budget("total", 100), Budget("all"))
SIZES = (10, 100, 1000)
TEST = 40


def _plan(runs: tuple[str, ...] = ("one",)) -> Plan:
    labels = np.arange(TEST) % 2
    units = np.array([f"u{i}" for i in range(TEST)], dtype=object)
    pool = np.arange(1000)
    data = TaskData(TransferTask("t", "class"), ("a", "b"), pool, pool % 2, pool.astype(object), 1000 + np.arange(TEST),
                    labels, units, "", {})
    subsets = tuple({b: Subset(pool[:n], n) for b, n in zip(BUDGETS, SIZES, strict=True)} for _ in range(3))
    encoders: Any = {"": (None,)}
    curves = tuple(Curve(name, "frozen", encoders, "random") for name in runs)
    every = (*curves, Curve("random", "random", encoders))
    return Plan(None, data, "", BUDGETS, subsets, (), every, Path(), 2, Training())  # type: ignore[arg-type]


def _outcomes(rng: np.random.Generator, rate: float) -> dict[Budget, Outcome]:
    return {
        budget: Outcome((rng.random((1 if size == 1000 else 3, TEST)) < rate).astype(float), size, 2.0, {"nll": 0.5})
        for budget, size in zip(BUDGETS, SIZES, strict=True)
    }


def test_the_area_by_hand() -> None:
    """Budgets a decade apart: weights 1/4, 1/2, 1/4; the subset of all labels counts for each seed."""
    plan, rng = _plan(), np.random.default_rng(0)
    own, random = _outcomes(rng, 0.8), _outcomes(rng, 0.5)
    interval, sizes = area_difference(plan, {("frozen", "one"): own, ("random", "random"): random}, plan.curves[0])
    assert sizes == list(SIZES)
    gaps = [own[b].hits - random[b].hits for b in BUDGETS]
    per_seed = [0.25 * gaps[0][s] + 0.5 * gaps[1][s] + 0.25 * gaps[2][0] for s in range(3)]
    labels = plan.data.test_labels
    theta = [np.mean([gap[labels == c].mean() for c in (0, 1)]) for gap in per_seed]
    assert interval.mean == pytest.approx(np.mean(theta), abs=1e-12)
    # The units' share of the variance by hand: the influence of each sample on the balanced mean, averaged over seeds.
    common = np.mean(per_seed, axis=0)
    centred = common - np.array([common[labels == c].mean() for c in (0, 1)])[labels]
    units = TEST / (TEST - 2) * ((centred / (2 * 20)) ** 2).sum()
    assert interval.parts["units"] == pytest.approx(units, rel=1e-9)
    assert interval.parts["seeds"] == pytest.approx(np.var(theta, ddof=1) / 3, rel=1e-9)


def test_the_first_run_is_primary_and_the_others_are_adjusted_among_themselves() -> None:
    plan, rng = _plan(("one", "two", "three")), np.random.default_rng(1)
    outcomes = {("frozen", name): _outcomes(rng, rate) for name, rate in (("one", 0.8), ("two", 0.6), ("three", 0.9))}
    outcomes["random", "random"] = _outcomes(rng, 0.5)
    one, two, three = make_endpoints(plan, outcomes)
    assert [end.primary for end in (one, two, three)] == [True, False, False]
    assert one.p_adjusted == one.p_value
    assert three.p_value < two.p_value
    assert three.p_adjusted == pytest.approx(2 * three.p_value)
    assert two.p_adjusted == pytest.approx(max(two.p_value, 2 * three.p_value))
    assert (one.from_labels, one.to_labels, one.baseline) == (10, 1000, "random")
    assert one.resolved == (one.low > 0 or one.high < 0)


def test_rows_are_paired() -> None:
    plan, rng = _plan(), np.random.default_rng(2)
    own = _outcomes(rng, 0.8)
    # The baseline misses one more test sample in each subset: the difference is known better than either score.
    random = {b: Outcome(o.hits * (np.arange(TEST) != 3), o.n_labels, 1.0, {"nll": 1.0}) for b, o in own.items()}
    row, *_ = make_rows(plan, {("frozen", "one"): own, ("random", "random"): random}, {"one": "related"})
    assert row.difference == pytest.approx(own[BUDGETS[0]].hits[:, 3].mean() / 40)
    assert row.difference_high is not None
    assert row.difference_high - row.difference < 0.7 * (row.high - row.score)
    assert (row.saw, row.n_labels, row.subsets, row.trials) == ("related", 10, 3, 2.0)


def test_the_resolution_counts_units() -> None:
    plan = _plan()
    z = stats.norm.ppf(0.975)
    assert resolution(plan) == pytest.approx(z * np.sqrt(0.2 / 20 + 0.2 / 20) / 2)
    tiles = np.array([f"u{i // 4}" for i in range(TEST)], dtype=object)
    data = TaskData(**{**plan.data.__dict__, "test_units": tiles})
    assert resolution(Plan(**{**plan.__dict__, "data": data})) == pytest.approx(z * np.sqrt(0.2 / 10 * 2) / 2)
