from __future__ import annotations

import itertools
import math
from collections.abc import Sequence

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import special, stats
from torch._subclasses.fake_tensor import FakeTensorMode

from sciencessl.errors import ConfigError, DataError
from sciencessl.losses.dirichlet import (
    DirichletHead,
    _Columns,
    _nll_everywhere,
    _nll_where_voted,
    dirichlet_multinomial_nll,
    expected_fractions,
    scaled_sigmoid,
)

GROUPS = ((0, 3), (3, 5), (5, 10))


def one_question(votes: Sequence[float], concentrations: Sequence[float]) -> float:
    """Log probability of the votes of a single question, in float64."""
    k = torch.tensor([votes], dtype=torch.float64)
    a = torch.tensor([concentrations], dtype=torch.float64)
    return -float(dirichlet_multinomial_nll(k, a, ((0, len(votes)),)))


def by_hand(counts: np.ndarray, concentrations: np.ndarray, groups: Sequence[tuple[int, int]]) -> np.ndarray:
    lng = special.gammaln
    columns = []
    for start, stop in groups:
        k, a = counts[:, start:stop], concentrations[:, start:stop]
        n, s = k.sum(axis=1), a.sum(axis=1)
        answers = (lng(k + a) - lng(a) - lng(k + 1)).sum(axis=1)
        columns.append(-(lng(s) + lng(n + 1) - lng(n + s) + answers))
    return np.stack(columns, axis=1)


