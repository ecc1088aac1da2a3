"""Posteriors of vote fractions: mixtures of Dirichlets, one for each member of an ensemble. NumPy alone, no files.

`alpha` is (M, N, A) everywhere: concentrations of M members (runs, passes with dropout, or both) for N samples and the
A answers of all questions. Member m says that the fractions of a question are Dirichlet(alpha[m]), and the posterior is
the mixture of all members with equal weights. `groups` are half-open column ranges, one a question, in order and
without gaps, as `LabelSchema.groups` has them.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from scipy.special import betainc, betaincinv, betaln, gammaln, logsumexp

from sciencessl.errors import ConfigError, DataError
from sciencessl.spec import LabelSchema

Groups = Sequence[tuple[int, int]]

PRECISION = 1e-8
"""Quantiles of mixtures are found when they move by less; the last step is far better where it is Newton's."""

COUNTED = 10_000
"""Votes on a question of a sample up to which predicted counts are added up; a smooth distribution stands for more."""

_STEPS = 100
"""More than halving [0, 1] down to `PRECISION` takes."""


def question_totals(values: np.ndarray, groups: Groups) -> np.ndarray:
    """(..., A) -> (..., Q): sums over the answers of each question."""
    sums: np.ndarray = np.add.reduceat(values, [start for start, _ in groups], axis=-1)
    return sums


def spread_totals(values: np.ndarray, groups: Groups) -> np.ndarray:
    """(..., A) -> (..., A): the sum of its question at each answer."""
    return np.repeat(question_totals(values, groups), [stop - start for start, stop in groups], axis=-1)


def expected_fractions(alpha: np.ndarray, groups: Groups) -> np.ndarray:
    """(N, A) means of the mixture; those of a question sum to 1.

    Raises:
        ConfigError: When there is no member, or `groups` do not tile the answers.
        DataError: When a concentration is not positive and finite.
    """
    checked = _checked(alpha, groups)
    mean: np.ndarray = (checked / spread_totals(checked, groups)).mean(axis=0)
    return mean


def mixture_quantiles(alpha: np.ndarray, groups: Groups, probabilities: Sequence[float]) -> np.ndarray:
    """Quantiles of each answer's fraction under the mixture: where the mean of the members' Beta cdfs reaches p.

    They are not the mean or median of the members' own quantiles, which hold too little wherever members disagree.
    The cdf is inverted by bisection, with a Newton step where that stays in the bracket; for one member it is the
    quantile of a Beta.

    Args:
        alpha: (M, N, A).
        groups: Columns of each question.
        probabilities: P values in (0, 1).

    Returns:
        (P, N, A) in [0, 1], to about 1e-8.

    Raises:
        ConfigError: As `expected_fractions`; and for a probability outside (0, 1).
        DataError: As `expected_fractions`.
    """
    wrong = [p for p in probabilities if not 0.0 < p < 1.0]
    if wrong:
        raise ConfigError(f"quantiles: probability {wrong[0]} must be above 0 and below 1.")
    checked = _checked(alpha, groups)
    others = spread_totals(checked, groups) - checked
    a, b = (values.reshape(len(checked), -1) for values in (checked, others))
    found = [_invert(a, b, p).reshape(checked.shape[1:]) for p in probabilities]
    return np.stack(found) if found else np.zeros((0, *checked.shape[1:]))


