from __future__ import annotations

import pickle
import random
import subprocess
import sys
from typing import Any

import albumentations as alb
import numpy as np
import pytest

from sciencessl.data.order import augmentation_rng
from sciencessl.errors import DataError
from sciencessl.views.byol import byol_views
from sciencessl.views.operations import Greyscale, Solarise
from sciencessl.views.pipeline import Pipeline

IMAGE = np.random.default_rng(0).integers(0, 256, (32, 32, 3), dtype=np.uint8)


def everything(transforms: Any) -> list[Any]:
    found = []
    for transform in transforms:
        found += [transform, *everything(getattr(transform, "transforms", []))]
    return found


def test_every_nested_transform_gets_the_one_generator() -> None:
    nested = alb.OneOf([alb.Sequential([alb.GaussNoise(p=1), Solarise(p=0.5)], p=1), alb.CoarseDropout(p=1)], p=0.7)
    some = alb.SomeOf([nested, alb.RandomGamma(p=0.5)], n=1)
    pipeline = Pipeline([some, alb.OneOrOther(Greyscale(), alb.VerticalFlip())])
    rng = np.random.default_rng(1)
    pipeline(IMAGE, rng)
    states = [(t.random_generator, t.py_random) for t in everything(pipeline.transforms)]
    assert len(states) == 10
    assert all(generator is rng and word is states[0][1] for generator, word in states)
    assert isinstance(states[0][1], random.Random)


def test_same_key_same_pixels_whatever_came_before() -> None:
    view = byol_views(16)[1]
    first = view(IMAGE, augmentation_rng(0, 1, 2, 1)).copy()
    for i in range(20):
        view(IMAGE, augmentation_rng(0, 1, i + 3, 1))
    assert np.array_equal(view(IMAGE, augmentation_rng(0, 1, 2, 1)), first)
    assert np.array_equal(byol_views(16)[1](IMAGE, augmentation_rng(0, 1, 2, 1)), first)
    assert not np.array_equal(view(IMAGE, augmentation_rng(0, 2, 2, 1)), first)


def test_global_generators_play_no_part() -> None:
    view = byol_views(16)[0]
    results = []
    for seed in (0, 1):
        random.seed(seed)
        before = random.getstate()
        results.append(view(IMAGE, np.random.default_rng(5)))
        assert random.getstate() == before
    assert np.array_equal(*results)


def test_survives_pickling() -> None:
    view = byol_views(16)[0]
    copy = pickle.loads(pickle.dumps(view))
    assert np.array_equal(copy(IMAGE, np.random.default_rng(5)), view(IMAGE, np.random.default_rng(5)))


@pytest.mark.parametrize("wrong", [IMAGE[..., 0], IMAGE.astype(float), IMAGE.astype(">f4"), IMAGE.astype(np.int16)])
def test_refuses_other_arrays(wrong: np.ndarray) -> None:
    with pytest.raises(DataError, match=r"\(H, W, C\) image of uint8 or float32"):
        Pipeline([alb.HorizontalFlip()])(wrong, np.random.default_rng(0))


def test_importing_settings_costs_no_albumentations() -> None:
    code = (
        "import sys, sciencessl, sciencessl.views.byol, sciencessl.views.pipeline, sciencessl.views.to_input, "
        "sciencessl.data.order; print([m for m in ('albumentations', 'cv2', 'torch') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