def sample(rows: int = 6, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    rng = np.random.default_rng(seed)
    counts = torch.from_numpy(rng.integers(0, 30, size=(rows, 10)).astype(np.float64))
    return counts, torch.from_numpy(rng.uniform(1, 101, size=(rows, 10)))


@pytest.mark.parametrize(
    ("votes", "concentrations", "expected"),
    [
        ((8, 2, 0), (5, 3, 1), -2.690112500),
        ((1, 0, 0), (5, 3, 1), math.log(5 / 9)),
        ((3, 1), (2, 5), -2.351375257),
        ((10, 0, 0), (1, 1, 1), -math.log(math.comb(12, 2))),
        ((2, 3, 5), (1, 1, 1), -4.189654742),
    ],
)
def test_card_values(votes: tuple[int, ...], concentrations: tuple[int, ...], expected: float) -> None:
    assert one_question(votes, concentrations) == pytest.approx(expected, abs=1e-9)


def test_card_gradient() -> None:
    concentrations = torch.tensor([[5.0, 3.0, 1.0]], dtype=torch.float64, requires_grad=True)
    dirichlet_multinomial_nll(torch.tensor([[8, 2, 0]]), concentrations, ((0, 3),)).sum().backward()
    assert concentrations.grad is not None
    np.testing.assert_allclose(concentrations.grad.numpy(), [[-0.24262641, 0.1939176, 0.77725094]], atol=1e-8)


def test_large_concentrations_approach_the_multinomial() -> None:
    value = one_question((5, 3, 2), (0.5e6, 0.3e6, 0.2e6))
    assert value == pytest.approx(-2.4645259, abs=2e-7)
    assert stats.multinomial.logpmf([5, 3, 2], 10, [0.5, 0.3, 0.2]) == pytest.approx(-2.4645160, abs=1e-7)
    assert value == pytest.approx(-2.4645160, abs=2e-5)


# A defect elsewhere: the tests that compared a vote loss with other forms of it were commented out. The next four run.
def test_agrees_with_scipy() -> None:
    assert one_question((8, 2, 0), (5, 3, 1)) == pytest.approx(
        float(stats.dirichlet_multinomial.logpmf([8, 2, 0], [5, 3, 1], 10)), abs=1e-12
    )
    counts, concentrations = sample(seed=5)
    result = dirichlet_multinomial_nll(counts, concentrations, GROUPS).numpy()
    for row, (k, a) in enumerate(zip(counts.numpy().astype(int), concentrations.numpy(), strict=True)):
        scipys = [-stats.dirichlet_multinomial.logpmf(k[lo:hi], a[lo:hi], k[lo:hi].sum()) for lo, hi in GROUPS]
        np.testing.assert_allclose(result[row], scipys, rtol=1e-11, atol=1e-11)


def test_two_answers_agree_with_the_beta_binomial() -> None:
    for votes, concentrations in (((3, 1), (2, 5)), ((0, 7), (1.5, 90)), ((12, 0), (40, 3))):
        scipys = stats.betabinom.logpmf(votes[0], sum(votes), *concentrations)
        assert one_question(votes, concentrations) == pytest.approx(float(scipys), abs=1e-11)


def test_agrees_with_torch_distributions() -> None:
    """P(k) = multinomial coefficient * B(k + a) / B(a), from the normalisers of two Dirichlets."""
    counts, concentrations = sample(seed=6)
    result = dirichlet_multinomial_nll(counts, concentrations, GROUPS)
    for question, (start, stop) in enumerate(GROUPS):
        k, a = counts[:, start:stop], concentrations[:, start:stop]
        uniform = torch.full_like(a, 1 / (stop - start))
        prior, posterior = (torch.distributions.Dirichlet(c) for c in (a, a + k))
        evidence = prior.log_prob(uniform) - posterior.log_prob(uniform) + (k * uniform.log()).sum(1)
        coefficient = (k.sum(1) + 1).lgamma() - (k + 1).lgamma().sum(1)
        torch.testing.assert_close(result[:, question], -(evidence + coefficient), rtol=0, atol=1e-10)


def test_answers_without_votes_and_all_answers_give_the_same() -> None:
    """What the CPU computes, gammas of voted answers only, and what a GPU does, gammas of all."""
    counts, concentrations = sample(64, seed=7)
    counts[torch.rand(counts.shape, generator=torch.Generator().manual_seed(0)) < 0.6] = 0.0
    counts[:8] /= 7
    counts[8:16] = 0.0
    found = []
    for function in (_nll_where_voted, _nll_everywhere):
        alpha = concentrations.clone().requires_grad_()
        nll = function(counts, alpha, _Columns.of(GROUPS, alpha))
        nll.sum().backward()
        assert alpha.grad is not None
        found.append((nll.detach(), alpha.grad))
    torch.testing.assert_close(found[0], found[1], rtol=0, atol=1e-12)
    assert not torch.signbit(found[0][0]).any()
    assert torch.autograd.gradcheck(
        lambda a: _nll_everywhere(counts[:4], a, _Columns.of(GROUPS, a)), concentrations[:4].clone().requires_grad_()
    )


def test_weights_of_volunteers_scale_a_count_smoothly() -> None:
    """A vote of weight w costs what the gamma functions say between whole votes, and whole weights are votes."""
    assert one_question((2.0, 0.0), (2, 5)) == one_question((2, 0), (2, 5))
    # lnG(2.5) and so on by hand: k = [0.5, 0], a = [1, 1] has probability G(1.5) G(2) / G(2.5) = 1 / 1.5.
    assert one_question((0.5, 0.0), (1, 1)) == pytest.approx(math.log(1 / 1.5), abs=1e-12)
    costs = [-one_question((w, 1.0), (3, 4)) for w in np.linspace(0, 3, 31)]
    assert np.abs(np.diff(costs)).max() < 0.2


def test_campaigns_that_did_not_ask_cost_nothing() -> None:
    """Rows of two campaigns in one batch: each row's loss is that of its own campaign's columns alone."""
    counts, concentrations = sample(8, seed=8)
    first, second = (GROUPS[:2], slice(0, 5)), (((0, 5),), slice(5, 10))
    counts[:4, 5:] = 0.0
    counts[4:, :5] = 0.0
    concentrations.requires_grad_()
    nll = dirichlet_multinomial_nll(counts, concentrations, GROUPS)
    nll.sum().backward()
    assert concentrations.grad is not None
    for rows, (groups, own), questions in ((slice(0, 4), first, [0, 1]), (slice(4, 8), second, [2])):
        alone = concentrations.detach()[rows, own].clone().requires_grad_()
        expected = dirichlet_multinomial_nll(counts[rows, own], alone, groups)
        expected.sum().backward()
        torch.testing.assert_close(nll[rows][:, questions], expected, rtol=0, atol=1e-13)
        torch.testing.assert_close(concentrations.grad[rows, own], alone.grad, rtol=0, atol=1e-13)
        others = [q for q in range(3) if q not in questions]
        assert torch.equal(nll[rows][:, others], torch.zeros(4, len(others), dtype=torch.float64))
        columns = [c for c in range(10) if not own.start <= c < own.stop]
        assert torch.equal(concentrations.grad[rows][:, columns], torch.zeros(4, 5, dtype=torch.float64))


def test_probabilities_of_all_votes_sum_to_one() -> None:
    every = [k for k in itertools.product(range(5), repeat=3) if sum(k) == 4]
    assert len(every) == 15
    assert sum(math.exp(one_question(k, (5, 3, 1))) for k in every) == pytest.approx(1.0, abs=1e-12)


def test_many_questions_match_a_loop_in_numpy() -> None:
    counts, concentrations = sample(seed=3)
    result = dirichlet_multinomial_nll(counts, concentrations, GROUPS)
    assert result.shape == (6, 3)
    np.testing.assert_allclose(result.numpy(), by_hand(counts.numpy(), concentrations.numpy(), GROUPS), atol=1e-10)


def test_gradient_is_the_derivative() -> None:
    counts, concentrations = sample(3, seed=4)
    counts[1] = 0.0
    counts[2] = counts[2] / 3
    concentrations.requires_grad_()
    assert torch.autograd.gradcheck(lambda a: dirichlet_multinomial_nll(counts, a, GROUPS), concentrations)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32, torch.float64])
