"""Intervals against hand-worked values and analysis of variance, and their coverage by simulation."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy import stats

from sciencessl.errors import ConfigError, DataError
from sciencessl.evaluate import metrics
from sciencessl.evaluate.statistics import (
    Interval,
    area_under_log_curve,
    hierarchical_interval,
    holm,
    jackknife_scores,
    minimum_resolvable_difference,
    paired_difference,
    planned_resolution,
    t_interval,
)


def test_t_interval_worked() -> None:
    # mean 3, sd sqrt(2.5), standard error sqrt(0.5), t(0.975, 4) = 2.776445
    interval = t_interval([1.0, 2.0, 3.0, 4.0, 5.0])
    assert interval.mean == 3.0
    assert interval.standard_error == pytest.approx(math.sqrt(0.5))
    assert interval.half_width == pytest.approx(2.776445 * 0.7071068, rel=1e-6)
    assert (interval.low, interval.high) == pytest.approx((1.036757, 4.963243), rel=1e-6)
    assert interval.resolved
    assert interval.p_value == pytest.approx(stats.ttest_1samp([1, 2, 3, 4, 5], 0).pvalue)


def test_one_value_and_equal_values() -> None:
    alone = t_interval([0.7])
    assert (alone.low, alone.high, alone.p_value, alone.resolved) == (-math.inf, math.inf, 1.0, False)
    same = t_interval([0.7, 0.7, 0.7])
    assert same.half_width == pytest.approx(0.0, abs=1e-12)
    assert t_interval([0.0, 0.0]).p_value == 1.0


def test_paired_difference_removes_what_the_seeds_share() -> None:
    rng = np.random.default_rng(0)
    shared = rng.normal(scale=10, size=8)
    first, second = shared + 1.0 + 0.1 * rng.normal(size=8), shared + 0.1 * rng.normal(size=8)
    difference = paired_difference(first, second)
    assert difference.resolved
    assert difference.mean == pytest.approx(1.0, abs=0.2)
    assert difference.p_value == pytest.approx(stats.ttest_rel(first, second).pvalue)
    with pytest.raises(DataError, match="same seeds"):
        paired_difference([1, 2], [1, 2, 3])


@pytest.mark.parametrize(("values", "confidence"), [([], 0.95), ([1.0, math.nan], 0.95), ([[1.0]], 0.95)])
def test_t_interval_refuses(values, confidence: float) -> None:
    with pytest.raises(DataError, match="finite"):
        t_interval(values, confidence)
    with pytest.raises(ConfigError, match="confidence = 95"):
        t_interval([1.0, 2.0], 95)


def test_hierarchical_equals_two_way_analysis_of_variance_for_equal_units() -> None:
    rng = np.random.default_rng(1)
    n_seeds, n_units = 6, 25
    scores = rng.normal(size=(n_seeds, n_units)) + rng.normal(size=(n_seeds, 1)) + rng.normal(size=(1, n_units))
    grand, rows, columns = scores.mean(), scores.mean(axis=1), scores.mean(axis=0)
    ms_seed = n_units * ((rows - grand) ** 2).sum() / (n_seeds - 1)
    ms_unit = n_seeds * ((columns - grand) ** 2).sum() / (n_units - 1)
    rest = scores - rows[:, None] - columns + grand
    ms_rest = (rest**2).sum() / ((n_seeds - 1) * (n_units - 1))
    interval = hierarchical_interval(scores, np.arange(n_units))
    size = n_seeds * n_units
    assert interval.parts == pytest.approx({"units": ms_unit / size, "seeds": ms_seed / size,
                                            "interaction": ms_rest / size})
    assert interval.standard_error**2 == pytest.approx((ms_seed + ms_unit - ms_rest) / size)
    df = (ms_seed + ms_unit - ms_rest) ** 2 / (
        ms_seed**2 * (1 + 2 / 5) / 5 + ms_unit**2 * (1 + 2 / 24) / 24 + ms_rest**2 * (1 + 2 / 120) / 120
    )
    assert interval.df == pytest.approx(df)
    assert interval.mean == pytest.approx(grand)
    assert (interval.n_seeds, interval.n_units) == (6, 25)


def test_strata_make_it_balanced_accuracy() -> None:
    rng = np.random.default_rng(2)
    labels = rng.choice(3, 200, p=[0.7, 0.2, 0.1])
    probabilities = rng.dirichlet(np.ones(3), size=(4, 200))
    hits = np.stack([metrics.correct(p, labels) for p in probabilities])
    interval = hierarchical_interval(hits, np.arange(200), labels)
    assert interval.mean == pytest.approx(np.mean([metrics.balanced_accuracy(p, labels) for p in probabilities]))


def test_one_seed_leaves_the_units_and_strata_are_a_stratified_sample() -> None:
    rng = np.random.default_rng(3)
    labels = np.repeat([0, 1], [80, 40])
    scores = rng.random(120)
    by_hand = 0.25 * (scores[:80].var() / 80 + scores[80:].var() / 40) * 120 / 118
    interval = hierarchical_interval(scores, np.arange(120), labels)
    assert interval.standard_error**2 == pytest.approx(by_hand)
    assert interval.df == 118
    assert set(interval.parts) == {"units"}


def test_copies_of_rows_within_units_add_nothing() -> None:
    scores = np.random.default_rng(4).random((3, 30))
    once = hierarchical_interval(scores, np.arange(30))
    copied = hierarchical_interval(np.repeat(scores, 7, axis=1), np.repeat(np.arange(30), 7))
    assert copied.standard_error == pytest.approx(once.standard_error)
    wrong = hierarchical_interval(np.repeat(scores, 7, axis=1), np.arange(210))
    assert wrong.parts["units"] < once.parts["units"] / 5


def test_hierarchical_refuses() -> None:
    with pytest.raises(DataError, match=r"scores \(2, 3\)"):
        hierarchical_interval(np.ones((2, 3)), np.arange(4))
    with pytest.raises(DataError, match="1 test units for 1 strata"):
        hierarchical_interval(np.ones((2, 3)), np.zeros(3))
    with pytest.raises(DataError, match="not finite"):
        hierarchical_interval(np.full((2, 3), np.nan), np.arange(3))


def test_no_spread_gives_no_width() -> None:
    interval = hierarchical_interval(np.ones((3, 10)), np.arange(10))
    assert (interval.mean, interval.half_width) == (1.0, 0.0)


REPEATS = 4000


@pytest.mark.parametrize("n", [3, 10])
def test_t_interval_covers(n: int) -> None:
    draws = np.random.default_rng(5).normal(0.6, 0.03, size=(REPEATS, n))
    covered = [(i := t_interval(row)).low <= 0.6 <= i.high for row in draws]
    assert 0.93 < np.mean(covered) < 0.97


@pytest.mark.parametrize(
    ("seeds", "seed_sd", "unit_sd", "noise_sd"),
    [(10, 0.02, 0.3, 0.2), (10, 0.1, 0.1, 0.2), (3, 0.05, 0.3, 0.3), (5, 0.1, 0.3, 0.0), (3, 0.2, 0.3, 0.2)],
)
def test_hierarchical_interval_covers(seeds: int, seed_sd: float, unit_sd: float, noise_sd: float) -> None:
    # Units of 1 to 5 rows that share an effect; seeds that share another; the rest is noise of each row and seed.
    rng = np.random.default_rng(6)
    units = np.repeat(np.arange(60), 1 + np.arange(60) % 5)
    covered = 0
    for _ in range(REPEATS // 2):
        scores = (
            0.6
            + seed_sd * rng.normal(size=(seeds, 1))
            + (unit_sd * rng.normal(size=60))[units]
            + noise_sd * rng.normal(size=(seeds, len(units)))
        )
        interval = hierarchical_interval(scores, units)
        covered += interval.low <= 0.6 <= interval.high
    assert 0.93 < covered / (REPEATS // 2) < 0.97


def test_hierarchical_interval_covers_balanced_accuracy_of_right_and_wrong_answers() -> None:
    rng = np.random.default_rng(7)
    labels = np.repeat([0, 1, 2], [120, 50, 30])
    seeds, covered = 10, 0
    for _ in range(REPEATS // 2):
        # Probit: an answer is right when seed + object + noise is positive; standard deviations 0.15, 1, 0.5.
        latent = 0.4 + 0.15 * rng.normal(size=(seeds, 1)) + rng.normal(size=200) + 0.5 * rng.normal(size=(seeds, 200))
        interval = hierarchical_interval((latent > 0).astype(float), np.arange(200), labels)
        truth = stats.norm.cdf(0.4 / math.sqrt(0.15**2 + 1 + 0.25))
        covered += interval.low <= truth <= interval.high
    assert 0.93 < covered / (REPEATS // 2) < 0.97


def test_seeds_alone_would_not_cover_and_units_alone_would_not_either() -> None:
    rng = np.random.default_rng(8)
    covered = np.zeros(2)
    for _ in range(1500):
        scores = 0.1 * rng.normal(size=(5, 1)) + 0.3 * rng.normal(size=30) + 0.1 * rng.normal(size=(5, 30))
        seeds = t_interval(scores.mean(axis=1))
        units = t_interval(scores.mean(axis=0))
        covered += [i.low <= 0 <= i.high for i in (seeds, units)]
    assert (covered / 1500 < 0.9).all()


def test_jackknife_of_a_mean_is_the_group_means() -> None:
    rng = np.random.default_rng(9)
    probabilities = rng.dirichlet(np.ones(2), size=(3, 40))
    labels = np.tile([0, 1], 20)
    pseudo = jackknife_scores(metrics.accuracy, probabilities, labels, np.arange(40), rng, groups=40)
    hits = np.stack([metrics.correct(p, labels) for p in probabilities])
    np.testing.assert_allclose(np.sort(pseudo, axis=1), np.sort(hits, axis=1), atol=1e-9)


def test_jackknife_interval_of_auroc_agrees_with_delong() -> None:
    rng = np.random.default_rng(10)
    labels = np.repeat([0, 1], [300, 100])
    score = rng.normal(size=400) + labels
    positive = 1 / (1 + np.exp(-score))
    probabilities = np.stack([1 - positive, positive], axis=1)
    wins = (score[300:, None] > score[:300]).astype(float)
    delong = wins.mean(axis=1).var(ddof=1) / 100 + wins.mean(axis=0).var(ddof=1) / 300
    errors = []
    for seed in range(10):
        pseudo = jackknife_scores(metrics.auroc, probabilities, labels, np.arange(400), np.random.default_rng(seed))
        interval = hierarchical_interval(pseudo, np.arange(pseudo.shape[1]))
        assert interval.mean == pytest.approx(wins.mean(), abs=2e-3)
        errors.append(interval.standard_error)
    assert np.mean(errors) == pytest.approx(math.sqrt(delong), rel=0.15)


def test_jackknife_keeps_units_whole_and_says_when_it_cannot() -> None:
    labels = np.repeat([0, 1], 10)
    probabilities = np.tile([0.6, 0.4], (20, 1))
    rng = np.random.default_rng(0)
    assert jackknife_scores(metrics.nll, probabilities, labels, np.arange(20) // 5, rng).shape == (1, 4)
    with pytest.raises(DataError, match="use fewer groups"):
        jackknife_scores(metrics.auroc, probabilities, labels, np.arange(20) // 10, rng)
    with pytest.raises(DataError, match="at least 2"):
        jackknife_scores(metrics.nll, probabilities, labels, np.zeros(20), rng)


def test_minimum_resolvable_difference() -> None:
    difference = Interval(0.01, 0.02, 9.0)
    assert minimum_resolvable_difference(difference) == pytest.approx(difference.half_width)
    # (t(0.975, 9) + t(0.8, 9)) * 0.02 = (2.262157 + 0.883404) * 0.02
    assert minimum_resolvable_difference(difference, 0.8) == pytest.approx(0.0629112, rel=1e-5)
    assert minimum_resolvable_difference(t_interval([0.3])) == math.inf
    with pytest.raises(ConfigError, match="power"):
        minimum_resolvable_difference(difference, 1.0)


def test_minimum_resolvable_difference_is_found_as_often_as_promised() -> None:
    rng = np.random.default_rng(11)
    true = minimum_resolvable_difference(Interval(0.0, 1 / math.sqrt(10), 9.0), 0.8)
    found = [t_interval(row).resolved for row in rng.normal(true, 1.0, size=(3000, 10))]
    assert np.mean(found) == pytest.approx(0.8, abs=0.03)


def test_planned_resolution_worked() -> None:
    # One class of 400 units: 1.959964 * sqrt(0.2 / 400); two of 200: 1.959964 * sqrt(0.2 / 200 * 2) / 2, the same.
    assert planned_resolution([400]) == pytest.approx(0.0438261, rel=1e-5)
    assert planned_resolution([200, 200]) == pytest.approx(planned_resolution([400]))
    assert planned_resolution([390, 10]) > 2 * planned_resolution([400])
    for wrong in ({"disagreement": 0.0}, {"disagreement": 1.5}, {"confidence": 1.0}):
        with pytest.raises(ConfigError):
            planned_resolution([10], **wrong)
    with pytest.raises(ConfigError, match="every class"):
        planned_resolution([10, 0])


def test_holm_worked() -> None:
    # Sorted 0.005*4, 0.01*3, 0.03*2, 0.04*1 -> 0.02, 0.03, 0.06, max(0.06, 0.04).
    np.testing.assert_allclose(holm([0.01, 0.04, 0.03, 0.005]), [0.03, 0.06, 0.06, 0.02])
    np.testing.assert_allclose(holm([0.9, 0.8]), [1.0, 1.0])
    assert holm([]).shape == (0,)
    for wrong in (-0.1, 1.1, math.nan):
        with pytest.raises(DataError, match="p-values"):
            holm([0.5, wrong])


def test_area_under_log_curve_worked() -> None:
    # On log10: 10, 100, 1000 at scores 0.4, 0.6, 0.8 -> 0.6; a constant is itself; the last is (0.5*1 + 0.7*2) / 3.
    scores = np.array([[0.4, 0.6, 0.8], [0.5, 0.5, 0.5]])
    np.testing.assert_allclose(area_under_log_curve([10, 100, 1000], scores), [0.6, 0.5])
    assert area_under_log_curve([1, 10, 1000], np.array([0.4, 0.6, 0.8])) == pytest.approx(1.9 / 3)
    np.testing.assert_array_equal(area_under_log_curve([50], np.array([[0.4], [0.6]])), [0.4, 0.6])
    for sizes in ([10, 10], [100, 10], [0, 10], [10, 20, 30]):
        with pytest.raises(DataError, match="increasing"):
            area_under_log_curve(sizes, np.array([0.4, 0.6]))
