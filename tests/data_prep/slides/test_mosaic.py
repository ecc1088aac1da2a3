"""Windows are put together from tiles, and a bounded number of tiles is kept."""

from __future__ import annotations

import numpy as np
import pytest

from sciencessl.data_prep.slides import mosaic
from sciencessl.data_prep.slides.mosaic import TileCache, framed, from_tiles, inside

WHOLE = np.random.default_rng(0).integers(0, 255, (50, 70, 3), np.uint8)


def tile(column: int, row: int) -> np.ndarray:
    """Tiles of 16 x 10 px; those at the right and lower edge end with the image."""
    return WHOLE[row * 10 : row * 10 + 10, column * 16 : column * 16 + 16]


@pytest.mark.parametrize("box", [(0, 0, 70, 50), (16, 10, 16, 10), (15, 9, 2, 2), (64, 40, 6, 10), (3, 4, 1, 1)])
def test_a_window_is_that_of_the_image(box: tuple[int, int, int, int]) -> None:
    x, y, width, height = box
    got = from_tiles(box, (16, 10), tile)
    np.testing.assert_array_equal(got, WHOLE[y : y + height, x : x + width])
    got[:] = 0
    assert WHOLE[y, x].any(), "the window is the caller's own"


def test_outside_is_white_and_nothing_is_read_where_nothing_is() -> None:
    got = framed((-3, 45, 10, 9), (70, 50), lambda box: from_tiles(box, (16, 10), tile))
    np.testing.assert_array_equal(got[:5, 3:], WHOLE[45:, :7])
    assert (got[5:] == 255).all()
    assert (got[:, :3] == 255).all()
    assert framed((70, 0, 4, 4), (70, 50), lambda box: pytest.fail("nothing is there")).min() == 255
    assert framed((0, 0, 0, 4), (70, 50), lambda box: pytest.fail("nothing is asked")).shape == (4, 0, 3)
    assert inside((-5, -5, 3, 100), 70, 50) == (0, 0, 0, 50)


def test_the_cache_keeps_what_was_used_last_up_to_its_bytes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mosaic, "CACHE_BYTES", 300)
    cache, made = TileCache(), []
    cache.make_room(1000, (100, 100), 1000)

    def make(key: int) -> np.ndarray:
        return cache.get(key, lambda: made.append(key) or np.full(100, key, np.uint8))

    for key in (1, 2, 3, 1, 4, 1, 2):
        assert make(key)[0] == key
    assert made == [1, 2, 3, 4, 2]
    assert cache._bytes == 300
    cache.get("large", lambda: np.zeros(1000, np.uint8))
    make(5)
    assert list(cache._tiles) == [5]
    cache.clear()
    make(9)
    assert cache._bytes == 100


@pytest.mark.parametrize(("side", "step"), [(10, 10), (16, 16), (23, 23), (40, 40), (23, 11), (3, 3)])
def test_rows_of_windows_decode_each_tile_once_with_the_room_they_ask_for(side: int, step: int) -> None:
    cache, made = TileCache(), []

    def get(column: int, row: int) -> np.ndarray:
        return cache.get((column, row), lambda: made.append((column, row)) or tile(column, row))

    for y in range(0, 50 - side + 1, step):
        for x in range(0, 70 - side + 1, step):
            cache.make_room(side, (16, 10), 70)
            from_tiles((x, y, side, side), (16, 10), get)
    assert len(made) == len({*made})
    assert cache._max_bytes <= 3 * 16 * 10 * 6 * (-(-side // 10) + 1), "no more than the rows that a window touches"
