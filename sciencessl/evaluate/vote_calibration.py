"""Whether posteriors of vote fractions mean what they say: their predictions against the votes that a store holds.

Everything is a sum over samples, so that the report streams: `calibration_sums` of any parts add up to those of all.
"""

from __future__ import annotations

import csv
import dataclasses
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from sciencessl.evaluate.metrics import PROBABILITY_FLOOR
from sciencessl.evaluate.posterior import (
    Groups,
    count_distribution,
    expected_fractions,
    log_likelihood,
    question_totals,
    spread_totals,
)
from sciencessl.evaluate.votes import fit_strength
from sciencessl.spec import LabelSchema
from sciencessl.store.reader import Store

LEVELS = tuple(tenth / 10 for tenth in range(1, 10))
"""Of central intervals whose coverage is counted, beside the one asked for."""

BINS = 10
"""Of equal width, of expected fractions."""

CHUNK = 8_192
FITTED = 20_000
"""Samples that the strength of a baseline is fitted on, spread evenly over those with votes."""

_SURE = 1e6
"""Strength in place of an infinite one: votes of one sample then scatter as dice."""

Sums = dict[str, np.ndarray]


@dataclass(frozen=True)
class StoredVotes:
    """The votes that a store holds on the questions of a schema.

    Attributes:
        store: The store.
        schema: The questions.
        homes: Question -> table, for those that the store has with the same answers.
    """

    store: Store
    schema: LabelSchema
    homes: Mapping[str, str]

    def counts(self, index: np.ndarray) -> np.ndarray:
        """(n, A) float64 votes on samples of the store; 0 on questions that it has not."""
        ids = [self.store.ids[i] for i in index]
        found = np.zeros((len(index), len(self.schema.columns)))
        homes = [self.homes.get(self.schema.question_of[column]) for column in self.schema.columns]
        for name in set(self.homes.values()):  # once for each table, which looks all its ids up
            columns = [number for number, home in enumerate(homes) if home == name]
            found[:, columns] = self.store.table(name).counts(ids, [self.schema.columns[i] for i in columns])
        return found

    def voted(self, index: np.ndarray) -> np.ndarray:
        """Of an index, the samples with a vote on any question."""
        if not self.homes:
            return index[:0]
        parts = [index[start : start + CHUNK] for start in range(0, len(index), CHUNK)]
        return np.concatenate([part[self.counts(part).any(axis=1)] for part in parts] or [index[:0]])

    def digests(self) -> dict[str, str]:
        """Table -> digest."""
        return {name: self.store.table(name).digest for name in sorted(set(self.homes.values()))}


def find_votes(store: Store, schema: LabelSchema) -> StoredVotes:
    """The votes of a store on the questions of a schema, by full names; some may be in none of its tables.

    Of tables that have the same question it is the one that training and `transfer` read: `Store.columns`.
    """
    known, homes = store.columns(), {}
    for question in schema.questions:
        name, *others = {known.get(column, "rows") for column in question.columns}
        held = None if others or name == "rows" else store.table(name).schema
        if held and any(q.name == question.name and {*q.answers} == {*question.answers} for q in held.questions):
            homes[question.name] = name
    return StoredVotes(store, schema, homes)


@dataclass(frozen=True)
class Baseline:
    """What predicts the same for every sample: the votes' own pooled fractions, and how far samples scatter about them.

    It is fitted to the very votes that it is scored on, which no model is, so it is as good as a prediction without
    images can be.

    Attributes:
        fractions: (A,) pooled.
        strength: (Q,) sum of the concentrations of a Dirichlet about them, the likeliest.
    """

    fractions: np.ndarray
    strength: np.ndarray

    def concentrations(self, groups: Groups) -> np.ndarray:
        """(A,) of each question."""
        strength = np.repeat(np.minimum(self.strength, _SURE), [stop - start for start, stop in groups])
        alpha: np.ndarray = np.maximum(self.fractions, PROBABILITY_FLOOR) * strength
        return alpha


