"""What the next votes on a sample would teach: scores that a choice of samples to label is made by.

`alpha` is (M, N, A): Dirichlet concentrations of M members, as in `posterior`. Member m says that the votes of n
volunteers on a question are Dirichlet-multinomial, p_m(k). The mutual information between these votes and which member
is right,

    I = H[mean_m p_m(k)] - mean_m H[p_m(k)] = mean_m KL(p_m || mean p),

is high where members are sure and disagree, and 0 where all are equally unsure: votes that scatter by themselves teach
nothing.

Source: BALD (Houlsby et al. 2011, arXiv:1112.5745), for votes in Walmsley et al. 2020 (arXiv:1905.07424); that a
question counts as far as it is asked, and the sampling, are ours.
"""

from __future__ import annotations

import hashlib
from functools import lru_cache
from itertools import combinations

import numpy as np

from sciencessl.errors import ConfigError, DataError
from sciencessl.evaluate.posterior import asked, expected_fractions
from sciencessl.spec import LabelSchema

MOST_OUTCOMES = 20_000
"""Outcomes up to which all are added up; with more, outcomes are drawn."""

DRAWS = 2_048
"""Outcomes that are drawn of all members together where there are too many to add up."""

_CHUNK = 2**21
"""Probabilities that are in memory at a time."""


def expected_information(
    alpha: np.ndarray, schema: LabelSchema, volunteers: int, seed: int = 0
) -> np.ndarray:
    """(N, Q) what the votes of so many volunteers on each question would say of the members, in nats.

    `mutual_information` times how likely the question is to be asked at all.

    Args:
        alpha: (M, N, A).
        schema: Of the A answers.
        volunteers: n, who all answer a question once it is asked.
        seed: Of drawn outcomes.

    Returns:
        (N, Q) in [0, log M], in the order of the questions.

    Raises:
        ConfigError: When shapes do not fit, or there is no member or volunteer.
        DataError: When a concentration is not positive and finite.
    """
    weight = asked(alpha, schema)
    found = [mutual_information(alpha[..., start:stop], volunteers, seed) for start, stop in schema.groups]
    return np.asarray(weight * np.stack(found, axis=1))


def next_vote_entropy(alpha: np.ndarray, schema: LabelSchema) -> np.ndarray:
    """(N, Q) entropy in nats of the next volunteer's answer to each question, times how likely it is to be asked.

    It is high wherever volunteers differ, whether or not members do: a score to compare with.

    Raises:
        ConfigError, DataError: As `expected_information`.
    """
    fractions = expected_fractions(alpha, schema.groups)
    with np.errstate(divide="ignore", invalid="ignore"):
        terms = np.where(fractions > 0, -fractions * np.log(fractions), 0.0)
    entropy: np.ndarray = np.add.reduceat(terms, [start for start, _ in schema.groups], axis=1)
    return np.asarray(asked(alpha, schema) * entropy)


