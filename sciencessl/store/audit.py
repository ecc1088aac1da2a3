"""`store audit`: samples of different splits, or stores, that are the same thing, so that a test would leak.

Names first (ids and groups), then recorded hashes, then places, then pixels: copies that were turned, mirrored, zoomed,
resized or encoded again. What equal names or contents say is certain. Likeness of pixels is confirmed when so high a
score is expected of less than `FALSE_CONFIRMED` pairs of all that were compared, by a null measured on the store
itself.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import combinations
from pathlib import Path

import numpy as np

from sciencessl.errors import OutOfReachError, StoreError
from sciencessl.monitor.throughput import Progress
from sciencessl.registry import load_domain
from sciencessl.store.audit_record import (
    CLEAN,
    LEAK,
    NOTHING,
    PIXELS,
    SUSPECT,
    UNCONFIRMED,
    Audit,
    Evidence,
    judged_digest,
    report_folder,
    write_audit,
)
from sciencessl.store.audit_report import audit_page, write_report
from sciencessl.store.copies import (
    FALSE_CONFIRMED,
    FALSE_SUSPECTED,
    LEAST_PAIRS,
    NULL_IMAGES,
    Null,
    candidates,
    fit_null,
    null_pairs,
    score_pairs,
)
from sciencessl.store.display import pictures
from sciencessl.store.evidence import by_likeness, by_names, by_place
from sciencessl.store.format import SPLITS
from sciencessl.store.near_copies import COLUMN, NearCopies, near_copies
from sciencessl.store.reader import Store
from sciencessl.store.remote import local_path
from sciencessl.store.sides import Nearness, Side, near_things
from sciencessl.views.polar import ANGLES, RINGS, polar_map

HIGHEST = 0.9
"""Threshold above which an ordinary copy is not confirmed any more (the score of equal images is 0.95)."""
SEED = 0
"""Of the pairs that measure the null."""


def audit(
    store: str | Path, against: str | Path = "", group: str = "", out: str | Path = "", *, pixels: bool = True
) -> Audit:
    """Look for samples that splits share, or for what a test on another store would share with this one.

    Splits of one store are compared in pairs; `against` compares train and val of the store with all samples of
    another; withdrawn samples are left out. The result is written beside the store (`audit_file`), where `pretrain` and
    `transfer` look for it; what was found is shown in `report.html` and `pairs.png`, and the ids of the test side of a
    leak are listed in `remove.txt`.

    Every pair of images is looked at, so time grows with the square of their number: about 0.1 microseconds a pair on
    one core, after a millisecond an image; memory does not grow but for ids and columns.

    Args:
        store: A sealed store.
        against: Another one, which a model that learned from the first is tested on.
        group: A column whose equal values make samples the same thing (patient, source photograph). The group that
            preparation recorded and the domain's identity columns count without being named.
        out: Folder of the report; by default `NAME.audit` beside the store, or in the current folder where the
            store is remote. Written only where pairs were found.
        pixels: Whether to look for copies in pixels too. False leaves names and recorded hashes, which take seconds.

    Raises:
        StoreError: When a store is missing or unsealed, lacks the column, or recorded no hashes and is damaged.
    """
    opened = Store(store)
    other = Store(against) if str(against) else None
    stores = [opened, *([other] if other else [])]
    folder = local_path(out) if str(out) else report_folder(store, against)
    groups = _group_columns(stores, group)
    compared = _comparisons(opened, other)
    sides = list(dict.fromkeys(side.name for pair in compared for side in pair))
    evidence = [found for pool, test in compared for found in by_names(pool, test, groups)]
    if all(COLUMN in each.columns() for each in stores):  # else images are read for the pixels alone
        evidence += [entry for pool, test in compared for entry in by_likeness(pool, test, near_copies(pool, test))]
    near = [(pool, test, rule) for pool, test in compared for rule in near_things(pool, test)]
    evidence += [by_place(pool, test, rule) for pool, test, rule in near if (rule.match >= 0).any()]
    found = _Pixels()
    if pixels and compared:
        found = _by_pixels(compared, groups)
    sizes = {side.name: len(side.index) for pair in compared for side in pair}
    notes = _notes(groups, compared, pixels, found, [rule for _, _, rule in near])
    every = (*evidence, *found.evidence)
    result = Audit(
        str(opened.path), opened.digest, str(other.path) if other else "", other.digest if other else "",
        _verdict(every, notes), groups, {name: sizes[name] for name in sides}, found.pairs, every, found.null,
        found.confirmed, found.suspected, found.unreadable, notes, group, str(folder) if every else "",
        judged_digest(stores, groups), tuple(dict.fromkeys(rule.by for _, _, rule in near)),
    )
    write_report(audit_page(result), {side.name: side.store for pair in compared for side in pair}, folder)
    try:
        write_audit(result)
    except OutOfReachError as error:  # whoever may read from an object store may often not write to it
        return replace(result, notes=(*notes, f"{error} So `pretrain` and `transfer` do not know of this audit."))
    return result


def _group_columns(stores: Sequence[Store], group: str) -> tuple[str, ...]:
    """Columns that must not straddle: the one named, the domain's identity, and what preparation recorded."""
    if group:
        for store in stores:
            store.column(group)  # says which columns there are
    known = set.intersection(*({*store.columns()} for store in stores))
    names = [group] if group else []
    names += [name for store in stores for name in load_domain(store.header.domain).identity if name in known]
    for store in stores:
        # Preparation writes each sample's own id where it was given no groups.
        recorded = str(store.header.settings.get("group") or "group")
        recorded = recorded if recorded in known else "group"
        values = Side(store, store.present.all(), "").texts(recorded).tolist() if recorded in known else []
        names += [recorded] if len({*values}) < len(values) else []
    return tuple(dict.fromkeys(names))


