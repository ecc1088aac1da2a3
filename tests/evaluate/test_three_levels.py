"""The three-level interval against a three-way analysis of variance, and its coverage by simulation."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.special import stdtrit
from scipy.stats import norm

from sciencessl.errors import ConfigError, DataError
from sciencessl.evaluate import metrics
from sciencessl.evaluate.mean_squares import variance_and_degrees
from sciencessl.evaluate.statistics import hierarchical_interval
from sciencessl.evaluate.three_levels import three_level_interval

PLACES = {"p": (0,), "s": (1,), "u": (2,), "ps": (0, 1), "pu": (0, 2), "su": (1, 2), "psu": (0, 1, 2)}


def draw(rng: np.random.Generator, shape: tuple[int, int, int], spread: dict[str, float]) -> np.ndarray:
    """Normal scores with an effect of each combination of factors, of the standard deviations given."""
    sizes = {name: tuple(shape[i] if i in axes else 1 for i in range(3)) for name, axes in PLACES.items()}
    return sum(sd * rng.normal(size=sizes[name]) for name, sd in spread.items()) + np.zeros(shape)


def analysis_of_variance(y: np.ndarray) -> dict[str, tuple[float, float]]:
    """Mean square over the number of values, and degrees of freedom, of each effect: from effects by subtraction."""
    effects: dict[str, np.ndarray] = {"": y.mean(keepdims=True)}
    found = {}
    for name, axes in PLACES.items():
        mean = y.mean(axis=tuple({0, 1, 2} - set(axes)), keepdims=True)
        below = [effect for other, effect in effects.items() if set(other) < set(name)]
        effects[name] = mean - sum(below)
        df = float(np.prod([y.shape[i] - 1 for i in axes]))
        found[name] = (float((np.broadcast_to(effects[name], y.shape) ** 2).sum()) / df / y.size, df)
    return found


def test_equals_three_way_analysis_of_variance_for_equal_units() -> None:
    rng = np.random.default_rng(0)
    y = draw(rng, (4, 5, 30), {"p": 0.5, "s": 0.4, "u": 1.0, "ps": 0.1, "pu": 0.3, "su": 0.3, "psu": 0.5})
    a = analysis_of_variance(y)
    interval = three_level_interval(y, np.arange(30))
    total = sum((1 if len(name) % 2 else -1) * square for name, (square, _) in a.items())
    assert interval.mean == pytest.approx(y.mean())
    assert interval.standard_error**2 == pytest.approx(total)
    assert interval.df == pytest.approx(total**2 / sum(v**2 * (1 + 2 / f) / f for v, f in a.values()))
    square = {name: value for name, (value, _) in a.items()}
    assert interval.parts["pretraining"] == pytest.approx(square["p"] - square["ps"] - square["pu"] + square["psu"])
    assert interval.parts["subsets"] == pytest.approx(square["s"] - square["ps"] - square["su"] + square["psu"])
    assert interval.parts["units"] == pytest.approx(square["u"] - square["pu"] - square["su"] + square["psu"])
    assert sum(interval.parts.values()) == pytest.approx(total)
    assert (interval.n_seeds, interval.n_units) == (4, 30)


def test_parts_find_the_variance_of_each_source() -> None:
    rng = np.random.default_rng(1)
    spread = {"p": 0.05, "s": 0.02, "u": 0.4, "psu": 0.3}
    parts = [three_level_interval(draw(rng, (6, 8, 50), spread), np.arange(50)).parts for _ in range(300)]
    mean = {name: np.mean([part[name] for part in parts]) for name in parts[0]}
    assert mean["pretraining"] == pytest.approx(0.05**2 / 6, rel=0.15)
    assert mean["subsets"] == pytest.approx(0.02**2 / 8, rel=0.15)
    assert mean["units"] == pytest.approx(0.4**2 / 50, rel=0.15)


def test_one_subset_leaves_pretraining_and_units() -> None:
    y = draw(np.random.default_rng(2), (3, 1, 40), {"p": 0.1, "u": 0.4, "pu": 0.2})
    interval = three_level_interval(y, np.arange(40))
    flat = y[:, 0]
    rest = flat - flat.mean(axis=1, keepdims=True) - flat.mean(axis=0) + flat.mean()
    total = flat.mean(axis=1).var(ddof=1) / 3 + flat.mean(axis=0).var(ddof=1) / 40 - (rest**2).sum() / (2 * 39 * 120)
    assert interval.standard_error**2 == pytest.approx(total)
    assert set(interval.parts) == {"pretraining", "units", "interactions"}


def test_strata_make_it_balanced_accuracy_and_copies_within_units_add_nothing() -> None:
    rng = np.random.default_rng(3)
    labels = rng.choice(3, 90, p=[0.6, 0.3, 0.1])
    probabilities = rng.dirichlet(np.ones(3), size=(3, 4, 90))
    hits = np.array([[metrics.correct(p, labels) for p in row] for row in probabilities])
    once = three_level_interval(hits, np.arange(90), labels)
    balanced = [metrics.balanced_accuracy(p, labels) for row in probabilities for p in row]
    assert once.mean == pytest.approx(np.mean(balanced))
    copied = three_level_interval(np.repeat(hits, 5, axis=2), np.repeat(np.arange(90), 5), np.repeat(labels, 5))
    assert copied.half_width == pytest.approx(once.half_width)


def test_no_spread_gives_no_width() -> None:
    interval = three_level_interval(np.ones((3, 2, 10)), np.arange(10))
    assert (interval.mean, interval.half_width) == (1.0, 0.0)


def test_refuses() -> None:
    with pytest.raises(DataError, match=r"two pretraining seeds or more; for one checkpoint use hierarchical_interval"):
        three_level_interval(np.ones((1, 10, 50)), np.arange(50))
    with pytest.raises(DataError, match="1 test units for 1 strata"):
        three_level_interval(np.ones((3, 2, 4)), np.zeros(4))
    with pytest.raises(DataError, match="not finite"):
        three_level_interval(np.full((3, 2, 4), np.nan), np.arange(4))
    with pytest.raises(ConfigError, match="confidence = 95"):
        three_level_interval(np.ones((3, 2, 4)), np.arange(4), confidence=95)


def coverage(shape: tuple[int, int, int], spread: dict[str, float], plain: bool = False) -> float:
    """Share of 20 000 intervals that hold the truth.

    For normal effects and equal units the mean squares are exactly independent multiples of chi-square, and independent
    of the mean: drawing these stands for drawing all answers.
    """
    rng, draws = np.random.default_rng(4), 20_000
    degrees = {name: float(np.prod([shape[i] - 1 for i in axes])) for name, axes in PLACES.items()}
    own = {name: spread.get(name, 0.0) ** 2 / np.prod([shape[i] for i in axes]) for name, axes in PLACES.items()}
    expected = {name: sum(own[above] for above in own if set(name) <= set(above)) for name in PLACES}
    squares = {name: expected[name] * rng.chisquare(df, draws) / df for name, df in degrees.items()}
    error = rng.normal(size=draws) * sum(own.values()) ** 0.5
    variance, df = variance_and_degrees(squares, degrees)
    if plain:
        df = variance**2 / sum(square**2 / degrees[name] for name, square in squares.items())
    return float(np.mean(np.abs(error) <= stdtrit(df, 0.975) * np.sqrt(variance)))


@pytest.mark.parametrize("n_units", [100, 300, 700])
@pytest.mark.parametrize("pretraining", [0.0, 0.01, 0.03, 0.1])
@pytest.mark.parametrize("subsets", [0.0, 0.03, 0.1])
@pytest.mark.parametrize("interactions", [0.0, 0.15])
def test_three_pretraining_seeds_and_ten_subsets_cover(
    n_units: int, pretraining: float, subsets: float, interactions: float
) -> None:
    """Test units differ, as wherever some galaxies are harder than others; the rest with and without variance."""
    spread = {"p": pretraining, "s": subsets, "u": 0.4, "ps": interactions / 10, "pu": interactions,
              "su": interactions, "psu": 0.25}
    assert 0.93 < coverage((3, 10, n_units), spread) < 0.97


@pytest.mark.parametrize("ratio", [2, 4, 8, 16, 32])
@pytest.mark.parametrize("shape", [(3, 10, 100), (3, 10, 700), (5, 10, 200), (3, 5, 300)])
def test_seeds_that_outweigh_the_units_are_covered(shape: tuple[int, int, int], ratio: float) -> None:
    spread = {"p": (ratio * shape[0] * 0.16 / shape[2]) ** 0.5, "u": 0.4, "psu": 0.25}
    assert 0.93 < coverage(shape, spread) < 0.97


def test_plain_satterthwaite_would_not_cover_three_seeds() -> None:
    spread = {"p": (8 * 3 * 0.16 / 100) ** 0.5, "u": 0.4, "psu": 0.25}
    assert coverage((3, 10, 100), spread, plain=True) < 0.93


def test_without_any_difference_between_units_it_is_never_too_narrow() -> None:
    for pretraining in (0.0, 0.02):
        for subsets in (0.0, 0.03):
            assert coverage((3, 10, 100), {"p": pretraining, "s": subsets, "psu": 0.3}) > 0.95
    assert coverage((3, 10, 100), {"psu": 0.3}) > 0.99


def test_covers_balanced_accuracy_of_right_and_wrong_answers() -> None:
    rng = np.random.default_rng(6)
    labels, found = np.repeat([0, 1, 2], [60, 25, 15]), []
    for _ in range(600):
        # Probit: right when the sum is positive; standard deviations 0.1 (pretraining), 0.1 (subset), 1 (object), 0.5.
        latent = 0.4 + draw(rng, (3, 10, 100), {"p": 0.1, "s": 0.1, "u": 1.0, "psu": 0.5})
        found.append(three_level_interval((latent > 0).astype(float), np.arange(100), labels))
    truth = norm.cdf(0.4 / np.sqrt(0.01 + 0.01 + 1 + 0.25))
    assert 0.93 < np.mean([interval.low <= truth <= interval.high for interval in found]) < 0.97


def test_one_checkpoint_alone_would_not_cover_new_pretrainings() -> None:
    rng = np.random.default_rng(8)
    covered = []
    for _ in range(300):
        y = draw(rng, (1, 10, 200), {"p": 0.05, "u": 0.4, "psu": 0.25})
        one = hierarchical_interval(y[0], np.arange(200))
        covered.append(one.low <= 0 <= one.high)
    assert np.mean(covered) < 0.85
