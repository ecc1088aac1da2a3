"""The benchmark of views runs whole on two photos, and every way makes the same two views of them."""

from __future__ import annotations

from collections.abc import Callable
from types import ModuleType

import numpy as np
import pytest
import torch

from sciencessl.views.operations import blur_kernel


@pytest.fixture(scope="module")
def script(load_script: Callable[[str], ModuleType]) -> ModuleType:
    return load_script("views")


def test_it_measures_every_way_on_two_photos(script: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    def absent(images: list[np.ndarray]) -> None:
        raise ImportError

    chosen = (script.torchvision_v2_pil, script.torchvision_v2_pil_imagefilter, script.albumentations)
    monkeypatch.setattr(script, "ALTERNATIVES", (*chosen, absent))
    found = script.measure(2, 1)
    names = {make.__name__ for make in chosen}
    assert found["ratios"].keys() == names
    assert found["absolute"]["ms_both_views"].keys() == {"ours", *names}
    assert all(value > 0 for value in found["ratios"].values())
    assert found["absent"] == ["absent"]
    script.show(found)


def test_every_way_ends_with_two_views_of_224_pixels_a_photo(script: ModuleType) -> None:
    assert blur_kernel(script.SIZE) == script.KERNEL
    photos = script.photos(2)
    for name, work in script.installed(photos).items():
        made = work(0)
        shapes = [tuple(view.shape) for pair in made for view in pair]
        assert sorted(shapes[0]) == [3, 224, 224]
        assert shapes == [shapes[0]] * 4, name
        kinds = {view.dtype for pair in made for view in pair}
        assert kinds == {torch.float32} if name == "lightly" else kinds <= {np.dtype("uint8"), torch.uint8}, name


def test_ratios_compare_within_a_round(script: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    seconds = {"ours": [1.0, 2.0, 4.0], "no_way": [2.0, 4.0, 80.0]}
    monkeypatch.setattr(script, "milliseconds", lambda ways, rounds, images: seconds)
    assert script.measure(1, 3)["ratios"] == {"no_way": 2.0}


@pytest.mark.slow
def test_views_take_an_eighth_of_those_of_torchvision_on_pil_images(
    script: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(script, "ALTERNATIVES", (script.torchvision_v2_pil,))
    assert script.measure(8, 3)["ratios"]["torchvision_v2_pil"] >= 8
