"""Votes as Dirichlet-multinomial draws: the label loss of questionnaires such as Galaxy Zoo, and its head."""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import lru_cache

import torch
from torch import Tensor, nn
from torch.nn import functional

from sciencessl.errors import ConfigError
from sciencessl.losses.checks import check_counts, holds_values
from sciencessl.losses.linear import uniform_linear
from sciencessl.losses.precision import full_precision

Groups = Sequence[tuple[int, int]]
"""Half-open (start, stop) columns, one pair a question, in order and without gaps, as `LabelSchema.groups` has them."""


def dirichlet_multinomial_nll(counts: Tensor, concentrations: Tensor, groups: Groups) -> Tensor:
    """Negative log probability of the votes on each question.

    For one question with votes k (sum n) and concentrations a (sum S) it is minus
    `lnG(S) + lnG(n+1) - lnG(n+S) + sum_j [lnG(k_j + a_j) - lnG(a_j) - lnG(k_j + 1)]`. A question without votes costs
    exactly 0 and gives its concentrations exactly zero gradient, whatever they are, so labelled galaxies of different
    campaigns and unlabelled ones share a batch without a mask. Values are at least 0, fractional votes included.

    Args:
        counts: (B, A) votes, 0 or more, possibly fractional; any dtype. Checked on the CPU only: reading them on
            another device would make the host wait for it.
        concentrations: (B, A), positive. Precision is lost above about 1e4 (in float32, about S ln S * 1e-7).
        groups: Q half-open column ranges that tile 0 to A.

    Returns:
        (B, Q) in nats, float32 at least (also under autocast), float64 when either input is.

    Raises:
        ConfigError: When `groups` do not tile the A columns or the shapes differ.
        DataError: For negative or NaN counts on the CPU.

    Source: Dirichlet-multinomial distribution, as in zoobot and arXiv 2206.11927; the masking is ours.
    """
    if counts.shape != concentrations.shape:
        raise ConfigError(
            f"vote loss: counts have shape {tuple(counts.shape)} and concentrations {tuple(concentrations.shape)}; "
            "they must be equal. Build the head for the schema whose votes the store holds."
        )
    check_counts(counts)
    columns = _Columns.of(groups, concentrations)
    counts, concentrations = full_precision(counts, concentrations)
    # On the CPU the gammas are all the work, and to read where votes are makes nobody wait.
    readable = counts.device.type == "cpu" and holds_values(counts)
    return (_nll_where_voted if readable else _nll_everywhere)(counts, concentrations, columns)


def _nll_where_voted(counts: Tensor, concentrations: Tensor, columns: _Columns) -> Tensor:
    """The gammas of answers with votes and of questions that were asked; all others cancel to 0."""
    row, column = counts.nonzero(as_tuple=True)
    answer = row * columns.answers + column
    question = row * columns.questions + columns.owner.index_select(0, column)
    voted = counts.flatten().index_select(0, answer)
    alpha = concentrations.flatten().index_select(0, answer)
    votes = columns.total(counts).flatten()
    asked = votes.nonzero().flatten()
    votes, strength = votes.index_select(0, asked), columns.total(concentrations).flatten().index_select(0, asked)
    zero = concentrations.new_zeros(len(counts) * columns.questions)
    nll = zero.index_add(0, question, _of_answers(voted, alpha), alpha=-1)
    return nll.index_add(0, asked, _of_all(votes, strength), alpha=-1).view(len(counts), columns.questions)


def _nll_everywhere(counts: Tensor, concentrations: Tensor, columns: _Columns) -> Tensor:
    """The gammas of all answers: no shape depends on the votes, so that the host reads nothing from a device."""
    votes = columns.total(counts)
    asked = votes > 0
    # Masked before the logarithms as well as after: 0 * inf in the backward pass would be NaN.
    alpha = torch.where(columns.spread(asked), concentrations, 1.0)
    log_probability = _of_all(votes, columns.total(alpha)) + columns.total(_of_answers(counts, alpha))
    return torch.where(asked, -log_probability, 0.0)


def _of_answers(votes: Tensor, alpha: Tensor) -> Tensor:
    return (votes + alpha).lgamma() - alpha.lgamma() - (votes + 1).lgamma()


def _of_all(votes: Tensor, strength: Tensor) -> Tensor:
    return strength.lgamma() - (votes + strength).lgamma() + (votes + 1).lgamma()


def expected_fractions(concentrations: Tensor, groups: Groups) -> Tensor:
    """Mean of the Dirichlet: each concentration over the sum of its question.

    Args:
        concentrations: (B, A), positive.
        groups: Q half-open column ranges that tile 0 to A.

    Returns:
        (B, A), each question's fractions in (0, 1) with sum 1; float32 at least.

    Raises:
        ConfigError: When `groups` do not tile the A columns.

    Source: mean of a Dirichlet distribution.
    """
    columns = _Columns.of(groups, concentrations)
    (concentrations,) = full_precision(concentrations)
    return concentrations / columns.spread(columns.total(concentrations))


