"""A slide of any size whose tiles are copies: it opens, its levels agree, and it takes no room."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest

from sciencessl.domains.pathology.synthetic_tiff import huge_slide

openslide = pytest.importorskip("openslide")


def tissue(side: int) -> np.ndarray:
    """A pink tile with a bluish gradient, so that turned or mirrored tiles would show."""
    y, x = np.mgrid[:side, :side].astype(np.float32) / side
    return np.stack([190 - 60 * x, 90 + 40 * y, 180 + 20 * x], axis=-1).astype(np.uint8)


def read(slide: object, level: int, x: int, y: int, width: int, height: int) -> np.ndarray:
    return np.asarray(slide.read_region((x, y), level, (width, height)), float)[..., :3]  # type: ignore[attr-defined]


def test_levels_of_a_large_slide_agree(tmp_path: Path) -> None:
    tile = tissue(256)
    with openslide.OpenSlide(huge_slide(tmp_path / "h.tiff", 2304, tile)) as slide:
        assert slide.properties["openslide.vendor"] == "generic-tiff"
        assert float(slide.properties["openslide.mpp-x"]) == 0.25
        assert slide.level_dimensions == ((2304, 2304), (576, 576))
        assert np.abs(read(slide, 0, 1024, 1024, 256, 256) - tile).mean() < 4
        whole, small = read(slide, 0, 0, 0, 2304, 2304), read(slide, 1, 0, 0, 576, 576)
    averaged = cv2.resize(whole, (576, 576), interpolation=cv2.INTER_AREA)
    assert np.abs(averaged - small).mean() < 3
    assert (small.min(axis=2) < 230).mean() == pytest.approx((256 / 576) ** 2, abs=0.01)  # one tile of three by three
    assert small[10, 10] == pytest.approx((244, 244, 244), abs=1)


def test_a_hundred_thousand_pixels_a_side_take_three_megabytes(tmp_path: Path) -> None:
    path = huge_slide(tmp_path / "h.tiff", 100_000, tissue(256))
    assert path.stat().st_size < 4e6
    with openslide.OpenSlide(path) as slide:
        assert slide.dimensions == (100_000, 100_000)
        assert slide.level_downsamples == pytest.approx((1, 4, 16, 64), rel=1e-3)
        assert read(slide, 0, 50_000, 50_000, 64, 64).mean() < 200
        assert read(slide, 0, 99_000, 50_000, 64, 64).mean() > 240
        overview = read(slide, 3, 0, 0, 1563, 1563)
    assert (overview.min(axis=2) < 230).mean() == pytest.approx((768 / 1563) ** 2, abs=0.01)
