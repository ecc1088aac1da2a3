"""Contrastive losses against plain NumPy, closed forms, and the batch cut into the rows of two processes."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor

from sciencessl.errors import ConfigError
from sciencessl.losses.contrastive import batch_nce, info_nce, nt_xent

ROWS, WIDTH, QUEUE, TEMPERATURE = 5, 4, 7, 0.3


def rows(seed: int, count: int = ROWS, dtype: str = "f8") -> Tensor:
    return torch.from_numpy(np.random.default_rng(seed).normal(size=(count, WIDTH)).astype(dtype))


def cosine(a: np.ndarray, b: np.ndarray) -> float:
    return float(a @ b / np.linalg.norm(a) / np.linalg.norm(b))


def plain_nt_xent(views: list[Tensor], keys: int, temperature: float = TEMPERATURE) -> np.ndarray:
    """The definition, one pair, one sample and one term at a time."""
    arrays = [view.numpy() for view in views]
    found = np.zeros(len(arrays[0]))
    for i in range(len(found)):
        terms = []
        for v, view in enumerate(arrays):
            others = [math.exp(cosine(view[i], arrays[b][j]) / temperature)
                      for b in range(keys) for j in range(len(found)) if j != i]
            for a in range(keys):
                if a != v:
                    positive = math.exp(cosine(view[i], arrays[a][i]) / temperature)
                    terms.append(-math.log(positive / (positive + sum(others))))
        found[i] = np.mean(terms)
    return found


def algorithm_1(first: Tensor, second: Tensor, temperature: float = TEMPERATURE) -> float:
    """The paper's listing: 2 N rows, each against all others but itself."""
    z = np.stack([first.numpy(), second.numpy()], axis=1).reshape(2 * len(first), -1)
    z = z / np.linalg.norm(z, axis=1, keepdims=True)
    s = np.exp(z @ z.T / temperature)
    total = 0.0
    for k in range(0, len(z), 2):
        for i, j in ((k, k + 1), (k + 1, k)):
            total += -math.log(s[i, j] / (s[i].sum() - s[i, i]))
    return total / len(z)


def test_nt_xent_of_two_views_is_algorithm_1_of_the_paper() -> None:
    first, second = rows(0), rows(1)
    loss = nt_xent([first, second], [first, second], TEMPERATURE)
    assert loss.shape == (ROWS,)
    assert float(loss.mean()) == pytest.approx(algorithm_1(first, second), rel=1e-6)


@pytest.mark.parametrize("keys", [2, 3])
def test_nt_xent_of_more_views_is_its_definition(keys: int) -> None:
    views = [rows(seed) for seed in range(4)]
    np.testing.assert_allclose(nt_xent(views, views[:keys], TEMPERATURE), plain_nt_xent(views, keys), rtol=1e-6)


def test_nt_xent_is_the_logarithm_of_the_terms_where_all_cosines_are_equal() -> None:
    """Two views of five samples: the positive and eight negatives."""
    same = torch.ones(ROWS, WIDTH)
    loss = nt_xent([same, 3 * same], [same, 3 * same], 0.1)
    torch.testing.assert_close(loss, torch.full((ROWS,), math.log(2 * ROWS - 1)))


def test_nt_xent_of_one_row_is_that_worked_by_hand() -> None:
    """Two samples on two axes at T = 1: the positive has cosine 1, two negatives have 0: log((e + 2) / e)."""
    axes = torch.eye(2, dtype=torch.float64)
    loss = nt_xent([axes, axes], [axes, axes], 1.0)
    np.testing.assert_allclose(loss, math.log((math.e + 2) / math.e), rtol=1e-12)


def test_nt_xent_of_a_lone_sample_is_0_with_a_finite_gradient() -> None:
    # A defect elsewhere: masked with infinity, the sum over no negatives has no gradient.
    view = rows(0, 1).requires_grad_()
    loss = nt_xent([view, rows(1, 1)], [view, rows(1, 1)], 0.1)
    loss.sum().backward()
    assert float(loss.detach()) == 0.0
    assert torch.equal(view.grad, torch.zeros_like(view))


def test_lengths_of_rows_do_not_matter() -> None:
    first, second, queue = rows(0), rows(1), torch.nn.functional.normalize(rows(2, QUEUE), dim=1)
    stretch = torch.rand(ROWS, 1, dtype=torch.float64) + 0.5
    for loss in (
        lambda q, k: nt_xent([q, k], [q, k], TEMPERATURE),
        lambda q, k: info_nce(q, k, queue, TEMPERATURE),
        lambda q, k: batch_nce(q, k, TEMPERATURE),
    ):
        torch.testing.assert_close(loss(stretch * first, 7 * second), loss(first, second))


