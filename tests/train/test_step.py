"""The step: the label term beside the pair loss, micro-batches, and randomness as a function of the step."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from sciencessl.losses.dirichlet import DirichletHead
from sciencessl.losses.labels import ClassLoss, LabelLoss, VoteLoss
from sciencessl.methods.base import Method, Online, PairLoss
from sciencessl.methods.byol import Byol, ByolOptions
from sciencessl.methods.labels_only import LabelsOnly, LabelsOnlyOptions
from sciencessl.optim.groups import parameter_groups
from sciencessl.optim.lars import LARS
from sciencessl.samples import Batch
from sciencessl.train.step import LabelTerm, Network, Recipe, Wrapped, step_randomness, train_step

PIXELS, FEATURES, ROWS = 12, 6, 8
VOTES = ((0, 2), (2, 5))


class Encoder(nn.Sequential):
    """Without batch statistics, so that a batch in parts is the batch."""

    num_features = FEATURES

    def __init__(self) -> None:
        super().__init__(nn.Flatten(), nn.Linear(PIXELS, FEATURES), nn.LayerNorm(FEATURES), nn.Tanh())


class RowByol(Byol):
    """BYOL whose heads have no batch norm: rows do not meet."""

    def __init__(self, encoder: nn.Module, options: ByolOptions, generator: torch.Generator) -> None:
        super().__init__(encoder, options, generator)
        for head in (self.projector, self.predictor, self.target_projector):
            head[1] = nn.Identity()
        self.moved = 0
        self._updater = type(self._updater)(
            [(self.target_encoder, self.encoder), (self.target_projector, self.projector)]
        )

    def after_step(self, step: int, total: int) -> dict[str, float]:
        self.moved += 1
        return super().after_step(step, total)


class Recorder:
    """An optimiser that only looks: gradients by parameter, at the moment of the step."""

    def __init__(self, modules: Sequence[nn.Module]) -> None:
        self.named = {f"{i}.{n}": p for i, m in enumerate(modules) for n, p in m.named_parameters() if p.requires_grad}
        self.param_groups: list[dict[str, Any]] = [{"params": list(self.named.values()), "lr": None}]
        self.seen: list[dict[str, Tensor]] = []

    def zero_grad(self) -> None:
        for parameter in self.named.values():
            parameter.grad = None

    def step(self) -> None:
        self.seen.append({n: p.grad.clone() for n, p in self.named.items() if p.grad is not None})


def byol(kind: type[Byol] = RowByol) -> Byol:
    torch.manual_seed(0)
    return kind(Encoder(), ByolOptions(hidden=9, out=4, tau_base=0.9), torch.Generator().manual_seed(1)).double()


def term(name: str, loss: LabelLoss, dropout: float = 0.0) -> LabelTerm:
    made = LabelTerm(name, loss, FEATURES, torch.Generator().manual_seed(2)).double()
    if isinstance(made.head, DirichletHead):
        made.head.dropout = dropout
    return made


def terms(dropout: float = 0.0) -> list[LabelTerm]:
    return [term("votes", VoteLoss(VOTES), dropout), term("class", ClassLoss(3))]


def batch(labelled: bool = True, seed: int = 0) -> Batch:
    """Votes on rows 0, 1, 2 and 6, classes on rows 3 and 4: parts are labelled unevenly."""
    rng = np.random.default_rng(seed)
    votes, classes = np.zeros((ROWS, 5), np.float32), np.full(ROWS, -1)
    if labelled:
        votes[[0, 1, 2, 6]] = rng.integers(1, 9, (4, 5))
        votes[2, 2:] = 0
        classes[[3, 4]] = [2, 0]
    views = [{"image": torch.from_numpy(rng.normal(size=(ROWS, 3, 2, 2)))} for _ in range(2)]
    labels = {"votes": torch.from_numpy(votes), "class": torch.from_numpy(classes)}
    return Batch(views, labels, [str(i) for i in range(ROWS)], np.arange(ROWS))


def recipe(**changes: Any) -> Recipe:
    values = {"total_steps": 10, "batch": ROWS, "accumulate": 1, "learning_rate": lambda step: 0.5,
              "to_input": lambda x: x, "field": "image", "label_weight": 0.7, "seed": 3}
    return Recipe(**{**values, **changes})


def gradients(
    method: Method, label_terms: Sequence[LabelTerm], data: Batch, **changes: Any
) -> tuple[dict[str, Tensor], dict[str, float]]:
    """What one step would descend along, on copies, and its metrics."""
    method, label_terms = copy.deepcopy((method, list(label_terms)))
    recorder = Recorder([method, *label_terms])
    parts = changes.get("accumulate", 1)
    size = ROWS // parts
    micro = [data.slice(i, i + size) for i in range(0, ROWS, size)]
    result = train_step(Wrapped(Network(method, label_terms, recipe(**changes))), recorder, micro, 4)
    (seen,) = recorder.seen
    return seen, {name: float(value) for name, value in result.metrics.items()}


def label_gradients(method: Method, label_term: LabelTerm, data: Batch) -> tuple[float, dict[str, Tensor]]:
    """Mean label loss over labelled rows, and its gradient, from the term alone."""
    with step_randomness(3, 4):
        total, rows = label_term(method.online([v["image"] for v in data.views]).representations[0], data)
    named = {f"0.{n}": p for n, p in method.named_parameters() if p.requires_grad}
    named |= {f"1.{n}": p for n, p in label_term.named_parameters()}
    found = torch.autograd.grad(total / rows, list(named.values()), allow_unused=True)
    zero = torch.zeros((), dtype=torch.float64)
    return float(total.detach() / rows), {n: zero if g is None else g for n, g in zip(named, found, strict=True)}


def test_the_hybrid_gradient_is_the_pair_gradient_plus_the_weighted_label_gradient() -> None:
    method, label_term, data = byol(), term("votes", VoteLoss(VOTES), dropout=0.2), batch()
    pair, plain = gradients(method, [], data)
    mean, label = label_gradients(method, label_term, data)
    both, metrics = gradients(method, [label_term], data)
    assert metrics["label_loss"] == pytest.approx(mean, rel=1e-12)
    assert metrics["labelled"] == 4
    factor = 0.7 * abs(plain["cosine"]) / mean
    assert set(both) == set(label)
    for name, gradient in both.items():
        expected = pair.get(name, torch.zeros_like(gradient)) + factor * label[name]
        torch.testing.assert_close(gradient, expected, rtol=1e-10, atol=1e-12)
    assert metrics["loss"] == pytest.approx(plain["loss"] + 0.7 * abs(plain["cosine"]), rel=1e-12)


def test_two_terms_add_their_means_and_share_one_scale() -> None:
    method, data = byol(), batch()
    both, metrics = gradients(method, terms(), data)
    pair, plain = gradients(method, [], data)
    found = [label_gradients(method, t, data) for t in terms()]
    assert metrics["label_loss"] == pytest.approx(sum(mean for mean, _ in found), rel=1e-12)
    factor = 0.7 * abs(plain["cosine"]) / metrics["label_loss"]
    name = "0.encoder.1.weight"
    torch.testing.assert_close(both[name], pair[name] + factor * (found[0][1][name] + found[1][1][name]))
    torch.testing.assert_close(both["2.head.weight"], factor * found[1][1]["1.head.weight"])


def test_unlabelled_rows_cost_exactly_nothing_and_pull_at_nothing() -> None:
    for label_term, labelled in zip(terms(dropout=0.2), ([0, 1, 2, 6], [3, 4]), strict=True):
        representation = torch.randn(ROWS, FEATURES, dtype=torch.float64, requires_grad=True)
        with step_randomness(0, 0):
            total, rows = label_term(representation, batch())
        total.backward()
        assert int(rows) == len(labelled)
        others = [i for i in range(ROWS) if i not in labelled]
        assert torch.count_nonzero(representation.grad[others]) == 0
        assert all(torch.count_nonzero(representation.grad[i]) > 0 for i in labelled)
        none, no_rows = label_term(representation, batch(labelled=False))
        assert (float(none.detach()), int(no_rows)) == (0.0, 0)


def test_pixels_of_unlabelled_rows_do_not_enter_labels_only() -> None:
    method = LabelsOnly(Encoder(), LabelsOnlyOptions(), torch.Generator()).double()
    data, changed = batch(), batch()
    changed.views[0]["image"][[5, 7]] += 100.0
    first, _ = gradients(method, terms(), data)
    second, _ = gradients(method, terms(), changed)
    assert all(torch.equal(first[name], second[name]) for name in first)


@pytest.mark.parametrize("accumulate", [1, 2])
def test_a_batch_without_labels_is_a_plain_step_bit_for_bit(accumulate: int) -> None:
    data = batch(labelled=False)
    states = []
    for label_terms in ([], terms(dropout=0.2)):
        method = byol()
        modules = nn.ModuleDict({"method": method, "terms": nn.ModuleList(label_terms)})
        optimizer = LARS(parameter_groups(modules, 0.1), lr=0.0)
        parts = [data] if accumulate == 1 else [data.slice(0, 4), data.slice(4, 8)]
        result = train_step(Wrapped(Network(method, label_terms, recipe(accumulate=accumulate))), optimizer, parts, 4)
        states.append((method.state_dict(), float(result.metrics["loss"])))
    assert states[0][1] == states[1][1]
    assert all(torch.equal(value, states[1][0][name]) for name, value in states[0][0].items())


class Aligned(Method):
    """A pair of given cosine that learns nothing: what the label term makes of it."""

    title, paper, status = "aligned", "none", "ours"
    Options = dict

    def __init__(self, encoder: nn.Module, cosine: float) -> None:
        super().__init__(encoder, {}, torch.Generator())
        self.cosine = cosine

    def online(self, views: Sequence[Tensor]) -> Online:
        return Online([self.encoder(view) for view in views], [], [])

    def pair_loss(self, online: Online, targets: Sequence[Tensor]) -> PairLoss:
        cosine = torch.full((ROWS,), self.cosine, dtype=torch.float64)
        return PairLoss((4 - 4 * cosine).sum(), -cosine.sum(), ROWS)


def test_labels_do_not_fade_when_the_views_agree() -> None:
    """At cosine 1 BYOL's 2 - 2 cos is 0; the label gradient is w * grad log L_sup all the same."""
    method, label_term = Aligned(Encoder().double(), 1.0), term("votes", VoteLoss(VOTES))
    mean, label = label_gradients(method, label_term, batch())
    seen, metrics = gradients(method, [label_term], batch())
    assert metrics["pair_loss"] == 0.0
    for name, gradient in seen.items():
        torch.testing.assert_close(gradient, 0.7 * label[name] / mean, rtol=1e-10, atol=1e-14)
    half, _ = gradients(Aligned(method.encoder, 0.5), [label_term], batch())
    torch.testing.assert_close(half["0.encoder.1.weight"], 0.5 * seen["0.encoder.1.weight"])


