"""Small pictures of whole slides."""

from __future__ import annotations

import numpy as np
import pytest

from sciencessl.data_prep.slides import thumbnail as module
from sciencessl.data_prep.slides.thumbnail import thumbnail
from tests.data_prep.slides.slides_in_memory import SlideInMemory, slide_info


def picture(width: int, height: int) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)


def slide(*levels: np.ndarray) -> SlideInMemory:
    height, width = levels[0].shape[:2]
    downsamples = [width / level.shape[1] for level in levels]
    return SlideInMemory(slide_info((width, height), downsamples=downsamples), [*levels])


def test_pixels_are_means_of_blocks_of_the_only_level() -> None:
    pixels = picture(60, 40)
    small, scale = thumbnail(slide(pixels), 20)
    assert small.shape == (13, 20, 3)
    assert scale == (3.0, 3.0)
    means = pixels[:39, :60].reshape(13, 3, 20, 3, 3).mean(axis=(1, 3))
    assert np.abs(small - means).max() <= 0.51


def test_the_coarsest_level_that_is_large_enough_is_read() -> None:
    levels = [picture(80, 64), picture(40, 32), picture(20, 16), picture(10, 8)]
    small, scale = thumbnail(slide(*levels), 30)
    assert np.array_equal(small, levels[2])
    assert scale == (4.0, 4.0)


def test_strips_give_what_one_read_gives(monkeypatch: pytest.MonkeyPatch) -> None:
    reader = slide(picture(64, 100))
    whole, _ = thumbnail(reader, 50)
    monkeypatch.setattr(module, "STRIP_PIXELS", 64 * 6)
    in_strips, _ = thumbnail(reader, 50)
    assert np.array_equal(whole, in_strips)


def test_a_slide_of_one_pixel_is_its_own_thumbnail() -> None:
    small, scale = thumbnail(slide(picture(1, 1)))
    assert small.shape == (1, 1, 3)
    assert scale == (1.0, 1.0)


def test_a_ribbon_keeps_its_height() -> None:
    small, _ = thumbnail(slide(picture(300, 2)), 30)
    assert min(small.shape[:2]) >= 1
