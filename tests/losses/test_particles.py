"""MSBReg's terms: the numbers of its card, singular values against NumPy's, and what a rotation must not change."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from sciencessl.errors import ConfigError
from sciencessl.losses.particles import EPSILON, brownian_kick, centroid_attraction, singular_spread
from sciencessl.losses.regression import byol_regression

ONLINE = torch.tensor([[[1.0, 0.0], [0.0, 1.0], [1.0, 1.0]]], dtype=torch.float64)
TARGETS = torch.tensor([[[1.0, 0.2], [0.2, 1.0], [1.0, 0.8]]], dtype=torch.float64)


def random(*shape: int, seed: int = 0) -> Tensor:
    return torch.from_numpy(np.random.default_rng(seed).normal(size=shape))


def rotation(width: int) -> Tensor:
    return torch.linalg.qr(random(width, width, seed=9))[0]


@pytest.mark.parametrize(("form", "value", "within"), [("squared", 0.0079577, 5e-8), ("cos", 0.00086196, 5e-9),
                                                       ("ema", 0.3919116, 5e-8)])  # fmt: skip
def test_attraction_is_that_of_the_card(form: Any, value: float, within: float) -> None:
    """Centres (.569036, .569036) and (.652522, .600464); lengths of what is given do not count."""
    for online, targets in ((ONLINE, TARGETS), (3 * ONLINE, 0.1 * TARGETS)):
        assert centroid_attraction(online, targets, form).item() == pytest.approx(value, abs=within)
    units = [torch.nn.functional.normalize(x, dim=2).mean(dim=1)[0].tolist() for x in (ONLINE, TARGETS)]
    assert units == [pytest.approx([0.569036, 0.569036], abs=5e-7), pytest.approx([0.652522, 0.600464], abs=5e-7)]


def test_equal_views_cost_what_one_direction_of_byol_costs() -> None:
    p, z = random(5, 4), random(5, 4, seed=1)
    found = centroid_attraction(torch.stack([p, p], dim=1), torch.stack([z, z], dim=1), "ema")
    torch.testing.assert_close(found, byol_regression(p, z))


def test_only_the_ema_form_pulls_views_together_that_lie_around_the_centre() -> None:
    online = torch.tensor([[[0.6, 0.8], [0.6, -0.8]]], dtype=torch.float64)
    targets = torch.tensor([[[0.6, 0.8], [0.6, -0.8]]], dtype=torch.float64)
    for form, apart in (("squared", 0.0), ("cos", 0.0), ("ema", 0.8)):
        assert centroid_attraction(online, targets, form).item() == pytest.approx(apart, abs=1e-12)  # type: ignore[arg-type]


def test_the_kick_is_that_of_the_card() -> None:
    """Mean cosine .7966498 with (.6, .8); at (1, 0) the gradient is the part of it across: (0, .8)."""
    kick = torch.tensor([[0.6, 0.8]], dtype=torch.float64)
    assert brownian_kick(ONLINE, kick).item() == pytest.approx(0.7966498, abs=5e-8)
    z = torch.tensor([[[1.0, 0.0]]], dtype=torch.float64, requires_grad=True)
    brownian_kick(z, 5 * kick).sum().backward()
    assert z.grad is not None
    np.testing.assert_allclose(z.grad[0, 0], [0.0, 0.8], atol=1e-12)


def test_the_kick_and_its_gradient_are_zero_on_average() -> None:
    draws = 100_000
    z = torch.tensor([0.5, 0.5, -0.5, 0.5], requires_grad=True)
    kicks = torch.randn(draws, 4, generator=torch.Generator().manual_seed(0))
    found = brownian_kick(z.expand(draws, 1, 4), kicks)
    found.mean().backward()
    assert z.grad is not None
    assert float(z.grad.norm()) < 0.01
    assert abs(found.mean().item()) < 3 * found.std().item() / draws**0.5


def test_views_of_a_sample_share_a_direction_and_samples_do_not() -> None:
    z, kicks = random(3, 2, 4), random(3, 4, seed=1)
    found = brownian_kick(z, kicks)
    unit = z / z.norm(dim=2, keepdim=True)
    want = [(unit[i] @ (kicks[i] / kicks[i].norm())).mean().item() for i in range(3)]
    np.testing.assert_allclose(found, want, atol=1e-12)


@pytest.mark.parametrize(("rows", "want"), [(torch.eye(4).repeat(2, 1), 0.0), (torch.eye(4)[:1].repeat(8, 1), 0.5)])
def test_the_spread_is_that_of_the_card(rows: Tensor, want: float) -> None:
    """Two identities: all singular values 1.414214, and 0. Eight copies of one row: (2.828427, 0, 0, 0), and 1/2."""
    assert singular_spread(rows.double(), epsilon=0.0).item() == pytest.approx(want, abs=1e-12)
    lowered = (EPSILON * 4 / 8) ** 0.5
    assert want - lowered - 1e-6 <= singular_spread(rows).item() <= want + 1e-6


@pytest.mark.parametrize("shape", [(12, 5), (5, 12), (6, 6), (1, 3), (3, 1)])
def test_the_spread_of_random_rows_equals_singular_values_of_numpy(shape: tuple[int, int]) -> None:
    rows = random(*shape)
    unit = rows.numpy() / np.linalg.norm(rows.numpy(), axis=1, keepdims=True)
    values = np.linalg.svd(unit, compute_uv=False)
    assert (values**2).sum() == pytest.approx(shape[0])
    want = 1 - values.sum() / np.sqrt(shape[0] * min(shape))
    assert singular_spread(rows, epsilon=0.0).item() == pytest.approx(want, abs=1e-10)
    with_epsilon = 1 - np.sqrt(values**2 + EPSILON).sum() / np.sqrt(shape[0] * min(shape))
    assert singular_spread(rows).item() == pytest.approx(with_epsilon, abs=1e-10)


def test_the_gradient_of_the_spread_is_that_of_the_nuclear_norm() -> None:
    """-U V^T over the scale, taken through the normalisation."""
    for shape in ((12, 5), (5, 12)):
        rows, other = random(*shape).requires_grad_(), random(*shape).requires_grad_()
        singular_spread(rows, epsilon=0.0).backward()
        u, _, v = torch.linalg.svd(torch.nn.functional.normalize(other, dim=1).detach(), full_matrices=False)
        (-(torch.nn.functional.normalize(other, dim=1) * (u @ v)).sum() / (shape[0] * min(shape)) ** 0.5).backward()
        torch.testing.assert_close(rows.grad, other.grad, rtol=0, atol=1e-10)


def test_a_collapsed_or_empty_batch_has_a_finite_gradient() -> None:
    """A defect elsewhere: the gradient of a singular value at 0 is NaN or as large as rounding makes it."""
    for rows in (torch.eye(4)[:1].repeat(8, 1), torch.zeros(8, 4), torch.eye(64)[:2].repeat(4, 1)):
        rows.requires_grad_()
        singular_spread(rows).backward()
        assert rows.grad is not None
        assert rows.grad.isfinite().all()
        assert rows.grad.abs().max() < 10


def test_rows_that_are_not_finite_do_not_stop_the_solver() -> None:
    """The attraction is NaN then, and the run says so in its own words."""
    rows = random(8, 4)
    rows[0, 0] = float("nan")
    assert singular_spread(rows).isfinite()
    assert centroid_attraction(rows.unsqueeze(1), rows.unsqueeze(1)).sum().isnan()


def test_a_rotation_changes_nothing() -> None:
    online, targets, kicks, turn = random(6, 3, 4), random(6, 3, 4, seed=1), random(6, 4, seed=2), rotation(4)
    for form in ("ema", "cos", "squared"):
        torch.testing.assert_close(centroid_attraction(online @ turn, targets @ turn, form),  # type: ignore[arg-type]
                                   centroid_attraction(online, targets, form))  # type: ignore[arg-type]
    rows = online.flatten(0, 1)
    torch.testing.assert_close(singular_spread(rows @ turn), singular_spread(rows))
    torch.testing.assert_close(singular_spread(rows.flip(0)), singular_spread(rows))
    torch.testing.assert_close(brownian_kick(online @ turn, kicks @ turn), brownian_kick(online, kicks))


def test_targets_and_directions_get_no_gradient() -> None:
    for form in ("ema", "cos", "squared"):
        online, targets = random(3, 2, 4).requires_grad_(), random(3, 2, 4, seed=1).requires_grad_()
        centroid_attraction(online, targets, form).sum().backward()  # type: ignore[arg-type]
        assert targets.grad is None
        assert online.grad is not None
    kicks = random(3, 4).requires_grad_()
    assert brownian_kick(online, kicks).requires_grad
    brownian_kick(online, kicks).sum().backward()
    assert kicks.grad is None


def test_values_stay_in_single_precision_under_autocast() -> None:
    rows = random(12, 4).bfloat16()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = singular_spread(rows)
    assert found.dtype == torch.float32
    torch.testing.assert_close(found, singular_spread(rows.float()))


def test_shapes_and_forms_that_do_not_fit_are_refused() -> None:
    with pytest.raises(ConfigError, match="centroid form"):
        centroid_attraction(ONLINE, TARGETS, "mean")  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match=r"online vectors have shape \(1, 3, 2\) and targets \(3, 2\)"):
        centroid_attraction(ONLINE, TARGETS[0])
    with pytest.raises(ConfigError, match=r"directions \(1, 3\)"):
        brownian_kick(ONLINE, torch.zeros(1, 3))
