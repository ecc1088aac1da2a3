"""The shared rule against values by hand, and its coverage with two factors; three are in `test_three_levels`."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from sciencessl.evaluate.mean_squares import net_square, variance_and_degrees


def test_two_factors_by_hand() -> None:
    squares, degrees = {"s": 3.0, "u": 2.0, "su": 1.0}, {"s": 2.0, "u": 4.0, "su": 8.0}
    assert net_square(squares) == 4.0
    assert net_square(squares, "s") == 2.0
    variance, df = variance_and_degrees(squares, degrees)
    # 16 / (9 * 2 / 2 + 4 * 1.5 / 4 + 1 * 1.25 / 8) = 16 / 10.65625, less than the smallest: 2.
    assert (float(variance), float(df)) == (4.0, 2.0)
    variance, df = variance_and_degrees(squares, {"s": 20.0, "u": 40.0, "su": 800.0})
    assert float(df) == pytest.approx(16 / (9 * 1.1 / 20 + 4 * 1.05 / 40 + 1.0025 / 800))
    # A net variance below that of one factor alone is an estimate that went wrong.
    assert float(variance_and_degrees({**squares, "su": 4.0}, degrees)[0]) == 3.0


def two_way_coverage(seeds: int, units: int, ratio: float, noise: float, plain: bool = False) -> float:
    """Share of 40 000 intervals that hold the truth, of equal units and normal effects.

    The mean squares are then independent multiples of chi-square, and independent of the mean. `ratio` is the variance
    of the mean from seeds over that from units, `noise` that of single answers.
    """
    rng, draws = np.random.default_rng(12), 40_000
    own = {"s": ratio, "u": 1.0, "su": noise}
    expected = {"s": own["s"] + own["su"], "u": own["u"] + own["su"], "su": own["su"]}
    degrees = {"s": seeds - 1.0, "u": units - 1.0, "su": (seeds - 1.0) * (units - 1)}
    squares = {name: value * rng.chisquare(degrees[name], draws) / degrees[name] for name, value in expected.items()}
    variance, df = variance_and_degrees(squares, degrees)
    if plain:
        df = variance**2 / sum(square**2 / degrees[name] for name, square in squares.items())
    error = rng.normal(size=draws) * sum(own.values()) ** 0.5
    return float(np.mean(np.abs(error) <= stats.t.ppf(0.975, df) * np.sqrt(variance)))


@pytest.mark.parametrize("seeds", [3, 5, 10])
@pytest.mark.parametrize("units", [30, 100, 700])
@pytest.mark.parametrize("noise", [0.0, 0.1])
def test_subsets_that_outweigh_the_units_are_covered(seeds: int, units: int, noise: float) -> None:
    for ratio in (0.1, 0.5, 1, 2, 4, 8, 16, 64):
        assert 0.93 < two_way_coverage(seeds, units, ratio, noise) < 0.97


def test_plain_satterthwaite_would_not_cover_three_subsets() -> None:
    assert two_way_coverage(3, 100, 8.0, 0.1, plain=True) < 0.925
