"""A scene as a scanner sees it: physical size does not depend on the scanner's scale."""

from __future__ import annotations

import cv2
import numpy as np

from sciencessl.domains.pathology.synthetic import draw_stain
from sciencessl.domains.pathology.synthetic_picture import GLASS, Defects, draw_picture
from sciencessl.domains.pathology.synthetic_scene import draw_scene


def test_one_field_at_two_scales() -> None:
    scene = draw_scene((200.0, 160.0), "tumour", np.random.default_rng(1))
    stain = draw_stain(np.random.default_rng(2))
    fine, coarse = (draw_picture(scene, Defects(), stain, (round(200 / mpp), round(160 / mpp)), mpp,
                                 np.random.default_rng(3)) for mpp in (0.25, 0.5))  # fmt: skip
    assert fine.shape == (640, 800, 3)
    averaged = cv2.resize(fine, (400, 320), interpolation=cv2.INTER_AREA)
    same = np.corrcoef(averaged.ravel(), coarse.ravel())[0, 1]
    shifted = np.corrcoef(averaged[:, 2:].ravel(), coarse[:, :-2].ravel())[0, 1]
    assert same > 0.95
    assert same > shifted + 0.02


def test_glass_is_nearly_even() -> None:
    picture = draw_picture(None, Defects(), draw_stain(np.random.default_rng(0)), (300, 280), 0.5,
                           np.random.default_rng(0))  # fmt: skip
    assert picture.shape == (280, 300, 3)
    assert abs(float(picture.mean()) - GLASS) < 1
    assert 0.5 < picture.std() < 2
