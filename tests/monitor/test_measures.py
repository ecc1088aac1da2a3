"""Each measure against NumPy, and against cases with a known answer."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor

from sciencessl.monitor.measures import (
    alignment,
    alpha_req,
    effective_rank,
    embedding_std,
    lidar,
    mean_cosine,
    predictor_spectrum,
    rankme,
    relative_distance,
    spectrum_rank,
    uniformity,
)

SHAPES = [(40, 6), (12, 30), (5, 30)]
OF_ROWS: list[Callable[[Tensor], Tensor]] = [embedding_std, effective_rank, rankme, alpha_req, uniformity]


def normal(rows: int, columns: int, seed: int = 0) -> Tensor:
    return torch.randn(rows, columns, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def uneven(rows: int, columns: int, seed: int = 0) -> Tensor:
    """With a mean, and with dimensions of unequal spread."""
    return normal(rows, columns, seed) * torch.linspace(3, 0.1, columns, dtype=torch.float64) + 0.5


def entropy_exp(shares: np.ndarray) -> float:
    shares = shares[shares > 0]
    return float(np.exp(-np.sum(shares * np.log(shares))))


def unit(rows: np.ndarray) -> np.ndarray:
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


@pytest.mark.parametrize("shape", SHAPES)
def test_spread_and_ranks_are_those_of_numpy(shape: tuple[int, int]) -> None:
    rows = uneven(*shape)
    x = rows.numpy()
    centred = unit(x) - unit(x).mean(axis=0)
    assert float(embedding_std(rows)) == pytest.approx(unit(x).std(axis=0, ddof=1).mean() * math.sqrt(shape[1]))
    values = np.linalg.svd(centred, compute_uv=False)
    assert float(effective_rank(rows)) == pytest.approx(entropy_exp(values / values.sum()), rel=1e-6)
    values = np.linalg.svd(x, compute_uv=False)
    p = values / np.abs(values).sum() + 1e-7
    assert float(rankme(rows)) == pytest.approx(np.exp(-(p * np.log(p)).sum()), rel=1e-9)


@pytest.mark.parametrize("rank", [1, 2, 7])
def test_equal_singular_values_are_counted(rank: int) -> None:
    """Plus and minus each of k orthogonal unit vectors: mean zero, unit length, k equal singular values."""
    axes = torch.linalg.qr(normal(10, 10))[0][:rank]
    rows = torch.cat([axes, -axes])
    assert float(effective_rank(rows)) == pytest.approx(rank, rel=1e-6)
    assert float(rankme(rows)) == pytest.approx(rank, rel=1e-4)


def test_equal_rows_have_no_spread_and_one_direction() -> None:
    rows = torch.ones(32, 16)
    assert float(embedding_std(rows)) == pytest.approx(0.0, abs=1e-9)
    assert float(effective_rank(rows)) == pytest.approx(1.0, abs=1e-3)
    assert float(rankme(rows)) == pytest.approx(1.0, abs=1e-4)
    assert float(uniformity(rows)) == pytest.approx(0.0, abs=1e-9)
    assert float(embedding_std(torch.zeros(8, 4))) == 0.0


@pytest.mark.parametrize(("rows", "columns"), [(2000, 20), (64, 512)])
def test_rows_spread_over_the_sphere(rows: int, columns: int) -> None:
    found = normal(rows, columns)
    most = min(rows - 1, columns)
    assert float(embedding_std(found)) == pytest.approx(1.0, abs=0.03)
    assert 0.9 * most < float(effective_rank(found)) <= most + 1e-6
    assert -4.1 < float(uniformity(found)) < -3.3


def test_the_mean_is_a_direction_of_rankme_only() -> None:
    rows = normal(200, 5) + 1000
    assert float(rankme(rows)) < 1.1
    assert float(effective_rank(normal(200, 5))) > 4.9


def numpy_lidar(first: np.ndarray, second: np.ndarray, delta: float) -> float:
    """By the definition: means, scatters, the inverse root of a matrix of D x D."""
    views = np.stack([first, second], axis=1)
    means = views.mean(axis=1)
    between = np.cov(means.T)
    inside = (views - means[:, None]).reshape(-1, views.shape[2])
    within = inside.T @ inside / len(first) + delta * np.eye(views.shape[2])  # n (q - 1) = n
    values, vectors = np.linalg.eigh(within)
    root = vectors @ np.diag(values**-0.5) @ vectors.T
    found = np.clip(np.linalg.eigvalsh(root @ between @ root), 0, None)
    p = found / found.sum() + 1e-8
    return float(np.exp(-(p * np.log(p)).sum()))


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("delta", [1e-4, 0.1])
def test_lidar_is_its_definition(shape: tuple[int, int], delta: float) -> None:
    first = uneven(*shape)
    second = first + 0.3 * normal(*shape, seed=1)
    expected = numpy_lidar(first.numpy(), second.numpy(), delta)
    assert float(lidar(first, second, delta)) == pytest.approx(expected, rel=1e-6)


def test_lidar_does_not_count_what_the_views_do_not_share() -> None:
    shared, noise = normal(4000, 3), [5 * normal(4000, 9, seed) for seed in (1, 2)]
    first, second = (torch.cat([shared + 0.01 * normal(4000, 3, 3 + i), noise[i]], dim=1) for i in range(2))
    assert float(effective_rank(first)) > 8
    assert float(lidar(first, second)) == pytest.approx(3, abs=0.05)


@pytest.mark.parametrize("exponent", [0.0, 0.7, 1.0, 2.5])
def test_a_power_law_gives_back_its_exponent(exponent: float) -> None:
    count = 40
    basis = torch.linalg.qr(torch.cat([torch.ones(60, 1, dtype=torch.float64), normal(60, count)], dim=1))[0][:, 1:]
    rows = basis * torch.arange(1, count + 1, dtype=torch.float64) ** (-exponent / 2)
    assert float(alpha_req(7 * rows)) == pytest.approx(exponent, abs=1e-6)
    assert float(alpha_req(rows, first=1, last=1000)) == pytest.approx(exponent, abs=1e-6)


def test_the_exponent_is_a_weighted_fit_of_numpy() -> None:
    rows = uneven(300, 150)
    values = np.sort(np.linalg.eigvalsh(np.cov(rows.numpy().T)))[::-1][3:100]
    ranks = np.arange(4, 101)
    slope = np.polyfit(np.log(ranks), np.log(values), 1, w=ranks**-0.5)[0]  # polyfit squares its weights
    assert float(alpha_req(rows)) == pytest.approx(-slope, rel=1e-9)


def test_directions_without_variance_are_no_part_of_the_fit() -> None:
    rows = uneven(300, 50)
    dead = torch.cat([rows, torch.zeros(300, 70, dtype=torch.float64)], dim=1)
    assert float(alpha_req(dead)) == pytest.approx(float(alpha_req(rows)), rel=1e-9)
    assert math.isnan(float(alpha_req(rows[:5])))
    assert math.isnan(float(alpha_req(torch.ones(50, 20))))


def test_views_that_agree_are_aligned() -> None:
    first, second = torch.tensor([[3.0, 4.0]]), torch.tensor([[4.0, 3.0]])
    assert float(mean_cosine(first, second)) == pytest.approx(0.96)
    assert float(alignment(first, second)) == pytest.approx(0.08)
    rows = uneven(20, 7)
    assert float(alignment(rows, 5 * rows)) == pytest.approx(0)
    assert float(alignment(rows, -rows)) == pytest.approx(4)
    other = uneven(20, 7, seed=1)
    distance = np.square(unit(rows.numpy()) - unit(other.numpy())).sum(axis=1).mean()
    assert float(alignment(rows, other)) == pytest.approx(distance)
    assert float(mean_cosine(rows, other)) == pytest.approx(1 - distance / 2)


def test_uniformity_is_over_pairs_of_different_rows() -> None:
    """Plus and minus two axes: four of the six pairs have d^2 = 2, two have 4."""
    axes = torch.eye(3)[:2]
    expected = math.log((4 * math.exp(-4) + 2 * math.exp(-8)) / 6)
    assert float(uniformity(torch.cat([axes, -axes]))) == pytest.approx(expected)
    assert float(uniformity(torch.cat([axes[:1], -axes[:1]]))) == pytest.approx(-8)
    assert float(uniformity(torch.zeros(5, 4))) == 0  # all alike, as behind a ReLU that has died
    x = unit(uneven(15, 4).numpy())
    pairs = [np.exp(-2 * np.square(x[i] - x[j]).sum()) for i in range(15) for j in range(i)]
    assert float(uniformity(uneven(15, 4))) == pytest.approx(np.log(np.mean(pairs)))


def test_the_spectrum_of_a_linear_predictor_is_that_of_its_matrix() -> None:
    """DirectPred of F = [[2, 1], [1, 2]] has the eigenvalues 1 and sqrt(1/3)."""
    matrix = torch.tensor([[0.788675, 0.211325], [0.211325, 0.788675]], dtype=torch.float64)
    found = predictor_spectrum(normal(30, 2), normal(30, 2) @ matrix.T + 5)
    torch.testing.assert_close(found.values, torch.tensor([1, 3**-0.5], dtype=torch.float64), rtol=1e-5, atol=0)
    assert float(found.fit) == pytest.approx(1)
    wide = normal(6, 9, seed=2)
    found = predictor_spectrum(normal(50, 6), normal(50, 6) @ wide)
    np.testing.assert_allclose(found.values, np.linalg.svd(wide.numpy(), compute_uv=False))
    values = torch.tensor([2.0, 2.0, 0.0])
    assert float(spectrum_rank(values)) == pytest.approx(2)


def test_few_rows_show_a_predictor_on_their_span() -> None:
    rows, matrix = normal(5, 12), normal(12, 12, seed=1)
    centred = (rows - rows.mean(dim=0)).numpy()
    span = np.linalg.svd(centred)[2][:4]  # an orthonormal basis of it, in rows
    expected = np.linalg.svd(span @ matrix.numpy(), compute_uv=False)
    found = predictor_spectrum(rows, rows @ matrix).values
    np.testing.assert_allclose(found[:4], expected, rtol=1e-9)
    assert float(found[4]) < 1e-6


def test_a_predictor_without_a_linear_part_is_not_fitted() -> None:
    half = normal(4000, 4)
    rows = torch.cat([half, -half])
    assert float(predictor_spectrum(rows, rows.square()).fit) == pytest.approx(0, abs=1e-9)
    bent = torch.cat([rows[:, :2].square(), rows[:, 2:]], dim=1)
    found = predictor_spectrum(rows, bent)
    share = float(bent[:, 2:].var(dim=0).sum() / bent.var(dim=0).sum())
    assert float(found.fit) == pytest.approx(share, rel=0.02)
    assert float(predictor_spectrum(rows, torch.zeros(8000, 3)).fit) == 0


def test_distances_are_relative() -> None:
    rows = uneven(4, 3)
    assert float(relative_distance(rows, rows)) == 0
    assert float(relative_distance(1.1 * rows, rows)) == pytest.approx(0.1)
    assert float(relative_distance(rows, -rows)) == pytest.approx(2)


@pytest.mark.parametrize("measure", OF_ROWS, ids=lambda measure: measure.__name__)
def test_turning_and_scaling_all_rows_changes_nothing(measure: Callable[[Tensor], Tensor]) -> None:
    rows = uneven(40, 12)
    # The spread is a mean over the axes: turning matters to it alone.
    turn = torch.eye(12).double() if measure is embedding_std else torch.linalg.qr(normal(12, 12))[0]
    assert float(measure(1000 * rows @ turn)) == pytest.approx(float(measure(rows)), rel=1e-6)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32, torch.float64])
def test_any_dtype_is_taken_and_no_gradient_kept(dtype: torch.dtype) -> None:
    rows, other = (uneven(20, 8, seed).to(dtype).requires_grad_() for seed in (0, 1))
    found = [measure(rows) for measure in OF_ROWS]
    found += [measure(rows, other) for measure in (lidar, alignment, mean_cosine, relative_distance)]
    found += list(predictor_spectrum(rows, other))
    assert all(value.dtype == torch.float64 and not value.requires_grad for value in found)
    exact = [float(measure(rows.detach().double())) for measure in OF_ROWS]
    assert [float(value) for value in found[: len(OF_ROWS)]] == pytest.approx(exact, rel=1e-9)


def test_nothing_is_read_from_the_device() -> None:
    """Tensors without data, which cannot be read, go through."""
    for rows, features in SHAPES:
        empty = torch.empty(rows, features, device="meta")
        found = [measure(empty) for measure in OF_ROWS]
        found += [measure(empty, empty) for measure in (lidar, alignment, mean_cosine, relative_distance)]
        found.append(predictor_spectrum(empty, empty).fit)
        assert all(value.shape == () for value in found)
        with pytest.raises(RuntimeError):
            float(found[0])
