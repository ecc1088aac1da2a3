"""What pairs a label head with its loss: votes with a Dirichlet head, classes with a linear one."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor, nn

from sciencessl.errors import ConfigError
from sciencessl.losses.classification import softmax_nll
from sciencessl.losses.dirichlet import DirichletHead, dirichlet_multinomial_nll
from sciencessl.losses.linear import uniform_linear
from sciencessl.spec import UNLABELLED, LabelSchema


class LabelLoss(Protocol):
    """A head and the loss of its outputs. What a domain's `label_loss` returns; domains may write their own."""

    def head(self, in_features: int, generator: torch.Generator | None = None) -> nn.Module:
        """A new head for (B, in_features) representations, its initial weights drawn from `generator`."""
        ...

    def __call__(self, outputs: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        """Sum of the negative log likelihood over the batch, and the number of labelled rows: two scalars.

        Sums, not a mean: the label loss of a step is one sum over all ranks and micro-batches divided by one count
        of labelled rows, and a mean of means would weigh rows by how sparsely their batch is labelled.
        """
        ...


@dataclass(frozen=True)
class VoteLoss:
    """Dirichlet-multinomial loss of vote counts; a row with any vote is labelled.

    Attributes:
        groups: Half-open column range of each question.
    """

    groups: tuple[tuple[int, int], ...]

    def head(self, in_features: int, generator: torch.Generator | None = None) -> nn.Module:
        """(B, in_features) -> (B, A) concentrations, dropout 0.2 always on."""
        return DirichletHead(in_features, self.groups[-1][1], generator=generator)

    def __call__(self, outputs: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        """(B, A) concentrations and (B, A) counts -> sum over rows and questions in nats, labelled rows; scalars."""
        nll = dirichlet_multinomial_nll(labels, outputs, self.groups)
        return nll.sum(), (labels > 0).any(dim=1).sum().to(nll.dtype)


@dataclass(frozen=True)
class ClassLoss:
    """Softmax loss of one class a row; a row with a class of 0 or more is labelled.

    Attributes:
        classes: C, 2 or more.
    """

    classes: int

    def __post_init__(self) -> None:
        if self.classes < 2:
            raise ConfigError(f"label loss: {self.classes} classes cannot be told apart; give a schema or 2 or more.")

    def head(self, in_features: int, generator: torch.Generator | None = None) -> nn.Module:
        """(B, in_features) -> (B, C) logits: one linear layer without dropout, torch's initial distribution."""
        bound = 1.0 / math.sqrt(in_features)
        return uniform_linear(in_features, self.classes, bound, (-bound, bound), generator)

    def __call__(self, outputs: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        """(B, C) logits and (B,) int64 classes -> sum over rows in nats, labelled rows; scalars."""
        nll = softmax_nll(outputs, labels)
        return nll.sum(), (labels != UNLABELLED).sum().to(nll.dtype)


def label_loss(schema: LabelSchema | None, classes: int = 0) -> LabelLoss:
    """The label loss of a questionnaire, or of a number of classes where there is no schema.

    Args:
        schema: Questions and answers of vote counts, or None for classes.
        classes: Number of classes, 2 or more; not used with a schema.

    Raises:
        ConfigError: Without a schema and with fewer than 2 classes.

    Source: galaxy hybrid card (arXiv 2206.11927), which has both modes.
    """
    return ClassLoss(classes) if schema is None else VoteLoss(schema.groups)
