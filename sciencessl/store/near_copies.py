"""Copies of images on the other side of a comparison, found by their perceptual hash and confirmed by their pixels.

This takes seconds for millions of images, where `sciencessl.store.copies` looks at every pair: it finds what was
resized, encoded again, made grey or darker, or cropped by a few percent, and not what was turned or mirrored.

What was measured, on 979 photos (`clothing`), 3,600 galaxies (`sdss_gz1`), 3,650 tiles (`lc25000_lung`) and 10,019
images of 32 px (`cifar10_jpg`): of 100 copies of each kind all are within `RADIUS` bits that were saved at quality 75
or 40, halved, made square, grey or 0.7 times as bright, and 98 % of those cropped to 0.98 (67 to 91 % within 3 bits);
they score 0.63 or more. Different images within that radius score 0.61 at most: of the photos, of which there are two
such pairs, and 0.44 of 11,000 pairs of galaxies, whose hashes tell little. Pairs of `cifar10_jpg` above `COPIED` are
one picture for an eye too. A likeness of thumbnails would not tell: it is up to 0.98 for different galaxies.
"""

from __future__ import annotations

import io
import zipfile
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np

from sciencessl.errors import StoreError
from sciencessl.monitor.throughput import Progress
from sciencessl.store.copies import score_pairs
from sciencessl.store.display import pictures
from sciencessl.store.files import write_atomic
from sciencessl.store.hamming import near_between
from sciencessl.store.reader import Store
from sciencessl.store.remote import beside
from sciencessl.store.sides import Side
from sciencessl.views.perceptual import FLAT, phash
from sciencessl.views.polar import ANGLES, RINGS, Alignment, polar_map

COLUMN = "phash"
"""Of rows, or of a table: int64 with the bits of the hash."""
PERCEPTUAL = "perceptual hash"
"""By what near copies are found, in words."""
RADIUS = 7
"""Bits by which hashes may differ."""
COPIED, ALIKE = 0.65, 0.5
"""Scores (`sciencessl.views.polar.align`) above which a pair within the radius is a copy, or looks alike."""
CANDIDATES = 4
"""Images that are looked at for each test image: those with the nearest hashes."""
KEPT = 2**22
"""Pairs of hashes that are held before only the nearest are kept."""
NONE = np.zeros(0, np.int64)
MOST_UNHASHED = 200_000
"""Images of a store without hashes that are read to make them: about a millisecond each."""


@dataclass(frozen=True)
class NearCopies:
    """For each of m test samples the most alike of the pool's samples that were looked at.

    Attributes:
        match: (m,) int64 position in the pool, or -1 where none was.
        bits: (m,) int64 by which the hashes differ; -1 where they were not asked.
        likeness: m pairs; its score is 0 where there is none.
        unknown: Why images could not be compared, as a sentence; empty where they were.
    """

    match: np.ndarray
    bits: np.ndarray
    likeness: Alignment
    unknown: str = ""

    def rows(self, low: float, high: float = np.inf) -> np.ndarray:
        """Positions of test samples whose score is above `low` and at most `high`, the most alike first."""
        score = self.likeness.score
        rows = np.flatnonzero((self.match >= 0) & (score > low) & (score <= high))
        return rows[np.argsort(-score[rows], kind="stable")]

    def details(self, row: int) -> dict[str, Any]:
        """What `sciencessl.store.audit_record.Pair` tells of the pair of one test sample."""
        like = self.likeness
        apart = f"{self.bits[row]} bits apart" if self.bits[row] >= 0 else ""
        return {"value": apart, "score": round(float(like.score[row]), 4),
                "turn_deg": float(like.turn_deg[row]), "zoom": round(float(like.zoom[row]), 3),
                "mirrored": bool(like.mirrored[row])}


def near_copies(pool: Side, test: Side) -> NearCopies:
    """Look for copies of test images in a pool.

    Stores without hashes are read once for them, and the hashes are kept beside the store, in `NAME.phash.npz`.

    Args:
        pool: What may have been learned from.
        test: What is judged on.
    """
    for side in (pool, test):
        if len(side.store) > MOST_UNHASHED and not has_hashes(side.store):
            return _best(len(test.index), unknown=_too_many(side.store))
    if not len(pool.index) or not len(test.index):
        return _best(len(test.index))
    which, match, bits = _candidates(*(store_hashes(side.store)[side.index] for side in (pool, test)))
    if not len(which):
        return _best(len(test.index))
    likeness, unknown = _scores(pool, test, match, which)
    return _best(len(test.index), which, match, bits, likeness, unknown)


def _best(
    m: int, which: np.ndarray = NONE, match: np.ndarray = NONE, bits: np.ndarray = NONE,
    found: Alignment | None = None, unknown: str = "",
) -> NearCopies:
    """Of p pairs, for each of m test samples that with the highest score."""
    if found is None:
        zero = np.zeros(m)
        return NearCopies(np.full(m, -1), np.full(m, -1), Alignment(zero, zero, zero, zero > 0), unknown)
    pair = np.full(m, -1)
    order = np.lexsort((-match, found.score))
    pair[which[order]] = order  # of several, the last one stays
    known = pair >= 0
    best = found.take(pair)
    best.score[~known] = 0
    return NearCopies(np.where(known, match[pair], -1), np.where(known, bits[pair], -1), best, unknown)


def has_hashes(store: Store) -> bool:
    """Whether hashes need no images: the store has a column of them, or they were kept beside it."""
    return COLUMN in store.columns() or _kept(store) is not None