def _comparisons(store: Store, other: Store | None) -> list[tuple[Side, Side]]:
    sides = [side for side in (Side.of_splits(store, name) for name in SPLITS) if len(side.index)]
    if other is None:
        return list(combinations(sides, 2))
    test = Side(other, other.present.all(), f"all of {other.path.name}")
    return [(side, test) for side in sides if side.name != "split=test" and len(test.index)]


@dataclass(frozen=True)
class _Pixels:
    """What pixels said."""

    evidence: tuple[Evidence, ...] = ()
    pairs: int = 0
    null: Null | None = None
    confirmed: float | None = None
    suspected: float | None = None
    unreadable: tuple[str, ...] = ()


def _by_pixels(compared: Sequence[tuple[Side, Side]], groups: Sequence[str]) -> _Pixels:
    sides = list({side.name: side for pair in compared for side in pair}.values())
    # One map is 3 KiB: a million images would fill the memory of a laptop, and do not fill its disk.
    with tempfile.TemporaryFile() as scratch:
        maps, unreadable = _maps(sides, scratch)
        null = _null(sides, maps, groups)
        pairs = sum(len(pool.index) * len(test.index) for pool, test in compared)
        if null is None:
            return _Pixels(pairs=pairs, unreadable=unreadable)
        confirmed, suspected = (null.threshold(rate, pairs) for rate in (FALSE_CONFIRMED, FALSE_SUSPECTED))
        progress = Progress(pairs, unit="pair", title="audit: compare")
        found: list[Evidence] = []
        done = 0
        for pool, test in compared:
            tick = partial(_advance, progress, done)
            found += by_likeness(pool, test, _copies(pool, test, maps, tick), PIXELS, confirmed, suspected)
            done += len(pool.index) * len(test.index)
        progress.close()
    return _Pixels(tuple(found), pairs, null, confirmed, suspected, unreadable)


def _advance(progress: Progress, before: int, done: int) -> None:
    progress.update(before + done)


