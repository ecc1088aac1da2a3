"""Splits: given by the catalogue, or drawn by a keyed hash of the group so that no group straddles two."""

from __future__ import annotations

from collections.abc import Sequence
from hashlib import blake2b

import numpy as np

from sciencessl.dealing import deal_units
from sciencessl.errors import DataError

SPLIT_NAMES = {
    "train": "train", "training": "train",
    "val": "val", "valid": "val", "validation": "val", "dev": "val",
    "test": "test", "testing": "test",
}
"""Spellings found in catalogues and folder names, lower case -> split of the store."""


def assign_split(group: str, seed: int, test_fraction: float, val_fraction: float) -> str:
    """The split of a group: a pure function of its name, so that samples added later move nothing.

    The hash of (seed, group) is a number u, uniform in [0, 1): test below `test_fraction`, val from `1 - val_fraction`.
    A larger fraction only adds groups to what a smaller one had. Ours.

    Args:
        group: Name of the group, such as a patient; the sample's id where there are no groups.
        seed: Key of the draw.
        test_fraction: Expected share of groups in test.
        val_fraction: Expected share of groups in val; the two together are below 1.

    Returns:
        `train`, `val` or `test`.
    """
    u = _uniform(group, seed)
    if u < test_fraction:
        return "test"
    return "val" if u >= 1 - val_fraction else "train"


def _uniform(group: str, seed: int) -> float:
    key = seed.to_bytes(16, "little")
    hashed = blake2b(group.encode(), digest_size=8, key=key, person=b"sciencessl-split").digest()
    return int.from_bytes(hashed, "little") / 2**64


def stratified_splits(
    groups: Sequence[str], classes: Sequence[str | None], seed: int, test_fraction: float, val_fraction: float
) -> list[str]:
    """The split of each row, whole groups at a time, so that each split has its share of every class as nearly as whole
    groups allow: see `deal_units`.

    Unlike `assign_split` it depends on all groups: rows added later may move others.

    Args:
        groups: (n,) group of each row.
        classes: (n,) its class; rows without one are a class of their own.
        seed: Decides among equals.
        test_fraction: Share of test.
        val_fraction: Share of val.

    Returns:
        (n,) `train`, `val` or `test`.
    """
    names, group_of = np.unique(np.array(groups, dtype=str), return_inverse=True)
    kinds, class_of = np.unique(np.array([text or "" for text in classes], dtype=str), return_inverse=True)
    counts = np.zeros((len(names), len(kinds)), np.int64)
    np.add.at(counts, (group_of, class_of), 1)
    shares = np.array([1 - test_fraction - val_fraction, val_fraction, test_fraction])
    dealt = deal_units(counts, shares, np.array([_uniform(name, seed) for name in names]))
    return [("train", "val", "test")[part] for part in dealt[group_of]]


def given_splits(values: Sequence[str | None], column: str) -> list[str]:
    """Translate the values of a split column.

    Raises:
        DataError: When a value is no spelling of train, val or test; lists the values.
    """
    unknown = sorted({str(value or "") for value in values if (value or "").strip().lower() not in SPLIT_NAMES})
    if unknown:
        listing = ", ".join(repr(value) for value in unknown[:8])
        raise DataError(
            f"split column {column!r} holds {len(unknown)} value(s) that name no split: {listing}. Expected one of "
            f"{', '.join(SPLIT_NAMES)} in every row; pass another column with --split, or none to draw splits by group."
        )
    return [SPLIT_NAMES[(value or "").strip().lower()] for value in values]


def check_groups(groups: Sequence[str], splits: Sequence[str], column: str) -> None:
    """Refuse given splits that share a group: what is tested would have been trained on.

    Raises:
        DataError: Naming how many groups straddle, and the first.
    """
    seen: dict[str, str] = {}
    straddling: dict[str, str] = {}
    for group, split in zip(groups, splits, strict=True):
        if seen.setdefault(group, split) != split:
            straddling.setdefault(group, split)
    if straddling:
        first, other = next(iter(straddling.items()))
        raise DataError(
            f"{len(straddling)} group(s) of column {column!r} lie in two of the given splits, such as {first!r} in "
            f"{seen[first]} and {other}: test results would leak. Correct the split column, or leave --split out to "
            "draw splits by group."
        )