def _invert(a: np.ndarray, b: np.ndarray, p: float) -> np.ndarray:
    """(M, n) parameters of Betas -> (n,) p-quantiles of their mixtures."""
    if len(a) == 1:
        only: np.ndarray = betaincinv(a[0], b[0], p)
        return only
    x = _alike(a, b, p)
    found = x.copy()
    left, low, high = np.arange(a.shape[1]), np.zeros(a.shape[1]), np.ones(a.shape[1])
    log_scale = betaln(a, b)
    for _ in range(_STEPS):
        if not left.size:
            break
        excess = betainc(a, b, x).mean(axis=0) - p
        low, high = np.where(excess < 0, x, low), np.where(excess < 0, high, x)
        with np.errstate(divide="ignore", over="ignore", invalid="ignore"):  # such a step is not taken
            step = x - excess / np.exp((a - 1) * np.log(x) + (b - 1) * np.log1p(-x) - log_scale).mean(axis=0)
        moved = np.where((step > low) & (step < high), step, (low + high) / 2)
        found[left] = moved
        going = (np.abs(moved - x) > PRECISION) & (high - low > PRECISION)
        left, low, high, x = left[going], low[going], high[going], moved[going]
        a, b, log_scale = a[:, going], b[:, going], log_scale[:, going]
    return found


def _alike(a: np.ndarray, b: np.ndarray, p: float) -> np.ndarray:
    """The p-quantiles of Betas with the mixtures' means and variances: where to begin."""
    means = a / (a + b)
    mean = means.mean(axis=0)
    variance = (means * (1 - means) / (a + b + 1) + means**2).mean(axis=0) - mean**2
    with np.errstate(divide="ignore", invalid="ignore"):
        total = mean * (1 - mean) / variance - 1
        found = betaincinv(mean * total, (1 - mean) * total, p)
    # Out of reach of float64 (members sure of 0 or 1), or nearly so: bisection takes over.
    return np.where((found > 0) & (found < 1), found, 0.5)


def asked(alpha: np.ndarray, schema: LabelSchema) -> np.ndarray:
    """(N, Q) how likely each question is to be asked, the mean over members of `LabelSchema.asked_probability`.

    It is a product of fractions up the tree, so the members' products are averaged and not their fractions: they are
    each a world of its own.

    Raises:
        ConfigError, DataError: As `expected_fractions`.
    """
    checked = _checked(alpha, schema.groups)
    likely: np.ndarray = schema.asked_probability(checked / spread_totals(checked, schema.groups)).mean(axis=0)
    return likely


def log_likelihood(alpha: np.ndarray, counts: np.ndarray, groups: Groups) -> np.ndarray:
    """Log probability of the votes on each question under the mixture of Dirichlet-multinomials, in nats.

    For one member it is minus `losses.dirichlet.dirichlet_multinomial_nll`; for several the log of the mean of the
    members' probabilities. A question without votes has exactly 0.

    Args:
        alpha: (M, N, A).
        counts: (N, A) votes, 0 or more, possibly fractional.
        groups: Columns of each question.

    Returns:
        (N, Q), at most 0 where votes are whole.

    Raises:
        ConfigError: As `expected_fractions`; and when counts are not (N, A).
        DataError: As `expected_fractions`; and when counts are negative or not finite.
    """
    checked, votes = _checked(alpha, groups), _checked_counts(counts, alpha)
    totals, strength = question_totals(votes, groups), question_totals(checked, groups)
    answers = gammaln(votes + checked) - gammaln(checked) - gammaln(votes + 1)
    members = gammaln(strength) + gammaln(totals + 1) - gammaln(totals + strength) + question_totals(answers, groups)
    mixture = logsumexp(members, axis=0) - np.log(len(checked))
    return np.where(totals > 0, mixture, 0.0)


