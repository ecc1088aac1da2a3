"""Evidence that two sides of a comparison share samples: by names, recorded contents, places and perceptual hashes."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace

import numpy as np

def by_names(pool: Side, test: Side, groups: Sequence[str]) -> Iterator[Evidence]:
    for by, match in same_things(pool, test, groups):
        rows = np.flatnonzero(match >= 0)
        if not len(rows):
            continue
        texts = replace(test, index=test.index[rows]).texts(by) if by != STORED_BYTES else np.full(len(rows), "")
        values = len(set(texts.tolist())) if by != STORED_BYTES else len(np.unique(match[rows]))
        kind = CONTENTS if by in (*HASHES, STORED_BYTES) else IDENTITY
        pairs = tuple(
            Pair(test.store.ids[i], pool.store.ids[j], int(i), int(j), text if kind == IDENTITY else "")
            for i, j, text in zip(test.index[rows[:LISTED]], pool.index[match[rows[:LISTED]]], texts, strict=False)
        )
        yield Evidence(kind, by, pool.name, test.name, ids_of(test, rows), values, pairs)


def by_place(pool: Side, test: Side, rule: Nearness) -> Evidence:
    rows = np.flatnonzero(rule.match >= 0)
    rows = rows[np.argsort(rule.separation[rows], kind="stable")]
    pairs = []
    for row in rows[:LISTED].tolist():
        i, j = int(test.index[row]), int(pool.index[rule.match[row]])
        pairs.append(Pair(test.store.ids[i], pool.store.ids[j], i, j, rule.words(row)))
    kind = PLACE if rule.same else OVERLAP
    return Evidence(kind, rule.by, pool.name, test.name, ids_of(test, rows), 0, tuple(pairs))


def ids_of(side: Side, rows: np.ndarray) -> tuple[str, ...]:
    return tuple(side.store.ids[i] for i in side.index[rows])


