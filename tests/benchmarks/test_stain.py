"""The benchmark of stains runs whole on two tiles, and every way changes all of them."""

from __future__ import annotations

from collections.abc import Callable
from types import ModuleType

import numpy as np
import pytest


@pytest.fixture(scope="module")
def script(load_script: Callable[[str], ModuleType]) -> ModuleType:
    return load_script("stain")


def test_it_measures_every_way_and_names_what_is_absent(script: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    def absent(images: np.ndarray) -> None:
        raise ImportError

    monkeypatch.setattr(script, "JITTER", (script.batch, script.view, absent))
    monkeypatch.setattr(script, "NORMALISE", (script.slide_fit, script.fit_each))
    found = script.measure(2, 1)
    assert found["ratios"].keys() == {"view", "fit_each"}
    assert all(value > 0 for value in found["ratios"].values())
    assert found["absent"] == ["absent"]
    script.show(found)


def test_every_way_gives_each_tile_another_colour(script: ModuleType) -> None:
    images = script.tiles(2)
    assert images.shape == (2, 224, 224, 3)
    for make in (*script.JITTER, *script.NORMALISE):
        try:
            work = make(images)
        except ImportError:
            continue
        made = [np.asarray(one) for one in work(0)]
        assert len(made) == 2
        for one, image in zip(made, images, strict=True):
            shown = one if one.shape == image.shape else one.transpose(1, 2, 0)
            assert 0.1 < np.abs(shown.astype(float) - image).mean() < 80, make.__name__
