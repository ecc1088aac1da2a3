from __future__ import annotations

import pytest
import torch
from torch import nn

from sciencessl.errors import ConfigError, DataError
from sciencessl.losses.classification import softmax_nll
from sciencessl.losses.dirichlet import DirichletHead, dirichlet_multinomial_nll
from sciencessl.losses.labels import ClassLoss, VoteLoss, label_loss
from sciencessl.spec import LabelSchema, Question

SCHEMA = LabelSchema("toy", (Question("shape", ("round", "flat", "odd")), Question("bar", ("yes", "no"))))


def test_votes_give_the_sum_and_the_labelled_rows() -> None:
    loss = label_loss(SCHEMA)
    assert loss == VoteLoss(((0, 3), (3, 5)))
    counts = torch.tensor([[8.0, 2, 0, 3, 1], [0, 0, 0, 0, 0], [0, 0, 0, 0, 0.5]])
    concentrations = torch.tensor([[5.0, 3, 1, 2, 5]]).expand(3, 5)
    total, rows = loss(concentrations, counts)
    assert rows.shape == total.shape == ()
    assert float(rows) == 2.0
    expected = dirichlet_multinomial_nll(counts, concentrations, SCHEMA.groups)
    assert torch.equal(total, expected.sum())
    assert float(expected[0].sum()) == pytest.approx(2.690112500 + 2.351375257, abs=1e-5)


def test_sums_of_parts_are_the_sum_of_the_whole() -> None:
    loss = label_loss(None, 4)
    logits = torch.randn(10, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    target = torch.tensor([0, -1, -1, 3, 2, 1, -1, -1, -1, -1])
    parts = [loss(logits[part], target[part]) for part in (slice(0, 3), slice(3, 10))]
    total, rows = loss(logits, target)
    torch.testing.assert_close(parts[0][0] + parts[1][0], total)
    assert float(parts[0][1] + parts[1][1]) == float(rows) == 4.0


def test_classes_give_the_sum_and_the_labelled_rows() -> None:
    logits = torch.tensor([[1.0, 2.0], [3.0, 0.0], [0.0, 0.0]])
    target = torch.tensor([1, -1, 0])
    total, rows = label_loss(None, 2)(logits, target)
    assert float(rows) == 2.0
    assert torch.equal(total, softmax_nll(logits, target).sum())


def test_unlabelled_rows_change_nothing() -> None:
    loss = label_loss(SCHEMA)
    outputs = torch.rand(3, 5, generator=torch.Generator().manual_seed(0), dtype=torch.float64) * 9 + 1
    counts = torch.tensor([[1.0, 2, 0, 3, 1], [4, 0, 0, 0, 2], [0, 0, 7, 0, 0.5]])
    wider = loss(torch.cat([outputs, outputs]), torch.cat([counts, torch.zeros(3, 5)]))
    for mine, alone in zip(wider, loss(outputs, counts), strict=True):
        torch.testing.assert_close(mine, alone, rtol=1e-14, atol=0)


def test_heads_fit_their_loss() -> None:
    votes, classes = label_loss(SCHEMA).head(16), label_loss(None, 7).head(16)
    assert isinstance(votes, DirichletHead)
    assert votes(torch.ones(2, 16)).shape == (2, 5)
    assert isinstance(classes, nn.Linear)
    assert classes(torch.ones(2, 16)).shape == (2, 7)
    assert votes.dropout == 0.2


@pytest.mark.parametrize("loss", [VoteLoss(((0, 3), (3, 5))), ClassLoss(3)])
def test_heads_start_from_their_generator(loss: VoteLoss | ClassLoss) -> None:
    heads = [loss.head(8, torch.Generator().manual_seed(seed)) for seed in (1, 1, 2)]
    first, same, other = [torch.cat([p.detach().flatten() for p in head.parameters()]) for head in heads]
    assert torch.equal(first, same)
    assert not torch.equal(first, other)


def test_the_class_head_starts_in_torchs_range() -> None:
    head = ClassLoss(50).head(400, torch.Generator().manual_seed(0))
    for values in head.parameters():
        assert 0.9 / 20 < float(values.detach().abs().max()) <= 1 / 20


def test_one_class_is_refused_and_a_wrong_class_too() -> None:
    with pytest.raises(ConfigError, match="1 classes"):
        label_loss(None, 1)
    with pytest.raises(ConfigError):
        label_loss(None)
    with pytest.raises(DataError):
        label_loss(None, 2)(torch.zeros(1, 2), torch.tensor([2]))