def count_distribution(alpha: np.ndarray, counts: np.ndarray, groups: Groups) -> tuple[np.ndarray, np.ndarray]:
    """Where the votes for each answer lie in what the mixture predicts for so many votes on its question.

    The votes for an answer are Beta-binomial given a member. If the posterior is right, a uniform draw between the two
    values is uniform in [0, 1], however few the votes: what intervals of finite votes are judged by.

    Args:
        alpha: (M, N, A).
        counts: (N, A) votes, rounded to whole ones. Beyond `COUNTED` on a question probabilities are to about 1e-3.
        groups: Columns of each question.

    Returns:
        (N, A) probability of fewer votes for the answer, and (N, A) of at most as many; 0 and 1 without votes on its
        question.

    Raises:
        ConfigError, DataError: As `log_likelihood`.
    """
    checked, votes = _checked(alpha, groups), np.rint(_checked_counts(counts, alpha))
    others = spread_totals(checked, groups) - checked
    trials = spread_totals(votes, groups)
    below, exactly = np.zeros(votes.shape), np.zeros(votes.shape)
    for a, b in zip(checked, others, strict=True):
        own = gammaln(trials + 1) - gammaln(votes + 1) - gammaln(trials - votes + 1)
        point = np.exp(own + betaln(votes + a, trials - votes + b) - betaln(a, b))
        many = trials > COUNTED
        tail = _lower_tail(np.where(many, 0.0, point), votes, trials, a, b)
        below += np.where(many, _smooth_cdf(votes - 0.5, trials, a, b), tail) / len(checked)
        exactly += point / len(checked)
    return np.clip(below, 0.0, 1.0), np.clip(below + exactly, 0.0, 1.0)


def _lower_tail(point: np.ndarray, votes: np.ndarray, trials: np.ndarray, a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """P(K < votes) of a Beta-binomial, summed downwards from P(K = votes) by the ratio of neighbours."""
    # Where float64 has no P(K = votes), the votes lie beyond one of the tails.
    total = np.where(votes * (a + b) > trials * a, 1.0, 0.0).ravel()
    left = np.flatnonzero(point > 0)
    total[left] = 0.0
    left = left[votes.ravel()[left] > 0]
    k, n, a, b, term = (values.ravel()[left] for values in (votes, trials, a, b, point))
    while left.size:
        term = term * k * (n - k + b) / ((n - k + 1) * (k - 1 + a))
        total[left] += term
        k = k - 1
        going = k > 0
        left, k, n, a, b, term = left[going], k[going], n[going], a[going], b[going], term[going]
    return total.reshape(votes.shape)


def _smooth_cdf(votes: np.ndarray, trials: np.ndarray, a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """P(K < votes) of a Beta-binomial of many trials, as the Beta of K / trials with the same mean and variance."""
    trials = np.maximum(trials, 1.0)
    same = (trials * (a + b + 1) / (a + b + trials) - 1) / (a + b)
    cdf: np.ndarray = betainc(a * same, b * same, np.clip(votes / trials, 0.0, 1.0))
    return cdf


def _checked(alpha: np.ndarray, groups: Groups) -> np.ndarray:
    alpha = np.asarray(alpha, dtype=np.float64)
    starts, stops = [start for start, _ in groups], [stop for _, stop in groups]
    if not groups or starts != [0, *stops[:-1]] or any(stop <= start for start, stop in groups):
        raise ConfigError(
            f"posterior: groups {tuple(groups)} do not tile the answers; give half-open (start, stop) pairs in order, "
            "from 0, without gaps, as LabelSchema.groups does."
        )
    if alpha.ndim != 3 or alpha.shape[2] != stops[-1]:
        raise ConfigError(f"posterior: concentrations {alpha.shape} must be (members, samples, {stops[-1]} answers).")
    if not len(alpha):
        raise ConfigError("posterior: there is no member; give the concentrations of one model or more.")
    if not (np.isfinite(alpha) & (alpha > 0)).all():
        raise DataError("posterior: some concentrations are not positive and finite; check the models.")
    return alpha


def _checked_counts(counts: np.ndarray, alpha: np.ndarray) -> np.ndarray:
    counts = np.asarray(counts, dtype=np.float64)
    if counts.shape != np.shape(alpha)[1:]:
        raise ConfigError(f"posterior: counts {counts.shape} must be {np.shape(alpha)[1:]}, as the concentrations.")
    if not np.isfinite(counts).all() or (counts < 0).any():
        raise DataError("posterior: counts must be finite and 0 or more; a missing count is 0.")
    return counts