def scaled_sigmoid(logits: Tensor) -> Tensor:
    """Logits (any shape) -> concentrations `100 * sigmoid + 1` in [1, 101], float32 at least. Source: zoobot."""
    (logits,) = full_precision(logits)
    return 100.0 * torch.sigmoid(logits) + 1.0


class DirichletHead(nn.Module):
    """Features -> concentrations: dropout that is always on, one linear layer, scaled sigmoid.

    Dropout stays on in `eval()` too: each forward is one draw of an approximate posterior over the concentrations, so
    predictions average several forwards. It draws from torch's default generator of the device (`F.dropout` takes no
    other), whose state belongs in the checkpoint. `dropout=0` makes the head deterministic. The linear layer runs in
    the dtype of its weights, under autocast too: in bfloat16 a concentration near 3 would move in steps of 3 %.

    Weights start uniform within +-sqrt(6 / (in + out)) / 10 and biases uniform in [-4.5, -3.5]: concentrations start
    between about 2.1 and 3.9.

    Args:
        in_features: F, width of the encoder's representation.
        answers: A, answer columns of the schema.
        dropout: Probability of dropping a feature, in [0, 1).
        generator: Source of the initial weights; torch's default generator when None.

    Raises:
        ConfigError: For a dropout outside [0, 1).

    Source: zoobot (head and initialisation), arXiv 2206.11927.
    """

    def __init__(
        self, in_features: int, answers: int, dropout: float = 0.2, generator: torch.Generator | None = None
    ) -> None:
        super().__init__()
        if not 0.0 <= dropout < 1.0:
            raise ConfigError(f"label head: dropout is {dropout}; it must be in [0, 1).")
        self.dropout = dropout
        bound = math.sqrt(6.0 / (in_features + answers)) / 10.0
        self.linear = uniform_linear(in_features, answers, bound, (-4.5, -3.5), generator)

    def forward(self, features: Tensor) -> Tensor:
        """(B, F) features -> (B, A) concentrations in [1, 101], float32 at least."""
        kept = functional.dropout(features, self.dropout, training=True)
        with torch.autocast(device_type=features.device.type, enabled=False):
            return scaled_sigmoid(self.linear(kept.to(self.linear.weight.dtype)))


class _Columns:
    """Sums over the columns of a question, and back, without a loop over questions.

    The sum gathers each question's columns into a padded table instead of scattering: a scatter adds with atomics on
    a GPU, in an order that changes from run to run. Each column is gathered once, so the backward pass is ordered too.
    """

    def __init__(self, groups: tuple[tuple[int, int], ...], device: torch.device) -> None:
        self.answers = groups[-1][1]
        self.questions = len(groups)
        self._width = max(stop - start for start, stop in groups)
        table = [
            [c if c < stop else self.answers for c in range(start, start + self._width)]
            for start, stop in groups
        ]
        owner = [question for question, (start, stop) in enumerate(groups) for _ in range(start, stop)]
        # A cached tensor made inside inference_mode could not be saved for a later backward pass.
        with torch.inference_mode(False):
            self._table = torch.tensor(table, device=device).flatten()
            self.owner = torch.tensor(owner, device=device)

    @classmethod
    def of(cls, groups: Groups, like: Tensor) -> _Columns:
        # Tensors made for a fake or traced one must not be kept for the real ones that follow.
        build = _columns if holds_values(like) else _columns.__wrapped__
        columns = build(tuple((int(start), int(stop)) for start, stop in groups), like.device)
        if like.ndim != 2 or like.shape[1] != columns.answers:
            raise ConfigError(
                f"vote loss: {tuple(like.shape)} is no (B, {columns.answers}) as the questions' columns need. Build "
                "the head for this schema."
            )
        return columns

    def total(self, values: Tensor) -> Tensor:
        """(B, A) -> (B, Q) sums; padding adds exact zeros."""
        padded = functional.pad(values, (0, 1))
        return padded.index_select(1, self._table).view(-1, self.questions, self._width).sum(dim=-1)

    def spread(self, values: Tensor) -> Tensor:
        """(B, Q) -> (B, A): the question's value at each of its answers."""
        return values.index_select(1, self.owner)


@lru_cache(maxsize=64)
def _columns(groups: tuple[tuple[int, int], ...], device: torch.device) -> _Columns:
    starts = [start for start, _ in groups]
    stops = [stop for _, stop in groups]
    if not groups or starts != [0, *stops[:-1]] or any(stop <= start for start, stop in groups):
        raise ConfigError(
            f"vote loss: groups {groups} do not tile the answer columns; give half-open (start, stop) pairs in order, "
            "from 0, without gaps, as LabelSchema.groups does."
        )
    return _Columns(groups, device)
