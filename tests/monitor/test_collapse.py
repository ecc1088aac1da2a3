"""The gauge on representations whose spread and rank are known."""

from __future__ import annotations

import pytest
import torch

from sciencessl.monitor.collapse import Gauge, gauge


def normal(rows: int, columns: int) -> torch.Tensor:
    return torch.randn(rows, columns, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


def test_equal_rows_are_a_collapse_in_words() -> None:
    found = gauge(torch.ones(32, 16))
    assert found.std == pytest.approx(0.0, abs=1e-6)
    assert "is collapsing" in found.warning
    assert "options.tau_base" in found.warning
    assert "optim.base_lr" in found.warning
    assert gauge(torch.zeros(8, 4)).std == 0.0


def test_a_line_is_a_collapse_too() -> None:
    rows = torch.outer(torch.tensor([1.0, -1.0] * 8), torch.arange(1.0, 9.0))
    found = gauge(rows)
    assert found.effective_rank == pytest.approx(1.0, abs=1e-3)
    assert found.std > 0.5
    assert "1.0 directions" in found.warning


@pytest.mark.parametrize(("rows", "columns"), [(2000, 20), (64, 512)])
def test_rows_spread_over_the_sphere_are_healthy(rows: int, columns: int) -> None:
    found = gauge(normal(rows, columns))
    assert found.std == pytest.approx(1.0, abs=0.03)
    most = min(rows - 1, columns)
    assert 0.9 * most < found.effective_rank <= most + 1e-6
    assert found.warning == ""


@pytest.mark.parametrize("rank", [2, 3, 7])
def test_the_rank_of_equal_singular_values_is_their_number(rank: int) -> None:
    """Plus and minus each of k orthogonal unit vectors: centred, of unit norm, k equal singular values."""
    axes = torch.linalg.qr(normal(10, 10))[0][:rank]
    assert gauge(torch.cat([axes, -axes])).effective_rank == pytest.approx(rank, rel=1e-5)


def test_scale_and_rotation_of_the_representation_do_not_matter() -> None:
    rows = normal(40, 6) @ torch.diag(torch.tensor([5.0, 3, 2, 1, 1, 0.1], dtype=torch.float64))
    turn = torch.linalg.qr(normal(6, 6))[0]
    first = gauge(rows)
    assert gauge(1000 * rows).std == pytest.approx(first.std, rel=1e-5)
    assert gauge(rows @ turn).effective_rank == pytest.approx(first.effective_rank, rel=1e-4)


def test_thresholds_decide_and_no_gradient_is_kept() -> None:
    assert Gauge(0.1, 2.0).warning == ""
    assert Gauge(0.099, 50.0).warning.startswith("the representation is collapsing")
    assert "directions" in Gauge(0.5, 1.9).warning
    rows = normal(8, 4).requires_grad_()
    gauge(rows)
    assert rows.grad is None
