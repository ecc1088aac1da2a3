"""Label budgets, and nested subsets that are a pure function of (label digest, task, subset seed).

Every unit (object, patient, source tile) gets one priority from a keyed hash of its own name; a budget takes the units
of highest priority, class by class. Neither the run nor the order of rows in a store enters, so that arms are always
compared on the same labels, and the labels of a smaller budget are among those of a larger one.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Literal

import numpy as np

from sciencessl.errors import ConfigError, DataError

Draw = Literal["stratified", "random"]

FORMS = "'20/class', '250' or '250 in all', '1%', '50 patients' (a number and the unit), 'all'"
"""The accepted spellings of a budget, as messages show them."""

FLOOR = 2
"""Units that a stratified draw gives each class before it looks at frequencies."""

_PATTERNS: tuple[tuple[Literal["per_class", "total", "percent", "units"], str], ...] = (
    ("per_class", r"(\d+)\s*(?:/|per)\s*class"),
    ("total", r"(\d+)(?:\s+in\s+all|\s+labels?)?"),
    ("percent", r"(\d+(?:\.\d+)?)\s*%"),
    ("units", r"(\d+)\s+(?!class|per\b|in\b)([A-Za-z][\w -]*)"),
)


@dataclass(frozen=True)
class Budget:
    """How many labels a fit may use. `str()` gives the spelling that `parse_budget` reads back.

    Attributes:
        kind: What `amount` counts: labels of each class, labels in all, percent of the labels, units, or all there is.
        amount: Positive; at most 100 for `percent`; 0 for `all`.
        unit: What is counted: `label`, or the word given with a number of units (`patients`).
    """

    kind: Literal["per_class", "total", "percent", "units", "all"]
    amount: float = 0
    unit: str = "label"

    def __str__(self) -> str:
        number = f"{self.amount:.12g}"
        return {
            "per_class": f"{number}/class",
            "total": number,
            "percent": f"{number}%",
            "units": f"{number} {self.unit}",
            "all": "all",
        }[self.kind]


def parse_budget(text: str) -> Budget:
    """Read a budget: `20/class`, `250` (in all), `1%`, `50 patients` or `all`.

    Raises:
        ConfigError: For any other text, an amount of zero, or more than 100 %. The message lists the accepted forms.
    """
    words = str(text).strip()
    if words.lower() == "all":
        return Budget("all")
    for kind, pattern in _PATTERNS:
        found = re.fullmatch(pattern, words, flags=re.IGNORECASE)
        if found:
            return _checked(Budget(kind, float(found[1]), found[2] if kind == "units" else "label"), words)
    raise ConfigError(f"label budget {text!r} is not understood; write one of {FORMS}.")


def _checked(budget: Budget, words: str) -> Budget:
    if budget.amount <= 0:
        raise ConfigError(f"label budget {words!r}: the amount must be positive. Forms: {FORMS}.")
    if budget.kind == "percent" and budget.amount > 100:
        raise ConfigError(f"label budget {words!r}: at most 100%. Forms: {FORMS}.")
    return budget


def label_digest(ids: Sequence[str] | np.ndarray, labels: Sequence[object] | np.ndarray) -> str:
    """Digest of a labelling (id -> label), the same whatever the order of rows.

    Args:
        ids: N unique sample ids.
        labels: N labels; what counts is `str(label)`.

    Returns:
        32 hexadecimal digits (blake2b-128 over the pairs sorted by id, each as JSON).

    Raises:
        DataError: For lengths that differ or an id that occurs twice.
    """
    names = [str(name) for name in ids]
    if len(names) != len(labels):
        raise DataError(f"label digest: got {len(names)} ids and {len(labels)} labels; they must pair up.")
    if len(set(names)) < len(names):
        raise DataError("label digest: an id occurs twice; ids must be unique.")
    digest = hashlib.blake2b(digest_size=16)
    for pair in sorted(zip(names, map(str, labels), strict=True)):
        digest.update(json.dumps(pair).encode())
    return digest.hexdigest()


@dataclass(frozen=True)
class Subset:
    """The rows that one budget draws.

    Attributes:
        index: Sorted int64 positions into the arrays given to `draw_subsets`.
        n_units: Number of different units among them.
        note: What a reader must know (a class that ran out, whole units that overshoot), or empty.
    """

    index: np.ndarray
    n_units: int
    note: str = ""


def draw_subsets(
    labels: np.ndarray,
    units: Sequence[object] | np.ndarray,
    budgets: Sequence[Budget],
    subset_seed: int,
    label_digest: str,
    task: str,
    draw: Draw = "stratified",
) -> dict[Budget, Subset]:
    """Draw nested label subsets, whole units at a time.

    One order of units is fixed by (label digest, task, subset seed); a budget takes prefixes of it:

    - `N/class` takes, of each class, the first units until N labels of the class are there, or all that exist.
    - `N in all` and `P%` (of the labels) take the first units until N labels are there. Stratified, the order first
      deals two units to each class, then follows class frequencies by the Sainte-Lague divisor rule. (Largest
      remainders would not nest: a class may lose a label when the budget grows.)
    - `N units` takes the first N units of the same order.

    Smaller budgets of a kind are therefore subsets of larger ones; budgets of different kinds share priorities, and
    nest whenever the class counts allow it. Where a unit holds several samples all of them are taken: at least the
    number of labels asked for, and `note` says how many. A unit with several classes stands for its rarest.

    Args:
        labels: (N,) class ids >= 0.
        units: (N,) unit of each row; all different when the unit is the object.
        budgets: What to draw.
        subset_seed: Number of the subset.
        label_digest: From `label_digest`.
        task: Name of the task.
        draw: `stratified`, or `random` for units in priority order whatever their class (rare objects).

    Raises:
        DataError: For empty, unequal or negative input.
        ConfigError: When a stratified budget leaves a class without a label, or `N/class` meets `random`.
    """
    pool = _Pool(labels, np.asarray(units), json.dumps([label_digest, task, int(subset_seed)]), draw)
    return {budget: pool.subset(budget) for budget in budgets}


def priorities(names: np.ndarray, key: str) -> np.ndarray:
    """(U,) uint64 hashes of names under a key: an order that depends on nothing else."""
    secret = hashlib.blake2b(key.encode(), digest_size=32).digest()
    hashes = b"".join(hashlib.blake2b(str(name).encode(), digest_size=8, key=secret).digest() for name in names)
    return np.frombuffer(hashes, dtype=">u8").astype(np.uint64)


def unit_strata(unit_of: np.ndarray, class_of: np.ndarray) -> np.ndarray:
    """(U,) the class that each unit stands for: its rarest, rarity counted in units, the smaller number among equals.

    Args:
        unit_of: (N,) number of each row's unit, 0 to U - 1.
        class_of: (N,) number of its class, 0 to K - 1, all of which occur.
    """
    n_classes = int(class_of.max()) + 1
    pair_unit, pair_class = np.divmod(np.unique(unit_of * n_classes + class_of), n_classes)
    by_rarity = np.argsort(np.bincount(pair_class), kind="stable")
    best = np.full(int(unit_of.max()) + 1, n_classes)
    np.minimum.at(best, pair_unit, np.argsort(by_rarity)[pair_class])
    stratum: np.ndarray = by_rarity[best]
    return stratum


class _Pool:
    """All labelled rows of a task with their units in priority order."""

    def __init__(self, labels: np.ndarray, units: np.ndarray, key: str, draw: Draw) -> None:
        labels = _checked_labels(labels, units)
        self.draw = draw
        self.classes, self.class_of = np.unique(labels, return_inverse=True)
        # A unit's name, not its position, is what its priority and every tie depend on.
        names, self.unit_of = np.unique(units.astype(str), return_inverse=True)
        self.n_rows, self.n_units = len(labels), len(names)
        pairs, counts = np.unique(self.unit_of * len(self.classes) + self.class_of, return_counts=True)
        self.pair_unit, self.pair_class = np.divmod(pairs, len(self.classes))
        self.pair_count = counts
        self.rows_of_unit = np.bincount(self.unit_of, minlength=self.n_units)
        self.priority = priorities(names, key)

    @cached_property
    def order(self) -> np.ndarray:
        """Unit positions, first drawn first."""
        if self.draw == "random":
            return np.argsort(self.priority, kind="stable")
        stratum = unit_strata(self.unit_of, self.class_of)
        rank = _rank_within(stratum, self.priority)
        # Sainte-Lague: seat r of a class with n units comes at (r + 1/2) / n; the floor comes before all of these.
        share = (rank + 0.5) / np.bincount(stratum)[stratum]
        order: np.ndarray = np.lexsort((self.priority, np.where(rank < FLOOR, rank - float(FLOOR), share)))
        return order

    def subset(self, budget: Budget) -> Subset:
        chosen = np.zeros(self.n_units, dtype=bool)
        chosen[self._units(budget)] = True
        index = np.flatnonzero(chosen[self.unit_of])
        missing = self.classes[np.bincount(self.class_of[index], minlength=len(self.classes)) == 0]
        if len(missing) and self.draw == "stratified":
            raise ConfigError(
                f"label budget '{budget}' leaves class ids {missing.tolist()} of {len(self.classes)} classes without a "
                "label; ask for more labels, or draw at random (--draw random) if that is wanted."
            )
        return Subset(index, int(chosen.sum()), self._note(budget, index, int(chosen.sum()), missing))

    def _units(self, budget: Budget) -> np.ndarray:
        if budget.kind == "all":
            return self.order
        if budget.kind == "units":
            return self.order[: int(budget.amount)]
        if budget.kind == "per_class":
            return self._units_per_class(budget)
        reached = np.searchsorted(np.cumsum(self.rows_of_unit[self.order]), self._labels_asked(budget))
        return self.order[: int(reached) + 1]

    def _units_per_class(self, budget: Budget) -> np.ndarray:
        if self.draw == "random":
            raise ConfigError(
                f"label budget '{budget}' fixes the number of each class and cannot be drawn at random; "
                "with --draw random give a number in all, a percentage, a number of units, or 'all'."
            )
        order = np.lexsort((self.priority[self.pair_unit], self.pair_class))
        count, of_class = self.pair_count[order], self.pair_class[order]
        total = np.cumsum(count) - count
        first = np.searchsorted(of_class, of_class)
        taken: np.ndarray = self.pair_unit[order][total - total[first] < budget.amount]
        return taken

    def _labels_asked(self, budget: Budget) -> int:
        if budget.kind == "percent":
            return max(1, int(self.n_rows * budget.amount / 100 + 0.5))
        return int(budget.amount)

    def _note(self, budget: Budget, index: np.ndarray, n_units: int, missing: np.ndarray) -> str:
        parts: list[str] = []
        if budget.kind == "per_class":
            exist = np.bincount(self.class_of)
            pairs = zip(self.classes, exist, strict=True)
            parts += [f"class id {c} has only {n} labels" for c, n in pairs if n < budget.amount]
        if budget.kind == "total" and budget.amount > self.n_rows:
            parts.append(f"the pool has only {self.n_rows} labels")
        if budget.kind == "units" and budget.amount > self.n_units:
            parts.append(f"the pool has only {self.n_units} {budget.unit}")
        if budget.kind != "all" and self.n_units < self.n_rows:
            parts.append(f"whole units drawn: {len(index)} labels of {n_units} units")
        if len(missing):
            parts.append(f"no label of class ids {missing.tolist()}")
        return "; ".join(parts)


def _rank_within(groups: np.ndarray, priority: np.ndarray) -> np.ndarray:
    """0-based position of each element in its group by priority."""
    order = np.lexsort((priority, groups))
    rank = np.empty(len(groups), dtype=np.int64)
    rank[order] = np.arange(len(groups)) - np.searchsorted(groups[order], groups[order])
    return rank


def _checked_labels(labels: np.ndarray, units: np.ndarray) -> np.ndarray:
    labels = np.asarray(labels)
    if labels.ndim != 1 or labels.shape != units.shape or not len(labels):
        raise DataError(
            f"label subsets: labels {labels.shape} and units {units.shape} must be one-dimensional, of one length, "
            "and not empty; check the task's column, its value mapping and the training split."
        )
    if not np.issubdtype(labels.dtype, np.integer) or labels.min() < 0:
        raise DataError("label subsets: labels must be class ids >= 0; drop unlabelled rows first.")
    return labels
