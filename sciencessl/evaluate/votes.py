"""Counts of answers to one question: a multinomial head, how far votes scatter around it, and what it is worth."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.optimize import minimize_scalar
from scipy.special import gammaln

from sciencessl.errors import DataError
from sciencessl.evaluate.linear import (
    FittedClassifier,
    SoftmaxPath,
    best_c,
    checked_rows,
    few_units,
    one_thread,
    search_c,
    unit_folds,
)
from sciencessl.evaluate.metrics import PROBABILITY_FLOOR
from sciencessl.evaluate.sample_scores import ratio_scores

_STRENGTHS = (0.1, 1e5)
"""Range in which the strength is looked for: from one answer an object to votes that scatter as dice."""


@dataclass(frozen=True)
class FittedVotes:
    """A softmax layer for answer fractions, and how far the votes scatter around them.

    Attributes:
        model: The layer; its classes are the answers that the budget's votes hold.
        n_answers: K.
        trials: Number of inverse penalties tried.
        fixed: Whether C is the default because labels were few.
        search: Inverse penalty -> held-out loss per vote, empty where fixed.
        strength: Sum of the concentrations of a Dirichlet around the fractions; infinite where it was not fitted, or
            where votes scatter no more than a multinomial does.
    """

    model: FittedClassifier
    n_answers: int
    trials: int
    fixed: bool
    search: dict[float, float]
    strength: float = float("inf")

    def fractions(self, features: np.ndarray) -> np.ndarray:
        """(M, D) features -> (M, K) expected fractions, rows sum to 1; 0 for an answer without a vote in the budget."""
        return self.model.probabilities(features, self.n_answers)


def fit_votes(
    features: np.ndarray, counts: np.ndarray, units: np.ndarray, rng_seed: int, dispersion: bool = False
) -> FittedVotes:
    """Fit multinomial logistic regression with an L2 penalty to the votes of one budget.

    The objective is sum_i v_i / mean(v) * cross_entropy(counts_i / v_i, p_i) + |W|^2 / (2 C), v_i the votes on row i:
    without the penalty the maximum-likelihood estimate of the multinomial. C means the same as in `fit_logistic` and is
    chosen in the same way (grid, stop, folds over units, stratified by the leading answer; `FIXED_C` at ten units an
    answer or fewer), by the held-out loss per vote. Rows without votes are ignored.

    Args:
        features: (n, D) embeddings, finite.
        counts: (n, K) votes, 0 or more, possibly fractional.
        units: (n,) unit of each row; rows of a unit never straddle folds.
        rng_seed: Seeds the folds.
        dispersion: Whether to fit the strength too, on held-out fractions of the budget; never where labels are few.

    Raises:
        DataError: For shapes that do not match, no votes, negative counts, or values that are not finite.
    """
    features, counts, units = checked_rows(features, np.asarray(counts, dtype=np.float64), units)
    _check(counts, counts.shape)
    rows = counts.sum(axis=1) > 0
    features, counts, units = features[rows], counts[rows], units[rows]
    strength = float("inf")
    with one_thread():
        folds = [] if few_units(np.flatnonzero(counts.sum(axis=0)), units) else [
            (_path(features[train], counts[train]), features[held], counts[held])
            for train, held in unit_folds(counts.argmax(axis=1), units, rng_seed)
        ]
        search = search_c(lambda c: _held_out_loss(folds, c)) if folds else {}
        model = _path(features, counts).solve(best_c(search), tolerance=1e-6)
        if dispersion and folds:
            strength = fit_strength(*_held_out_fractions(folds, model.c))
    return FittedVotes(model, counts.shape[1], max(1, len(search)), not search, search, strength)


def fit_strength(fractions: np.ndarray, counts: np.ndarray) -> float:
    """The strength s of a Dirichlet-multinomial with concentrations s * fractions that the votes are likeliest under.

    Args:
        fractions: (n, K) of a model that has not seen these rows: its own training rows would seem to scatter less.
        counts: (n, K) votes.

    Returns:
        A strength in [0.1, 1e5], or infinity where a multinomial is as likely.

    Raises:
        DataError: As `vote_nll`.
    """
    def loss(log_strength: float) -> float:
        return float(vote_nll(fractions, counts, float(np.exp(log_strength))).sum())

    found = minimize_scalar(loss, bounds=tuple(np.log(_STRENGTHS)), method="bounded", options={"xatol": 1e-4})
    return float(np.exp(found.x)) if found.fun < vote_nll(fractions, counts).sum() else float("inf")


def mean_fractions(counts: np.ndarray) -> np.ndarray:
    """(n, K) votes -> (K,) their pooled fractions: the best prediction that looks at no image.

    Raises:
        DataError: For negative counts or no vote at all.
    """
    counts = np.asarray(counts, dtype=np.float64)
    _check(counts, counts.shape)
    pooled: np.ndarray = counts.sum(axis=0) / counts.sum()
    return pooled


def vote_nll(fractions: np.ndarray, counts: np.ndarray, strength: float = float("inf")) -> np.ndarray:
    """(N,) negative log-likelihood of each sample's votes in nats; 0 for a sample without votes.

    Of the votes one after the other, without the multinomial coefficient, which no model changes: divided by the
    number of votes it compares with the log loss of classes. With a finite strength the votes are Dirichlet-multinomial
    with concentrations strength * fractions.

    Args:
        fractions: (N, K), clipped at `PROBABILITY_FLOOR`.
        counts: (N, K) votes.
        strength: Positive.

    Raises:
        DataError: For shapes that do not match, no votes, negative counts, or values that are not finite.
    """
    _check(counts, fractions.shape)
    if not np.isfinite(fractions).all():
        raise DataError("votes: some fractions are not finite; check the embeddings and the fit.")
    share = np.clip(fractions, PROBABILITY_FLOOR, 1.0)
    if not np.isfinite(strength):
        loss: np.ndarray = -(counts * np.log(share)).sum(axis=1)
        return loss
    alpha = strength * share
    total, votes = alpha.sum(axis=1), counts.sum(axis=1)
    dirichlet: np.ndarray = gammaln(votes + total) - gammaln(total) - (gammaln(counts + alpha) - gammaln(alpha)).sum(1)
    return dirichlet


def vote_scores(
    name: str, fractions: np.ndarray, counts: np.ndarray, strength: float = float("inf")
) -> np.ndarray:
    """(N,) scores whose mean is the metric of `vote_metrics`: what `hierarchical_interval` takes, without strata.

    Args:
        name: `nll` or `rmse`.
        fractions: (N, K).
        counts: (N, K) votes.
        strength: For `nll`, as in `vote_nll`.

    Raises:
        DataError: As `vote_nll`.
    """
    loss, votes = vote_nll(fractions, counts, strength), counts.sum(axis=1)
    if name == "nll":
        return ratio_scores(loss, votes)
    error = counts / np.maximum(votes, 1e-300)[:, None] - fractions
    squared = ratio_scores(votes * (error**2).mean(axis=1), votes)
    root = float(np.sqrt(squared.mean()))
    # The slope of the square root at the mean; without any error the root has none, and no score differs.
    scores: np.ndarray = root + (squared - squared.mean()) / (2 * root) if root > 0 else squared
    return scores


def vote_metrics(fractions: np.ndarray, counts: np.ndarray, baseline: np.ndarray) -> dict[str, float]:
    """`nll` per vote in nats, `rmse` of fractions, and both of the mean predictor (`mean_nll`, `mean_rmse`).

    The root mean square is over votes and answers, sqrt(sum_i v_i mean_j (f_ij - p_ij)^2 / sum_i v_i); it holds the
    scatter of the votes themselves, which no model removes.

    Args:
        fractions: (N, K) predicted.
        counts: (N, K) votes.
        baseline: (K,) from `mean_fractions` of the budget's votes.

    Raises:
        DataError: As `vote_nll`.
    """
    constant = np.broadcast_to(baseline, fractions.shape)
    return {
        f"{prefix}{name}": float(vote_scores(name, values, counts).mean())
        for prefix, values in (("", fractions), ("mean_", constant)) for name in ("nll", "rmse")
    }


def _path(features: np.ndarray, counts: np.ndarray) -> SoftmaxPath:
    answers, votes = np.flatnonzero(counts.sum(axis=0)), counts.sum(axis=1)
    return SoftmaxPath(features, counts[:, answers] / votes[:, None], votes / votes.mean(), answers)


_Folds = list[tuple[SoftmaxPath, np.ndarray, np.ndarray]]


def _held_out_loss(folds: _Folds, c: float) -> float:
    """Per vote; votes for an answer that the other folds lack are not scored."""
    loss = votes = 0.0
    for path, features, counts in folds:
        model = path.solve(c, tolerance=1e-5)
        own = counts[:, model.classes]
        votes += float(own.sum())
        loss += float(vote_nll(model.probabilities(features)[:, model.classes], own).sum()) if own.any() else 0.0
    return loss / votes


def _held_out_fractions(folds: _Folds, c: float) -> tuple[np.ndarray, np.ndarray]:
    fractions, held = [], []
    for path, features, counts in folds:
        fractions.append(path.solve(c, tolerance=1e-5).probabilities(features, counts.shape[1]))
        held.append(counts)
    return np.concatenate(fractions), np.concatenate(held)


def _check(counts: np.ndarray, shape: tuple[int, ...]) -> None:
    if counts.ndim != 2 or counts.shape != shape:
        raise DataError(f"votes: counts {counts.shape} and fractions {shape} must both be (N, K).")
    if not np.isfinite(counts).all() or (counts < 0).any():
        raise DataError("votes: counts must be finite and 0 or more; a missing count is 0.")
    if not counts.any():
        raise DataError(f"votes: none of the {len(counts)} samples has a vote.")
