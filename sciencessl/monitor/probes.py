"""Online probes: while an encoder trains, how well would kNN and a linear layer read labels off its features?

Both see detached features of the training batch and say what they expect of a row before they learn its label, so that
a score is that of a guess. It is still one of the training stream: of augmented views, with rows that came in earlier
epochs, and of an encoder that moves. `transfer` is what measures; a probe tells early that something goes wrong.

Everything that is probed is one row of answers, and answers compete within a question: the classes of a column,
`absent` and `present` of one label, or the answers to one question of a vote table. Neither probe draws a random
number, holds a `Parameter`, or touches a gradient: weights are those of a run without probes, bit for bit.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from sciencessl.samples import Batch
from sciencessl.spec import UNLABELLED
from sciencessl.train.labels import LabelSet
from sciencessl.train.ranks import ALONE, Ranks

BANK = 4096
"""Rows that kNN looks among: the last of this rank that had a label."""
OWN_BUFFER = "bank"
"""The one that differs between ranks."""
NEIGHBOURS = 20
TEMPERATURE = 0.1
"""Of the vote of a neighbour, exp(cosine / temperature): as in `evaluate.knn`."""
RATE = 0.03
"""Step of the linear layer times sqrt(F), by Adam: a step then changes an output alike at any width."""
BETAS = (0.9, 0.999)
DECAY = 0.9
"""Of the mean and spread that features are standardised by, for each step with a labelled row."""
TINY = 1e-12
_HALF = 2**20
"""Positions in the store are kept as two float32 numbers, exact up to 2**44 samples."""


@dataclass(frozen=True)
class _Question:
    """Answers `lo` to `hi`, one vote a row for classes, any number of `votes` otherwise; scored under `name`."""

    name: str
    lo: int
    hi: int
    votes: bool


class Probes(nn.Module):
    """kNN and linear probes of all labels asked for. All state is in buffers, so that checkpoints keep it.

    In several processes the linear probe, its statistics and the scores are those of the whole batch, the same on every
    rank. Each rank has a bank of its own rows: kNN scores are those of as many small banks.

    Args:
        sets: The labels, as `find_probes` has them: batches hold them under the same names.
        features: F.
        bank: Rows of the bank.
    """

    weight: Tensor
    moments: Tensor
    steps: Tensor
    sums: Tensor
    bank: Tensor
    scores: Tensor
    balance: Tensor
    mean: Tensor

    def __init__(self, sets: Sequence[LabelSet], features: int, bank: int = BANK) -> None:
        super().__init__()
        self._features = features
        self._classes = {labels.name: len(labels.classes) for labels in sets}
        self._questions = _questions(sets)
        answers = self._questions[-1].hi
        self.register_buffer("weight", torch.zeros(answers, features + 1))
        self.register_buffer("moments", torch.zeros(2, answers, features + 1))
        self.register_buffer("steps", torch.zeros(()))
        self.register_buffer("sums", torch.zeros(1 + 2 * features))
        self.register_buffer(OWN_BUFFER, torch.full((bank, features + answers + 2), -1.0))
        self.register_buffer("scores", torch.zeros(2, 2, answers))
        totals = torch.from_numpy(np.concatenate([_totals(labels) for labels in sets]))
        self.register_buffer("balance", self._balance(totals), persistent=False)
        self.register_buffer("mean", (totals / self._spread(totals[None])[0].clamp(min=TINY)).float(), persistent=False)

    @torch.no_grad()
    def observe(self, representations: Tensor, batch: Batch, ranks: Ranks = ALONE) -> None:
        """Score both probes on a batch, then let them learn from it, without waiting for the device.

        Args:
            representations: (B, F) of the batch, of this rank's rows; left as they are.
            batch: Its labels, on the CPU, and positions.
            ranks: The processes that share the batch: all of them must call this, which sends one message.
        """
        device = representations.device
        with torch.autocast(device.type, enabled=False):
            rows = self._labelled(batch)
            features = representations.detach().float().index_select(0, rows.to(device, non_blocking=True))
            counts = self._counts(batch, rows, device)
            index = torch.from_numpy(batch.index)[rows].to(device, non_blocking=True)
            unit = functional.normalize(features)
            nearest, linear = self._nearest(unit, index), self._linear(features)
            expected = self._softmax(linear @ self.weight.T)
            weighted = counts * self.balance
            gradient = (self._spread(weighted) * expected - weighted).T @ linear
            told = torch.stack([self._told(nearest, counts), self._told(expected, counts)])
            self._learn(features, gradient, told, ranks)
            self._keep(torch.cat([unit, counts, index[:, None] // _HALF, index[:, None] % _HALF], dim=1))

    def read(self) -> dict[str, float]:
        """Scores since the last call, read from the device: `probe_knn_NAME` and `probe_linear_NAME`.

        For classes balanced accuracy; for several labels its mean over labels; for votes R^2 of the fractions,
        1 - (rmse / rmse of the mean fractions)^2 with rows weighted by their votes. What was not seen is left out.
        Every rank must call this.
        """
        told = self.scores.to("cpu", copy=True)
        self.scores.zero_()
        row = {}
        for name, group in itertools.groupby(self._questions, key=lambda question: question.name):
            questions = list(group)
            for probe, sums in zip(("knn", "linear"), told, strict=True):
                found = [_score(sums[:, q.lo : q.hi], q.votes) for q in questions]
                seen = [score for score in found if score is not None]
                if seen:
                    row[f"probe_{probe}_{name}"] = sum(seen) / len(seen)
        return row

    def _labelled(self, batch: Batch) -> Tensor:
        """(n,) rows with any label, found where labels are: on the host, before they travel."""
        found = [batch.labels[name] != UNLABELLED if classes else (batch.labels[name] > 0).any(dim=1)
                 for name, classes in self._classes.items()]
        return torch.stack(found).any(dim=0).nonzero().flatten()

    def _counts(self, batch: Batch, rows: Tensor, device: torch.device) -> Tensor:
        """(n, A) votes; one for the class of a row."""
        parts = []
        for name, classes in self._classes.items():
            labels = batch.labels[name][rows].to(device, non_blocking=True)
            parts.append((labels[:, None] == torch.arange(classes, device=device)).float() if classes else labels)
        return torch.cat(parts, dim=1)

    def _spread(self, values: Tensor) -> Tensor:
        """(n, A) -> the sum of the question at each of its answers."""
        parts = [values[:, q.lo : q.hi] for q in self._questions]
        return torch.cat([part.sum(dim=1, keepdim=True).expand_as(part) for part in parts], dim=1)

    def _softmax(self, outputs: Tensor) -> Tensor:
        return torch.cat([outputs[:, q.lo : q.hi].softmax(dim=1) for q in self._questions], dim=1)

    def _balance(self, totals: Tensor) -> Tensor:
        """(A,) weights under which all classes of a question weigh the same; 1 for votes."""
        rows = self._spread(totals[None])[0]
        parts = [torch.ones(q.hi - q.lo) if q.votes else rows[q.lo : q.hi] / totals[q.lo : q.hi].clamp(min=1)
                 / (q.hi - q.lo) for q in self._questions]
        return torch.cat(parts).float()

    def _nearest(self, unit: Tensor, index: Tensor) -> Tensor:
        """(n, A) shares of the neighbours' votes; all 0 in a question that no neighbour answers.

        A row never votes for itself: another view of it may be in the bank, with the label that is asked for.
        """
        known, counts, place = torch.split(self.bank, [self._features, len(self.balance), 2], dim=1)
        kept = place[:, 0].long() * _HALF + place[:, 1].long()
        near = (unit @ known.T).masked_fill((kept == index[:, None]) | (kept < 0), -torch.inf)
        values, where = near.topk(min(NEIGHBOURS, len(kept)), dim=1)
        # Relative to a cosine of 1, an empty place weighs nothing and nothing overflows.
        votes = torch.zeros_like(near).scatter_(1, where, ((values - 1) / TEMPERATURE).exp()) @ (counts * self.balance)
        shares: Tensor = votes / self._spread(votes).clamp(min=torch.finfo(votes.dtype).tiny)
        return shares

    def _linear(self, features: Tensor) -> Tensor:
        """(n, F + 1) features standardised by what came before, and a one for the bias."""
        rows, total, squares = torch.split(self.sums, [1, self._features, self._features])
        mean = total / rows.clamp(min=TINY)
        spread = torch.where(rows > 0, (squares / rows.clamp(min=TINY) - mean.square()).clamp(min=0), 1.0)
        return functional.pad((features - mean) / (spread + 1e-5).sqrt(), (0, 1), value=1.0)

    def _told(self, expected: Tensor, counts: Tensor) -> Tensor:
        """(2, A) numerators and denominators of the scores."""
        # kNN expects nothing where it has no neighbour yet: such a row is no guess, so it is not scored.
        counts = counts * (self._spread(expected) > 0)
        votes = self._spread(counts)
        fractions = counts / votes.clamp(min=TINY)
        parts = []
        for q in self._questions:
            own, guess = counts[:, q.lo : q.hi], expected[:, q.lo : q.hi]
            if q.votes:
                truth, weight = fractions[:, q.lo : q.hi], votes[:, q.lo : q.hi]
                errors = [weight * (truth - guess).square(), weight * (truth - self.mean[q.lo : q.hi]).square()]
                parts.append(torch.stack([error.sum(dim=0) for error in errors]))
            else:
                hit = guess.argmax(dim=1, keepdim=True) == torch.arange(q.hi - q.lo, device=own.device)
                parts.append(torch.stack([(own * hit).sum(dim=0), own.sum(dim=0)]))
        return torch.cat(parts, dim=1)

    def _learn(self, features: Tensor, gradient: Tensor, told: Tensor, ranks: Ranks) -> None:
        """One step of Adam on the gradient of all ranks (arXiv 1412.6980), none where no row had a label."""
        rows = features.new_full((1,), len(features))
        pieces = [rows, features.sum(dim=0), features.square().sum(dim=0), gradient.flatten(), told.flatten()]
        packed = ranks.sum(torch.cat(pieces))
        sums, gradient, told = torch.split(packed, [len(self.sums), gradient.numel(), told.numel()])
        some = (sums[0] > 0).float()
        gradient = gradient.view_as(self.weight) / sums[0].clamp(min=1)
        self.scores += told.view_as(self.scores)
        self.sums.mul_(1 - (1 - DECAY) * some).add_(sums)
        self.steps += some
        for moment, value, beta in zip(self.moments, (gradient, gradient.square()), BETAS, strict=True):
            moment.lerp_(value, (1 - beta) * some)
        first, second = (moment / (1 - beta**self.steps).clamp(min=TINY)
                         for moment, beta in zip(self.moments, BETAS, strict=True))
        self.weight -= some * RATE * self._features**-0.5 * first / (second.sqrt() + 1e-8)

    def _keep(self, rows: Tensor) -> None:
        """The newest rows come first, the oldest fall out."""
        rows = rows[: len(self.bank)]
        self.bank = torch.cat([rows, self.bank[: len(self.bank) - len(rows)]])


def _questions(sets: Sequence[LabelSet]) -> list[_Question]:
    found: list[_Question] = []
    for labels in sets:
        asked = [(labels.name, len(labels.classes))] if labels.schema is None else [
            (labels.name if labels.several else question.name, len(question.answers))
            for question in labels.schema.questions
        ]
        for name, width in asked:
            lo = found[-1].hi if found else 0
            found.append(_Question(name, lo, lo + width, votes=labels.schema is not None and not labels.several))
    return found


def _totals(labels: LabelSet) -> np.ndarray:
    """(A,) votes for each answer, or rows of each class, in all that may be learned from."""
    if labels.schema is not None:
        return np.asarray(labels.values.sum(axis=0, dtype=np.float64))
    return np.bincount(labels.values[labels.values != UNLABELLED], minlength=len(labels.classes)).astype(np.float64)


def _score(sums: Tensor, votes: bool) -> float | None:
    """From (2, answers) numerators and denominators; None where nothing was seen."""
    upper, lower = sums.double()
    if votes:
        return float(1 - upper.sum() / lower.sum()) if lower.sum() > 0 else None
    seen = lower > 0
    return float((upper[seen] / lower[seen]).mean()) if seen.any() else None