@pytest.mark.parametrize("size", [1.5, 101.0, 3.3e7, 1e30, math.inf, math.nan])
def test_a_question_without_votes_is_exactly_zero(dtype: torch.dtype, size: float) -> None:
    counts = torch.zeros(2, 10)
    counts[0, 3:5] = torch.tensor([2.0, 7.0])
    concentrations = torch.full((2, 10), size).to(dtype) * torch.linspace(1, 1.7, 10).to(dtype)
    concentrations[0, 3:5] = 4.0
    concentrations.requires_grad_()
    nll = dirichlet_multinomial_nll(counts, concentrations, GROUPS)
    nll.sum().backward()
    gradient = concentrations.grad
    assert gradient is not None
    unasked = torch.ones(2, 10, dtype=torch.bool)
    unasked[0, 3:5] = False
    assert torch.equal(nll[:, [0, 2]], torch.zeros(2, 2, dtype=nll.dtype))
    assert torch.equal(nll[1], torch.zeros(3, dtype=nll.dtype))
    assert torch.equal(gradient[unasked], torch.zeros(18, dtype=dtype))
    assert float(nll[0, 1].detach()) > 0
    assert bool((gradient[0, 3:5] != 0).all())


def test_other_rows_do_not_notice_an_unlabelled_one() -> None:
    counts, concentrations = sample(2)
    alone = dirichlet_multinomial_nll(counts, concentrations, GROUPS).sum()
    padded = torch.cat([counts, torch.zeros(1, 10)]), torch.cat([concentrations, concentrations[:1]])
    torch.testing.assert_close(dirichlet_multinomial_nll(*padded, GROUPS).sum(), alone, rtol=1e-14, atol=0)


def test_votes_of_one_question_leave_the_others_concentrations_alone() -> None:
    counts, concentrations = sample(4)
    concentrations.requires_grad_()
    dirichlet_multinomial_nll(counts, concentrations, GROUPS)[:, 1].sum().backward()
    assert concentrations.grad is not None
    assert torch.equal(concentrations.grad[:, [0, 1, 2, 5, 6, 7, 8, 9]], torch.zeros(4, 8, dtype=torch.float64))
    assert bool((concentrations.grad[:, 3:5] != 0).all())


def test_flipping_the_answers_of_a_question_changes_nothing() -> None:
    counts, concentrations = sample()
    order = [2, 1, 0, 3, 4, 5, 6, 7, 8, 9]
    flipped = dirichlet_multinomial_nll(counts[:, order], concentrations[:, order], GROUPS)
    torch.testing.assert_close(flipped, dirichlet_multinomial_nll(counts, concentrations, GROUPS), rtol=0, atol=1e-11)


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.floats(0, 60), min_size=10, max_size=10), st.lists(st.floats(1, 101), min_size=10, max_size=10)
)
def test_fractional_votes_cost_zero_or_more(votes: list[float], concentrations: list[float]) -> None:
    counts = torch.tensor([votes], dtype=torch.float64)
    alpha = torch.tensor([concentrations], dtype=torch.float64)
    nll = dirichlet_multinomial_nll(counts, alpha, GROUPS)
    assert float(nll.min()) > -1e-11
    np.testing.assert_allclose(nll.numpy(), by_hand(counts.numpy(), alpha.numpy(), GROUPS), atol=1e-10)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32])
def test_float32_under_autocast(dtype: torch.dtype) -> None:
    counts, concentrations = sample(32)
    concentrations = concentrations.to(dtype)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        nll = dirichlet_multinomial_nll(counts.to(dtype), concentrations, GROUPS)
    assert nll.dtype == torch.float32
    exact = by_hand(counts.numpy(), concentrations.double().numpy(), GROUPS)
    np.testing.assert_allclose(nll.numpy(), exact, rtol=1e-4, atol=1e-3)


def test_float64_stays_under_autocast_and_integer_votes_serve() -> None:
    counts, concentrations = sample()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        nll = dirichlet_multinomial_nll(counts.long(), concentrations, GROUPS)
    assert nll.dtype == torch.float64
    assert torch.equal(nll, dirichlet_multinomial_nll(counts, concentrations, GROUPS))


