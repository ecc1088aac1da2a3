"""Closed-form predictors against worked numbers, eigenvalue by eigenvalue, and against NumPy's least squares."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from sciencessl.errors import ConfigError
from sciencessl.losses.regression import byol_regression
from sciencessl.methods import predictor_rules as rules

PAIR = ((2.0, 1.0), (1.0, 2.0))
"""The card's matrix, of eigenvalues 1 and 3."""


def double(rows: Any) -> Tensor:
    return torch.tensor(rows, dtype=torch.float64)


def close(found: Tensor, want: Any, atol: float = 1e-6) -> None:
    np.testing.assert_allclose(found.numpy(), np.asarray(want, dtype=np.float64), rtol=0, atol=atol)


def gram_of(rows: int, width: int, rank: int, seed: int = 0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    z = rng.normal(size=(rows, rank)) @ rng.normal(size=(rank, width))
    return np.asarray(z.T @ z / rows)


def of_eigenvalues(matrix: np.ndarray, function: Callable[[np.ndarray], np.ndarray]) -> np.ndarray:
    values, vectors = np.linalg.eigh(matrix)
    return np.asarray((vectors * function(np.clip(values, 0, None))) @ vectors.T)


def scalar_newton_schulz(values: np.ndarray, iterations: int) -> tuple[np.ndarray, np.ndarray]:
    a, b = values.copy(), np.ones_like(values)
    for _ in range(iterations):
        r = (3 - b * a) / 2
        a, b = a * r, r * b
    return a, b


def root_gain(values: np.ndarray, iterations: int) -> np.ndarray:
    size = np.sqrt((values**2).sum())
    return np.asarray(scalar_newton_schulz(values / size, iterations)[0] * np.sqrt(size))


def visser_gain(values: np.ndarray, iterations: int, rate: float) -> np.ndarray:
    p = np.full_like(values, 1 / (2 * rate))
    for _ in range(iterations):
        p = p + rate * (values - p * p)
    return p


def stiefel_gain(values: np.ndarray, iterations: int) -> np.ndarray:
    inverse = scalar_newton_schulz(values**2 / np.sqrt((values**4).sum()), iterations)[1]
    return np.asarray(inverse * values / np.sqrt((inverse**2).sum()))


def test_direct_set_has_the_eigenvectors_and_the_numbers_of_the_card() -> None:
    want = np.array([[0.788675, 0.211325], [0.211325, 0.788675]])
    w = rules.direct_set(double(PAIR), 0.5, 0.0)
    close(w, want)
    close(3 * w @ w, PAIR, 1e-12)
    close(rules.direct_set(double(PAIR), 0.5, 0.01), want + 0.01 * np.eye(2))


def test_direct_set_of_power_one_is_direct_copy() -> None:
    third = [[0.666667, 0.333333], [0.333333, 0.666667]]
    close(rules.direct_set(double(PAIR), 1.0, 0.0), third)
    close(rules.direct_copy(double(PAIR), 0.0), third)
    close(rules.direct_copy(double(PAIR), 0.3), np.array(third) + 0.3 * np.eye(2))


@pytest.mark.parametrize("alpha", [0.5, 0.75, 1.0, 2.0])
def test_direct_set_equals_numpy(alpha: float) -> None:
    f = gram_of(40, 9, 9)
    want = of_eigenvalues(f, lambda s: np.maximum((s / s.max()) ** alpha + 0.01, 1e-4))
    w = rules.direct_set(torch.from_numpy(f), alpha, 0.01)
    close(w, want, 1e-12)
    close(rules.direct_set(torch.from_numpy(f).float(), alpha, 0.01), want, 1e-6)
    close(w @ torch.from_numpy(f), torch.from_numpy(f) @ w, 1e-12)
    assert torch.equal(w, w.T)
    assert float(torch.linalg.eigvalsh(w)[0]) > 0
    assert float((rules.direct_set(1e-9 * torch.from_numpy(f), alpha, 0.01) - w).abs().max()) < 1e-12


def test_direct_rules_take_the_symmetric_part() -> None:
    # A defect elsewhere: a general eigen-solver on a matrix that rounding made unsymmetric, and the real part kept.
    f = torch.from_numpy(gram_of(40, 6, 6))
    skew = torch.randn(6, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    for rule in (lambda x: rules.direct_set(x, 0.5, 0.1), lambda x: rules.direct_copy(x, 0.1)):
        close(rule(f + skew - skew.T), rule(f), 1e-12)


def test_directions_without_weight_keep_the_boost_or_the_floor() -> None:
    f = torch.diag(double([4.0, 0.0, -1e-9]))
    close(rules.direct_set(f, 0.5, 0.01), np.diag([1.01, 0.01, 0.01]), 1e-12)
    close(rules.direct_set(f, 0.5, 0.0), np.diag([1.0, 1e-4, 1e-4]), 1e-12)


def test_a_factor_of_the_predictor_changes_no_loss() -> None:
    rng = np.random.default_rng(0)
    z, t = (torch.from_numpy(rng.normal(size=(7, 2))) for _ in range(2))
    w = rules.direct_set(double(PAIR), 0.5, 0.01)
    torch.testing.assert_close(byol_regression(z @ w.T, t), byol_regression(z @ (0.07 * w).T, t), rtol=0, atol=1e-12)


def statistics(z: Tensor, t: Tensor) -> tuple[Tensor, Tensor]:
    return z.T @ z / len(z), z.T @ t / len(z)


def test_regression_of_projections_on_themselves_is_the_projector_on_their_span() -> None:
    rng = np.random.default_rng(1)
    z = torch.from_numpy(rng.normal(size=(64, 5)) @ rng.normal(size=(5, 8)))
    p = rules.regression(*statistics(z, z))
    close(p, p.T, 1e-12)
    close(p @ p, p, 1e-12)
    assert float(p.trace()) == pytest.approx(5, abs=1e-12)
    t = torch.from_numpy(rng.normal(size=(64, 8)))
    onto = z.numpy() @ np.linalg.pinv(z.numpy())
    close(z @ rules.regression(*statistics(z, t)), onto @ t.numpy(), 1e-10)


def test_regression_finds_the_rotation_between_targets_and_projections() -> None:
    rng = np.random.default_rng(2)
    z, rotation = rng.normal(size=(64, 8)), np.linalg.qr(rng.normal(size=(8, 8)))[0]
    t = z @ rotation
    close(rules.regression(*statistics(torch.from_numpy(z), torch.from_numpy(t))), rotation, 1e-12)
    left, _, right = np.linalg.svd(z.T @ t)
    np.testing.assert_allclose(left @ right, rotation, atol=1e-12)  # Procrustes has the same answer
    exchanged = statistics(double([[1, 0], [0, 1], [1, 1]]), double([[0, 1], [1, 0], [1, 1]]))
    close(rules.regression(*exchanged), [[0, 1], [1, 0]], 1e-12)


def test_regression_equals_least_squares_of_numpy() -> None:
    rng = np.random.default_rng(3)
    z, t = rng.normal(size=(50, 6)), rng.normal(size=(50, 6))
    want = np.linalg.lstsq(z, t, rcond=None)[0]
    close(rules.regression(*statistics(torch.from_numpy(z), torch.from_numpy(t))), want, 1e-12)
    close(rules.regression(*statistics(torch.from_numpy(z).float(), torch.from_numpy(t).float())), want, 1e-6)


def test_regression_of_fewer_rows_than_directions_is_the_one_of_least_norm() -> None:
    """Where the inverse that the formula asks for does not exist."""
    rng = np.random.default_rng(4)
    z, t = rng.normal(size=(4, 9)), rng.normal(size=(4, 9))
    close(rules.regression(*statistics(torch.from_numpy(z), torch.from_numpy(t))), np.linalg.pinv(z) @ t, 1e-10)


def test_neumann_has_the_numbers_of_the_card() -> None:
    z, t = 0.5 * double([[1, 0], [0, 1]]), double([[0.5, 0.1], [0, 0.4]])
    close(rules.neumann(z.T @ z, z.T @ t), [[0.4375, 0.0875], [0, 0.35]], 1e-12)
    close(rules.regression(z.T @ z, z.T @ t), [[1, 0.2], [0, 0.8]], 1e-12)
    z, t = double([[0.6, 0.8], [-0.8, 0.6]]), double([[1, 0], [0.5, 1]])
    for rule in (rules.neumann, rules.regression):
        close(rule(z.T @ z, z.T @ t), [[0.2, -0.8], [1.1, 0.6]], 1e-12)


ROOT = [[1.366025, 0.366025], [0.366025, 1.366025]]
EXACT_ROOT = of_eigenvalues(np.array(PAIR), np.sqrt)
EXACT_INVERSE = np.linalg.inv(EXACT_ROOT)


@pytest.mark.parametrize(("n", "error"), [(1, 0.1236), (2, 0.0415), (3, 0.0050), (5, 1.7e-8)])
def test_newton_schulz_comes_near_the_root_as_in_the_card(n: int, error: float) -> None:
    root = rules.newton_schulz(double(PAIR), n)[0]
    assert np.abs(root.numpy() - EXACT_ROOT).max() == pytest.approx(error, rel=0.03)


def test_newton_schulz_ends_at_the_root_and_its_inverse() -> None:
    root, inverse = rules.newton_schulz(double(PAIR), 7)
    close(root, ROOT)
    close(root, EXACT_ROOT, 4e-15)
    close(root / 3**0.5, rules.direct_set(double(PAIR), 0.5, 0.0), 1e-12)
    close(inverse, [[0.788675, -0.211325], [-0.211325, 0.788675]])
    for n, error in ((3, 0.0050), (5, 1.7e-8)):
        found = rules.newton_schulz(double(PAIR), n)[1]
        assert np.abs(found.numpy() - EXACT_INVERSE).max() == pytest.approx(error, rel=0.03)


def test_the_root_of_the_root_is_that_of_the_card() -> None:
    fourth = rules.fourth_root(double(PAIR), 7)
    close(fourth, [[1.158037, 0.158037], [0.158037, 1.158037]])
    close(fourth @ fourth, EXACT_ROOT, 1e-12)


@pytest.mark.parametrize(
    ("rate", "n", "error"),
    [(0.2, 10, 1.6e-3), (0.2, 20, 9.7e-6), (0.2, 40, 3.5e-10), (0.1, 10, 0.0622), (0.1, 20, 0.0056), (0.1, 40, 6.3e-5)],
)
def test_visser_comes_near_the_root_as_in_the_card(rate: float, n: int, error: float) -> None:
    assert np.abs(rules.visser(double(PAIR), n, rate).numpy() - EXACT_ROOT).max() == pytest.approx(error, rel=0.03)


def test_visser_keeps_a_floor_under_directions_without_weight() -> None:
    for n, floor in ((40, 0.2194), (80, 0.1160)):
        assert float(rules.visser(double([[1, 0], [0, 0]]), n, 0.1)[1, 1]) == pytest.approx(floor, abs=5e-5)


def test_visser_chooses_a_rate_that_never_overshoots() -> None:
    """Half of 1 / sqrt(trace), which is at most half of 1 / sqrt(largest eigenvalue)."""
    for gram in (gram_of(40, 6, 6), gram_of(40, 6, 1), 1e6 * gram_of(40, 6, 3), 1e-6 * gram_of(40, 6, 3)):
        want = of_eigenvalues(gram, lambda s, gram=gram: visser_gain(s, 40, 0.5 / np.sqrt(np.trace(gram))))
        found = rules.visser(torch.from_numpy(gram), 40)
        close(found / np.abs(want).max(), want / np.abs(want).max(), 1e-10)
        assert float(torch.linalg.eigvalsh(found - torch.from_numpy(of_eigenvalues(gram, np.sqrt)))[0]) > -1e-6


@pytest.mark.parametrize(("n", "first", "second"), [
    (1, 1.266162, 0.444721), (3, 1.012959, 0.081938), (5, 0.949258, 0.000718), (9, 0.948683, 0.0),
])
def test_stiefel_has_the_numbers_of_the_card(n: int, first: float, second: float) -> None:
    close(rules.stiefel(double(PAIR), n), [[first, second], [second, first]])


def test_stiefel_is_a_soft_projector_by_its_number_of_iterations() -> None:
    relative = np.array([1.0, 0.1, 0.05, 0.01, 0.001])
    # The recursion that tests compare with, on eigenvalues of a matrix whose square has norm 1.
    for value, gain in zip(relative, (1.0, 0.999996, 0.982281, 0.369827, 0.038428), strict=True):
        inverse = scalar_newton_schulz(np.array([value**2]), 9)[1]
        assert value * inverse[0] == pytest.approx(gain, abs=5e-7)
    a, _ = scalar_newton_schulz(np.array([0.001]), 9)
    assert a[0] == pytest.approx(0.027507, abs=5e-7)
    # The rule itself, on a matrix that has them all: gains relative to the largest are those of the recursion.
    gains = torch.diagonal(rules.stiefel(torch.diag(double(relative)), 9)).numpy()
    np.testing.assert_allclose(gains, stiefel_gain(relative, 9), atol=1e-12)
    np.testing.assert_allclose(gains / gains[0], [1.0, 0.999996, 0.982281, 0.369827, 0.038428], atol=1e-4)


ITERATED: dict[str, tuple[Callable[[Tensor], Tensor], Callable[[np.ndarray], np.ndarray]]] = {
    "visser": (lambda x: rules.visser(x, 40, 0.2), lambda s: visser_gain(s, 40, 0.2)),
    "ns": (lambda x: rules.newton_schulz(x, 9)[0], lambda s: root_gain(s, 9)),
    "ns2": (lambda x: rules.fourth_root(x, 7), lambda s: root_gain(root_gain(s, 7), 7)),
    "stiefel": (lambda x: rules.stiefel(x, 9), lambda s: stiefel_gain(s, 9)),
}


@pytest.mark.parametrize("rank", [8, 3])
@pytest.mark.parametrize("name", ITERATED)
def test_iterated_rules_act_on_eigenvalues_alone(name: str, rank: int) -> None:
    """So they are symmetric, positive and commute with the gram matrix; with weight missing in some directions too."""
    rule, gain = ITERATED[name]
    gram = gram_of(40, 8, rank)
    gram /= np.trace(gram)
    p, want = rule(torch.from_numpy(gram)), of_eigenvalues(gram, gain)
    close(p, want, 1e-10)
    close(rule(torch.from_numpy(gram).float()), want, 1e-6 if rank == 8 else 2e-4)
    assert torch.equal(p, p.T)
    assert float(torch.linalg.eigvalsh(p)[0]) > -1e-7
    close(p @ torch.from_numpy(gram), torch.from_numpy(gram) @ p, 1e-10)


def test_twenty_iterations_stand_missing_rank_in_single_precision_and_more_are_refused() -> None:
    # A defect elsewhere: past about 22 iterations rounding explodes in directions without weight.
    gram = gram_of(64, 16, 5)
    gram /= np.trace(gram)
    found = rules.newton_schulz(torch.from_numpy(gram).float(), 20)[0]
    close(found, of_eigenvalues(gram, np.sqrt), 1e-3)
    for rule in (rules.newton_schulz, rules.fourth_root, rules.stiefel):
        for n in (0, 21):
            with pytest.raises(ConfigError, match=rf"iterations is {n}; it must be 1 to 20; beyond, float32 is lost"):
                rule(torch.eye(2), n)
    with pytest.raises(ConfigError, match="iterations is 0; it must be 1 or more"):
        rules.visser(torch.eye(2), 0)


def test_the_ridge_stands_on_a_largest_singular_value_of_one_or_on_the_matrix() -> None:
    p = double([[3, 0], [4, 5]])
    assert float(rules.spectral_norm(p)) == pytest.approx(np.linalg.norm(p.numpy(), 2), rel=1e-12)
    close(rules.ridged(p, 0.3), p.numpy() / 45**0.5 + 0.3 * np.eye(2), 1e-12)
    close(rules.ridged(p, 0.3, "raw"), [[3.3, 0], [4, 5.3]], 1e-12)
    with pytest.raises(ConfigError, match="ridge_on"):
        rules.ridged(p, 0.3, "spectrum")  # type: ignore[arg-type]


@pytest.mark.parametrize("scale", [0.0, 1e-30, 1e-12, 1e12, 1e30])
def test_no_scale_of_projections_makes_numbers_that_are_not_finite(scale: float) -> None:
    """In float32, where squares of these would vanish or overflow; and projections that have all become zero."""
    gram = scale * torch.from_numpy(gram_of(40, 6, 3)).float()
    found = [
        rules.direct_set(gram, 0.5, 0.01), rules.direct_copy(gram, 0.01), rules.regression(gram, gram),
        *(rules.ridged(rule(gram), 0.1) for rule in (
            lambda x: rules.visser(x, 40), lambda x: rules.newton_schulz(x, 9)[0], lambda x: rules.fourth_root(x, 7),
            lambda x: rules.stiefel(x, 9),
        )),
    ]  # fmt: skip
    assert all(bool(p.isfinite().all()) for p in found)


def test_statistics_of_a_diverged_run_raise_nothing() -> None:
    """The trainer says of such a run what there is to say; LAPACK would raise before it."""
    for value in (float("nan"), float("inf")):
        gram = torch.full((3, 3), value)
        rules.direct_set(gram, 0.5, 0.01)
        rules.direct_copy(gram, 0.01)
        rules.regression(gram, gram)
        rules.ridged(rules.neumann(gram, gram), 0.1)