def mutual_information(
    alpha: np.ndarray, volunteers: int, seed: int = 0, most_outcomes: int = MOST_OUTCOMES
) -> np.ndarray:
    """(N,) mutual information between the votes on one question and the members, in nats.

    All outcomes are added up where they are few: two answers have n + 1, three (n + 1)(n + 2) / 2. Otherwise (four
    answers beyond 47 volunteers, five beyond 23) it is the mean over `DRAWS` outcomes, as many from each member:
    unbiased, with an error of about a hundredth, and far less where members nearly agree. The draws depend on the
    sample's own concentrations and the seed alone, so that a sample has the same value whatever stands beside it.

    Args:
        alpha: (M, N, A) of one question.
        volunteers: n, 1 or more.
        seed: Of drawn outcomes.
        most_outcomes: Outcomes up to which all are added up.

    Returns:
        (N,) in [0, log M]; exactly 0 for one member, and where members are equal.

    Raises:
        ConfigError: When there is no member, fewer than two answers or no volunteer.
        DataError: When a concentration is not positive and finite.
    """
    alpha = np.asarray(alpha, dtype=np.float64)
    _check(alpha, volunteers)
    members, samples, answers = alpha.shape
    few = outcome_count(answers, volunteers) <= most_outcomes
    outcomes = _all_outcomes(answers, volunteers) if few else None
    width = len(outcomes) if outcomes is not None else DRAWS * members
    step = max(1, _CHUNK // (members * max(width, volunteers * answers)))
    found = np.zeros(samples)
    for start in range(0, samples, step):
        part = alpha[:, start : start + step]
        found[start : start + step] = _added(part, outcomes) if outcomes is not None else _drawn(part, volunteers, seed)
    return np.clip(found, 0.0, np.log(members))


def outcome_count(answers: int, volunteers: int) -> int:
    """In how many ways n votes fall on A answers: (n + A - 1) over (A - 1).

    >>> outcome_count(2, 40), outcome_count(3, 40), outcome_count(6, 40)
    (41, 861, 1221759)
    """
    count = 1
    for position in range(1, answers):
        count = count * (volunteers + position) // position
    return count


@lru_cache(maxsize=8)
def _all_outcomes(answers: int, volunteers: int) -> np.ndarray:
    """(K, A) every way n votes fall on A answers, by where A - 1 bars stand among the votes."""
    places = volunteers + answers - 1
    bars = np.array(list(combinations(range(places), answers - 1)), dtype=np.int64)
    edges = np.concatenate([np.full((len(bars), 1), -1), bars, np.full((len(bars), 1), places)], axis=1)
    return np.diff(edges, axis=1) - 1


class _Votes:
    """Log probabilities of votes under members, from sums of logarithms: no difference of large gamma functions.

    log p(k) = sum_j T_j(k_j) - T(n), where T_j(k) = sum_{i<k} log((a_j + i) / (i + 1)) and T is that of the sum.
    """

    def __init__(self, alpha: np.ndarray, volunteers: int) -> None:
        """Take (M, c, A) concentrations."""
        self.answers = _rising(alpha, volunteers)
        self.total = _rising(alpha.sum(axis=2), volunteers)[..., -1]

    def log_probability(self, counts: np.ndarray) -> np.ndarray:
        """(M, c, K) of (K, A) counts that sum to n."""
        found = -self.total[..., None]
        for answer in range(counts.shape[1]):
            found = found + self.answers[:, :, answer][..., counts[:, answer]]
        return found


def _rising(values: np.ndarray, volunteers: int) -> np.ndarray:
    """(...) -> (..., n + 1): for k = 0 to n the log of a (a + 1) ... (a + k - 1) / k!."""
    steps = np.arange(volunteers)
    terms = np.log((values[..., None] + steps) / (steps + 1.0))
    return np.concatenate([np.zeros((*values.shape, 1)), np.cumsum(terms, axis=-1)], axis=-1)


def _log_mean(values: np.ndarray) -> np.ndarray:
    """Log of the mean of exponentials over the first axis; equal values give just that value."""
    largest = values.max(axis=0)
    mean: np.ndarray = largest + np.log(np.exp(values - largest).mean(axis=0))
    return mean


def _added(alpha: np.ndarray, outcomes: np.ndarray) -> np.ndarray:
    log_p = _Votes(alpha, int(outcomes[0].sum())).log_probability(outcomes)
    information: np.ndarray = (np.exp(log_p) * (log_p - _log_mean(log_p))).sum(axis=2).mean(axis=0)
    return information


def _drawn(alpha: np.ndarray, volunteers: int, seed: int) -> np.ndarray:
    members, samples, answers = alpha.shape
    draws = -(-DRAWS // members)
    found = np.zeros(samples)
    for i in range(samples):
        own = alpha[:, i]
        rng = _generator(own, seed)
        weights = rng.standard_gamma(np.broadcast_to(own[:, None], (members, draws, answers)))
        counts = rng.multinomial(volunteers, weights / weights.sum(axis=2, keepdims=True))
        log_p = _Votes(own[:, None], volunteers).log_probability(counts.reshape(-1, answers))[:, 0]
        # What each outcome tells of all members, and not of the one that it came from alone: between 0 and log M for
        # every draw, and with little scatter where members nearly agree.
        ratio = log_p - _log_mean(log_p)
        found[i] = (np.exp(ratio) * ratio).mean()
    return found


def _generator(alpha: np.ndarray, seed: int) -> np.random.Generator:
    key = hashlib.blake2b(np.ascontiguousarray(alpha).tobytes(), digest_size=8, key=str(seed).encode()).digest()
    return np.random.Generator(np.random.Philox(int.from_bytes(key, "little")))


def _check(alpha: np.ndarray, volunteers: int) -> None:
    if alpha.ndim != 3 or not len(alpha) or alpha.shape[2] < 2:
        raise ConfigError(
            f"information of votes: concentrations {alpha.shape} must be (members, samples, answers) of one member or "
            "more and a question of two answers or more."
        )
    if volunteers < 1:
        raise ConfigError(f"volunteers={volunteers}: give the number of votes expected on a question, 1 or more.")
    if not (np.isfinite(alpha) & (alpha > 0)).all():
        raise DataError("information of votes: some concentrations are not positive and finite; check the models.")
