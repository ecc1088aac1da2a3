"""Pairs of near hashes are confirmed by pixels, among all images of a hash."""

from __future__ import annotations

import numpy as np

from sciencessl.errors import StoreError
from sciencessl.store.confirmed import Links, confirmed
from tests.store.test_dedup import photo, shrunk


def pairs(links: Links) -> list[tuple[int, int]]:
    return sorted(zip(links.one.tolist(), links.other.tolist(), strict=True))


def test_pairs_of_near_hashes_are_looked_for_among_all_images_of_a_hash() -> None:
    pictures = {0: photo(1), 1: photo(2), 2: photo(3), 5: photo(9)}
    equal = Links.of(np.array([0, 0, 3]), np.array([1, 2, 4]))  # hash A has images 0, 1 and 2, hash B has 3 and 4
    near = Links.of(np.array([0, 0]), np.array([3, 5]))
    pictures[3], pictures[4] = shrunk(pictures[1], 64, 48), shrunk(pictures[2], 64, 48)
    found, rejected = confirmed(equal, near, lambda number: pictures[number])
    assert pairs(found) == [(1, 3), (2, 4)]
    assert (found.score > 0.65).all()
    assert (rejected.score <= 0.65).all()


def test_equal_hashes_of_copies_are_looked_at_once() -> None:
    picture = photo(1)
    equal = Links.of(np.zeros(9, np.int64), np.arange(1, 10))
    found, rejected = confirmed(equal, Links.joined([]), lambda number: picture)
    assert pairs(found) == [(0, i) for i in range(1, 10)]
    assert not len(rejected)


def test_an_image_that_cannot_be_read_is_no_copy() -> None:
    def picture(number: int) -> np.ndarray:
        if number == 1:
            raise StoreError("damaged")
        return photo(1)

    equal = Links.of(np.array([0, 0]), np.array([1, 2]))
    found, rejected = confirmed(equal, Links.joined([]), picture)
    assert pairs(found) == [(0, 2)]
    assert pairs(rejected) == [(0, 1)]