def test_index_tables_serve_training_after_inference_mode_and_fake_tensors() -> None:
    groups = ((0, 4), (4, 6))
    with torch.inference_mode():
        dirichlet_multinomial_nll(torch.ones(1, 6), torch.ones(1, 6), groups)
    with FakeTensorMode():
        dirichlet_multinomial_nll(torch.ones(1, 6), torch.ones(1, 6), ((0, 1), (1, 6)))
    alpha = torch.ones(1, 6, requires_grad=True)
    dirichlet_multinomial_nll(torch.ones(1, 6), alpha, groups).sum().backward()
    dirichlet_multinomial_nll(torch.ones(1, 6), alpha, ((0, 1), (1, 6))).sum().backward()
    assert alpha.grad is not None


def test_nothing_is_read_from_a_device() -> None:
    nll = dirichlet_multinomial_nll(torch.ones(4, 10, device="meta"), torch.ones(4, 10, device="meta"), GROUPS)
    assert nll.shape == (4, 3)


@pytest.mark.parametrize("groups", [(), ((0, 3), (4, 10)), ((1, 10),), ((0, 3), (3, 3), (3, 10)), ((0, 3), (3, 9))])
def test_groups_must_tile_the_columns(groups: tuple[tuple[int, int], ...]) -> None:
    with pytest.raises(ConfigError):
        dirichlet_multinomial_nll(*sample(), groups)


def test_negative_votes_and_other_shapes_are_refused() -> None:
    counts, concentrations = sample()
    with pytest.raises(DataError, match="row 0, column 0"):
        dirichlet_multinomial_nll(counts - 100, concentrations, GROUPS)
    with pytest.raises(ConfigError, match=r"\(6, 9\)"):
        dirichlet_multinomial_nll(counts[:, :9], concentrations, GROUPS)


def test_expected_fractions() -> None:
    fractions = expected_fractions(torch.tensor([[5, 3, 2, 1, 3, 1, 1, 1, 1, 4]], dtype=torch.float64), GROUPS)
    expected = [[0.5, 0.3, 0.2, 0.25, 0.75, 0.125, 0.125, 0.125, 0.125, 0.5]]
    np.testing.assert_allclose(fractions.numpy(), expected, atol=1e-15)


@pytest.mark.parametrize(("logit", "expected"), [(0, 51), (-4, 2.798621), (-4.5, 2.098694), (-3.5, 3.931223)])
def test_scaled_sigmoid(logit: float, expected: float) -> None:
    assert float(scaled_sigmoid(torch.tensor(logit, dtype=torch.float64))) == pytest.approx(expected, abs=1e-6)


def test_scaled_sigmoid_of_bfloat16_is_float32() -> None:
    value = scaled_sigmoid(torch.tensor(-4.0, dtype=torch.bfloat16))
    assert value.dtype == torch.float32
    assert float(value) == pytest.approx(2.798621, abs=1e-5)


def test_head_starts_as_the_card_says() -> None:
    head = DirichletHead(1280, 34, generator=torch.Generator().manual_seed(0))
    bound = math.sqrt(6 / (1280 + 34)) / 10
    weight, bias = head.linear.weight.detach(), head.linear.bias.detach()
    assert 0.99 * bound < float(weight.abs().max()) <= bound
    assert -4.5 <= float(bias.min()) < -4.4
    assert -3.6 < float(bias.max()) <= -3.5
    start = head(torch.zeros(4, 1280))
    assert start.shape == (4, 34)
    assert 2.098 < float(start.min().detach()) < float(start.max().detach()) < 3.932


def test_head_drops_out_in_evaluation_too() -> None:
    head = DirichletHead(64, 3, generator=torch.Generator().manual_seed(0)).eval()
    features = torch.ones(1, 64)
    draws = torch.cat([head(features) for _ in range(8)]).detach()
    assert len(draws.unique(dim=0)) > 1
    still = DirichletHead(64, 3, dropout=0.0).eval()
    assert torch.equal(still(features), still(features))


def test_head_is_float32_under_autocast() -> None:
    head = DirichletHead(64, 3, dropout=0.0, generator=torch.Generator().manual_seed(0))
    features = torch.randn(5, 64, generator=torch.Generator().manual_seed(1))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        inside = head(features)
    assert inside.dtype == torch.float32
    assert torch.equal(inside, head(features))
    assert head(features.bfloat16()).dtype == torch.float32


def test_head_refuses_a_dropout_of_one() -> None:
    with pytest.raises(ConfigError, match="dropout"):
        DirichletHead(8, 3, dropout=1.0)
