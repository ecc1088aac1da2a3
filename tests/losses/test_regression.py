from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from sciencessl.errors import ConfigError
from sciencessl.losses.regression import byol_regression, cosines, cross_view_cosine, negative_cosine


def numbers(shape: tuple[int, ...], seed: int = 0) -> torch.Tensor:
    return torch.from_numpy(np.random.default_rng(seed).normal(size=shape))


def test_card_number_1_value_and_gradient() -> None:
    prediction = torch.tensor([[3.0, 4.0]], dtype=torch.float64, requires_grad=True)
    target = torch.tensor([[4.0, 3.0]], dtype=torch.float64)
    assert negative_cosine(prediction, target).detach().item() == pytest.approx(-0.96, abs=1e-14)
    loss = byol_regression(prediction, target)
    assert loss.detach().item() == pytest.approx(0.08, abs=1e-14)
    (gradient,) = torch.autograd.grad(loss.sum(), prediction)
    np.testing.assert_allclose(gradient.numpy(), [[-0.0896, 0.0672]], atol=1e-14)
    assert float((gradient * prediction.detach()).sum()) == pytest.approx(0.0, abs=1e-14)


def test_matches_numpy() -> None:
    prediction, target = numbers((16, 9), 1), numbers((16, 9), 2)
    p, t = prediction.numpy(), target.numpy()
    expected = ((p / np.linalg.norm(p, axis=1)[:, None] - t / np.linalg.norm(t, axis=1)[:, None]) ** 2).sum(axis=1)
    np.testing.assert_allclose(byol_regression(prediction, target).numpy(), expected, atol=1e-14)
    np.testing.assert_allclose(negative_cosine(prediction, target).numpy(), expected / 2 - 1, atol=1e-14)


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 2**32 - 1), st.floats(1e-3, 1e3), st.floats(1e-3, 1e3))
def test_card_number_2_rescaling_and_range(seed: int, left: float, right: float) -> None:
    prediction, target = numbers((5, 4), seed), numbers((5, 4), seed + 1)
    loss = byol_regression(prediction, target)
    torch.testing.assert_close(byol_regression(left * prediction, right * target), loss, rtol=1e-9, atol=1e-12)
    both = loss + byol_regression(target, prediction)
    assert 0.0 <= float(loss.min()) <= float(loss.max()) <= 4.0
    assert 0.0 <= float(both.min()) <= float(both.max()) <= 8.0


def test_range_holds_where_rounding_would_leave_it() -> None:
    vectors = numbers((4096, 7), 3).float()
    assert float(negative_cosine(vectors, 3 * vectors).min()) == -1.0
    assert float(negative_cosine(vectors, -3 * vectors).max()) == 1.0
    assert float(byol_regression(vectors, vectors).min()) == 0.0


def test_card_number_3_the_target_gets_no_gradient_and_the_predictor_does() -> None:
    prediction, target = numbers((4, 6), 1).requires_grad_(), numbers((4, 6), 2).requires_grad_()
    byol_regression(prediction, target).sum().backward()
    assert target.grad is None
    assert prediction.grad is not None
    assert bool((prediction.grad.abs().sum(dim=1) > 0).all())


def test_negative_cosine_is_differentiable_in_both() -> None:
    inputs = (numbers((3, 4), 1).requires_grad_(), numbers((3, 4), 2).requires_grad_())
    assert torch.autograd.gradcheck(negative_cosine, inputs)


def test_a_zero_vector_has_cosine_zero_and_a_finite_gradient() -> None:
    prediction = torch.zeros(1, 3, requires_grad=True)
    loss = byol_regression(prediction, torch.ones(1, 3))
    loss.sum().backward()
    assert loss.detach().item() == 2.0
    assert prediction.grad is not None
    assert bool(torch.isfinite(prediction.grad).all())


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32])
def test_float32_under_autocast(dtype: torch.dtype) -> None:
    prediction, target = numbers((8, 256), 1).to(dtype), numbers((8, 256), 2).to(dtype)
    expected = byol_regression(prediction.double(), target.double())
    with torch.autocast("cpu", dtype=torch.bfloat16):
        loss = byol_regression(prediction, target)
    assert loss.dtype == torch.float32
    torch.testing.assert_close(loss.double(), expected, rtol=1e-6, atol=1e-6)


def test_float64_stays_under_autocast() -> None:
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert byol_regression(numbers((2, 3)), numbers((2, 3), 1)).dtype == torch.float64


def test_shapes_that_would_broadcast_are_refused() -> None:
    with pytest.raises(ConfigError, match=r"\(4, 6\).*\(1, 6\)"):
        negative_cosine(torch.ones(4, 6), torch.ones(1, 6))


def test_cosines_of_two_sets_equal_numpy() -> None:
    for shapes in (((5, 4), (3, 4)), ((2, 5, 4), (2, 3, 4))):
        first, second = numbers(shapes[0], 1), numbers(shapes[1], 2)
        units = [x.numpy() / np.linalg.norm(x.numpy(), axis=-1, keepdims=True) for x in (first, second)]
        np.testing.assert_allclose(cosines(7 * first, 0.1 * second), units[0] @ units[1].swapaxes(-1, -2), atol=1e-14)
    with pytest.raises(ConfigError, match=r"shapes \(3, 2\) and \(3, 4\)"):
        cosines(torch.zeros(3, 2), torch.zeros(3, 4))


def test_cosines_of_two_sets_stay_in_single_precision_under_autocast() -> None:
    first, second = numbers((5, 64), 1).bfloat16(), numbers((3, 64), 2).bfloat16()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = cosines(first, second)
    assert found.dtype == torch.float32
    torch.testing.assert_close(found.double(), cosines(first.double(), second.double()), rtol=0, atol=1e-6)


def test_a_vector_of_almost_no_length_is_not_blown_up() -> None:
    """A defect elsewhere: with a floor of 1e-12 the gradient at zero is 1e12 times that of a unit vector."""
    first = torch.zeros(1, 3, requires_grad=True)
    cosines(first, torch.ones(1, 3)).sum().backward()
    assert first.grad is not None
    assert 0 < float(first.grad.abs().max()) <= 1e6


def test_each_target_is_compared_with_all_views_but_its_own() -> None:
    queries, targets = [numbers((5, 3), seed) for seed in range(4)], [numbers((5, 3), seed) for seed in (7, 8)]
    pairs = [(1, 0), (2, 0), (3, 0), (0, 1), (2, 1), (3, 1)]
    expected = np.mean([negative_cosine(queries[v], targets[i]).numpy() for v, i in pairs], axis=0)
    np.testing.assert_allclose(cross_view_cosine(queries, targets).numpy(), expected, atol=1e-14)
    with pytest.raises(ConfigError, match="they must be equal"):
        cross_view_cosine(queries, [targets[0][:4]])
