"""What the training stores of a run share with test samples: names, contents, what an audit found, and near copies."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from sciencessl.errors import MissingExtraError, OutOfReachError, RunError, StoreError
from sciencessl.store.audit_record import IDENTITY, LOOK_ALIKE, Evidence
from sciencessl.store.audited import audited_copies
from sciencessl.store.evidence import by_contents, by_likeness, matched, only
from sciencessl.store.format import SPLITS
from sciencessl.store.near_copies import near_copies
from sciencessl.store.reader import Store
from sciencessl.store.sides import Side, first_equal
from sciencessl.store.tables import REMOVALS
from sciencessl.train.folder import ModelCard, StoreRecord, read_model

NAME = "name"
"""By what a sample is the same one in two stores: its key, of source and id."""


@dataclass(frozen=True)
class Seen:
    """What one training store of a run shares with the test samples.

    Attributes:
        path: Of the store, as the run was given it; empty for a run that names none.
        train: What the run learned from; None where the store is gone, out of reach, or another one now.
        evidence: By what test samples, or copies of them, were in it; look-alikes among it.
        unknown: What could not be compared, as a sentence.
    """

    path: str
    train: Side | None = None
    evidence: tuple[Evidence, ...] = ()
    unknown: str = ""

    @property
    def confirmed(self) -> tuple[Evidence, ...]:
        """Without look-alikes."""
        return tuple(entry for entry in self.evidence if entry.kind != LOOK_ALIKE)

    @property
    def ids(self) -> frozenset[str]:
        """Test samples that the run saw, as they are or as copies."""
        return frozenset(name for entry in self.confirmed for name in entry.ids)

    @property
    def renamed(self) -> frozenset[str]:
        """Those of them that it saw under other names only, so that nobody could know."""
        ids = self.ids
        if not ids or self.train is None:
            return ids
        own = {name for entry in self.evidence if entry.kind == IDENTITY for name in entry.ids}
        return ids - own - ids.intersection(self.train.texts("id").tolist())


def ancestry(card: ModelCard) -> tuple[list[ModelCard], bool]:
    """The card and those of the runs it started from, the oldest last, and whether the line is complete."""
    cards, visited = [card], set()
    while cards[-1].init_from:
        path = Path(cards[-1].init_from)
        if path in visited or not path.is_dir():
            return cards, False
        visited.add(path)
        try:
            cards.append(read_model(path))
        except (RunError, ValueError, KeyError, TypeError):
            return cards, False
    return cards, True


def what_was_seen(
    card: ModelCard, near: Sequence[Store], test: Side, known: dict[tuple[str, ...], Seen] | None = None
) -> tuple[Seen, ...]:
    """What a run, and those that it started from, saw of some samples: each of their training stores.

    Args:
        card: Of the run.
        near: Stores that are open, such as the one that is tested on: any may be a training store.
        test: The samples.
        known: Where what was found of a store is kept for other runs; near copies are then looked for too
            (`near_copies`), and without it only names, recorded contents and what an audit found.
    """
    found = []
    for each in ancestry(card)[0]:
        for record in each.stores:
            key = (record.path, record.digest, record.tables.get(REMOVALS, ""))
            seen = known[key] if known and key in known else _seen(record, near, test, known is not None)
            if known is not None:
                known[key] = seen
            found.append(seen)
        found += [] if each.stores else [Seen("")]
    return tuple(found)


def any_seen(found: Sequence[Seen]) -> bool | None:
    """Whether a test sample, or a copy, was among the training samples; None where a training store is out of reach."""
    if any(seen.ids for seen in found):
        return True
    return None if any(seen.train is None for seen in found) else False


def reached(record: StoreRecord, near: Sequence[Store] = ()) -> Store | None:
    """A training store as the run saw it; None where it is gone, out of reach, or another one now."""
    for store in near:
        if store.digest == record.digest:
            return store
    try:
        store = Store(record.path)
    except (StoreError, OutOfReachError, MissingExtraError):
        return None
    return store if store.digest == record.digest else None


def _seen(record: StoreRecord, near: Sequence[Store], test: Side, pixels: bool) -> Seen:
    store = reached(record, near)
    if store is None:
        return Seen(record.path)
    train = _learned_from(store, record)
    evidence = [*_by_key(train, test), *by_contents(train, test), *_audited(train, test)]
    if not pixels:
        return Seen(record.path, train, tuple(evidence))
    near_ones, unknown = other_copies(train, test, evidence)
    return Seen(record.path, train, (*evidence, *near_ones), unknown)


def other_copies(pool: Side, test: Side, known: Sequence[Evidence]) -> tuple[list[Evidence], str]:
    """Near copies of the test samples that other evidence does not tell of, and what could not be compared."""
    ids = {name for entry in known for name in entry.ids}
    rest = replace(test, index=test.index[[name not in ids for name in test.texts("id").tolist()]])
    found = near_copies(pool, rest)
    return list(by_likeness(pool, rest, found)), found.unknown


def _learned_from(store: Store, record: StoreRecord) -> Side:
    """split=train of the store as the run saw it; with all withdrawn samples, where others were withdrawn since."""
    name = f"split=train of {store.path}"
    if record.tables.get(REMOVALS, "") == store.removals_digest:
        return replace(Side.of_splits(store, "train"), name=name)
    return Side(store, np.flatnonzero(store.split_codes() == SPLITS.index("train")), name)


def _by_key(pool: Side, test: Side) -> Iterator[Evidence]:
    keys = ([key.tobytes() for key in side.store.keys(side.index)] for side in (test, pool))
    match = first_equal(*keys)
    rows = np.flatnonzero(match >= 0)
    if len(rows):
        yield matched(IDENTITY, NAME, pool, test, rows, match)


def _audited(pool: Side, test: Side) -> Iterator[Evidence]:
    ids = {*test.texts("id").tolist()}
    for entry in audited_copies(pool.store, test.store):
        tested = only(entry, ids)
        if tested is not None:
            yield replace(tested, pool=pool.name, test=test.name)