def test_info_nce_is_the_cross_entropy_of_the_key_and_the_queue() -> None:
    queries, keys = rows(0), rows(1)
    queue = torch.nn.functional.normalize(rows(2, QUEUE), dim=1)
    want = []
    for q, k in zip(queries.numpy(), keys.numpy(), strict=True):
        terms = np.exp([cosine(q, k) / TEMPERATURE, *(cosine(q, n) / TEMPERATURE for n in queue.numpy())])
        want.append(-math.log(terms[0] / terms.sum()))
    np.testing.assert_allclose(info_nce(queries, keys, queue, TEMPERATURE), want, rtol=1e-6)


def test_batch_nce_is_the_cross_entropy_of_the_keys_of_the_batch() -> None:
    queries, keys = rows(0), rows(1)
    want = []
    for i, q in enumerate(queries.numpy()):
        terms = np.exp([cosine(q, k) / TEMPERATURE for k in keys.numpy()])
        want.append(-math.log(terms[i] / terms.sum()))
    np.testing.assert_allclose(batch_nce(queries, keys, TEMPERATURE), want, rtol=1e-6)


def test_equal_cosines_cost_the_logarithm_of_their_number() -> None:
    same = torch.ones(ROWS, WIDTH)
    queue = torch.full((QUEUE, WIDTH), 0.5)
    torch.testing.assert_close(info_nce(same, same, queue, 0.2), torch.full((ROWS,), math.log(1 + QUEUE)))
    torch.testing.assert_close(batch_nce(same, same, 1.0), torch.full((ROWS,), math.log(ROWS)))


def test_keys_and_the_queue_get_no_gradient_and_simclrs_keys_do() -> None:
    queries, keys, queue = rows(0).requires_grad_(), rows(1).requires_grad_(), rows(2, QUEUE).requires_grad_()
    (info_nce(queries, keys, queue, 0.2).sum() + batch_nce(queries, keys, 0.2).sum()).backward()
    assert keys.grad is None
    assert queue.grad is None
    assert bool(queries.grad.any())
    nt_xent([queries.detach(), keys.detach()], [queries.detach(), keys], 0.2).sum().backward()
    assert bool(keys.grad.any())


@pytest.mark.parametrize(
    "loss",
    [lambda q, k, first: nt_xent([q, k[first : first + len(q)]], [rows(0, 6), k], TEMPERATURE, first),
     lambda q, k, first: batch_nce(q, k, TEMPERATURE, first)],
)  # fmt: skip
def test_the_rows_of_two_processes_are_those_of_one(loss: Callable[[Tensor, Tensor, int], Tensor]) -> None:
    queries, keys = rows(0, 6), rows(1, 6)
    whole = loss(queries, keys, 0)
    torch.testing.assert_close(torch.cat([loss(queries[:2], keys, 0), loss(queries[2:], keys, 2)]), whole)


def test_losses_are_in_single_precision_under_autocast_and_for_half_the_bits() -> None:
    queries, keys = rows(0, dtype="f4"), rows(1, dtype="f4")
    queue = torch.nn.functional.normalize(rows(2, QUEUE, "f4"), dim=1)
    for loss in (
        lambda q, k: nt_xent([q, k], [q, k], 0.1),
        lambda q, k: info_nce(q, k, queue, 0.2),
        lambda q, k: batch_nce(q, k, 0.2),
    ):
        exact = loss(queries, keys)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            assert torch.equal(loss(queries, keys), exact)
            assert loss(queries.bfloat16(), keys.bfloat16()).dtype == torch.float32


def test_low_temperatures_do_not_overflow() -> None:
    first, second = rows(0, dtype="f4"), rows(1, dtype="f4")
    queue = torch.nn.functional.normalize(rows(2, QUEUE, "f4"), dim=1)
    for loss in (nt_xent([first, second], [first, second], 1e-4), info_nce(first, second, queue, 1e-4),
                 batch_nce(first, second, 1e-4)):  # fmt: skip
        assert bool(loss.isfinite().all())
        assert float(loss.min()) >= 0.0


def test_what_does_not_fit_is_refused() -> None:
    first, second = rows(0), rows(1)
    with pytest.raises(ConfigError, match="temperature is 0; it must be above 0"):
        batch_nce(first, second, 0)
    with pytest.raises(ConfigError, match="temperature is nan"):
        info_nce(first, second, second, math.nan)
    with pytest.raises(ConfigError, match="1 keys and 2 views; expected two keys or more"):
        nt_xent([first, second], [first], 0.1)
    with pytest.raises(ConfigError, match="3 keys and 2 views"):
        nt_xent([first, second], [first, second, second], 0.1)
    with pytest.raises(ConfigError, match=r"keys \(5, 4\); expected keys of the same width, 6 or more"):
        batch_nce(first, second, 0.1, first=1)
    with pytest.raises(ConfigError, match=r"keys \(5, 3\)"):
        info_nce(first, second, second[:, :3], 0.1)
    with pytest.raises(ConfigError, match=r"queries have shape \(5, 4\) and keys \(4, 4\); expected one key a query"):
        info_nce(first, second[:4], second, 0.1)
    with pytest.raises(ConfigError, match=r"keys \(0, 4\); expected keys of the same width, 1 or more"):
        info_nce(first, second, second[:0], 0.1)