def fit_baseline(votes: StoredVotes, index: np.ndarray) -> Baseline:
    """The baseline of some samples' votes; of a question without any, equal fractions.

    Args:
        votes: Of the store.
        index: (n,) store indices.
    """
    groups = votes.schema.groups
    pooled = sum((votes.counts(index[start : start + CHUNK]).sum(axis=0) for start in range(0, len(index), CHUNK)),
                 np.zeros(len(votes.schema.columns)))
    few = index[np.unique(np.linspace(0, len(index) - 1, min(len(index), FITTED)).astype(np.int64))]
    counts = votes.counts(few)
    fractions, strength = np.zeros(len(pooled)), np.full(len(groups), np.inf)
    for number, (low, high) in enumerate(groups):
        total, own = pooled[low:high].sum(), counts[:, low:high]
        fractions[low:high] = pooled[low:high] / total if total else 1.0 / (high - low)
        rows = own[own.any(axis=1)]
        if len(rows):
            strength[number] = fit_strength(np.broadcast_to(fractions[low:high], rows.shape), rows)
    return Baseline(fractions, strength)


def calibration_sums(
    alpha: np.ndarray, counts: np.ndarray, groups: Groups, baseline: Baseline, levels: Sequence[float]
) -> Sums:
    """What `summarise` needs of some samples; sums of parts add up.

    Args:
        alpha: (M, n, A) concentrations.
        counts: (n, A) votes.
        groups: Columns of each question.
        baseline: Of all samples.
        levels: Of central intervals, L of them.

    Returns:
        (Q,) `samples` with a vote on the question, `votes`, `squared_votes`, `nll` and `baseline_nll`; (A,) `squared`
        and `baseline_squared` errors of fractions times votes; (A, L) `inside`, votes on samples whose count lies in
        the interval; (A, BINS) `bin_samples`, `bin_votes`, `expected` and `observed` votes.

    Raises:
        ConfigError, DataError: As `posterior.log_likelihood`.
    """
    fractions = expected_fractions(alpha, groups)
    totals, trials = question_totals(counts, groups), spread_totals(counts, groups)
    flat = np.broadcast_to(baseline.concentrations(groups), (1, *counts.shape))
    observed = counts / np.where(trials > 0, trials, 1.0)
    below, up_to = count_distribution(alpha, counts, groups)
    binned = np.minimum((fractions * BINS).astype(np.int64), BINS - 1)
    place = (binned + BINS * np.arange(counts.shape[1]))[trials > 0]

    def in_bins(values: np.ndarray) -> np.ndarray:
        sums = np.bincount(place, values[trials > 0], minlength=BINS * counts.shape[1])
        return sums.reshape(counts.shape[1], BINS)

    return {
        "samples": (totals > 0).sum(axis=0).astype(np.float64),
        "votes": totals.sum(axis=0),
        "squared_votes": (totals**2).sum(axis=0),
        "nll": -log_likelihood(alpha, counts, groups).sum(axis=0),
        "baseline_nll": -log_likelihood(flat, counts, groups).sum(axis=0),
        "squared": (trials * (observed - fractions) ** 2).sum(axis=0),
        "baseline_squared": (trials * (observed - baseline.fractions) ** 2).sum(axis=0),
        "inside": np.stack([(trials * _inside(below, up_to, level)).sum(axis=0) for level in levels], axis=1),
        "bin_samples": in_bins(np.ones_like(trials)),
        "bin_votes": in_bins(trials),
        "expected": in_bins(trials * fractions),
        "observed": in_bins(counts),
    }


def _inside(below: np.ndarray, up_to: np.ndarray, level: float) -> np.ndarray:
    """How much of the step that the predicted cdf makes at a count lies in the central interval of a level.

    Whole votes have no interval of exactly this level, and the next wider one would seem to cover too much: by far,
    where votes are few. This share is what a randomised interval covers, and its mean is the level where the posterior
    is right. Source: randomised probability integral transform (Czado et al. 2009), ours for intervals.
    """
    low, high = (1 - level) / 2, (1 + level) / 2
    within = np.minimum(up_to, high) - np.maximum(below, low)
    share: np.ndarray = np.clip(within / np.maximum(up_to - below, 1e-300), 0.0, 1.0)
    return share


@dataclass(frozen=True)
class FractionBin:
    """Samples with an expected fraction in one tenth of [0, 1].

    Attributes:
        samples: Their number.
        votes: On the question.
        expected: Mean expected fraction, weighted by votes.
        observed: Share of the votes that the answer got.
    """

    samples: int
    votes: float
    expected: float
    observed: float