def _too_many(store: Store) -> str:
    return (f"Near copies were not looked for: {store.path} has {len(store):,} images and no column {COLUMN!r}, with "
            f"which crawls are prepared; `sciencessl store dedup {store.path} --by phash --dry-run` makes its hashes.")


@lru_cache(maxsize=4)
def store_hashes(store: Store) -> np.ndarray:
    """(N,) uint64 perceptual hashes of all samples; `FLAT` where there is none, or the image cannot be read."""
    if COLUMN in store.columns():
        values = store.column(COLUMN)
        known = values.astype(np.int64) if values.dtype.kind == "i" else np.array(
            [FLAT if value is None or value != value else int(value) for value in values.tolist()], np.int64)
        return known.view(np.uint64)
    kept = _kept(store)
    if kept is not None:
        return kept
    hashes = np.full(len(store), FLAT, np.uint64)
    picture = pictures(store)
    progress = Progress(len(store), unit="image", title="perceptual hashes")
    for index in range(len(store)):
        with suppress(StoreError):  # `store verify` tells; what cannot be read was not learned from either
            hashes[index] = phash(picture(index))
        progress.update(index + 1)
    progress.close()
    _keep(store, hashes)
    return hashes


def _kept(store: Store) -> np.ndarray | None:
    try:
        with np.load(beside(store.path, ".phash.npz"), allow_pickle=False) as kept:
            hashes = kept["hashes"]
            same = str(kept["digest"]) == store.digest and hashes.dtype == np.uint64 and hashes.shape == (len(store),)
            return hashes if same else None
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile):
        return None


def _keep(store: Store, hashes: np.ndarray) -> None:
    stream = io.BytesIO()
    np.savez(stream, hashes=hashes, digest=store.digest)
    with suppress(OSError):  # where nothing can be written they are made again
        write_atomic(beside(store.path, ".phash.npz"), stream.getvalue())


def _candidates(pool: np.ndarray, test: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Pairs within the radius, at most `CANDIDATES` a test image, the nearest first.

    Of one hash there may be thousands of images (placeholders, galaxies), so hashes are compared once each.

    Args:
        pool: (n,) uint64.
        test: (m,) uint64.

    Returns:
        Positions in the test, in the pool, and the bits between their hashes: three (p,) int64.
    """
    order = np.argsort(pool, kind="stable")
    own, first, count = np.unique(pool[order], return_index=True, return_counts=True)
    asked, which = np.unique(test, return_inverse=True)
    right, left = _nearest(asked, own)
    # One hash may be that of several images, on either side.
    near = np.repeat(np.arange(len(left)), np.minimum(count[left], CANDIDATES))
    left, right, match = left[near], right[near], order[first[left[near]] + _numbered(near)]
    kept = _numbered(right) < CANDIDATES
    left, right, match = left[kept], right[kept], match[kept]
    start, stop = np.searchsorted(right, which, "left"), np.searchsorted(right, which, "right")
    samples = np.repeat(np.arange(len(test)), stop - start)
    pair = start[samples] + _numbered(samples)
    return samples, match[pair], np.bitwise_count(own[left[pair]] ^ asked[right[pair]]).astype(np.int64)


def _nearest(asked: np.ndarray, own: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(k,) positions in `asked` and `own` of hashes within the radius, `CANDIDATES` at most of each asked, in its order
    and that of their distance."""
    right, left = NONE, NONE
    waiting: list[tuple[np.ndarray, np.ndarray]] = []
    for one, other, _ in near_between(asked, own, RADIUS):
        waiting.append((one, other))
        if sum(len(part) for part, _ in waiting) > KEPT:
            right, left = _pruned(asked, own, [(right, left), *waiting])
            waiting = []
    return _pruned(asked, own, [(right, left), *waiting])


def _pruned(
    asked: np.ndarray, own: np.ndarray, parts: Sequence[tuple[np.ndarray, np.ndarray]]
) -> tuple[np.ndarray, np.ndarray]:
    right, left = (np.concatenate([part[side] for part in parts]) for side in (0, 1))
    order = np.lexsort((left, np.bitwise_count(own[left] ^ asked[right]), right))
    kept = order[_numbered(right[order]) < CANDIDATES]
    return right[kept], left[kept]


def _numbered(values: np.ndarray) -> np.ndarray:
    """(n,) the number of each value among its equals, from 0; equal ones follow each other."""
    new = np.flatnonzero(np.diff(values, prepend=-1))
    return np.arange(len(values)) - np.repeat(new, np.diff(new, append=len(values)))


def _scores(pool: Side, test: Side, match: np.ndarray, which: np.ndarray) -> tuple[Alignment, str]:
    """How alike the pixels of p pairs are, (p,) positions in the pool and in the test, and what could not be read."""
    (left, first), (right, second) = (np.unique(rows, return_inverse=True) for rows in (match, which))
    (own, lost), (asked, missed) = _maps(pool, left), _maps(test, right)
    return score_pairs(own, asked, first, second), " ".join(filter(None, (lost, missed)))


def _maps(side: Side, rows: np.ndarray) -> tuple[np.ndarray, str]:
    """(n, RINGS, ANGLES) float16 maps; zeros, which resemble nothing, for images that cannot be read, and how many."""
    picture = pictures(side.store)
    maps, unread = np.zeros((len(rows), RINGS, ANGLES), np.float16), 0
    for number, index in enumerate(side.index[rows].tolist()):
        try:
            maps[number] = polar_map(picture(index))
        except StoreError:
            unread += 1
    path = side.store.path
    which = f"{unread:,} image{'s' * (unread != 1)} of {path}"
    return maps, (f"Near hashes of {which} could not be confirmed, because pixels cannot be read; `sciencessl store "
                  f"verify {path}` tells why." if unread else "")
