"""What lies on a synthetic slide: everything inside the tissue, cells in the shares that were drawn."""

from __future__ import annotations

import math

import cv2
import numpy as np
import pytest
from scipy.spatial import cKDTree

from sciencessl.domains.pathology.synthetic_scene import CELLS, CLASSES, Scene, draw_scene, ellipse_ring, wave


@pytest.fixture(scope="module", params=CLASSES)
def scene(request: pytest.FixtureRequest) -> Scene:
    return draw_scene((512.0, 416.0), request.param, np.random.default_rng(2))


def far_inside(ring: np.ndarray, places: np.ndarray) -> np.ndarray:
    """How far inside a ring places are; negative outside."""
    corners = ring.astype(np.float32)
    return np.array([cv2.pointPolygonTest(corners, (float(x), float(y)), True) for x, y in places])


def test_everything_lies_in_the_tissue(scene: Scene) -> None:
    assert scene.tissue.min() > 0
    assert np.all(scene.tissue.max(axis=0) < scene.size)
    assert far_inside(scene.tissue, scene.nuclei.place).min() > 0.5
    for gland in scene.glands:
        assert far_inside(scene.tissue, ellipse_ring(*gland)).min() > 0
    if scene.tumour is not None:
        assert far_inside(scene.tissue, scene.tumour).min() > 0


def test_only_epithelium_lies_in_tumour_and_glands(scene: Scene) -> None:
    rings = [ellipse_ring(*gland, corners=64) for gland in scene.glands]
    rings += [] if scene.tumour is None else [scene.tumour]
    inside = np.max([far_inside(ring, scene.nuclei.place) for ring in rings], axis=0) > 0
    epithelium = scene.nuclei.kind == CELLS.index("epithelium")
    assert np.array_equal(inside, epithelium)


def test_cells_come_in_the_shares_that_were_drawn(scene: Scene) -> None:
    n = len(scene.nuclei.kind)
    share = np.bincount(scene.nuclei.kind, minlength=3) / n
    assert scene.shares.sum() == pytest.approx(1)
    assert np.all(np.abs(share - scene.shares) < 4 * np.sqrt(scene.shares * (1 - scene.shares) / n))
    area = abs(cv2.contourArea(scene.tissue.astype(np.float32)))
    assert n / area * 1e6 == pytest.approx(4500, rel=0.02)


def test_shares_differ_between_slides_and_classes() -> None:
    drawn = {kind: np.array([draw_scene((200.0, 160.0), kind, np.random.default_rng(seed)).shares
                             for seed in range(12)]) for kind in CLASSES}  # fmt: skip
    assert drawn["tumour"][:, 0].mean() > drawn["benign"][:, 0].mean() + 0.1
    assert drawn["benign"].std(axis=0).min() > 0.02


def test_nuclei_keep_their_distance(scene: Scene) -> None:
    nearest = cKDTree(scene.nuclei.place).query(scene.nuclei.place, k=2)[0][:, 1]
    assert nearest.min() > 2.0
    assert np.median(nearest) > 4.0


def test_stroma_nuclei_lie_along_the_fibres(scene: Scene) -> None:
    stroma = scene.nuclei.kind == CELLS.index("stroma")
    place, step = scene.nuclei.place[stroma], 0.01
    # Moving along the direction of a fibre keeps how far across the fibres a place is.
    across, direction = wave(scene.direction, place)
    moved = place + step * np.stack([np.cos(direction), np.sin(direction)], axis=1)
    assert np.abs(wave(scene.direction, moved)[0] - across).max() < 0.02 * step
    off = np.angle(np.exp(1j * (scene.nuclei.angle[stroma] - direction)))
    assert 0.05 < off.std() < 0.15


def test_an_outline_has_the_area_of_its_ellipse() -> None:
    for corners in (8, 12, 48):
        ring = ellipse_ring(10.0, 20.0, 5.0, 2.0, 0.7, corners=corners).astype(np.float32)
        assert cv2.contourArea(ring) == pytest.approx(math.pi * 5 * 2, rel=1e-5)
        assert ring.mean(axis=0) == pytest.approx((10, 20), rel=1e-5)
        assert (ring[0] - (10, 20)) / np.hypot(*(ring[0] - (10, 20))) == pytest.approx((math.cos(0.7), math.sin(0.7)))