@dataclass(frozen=True)
class AnswerCalibration:
    """One answer; all means are weighted by the votes on the question.

    Attributes:
        column: Of the answer.
        expected: Mean expected fraction.
        observed: Share of the votes.
        rmse: Of the expected fraction; it holds the scatter of finite votes, which no model removes.
        baseline_rmse: Of the pooled fractions.
        gap: Mean distance of expected and observed over the bins.
        coverage: Level of a central predicted interval -> how often the votes lie in it.
        bins: From low fractions to high ones; empty ones are left out.
    """

    column: str
    expected: float
    observed: float
    rmse: float
    baseline_rmse: float
    gap: float
    coverage: Mapping[float, float]
    bins: tuple[FractionBin, ...]


@dataclass(frozen=True)
class QuestionCalibration:
    """One question.

    Attributes:
        question: Its name.
        samples: With a vote on it.
        votes: On it.
        effective: Number of samples of equal votes that a mean weighted by votes is worth.
        nll: Mean negative log-likelihood of a sample's votes under the posterior, in nats.
        baseline_nll: Of the pooled fractions, whose scatter was fitted to these votes.
        coverage: Level -> mean over answers.
        answers: In the order of the schema.
    """

    question: str
    samples: int
    votes: float
    effective: float
    nll: float
    baseline_nll: float
    coverage: Mapping[float, float]
    answers: tuple[AnswerCalibration, ...]

    def coverage_error(self, level: float) -> float:
        """Standard error of the coverage of a level if the posterior is right, as if its answers were one."""
        return float(np.sqrt(level * (1 - level) / self.effective))


def summarise(sums: Mapping[str, np.ndarray], schema: LabelSchema, levels: Sequence[float]
              ) -> tuple[QuestionCalibration, ...]:
    """The questions with a vote, from the sums of all samples."""
    found = []
    for number, (question, (low, high)) in enumerate(zip(schema.questions, schema.groups, strict=True)):
        samples, votes = int(sums["samples"][number]), float(sums["votes"][number])
        if not samples:
            continue
        answers = tuple(_answer(sums, schema.columns[column], column, votes, levels) for column in range(low, high))
        coverage = {level: float(np.mean([answer.coverage[level] for answer in answers])) for level in levels}
        found.append(QuestionCalibration(
            question.name, samples, votes, votes**2 / float(sums["squared_votes"][number]),
            float(sums["nll"][number]) / samples, float(sums["baseline_nll"][number]) / samples, coverage, answers,
        ))
    return tuple(found)


def _answer(
    sums: Mapping[str, np.ndarray], name: str, column: int, votes: float, levels: Sequence[float]
) -> AnswerCalibration:
    keys = ("bin_samples", "bin_votes", "expected", "observed")
    rows = [row for row in zip(*(sums[key][column].tolist() for key in keys), strict=True) if row[0]]
    return AnswerCalibration(
        column=name,
        expected=float(sums["expected"][column].sum()) / votes,
        observed=float(sums["observed"][column].sum()) / votes,
        rmse=float(np.sqrt(sums["squared"][column] / votes)),
        baseline_rmse=float(np.sqrt(sums["baseline_squared"][column] / votes)),
        gap=float(np.abs(sums["expected"][column] - sums["observed"][column]).sum()) / votes,
        coverage=dict(zip(levels, (sums["inside"][column] / votes).tolist(), strict=True)),
        bins=tuple(FractionBin(int(n), weight, expected / weight, observed / weight)
                   for n, weight, expected, observed in rows),
    )


def calibration_csv(questions: Sequence[QuestionCalibration]) -> str:
    """A line for each answer."""
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    own = ("question", "samples", "votes", "nll", "baseline_nll")
    each = tuple(f.name for f in dataclasses.fields(AnswerCalibration) if f.name not in ("coverage", "bins"))
    levels = list(questions[0].coverage) if questions else []
    writer.writerow([*own, *each, *(f"coverage_{100 * level:g}pc" for level in levels)])
    for question in questions:
        for answer in question.answers:
            writer.writerow([*(getattr(question, name) for name in own), *(getattr(answer, name) for name in each),
                             *(answer.coverage[level] for level in levels)])
    return out.getvalue()