class Authors(Aligned):
    """The authors' scale: the pair loss *is* the negative cosine."""

    def pair_loss(self, online: Online, targets: Sequence[Tensor]) -> PairLoss:
        total = torch.full((ROWS,), -self.cosine, dtype=torch.float64).sum()
        return PairLoss(total, total, ROWS)


class Scaled:
    """A label loss times a constant."""

    def __init__(self, factor: float) -> None:
        self.inner, self.factor = VoteLoss(VOTES), factor

    def head(self, in_features: int, generator: torch.Generator | None = None) -> nn.Module:
        return self.inner.head(in_features, generator)

    def __call__(self, outputs: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        total, rows = self.inner(outputs, labels)
        return self.factor * total, rows


@pytest.mark.parametrize("accumulate", [1, 4])
def test_the_example_of_the_card(accumulate: int) -> None:
    """L_con = -0.8, w = 0.5: L = -0.4, whatever the label loss is multiplied by."""
    method = Authors(Encoder().double(), 0.8)
    if accumulate > 1:
        size = ROWS // accumulate
        method.pair_loss = lambda o, t: PairLoss(  # type: ignore[method-assign]
            torch.tensor(-0.8 * size, dtype=torch.float64, requires_grad=True), torch.tensor(-0.8 * size), size
        )
    seen = []
    for factor in (1.0, 1000.0):
        found, metrics = gradients(method, [term("votes", Scaled(factor))], batch(), label_weight=0.5,
                                   accumulate=accumulate)
        assert metrics["loss"] == pytest.approx(-0.4, abs=1e-7)
        seen.append(found)
    for name, gradient in seen[0].items():
        torch.testing.assert_close(gradient, seen[1][name], rtol=1e-9, atol=1e-15)


@pytest.mark.parametrize("accumulate", [1, 2])
def test_labels_only_descends_the_label_loss_itself(accumulate: int) -> None:
    method = LabelsOnly(Encoder(), LabelsOnlyOptions(), torch.Generator()).double()
    label_term = term("votes", VoteLoss(VOTES))
    mean, label = label_gradients(method, label_term, batch())
    seen, metrics = gradients(method, [label_term], batch(), label_weight=1.0, accumulate=accumulate)
    assert metrics["loss"] == pytest.approx(mean, rel=1e-12)
    assert "cosine" not in metrics
    for name, gradient in seen.items():
        torch.testing.assert_close(gradient, label[name], rtol=1e-10, atol=1e-14)


@pytest.mark.parametrize("accumulate", [2, 4])
@pytest.mark.parametrize("labelled", [None, False, True])
def test_micro_batches_add_up_to_the_batch(accumulate: int, labelled: bool | None) -> None:
    label_terms = [] if labelled is None else terms()
    data = batch(labelled=bool(labelled))
    whole, metrics = gradients(byol(), label_terms, data)
    parts, same = gradients(byol(), label_terms, data, accumulate=accumulate)
    assert set(parts) == set(whole)
    for name, gradient in whole.items():
        torch.testing.assert_close(parts[name], gradient, rtol=1e-10, atol=1e-13)
    assert same == pytest.approx(metrics, rel=1e-10)


def test_micro_batches_leave_the_same_weights_and_move_the_target_once() -> None:
    made = []
    for accumulate in (1, 2):
        method, label_terms = byol(), terms()
        modules = nn.ModuleDict({"method": method, "terms": nn.ModuleList(label_terms)})
        optimizer = LARS(parameter_groups(modules, 0.1), lr=0.0)
        for step in range(3):
            data, size = batch(seed=step), ROWS // accumulate
            micro = (data.slice(i, i + size) for i in range(0, ROWS, size))
            train_step(Wrapped(Network(method, label_terms, recipe(accumulate=accumulate))), optimizer, micro, step)
        assert isinstance(method, RowByol)
        assert method.moved == 3
        made.append(modules.state_dict())
    for name, value in made[0].items():
        torch.testing.assert_close(value, made[1][name], rtol=1e-10, atol=1e-12)


def test_randomness_is_a_function_of_seed_and_step_and_leaves_no_trace() -> None:
    def draw(seed: int, step: int) -> Tensor:
        with step_randomness(seed, step):
            return torch.rand(4)

    torch.manual_seed(5)
    expected = torch.rand(2)
    torch.manual_seed(5)
    first = draw(0, 7)
    torch.rand(1)
    assert torch.equal(draw(0, 7), first)
    assert not torch.equal(draw(0, 8), first)
    assert not torch.equal(draw(1, 7), first)
    torch.manual_seed(5)
    draw(0, 7)
    assert torch.equal(torch.rand(2), expected)


def test_dropout_of_the_vote_head_is_a_function_of_the_step() -> None:
    head = DirichletHead(FEATURES, 5, generator=torch.Generator().manual_seed(0))
    features = torch.ones(4, FEATURES)

    def concentrations(step: int) -> Tensor:
        with step_randomness(0, step):
            return head(features)

    assert torch.equal(concentrations(1), concentrations(1))
    assert not torch.equal(concentrations(1), concentrations(2))
    torch.rand(100)
    seen = [gradients(byol(), terms(dropout=0.5), batch())[0] for _ in range(2)]
    assert all(torch.equal(seen[0][name], seen[1][name]) for name in seen[0])


def test_the_learning_rate_of_the_step_reaches_every_group() -> None:
    method = byol()
    optimizer = LARS(parameter_groups(method, 0.0), lr=9.0)
    result = train_step(
        Wrapped(Network(method, [], recipe(learning_rate=lambda step: 0.1 * step))), optimizer, [batch()], 4
    )
    assert [group["lr"] for group in optimizer.param_groups] == [0.4, 0.4]
    assert result.metrics["lr"] == 0.4


def test_bfloat16_computes_in_half_and_keeps_weights_and_losses_in_full() -> None:
    method, label_terms = byol(Byol).float(), [t.float() for t in terms()]
    data = batch()
    for view in data.views:
        view["image"] = view["image"].float()
    modules = nn.ModuleDict({"method": method, "terms": nn.ModuleList(label_terms)})
    optimizer = LARS(parameter_groups(modules, 0.0), lr=0.0)
    result = train_step(Wrapped(Network(method, label_terms, recipe(autocast=torch.bfloat16))), optimizer, [data], 0)
    assert result.online.projections[0].dtype == torch.bfloat16
    assert {p.dtype for p in modules.parameters()} == {torch.float32}
    assert all(torch.is_tensor(v) is False or v.dtype == torch.float32 for v in result.metrics.values())
