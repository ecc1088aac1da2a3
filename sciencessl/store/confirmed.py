"""Pairs of images with near hashes, of which those stay whose pixels say that they are copies.

Hashes alone mislead where images are of one kind: of 3,600 galaxies 9,800 pairs are within 7 bits, and none is a copy.
How alike two images are is the score of `sciencessl.views.polar.align`, as for the leak check
(`sciencessl.store.near_copies`): of 992 photos and 17 kinds of copies each, all but one copy within 7 bits score more
than `COPIED`, galaxies that near hashes call copies 0.41 at most, and different photos 0.61.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass

import numpy as np

from sciencessl.errors import StoreError
from sciencessl.monitor.throughput import Progress
from sciencessl.store.copies import score_pairs
from sciencessl.store.near_copies import COPIED
from sciencessl.views.polar import ANGLES, RINGS, polar_map

BLOCK = 2048
"""Pairs that are compared at a time."""
ROUNDS = 32
"""Images of one hash that are told apart; what is like none of so many is left as it is."""


@dataclass(frozen=True)
class Links:
    """Pairs of samples.

    Attributes:
        one: (p,) int64 numbers.
        other: (p,) int64 numbers.
        score: (p,) float32 likeness of pixels; NaN where they were not looked at.
    """

    one: np.ndarray
    other: np.ndarray
    score: np.ndarray

    def __len__(self) -> int:
        return len(self.one)

    def where(self, wanted: np.ndarray) -> Links:
        """Some of the pairs: a mask, or positions."""
        return Links(self.one[wanted], self.other[wanted], self.score[wanted])

    @classmethod
    def of(cls, one: np.ndarray, other: np.ndarray) -> Links:
        """Pairs that nobody has looked at."""
        return cls(one, other, np.full(len(one), np.nan, np.float32))

    @classmethod
    def joined(cls, parts: list[Links]) -> Links:
        """All pairs of several."""
        none = cls.of(np.zeros(0, np.int64), np.zeros(0, np.int64))
        every = [none, *parts]
        return cls(*(np.concatenate([getattr(part, name) for part in every]) for name in ("one", "other", "score")))


def confirmed(equal: Links, near: Links, picture: Callable[[int], np.ndarray]) -> tuple[Links, Links]:
    """The pairs whose pixels are alike, and those that were looked at and are not.

    Of equal hashes only the first image stands in the pairs (`hamming.near_pairs`). Where some of them are not like it,
    the first of these stands for the rest, and so on for `ROUNDS` rounds; pairs of near hashes are compared with all
    that stand for one.

    Args:
        equal: Pairs of equal hashes, each with the first image of its hash as `one`.
        near: Pairs of first images.
        picture: Number -> (H, W, 3) uint8.
    """
    parts: list[Links] = []
    apart: list[Links] = []
    standing: dict[int, list[int]] = {}
    for _ in range(ROUNDS):
        if not len(equal):
            break
        equal = _scored(equal, picture)
        alike = equal.score > COPIED
        parts.append(equal.where(alike))
        apart.append(equal.where(~alike))
        equal = _next_round(equal.where(~alike), standing)
    near = _scored(_with_standing(near, standing), picture)
    alike = near.score > COPIED
    return Links.joined([*parts, near.where(alike)]), Links.joined([*apart, near.where(~alike)])


def _next_round(left: Links, standing: dict[int, list[int]]) -> Links:
    """Pairs of those that are left of each hash with the first of them, which stands for the hash from now on."""
    first_of = {leader: first for first, leaders in standing.items() for leader in leaders}
    order = np.lexsort((left.other, left.one))
    leaders, others = left.one[order], left.other[order]
    before, start, count = np.unique(leaders, return_index=True, return_counts=True)
    for leader, new in zip(before.tolist(), others[start].tolist(), strict=True):
        standing.setdefault(first_of.get(leader, leader), []).append(new)
    new_leaders = np.repeat(others[start], count)
    rest = new_leaders != others
    return Links.of(new_leaders[rest], others[rest])


def _with_standing(near: Links, standing: dict[int, list[int]]) -> Links:
    """Pairs with all images that stand for a hash."""
    if not standing or not len(near):
        return near
    several = np.array([*standing], np.int64)
    some = np.flatnonzero(np.isin(near.one, several) | np.isin(near.other, several))
    more = [(x, y) for one, other in zip(near.one[some].tolist(), near.other[some].tolist(), strict=True)
            for x in [one, *standing.get(one, [])] for y in [other, *standing.get(other, [])]]
    one, other = np.array(more, np.int64).reshape(-1, 2).T
    return Links.joined([near.where(np.delete(np.arange(len(near)), some)), Links.of(one, other)])


def _scored(links: Links, picture: Callable[[int], np.ndarray]) -> Links:
    """The pairs in order of their numbers, with scores; 0 where an image cannot be read."""
    links = links.where(np.lexsort((links.other, links.one)))
    progress = Progress(len(links), unit="pair", title="confirm copies")
    for at in range(0, len(links), BLOCK):
        part = slice(at, at + BLOCK)
        numbers, place = np.unique(np.stack([links.one[part], links.other[part]]), return_inverse=True)
        maps = np.zeros((len(numbers), RINGS, ANGLES), np.float16)
        for row, number in enumerate(numbers.tolist()):
            with suppress(StoreError):  # `store verify` tells
                maps[row] = polar_map(picture(number))
        links.score[part] = score_pairs(maps, maps, *place.reshape(2, -1)).score
        progress.update(min(at + BLOCK, len(links)))
    progress.close()
    return links
