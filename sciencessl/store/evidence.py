"""Evidence that two sides of a comparison share samples: by names, recorded contents, places and near copies."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from sciencessl.store.audit_record import (
    CONTENTS,
    COPY,
    IDENTITY,
    LISTED,
    LOOK_ALIKE,
    OVERLAP,
    PLACE,
    Evidence,
    Pair,
)
from sciencessl.store.near_copies import ALIKE, COPIED, PERCEPTUAL, NearCopies
from sciencessl.store.sides import HASHES, STORED_BYTES, Nearness, Side, same_contents, same_things


def by_names(pool: Side, test: Side, groups: Sequence[str]) -> Iterator[Evidence]:
    """What ids, groups and recorded hashes, or else the stored bytes, say.

    Args:
        pool: What may have been learned from.
        test: What is judged on.
        groups: As in `same_things`.
    """
    for by, match in same_things(pool, test, groups):
        rows = np.flatnonzero(match >= 0)
        if not len(rows):
            continue
        if by in (*HASHES, STORED_BYTES):
            yield _equal(by, pool, test, match)
            continue
        texts = dict(zip(rows.tolist(), replace(test, index=test.index[rows]).texts(by).tolist(), strict=True))
        yield matched(IDENTITY, by, pool, test, rows, match, {row: {"value": text} for row, text in texts.items()}.get,
                      len({*texts.values()}))


def by_contents(pool: Side, test: Side) -> Iterator[Evidence]:
    """What recorded hashes alone say."""
    for by, match in same_contents(pool, test):
        if (match >= 0).any():
            yield _equal(by, pool, test, match)


def _equal(by: str, pool: Side, test: Side, match: np.ndarray) -> Evidence:
    rows = np.flatnonzero(match >= 0)
    return matched(CONTENTS, by, pool, test, rows, match, values=len(np.unique(match[rows])))


def by_place(pool: Side, test: Side, rule: Nearness) -> Evidence:
    """Which samples lie near each other, the nearest first."""
    rows = np.flatnonzero(rule.match >= 0)
    rows = rows[np.argsort(rule.separation[rows], kind="stable")]
    return matched(PLACE if rule.same else OVERLAP, rule.by, pool, test, rows, rule.match,
                   lambda row: {"value": rule.words(row)})


def by_likeness(
    pool: Side, test: Side, found: NearCopies, by: str = PERCEPTUAL, copied: float = COPIED, alike: float = ALIKE
) -> Iterator[Evidence]:
    """Copies, with scores above `copied`, and look-alikes above `alike`, which are not confirmed; the most alike
    first."""
    for kind, rows in ((COPY, found.rows(copied)), (LOOK_ALIKE, found.rows(alike, copied))):
        if len(rows):
            yield matched(kind, by, pool, test, rows, found.match, found.details)


def matched(
    kind: str, by: str, pool: Side, test: Side, rows: np.ndarray, match: np.ndarray,
    details: Callable[[int], Mapping[str, Any] | None] = lambda row: None, values: int = 0,
) -> Evidence:
    """Evidence of one kind.

    Args:
        kind: As in `Evidence`.
        by: As in `Evidence`.
        pool: What may have been learned from.
        test: What is judged on.
        rows: (k,) positions in the test, in the order in which pairs are listed.
        match: (m,) position in the pool of what each test sample equals.
        details: Position in the test -> further attributes of its `Pair`.
        values: As in `Evidence`.
    """
    pairs = []
    for row in rows[:LISTED].tolist():
        i, j = int(test.index[row]), int(pool.index[match[row]])
        pairs.append(Pair(test.store.ids[i], pool.store.ids[j], i, j, **(details(row) or {})))
    ids = tuple(test.store.ids[i] for i in test.index[rows])
    return Evidence(kind, by, pool.name, test.name, ids, values, tuple(pairs))


def only(entry: Evidence, ids: Collection[str]) -> Evidence | None:
    """What evidence says of some test samples; None where it says nothing of them."""
    kept = tuple(name for name in entry.ids if name in ids)
    # Pairs are listed up to a number: where none of these is among them, the first stands for the others.
    pairs = tuple(pair for pair in entry.pairs if pair.test in ids) or entry.pairs[:1]
    return replace(entry, ids=kept, pairs=pairs) if kept else None
