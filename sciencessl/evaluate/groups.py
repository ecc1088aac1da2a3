"""A score by groups of test samples: each site, each scanner, each bin of magnitude, and the worst of them."""

from __future__ import annotations

from dataclasses import dataclass, replace
from itertools import pairwise

import numpy as np

from sciencessl.errors import ConfigError, DataError
from sciencessl.evaluate.statistics import hierarchical_interval
from sciencessl.store.sides import value_text

BINS = 4
"""Bins that a numeric column is cut into."""

CATEGORIES = 10
"""Different values up to which a numeric column is taken for categories (ours)."""

MOST = 60
"""Most groups: more are no table, and their column is a name rather than a property."""

_DIGITS = range(4, 18)
"""Significant digits of an edge: as few as tell all edges apart; 17 tell any two numbers apart."""


@dataclass(frozen=True)
class GroupScore:
    """One group of test samples.

    Attributes:
        group: The category, or the range of values in words.
        n: Test samples.
        n_units: Their units.
        score: Mean score; balanced over the classes that occur in the group where labels were given.
        low: Lower end of the 95 % interval over label subsets and units; None where the group is too small for one.
        high: Upper end.
        worst: Whether it has the worst score among groups with an interval. Its interval is not adjusted for the
            choice: the worst of many groups looks worse than it is.
        note: Why there is no interval, or which classes do not occur; empty otherwise.
    """

    group: str
    n: int
    n_units: int
    score: float
    low: float | None
    high: float | None
    worst: bool = False
    note: str = ""


def group_table(
    scores: np.ndarray,
    labels: np.ndarray | None,
    units: np.ndarray,
    groups: np.ndarray,
    lower_is_better: bool = False,
    bins: int = BINS,
) -> tuple[GroupScore, ...]:
    """The score in each category of a column, or in quantile bins of a numeric one.

    Args:
        scores: (S, N) or (N,) score of each test sample, such as 1 for a correct answer. Scores of
            `sciencessl.evaluate.sample_scores` must be taken inside each group; NaN where there is nothing to score.
        labels: (N,) classes for balanced accuracy, None for the plain mean.
        units: (N,) unit of each test sample.
        groups: (N,) values of the column. Numbers with more than `CATEGORIES` different values are cut into bins of
            equal numbers of samples; samples without a value, or an infinite one, are a group of their own, `missing`.
        lower_is_better: Whether small scores are good, as for losses.
        bins: Number of bins; fewer where values are tied.

    Returns:
        One line a group: bins in order, categories in alphabetical order, `missing` last.

    Raises:
        ConfigError: For fewer than two bins, or as `named_groups`.
        DataError: For shapes that do not match.
    """
    scores, groups = np.atleast_2d(np.asarray(scores, dtype=np.float64)), np.asarray(groups)
    if groups.shape != scores.shape[1:]:
        raise DataError(f"groups: {groups.shape} values for scores {scores.shape}; give one for each test sample.")
    if bins < 2:
        raise ConfigError(f"groups: bins = {bins} must be 2 or more.")
    names, of_name = named_groups(groups, bins)
    lines = [_line(name, of_name == i, scores, labels, np.asarray(units)) for i, name in enumerate(names)]
    sign = -1.0 if lower_is_better else 1.0
    rated = [line for line in lines if line.low is not None]
    worst = min(rated, key=lambda line: sign * line.score) if len(rated) > 1 else None
    return tuple(replace(line, worst=line is worst) for line in lines)


def _line(
    name: str, rows: np.ndarray, scores: np.ndarray, labels: np.ndarray | None, units: np.ndarray
) -> GroupScore:
    own, strata = scores[:, rows], np.zeros(int(rows.sum()), np.int64) if labels is None else labels[rows]
    n_units, present = len(np.unique(units[rows])), np.unique(strata)
    total = 1 if labels is None else len(np.unique(labels))
    note = "" if len(present) == total else f"{len(present)} of {total} classes occur"
    if not np.isfinite(own).all():
        return GroupScore(name, own.shape[1], n_units, float("nan"), None, None, note="nothing to score by this metric")
    if n_units <= len(present):
        score = float(np.mean([own[:, strata == stratum].mean() for stratum in present]))
        small = f"{n_units} units of {len(present)} classes: too few for an interval"
        return GroupScore(name, own.shape[1], n_units, score, None, None, note=f"{note}; {small}" if note else small)
    interval = hierarchical_interval(own, units[rows], strata)
    return GroupScore(name, own.shape[1], n_units, interval.mean, interval.low, interval.high, note=note)


def named_groups(groups: np.ndarray, bins: int = BINS) -> tuple[list[str], np.ndarray]:
    """Names of the groups that occur, and (N,) the number of each sample's, as `group_table` forms them.

    Raises:
        ConfigError: When no sample has a value, or there are more than `MOST` categories.
    """
    texts = np.array([value_text(value) for value in groups.tolist()], dtype=object)
    present = texts != ""
    if groups.dtype.kind == "f":
        present &= np.isfinite(groups)
    place = np.full(len(groups), -1)
    if groups.dtype.kind in "iuf" and len(set(texts[present])) > CATEGORIES:
        values = groups[present].astype(np.float64)
        edges = np.unique(np.quantile(values, np.arange(1, bins) / bins, method="higher"))
        edges = edges[edges > values.min()]
        place[present] = np.searchsorted(edges, values, side="right")
        names = _ranges(edges)
    else:
        names = sorted(set(texts[present]))
        if not 1 <= len(names) <= MOST:
            found = f"{len(names)} different values, such as {', '.join(names[:3])}" if names else "no value"
            raise ConfigError(f"groups: {found} among {len(groups)} samples; choose a column of numbers, or one with "
                              f"1 to {MOST} categories.")
        place[present] = np.searchsorted(names, texts[present])
    place[~present] = len(names)
    return [*names, *(["missing"] if not present.all() else [])], place


def _ranges(edges: np.ndarray) -> list[str]:
    if not len(edges):
        return ["all values"]
    spellings = ([np.format_float_positional(edge, n, fractional=False, trim="-") for edge in edges] for n in _DIGITS)
    words = next(found for found in spellings if len(set(found)) == len(edges))
    inner = [f"{low} to below {high}" for low, high in pairwise(words)]
    return [f"below {words[0]}", *inner, f"{words[-1]} and above"]