def _maps(sides: Sequence[Side], scratch: object) -> tuple[dict[str, np.ndarray], tuple[str, ...]]:
    """The polar map of every image of each side on disk; zeros, which resemble nothing, for those that are damaged."""
    total = sum(len(side.index) for side in sides)
    every = np.memmap(scratch, dtype=np.float16, mode="w+", shape=(total, RINGS, ANGLES))  # type: ignore[call-overload]
    progress = Progress(total, unit="image", title="audit: read")
    maps, unreadable, done = {}, [], 0
    for side in sides:
        maps[side.name] = every[done : done + len(side.index)]
        picture = pictures(side.store)
        for row, index in enumerate(side.index):
            try:
                maps[side.name][row] = polar_map(picture(int(index)))
            except StoreError:
                unreadable.append(side.store.ids[index])
            progress.update(done + row + 1)
        done += len(side.index)
    progress.close()
    return maps, tuple(unreadable)


def _null(sides: Sequence[Side], maps: dict[str, np.ndarray], groups: Sequence[str]) -> Null | None:
    """Scores of pairs drawn from all sides, without those of one group."""
    rng = np.random.default_rng(SEED)
    ends = np.cumsum([len(side.index) for side in sides])
    drawn = np.sort(rng.choice(ends[-1], min(NULL_IMAGES, ends[-1]), replace=False))
    which = np.searchsorted(ends, drawn, side="right")
    starts = np.concatenate([[0], ends[:-1]])
    parts = [(side, drawn[which == n] - starts[n]) for n, side in enumerate(sides)]
    taken = np.concatenate([np.asarray(maps[side.name][rows], dtype=np.float32) for side, rows in parts])
    left, right = null_pairs(len(taken), rng)
    usable = np.asarray(taken.any(axis=(1, 2)))
    keep: np.ndarray = usable[left] & usable[right]
    for column in groups:
        texts = np.concatenate([replace(side, index=side.index[rows]).texts(column) for side, rows in parts])
        keep &= np.asarray(texts[left] != texts[right]) | np.asarray(texts[left] == "")
    left, right = left[keep], right[keep]
    if len(left) < LEAST_PAIRS:
        return None
    return fit_null(score_pairs(taken, taken, left, right).score, left, right)


def _copies(pool: Side, test: Side, maps: dict[str, np.ndarray], tick: Callable[[int], None]) -> NearCopies:
    first, second = maps[pool.name], maps[test.name]
    near = candidates(first, second, tick=tick)
    k = near.shape[1]
    found = score_pairs(first, second, near.ravel(), np.repeat(np.arange(len(second)), k))
    # One candidate a test image, the best: who has one copy in the pool often has many.
    best = found.score.reshape(-1, k).argmax(axis=1) + k * np.arange(len(second))
    return NearCopies(near.ravel()[best], np.full(len(second), -1), found.take(best))


def _notes(
    groups: Sequence[str], compared: Sequence[tuple[Side, Side]], pixels: bool, found: _Pixels,
    near: Sequence[Nearness],
) -> tuple[str, ...]:
    """What the audit could not look at."""
    notes = []
    unplaced = max((rule.unplaced for rule in near), default=0)
    if unplaced:
        notes.append(f"{unplaced:,} samples of two sides have no place on record: by {near[0].by} nothing is known of "
                     "them.")
    if not groups and (unplaced or not near):
        notes.append("No group column: samples of one object, patient or photograph that look different are not found. "
                     "Name it with --group.")
    if not compared:
        notes.append("There is nothing to compare: all samples are on one side. Name another store with --against.")
    if not pixels:
        notes.append("Pixels were not compared.")
    elif compared and found.null is None:
        notes.append(f"Fewer than {LEAST_PAIRS} pairs of images could be measured: only names and equal contents were "
                     "compared.")
    elif found.confirmed is not None and found.confirmed > HIGHEST:
        notes.append(f"Images of this store look so much alike (threshold {found.confirmed:.2f}) that copies cannot be "
                     "told from others.")
    if found.unreadable:
        notes.append(f"{len(found.unreadable):,} images could not be read, such as {found.unreadable[0]}: run "
                     "`sciencessl store verify`.")
    return tuple(notes)


def _verdict(evidence: Sequence[Evidence], notes: Sequence[str]) -> str:
    kinds = {entry.kind for entry in evidence}
    if kinds - {*UNCONFIRMED}:
        return LEAK
    if kinds:
        return SUSPECT
    return NOTHING if notes else CLEAN
