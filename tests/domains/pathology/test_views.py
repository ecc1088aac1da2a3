"""Views of tissue tiles: the rates of every operation, stain and colour jitter, and the evaluation window."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from sciencessl.data.order import augmentation_rng
from sciencessl.domains.pathology import SPEC
from sciencessl.domains.pathology.views import FIELD, PathologyViews, pathology_views
from sciencessl.errors import ConfigError
from sciencessl.samples import Sample

IMAGE = np.random.default_rng(0).integers(0, 256, (16, 16, 3), dtype=np.uint8)
def no_draw(view: int) -> np.random.Generator:
    raise AssertionError(f"evaluation draws for view {view}")


RATES = {"RotatedCrop": 1.0, "StainJitter": 0.5, "ByolColourJitter": 0.8, "Greyscale": 0.2, "GaussianBlur": 0.5}


@pytest.fixture(scope="module")
def flags(applied: Callable[..., Any]) -> tuple[list[str], np.ndarray]:
    names, found = applied(SPEC, PathologyViews(size=8), IMAGE)
    return names, found


def test_operations_and_their_rates(flags: tuple[list[str], np.ndarray], has_rate: Callable[..., bool]) -> None:
    names, found = flags
    assert names == list(RATES)
    for view, (i, name) in itertools.product(range(2), enumerate(names)):
        assert has_rate(found[view, :, i], RATES[name]), (view, name)


def test_operations_are_independent_within_and_between_views(
    flags: tuple[list[str], np.ndarray], has_rate: Callable[..., bool]
) -> None:
    names, found = flags
    rates = list(RATES.values())
    for i, j in itertools.combinations(range(len(names)), 2):
        for view in range(2):
            assert has_rate(found[view, :, i] & found[view, :, j], rates[i] * rates[j]), (names[i], names[j])
    for i in range(len(names)):
        assert has_rate(found[0, :, i] & found[1, :, i], rates[i] ** 2), names[i]


def test_no_stain_jitter_is_no_operation_and_draws_nothing() -> None:
    made: Any = pathology_views(PathologyViews(size=8, stain=0.0))[0]
    assert [type(one).__name__ for one in made.pipelines[0].transforms] == [n for n in RATES if n != "StainJitter"]


def test_stain_colour_varies() -> None:
    pink = np.broadcast_to(np.array([200, 120, 170], np.uint8), (24, 24, 3)).copy()
    train = pathology_views(PathologyViews(size=16, greyscale=0.0))[0]
    steps = []
    for i in range(60):
        for view in train(Sample({FIELD: pink}, {}, "t", 0), lambda number, i=i: augmentation_rng(0, 0, i, number)):
            steps.append(np.diff(view.fields[FIELD][0, 0].astype(int)))
    assert np.std(steps, axis=0).min() > 5


@pytest.mark.parametrize("shape", [(96, 96, 3), (90, 60, 3), (20, 24, 3)])
def test_sizes_and_determinism(shape: tuple[int, int, int]) -> None:
    image = np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)
    tile = Sample({FIELD: image}, {"patient": "p"}, "t", 5)
    train, evaluate = pathology_views(PathologyViews(size=32))
    one, two = (train(tile, lambda view: augmentation_rng(0, 0, 1, view)) for _ in range(2))
    assert [view.fields[FIELD].shape for view in one] == [(32, 32, 3)] * 2
    assert all(np.array_equal(a.fields[FIELD], b.fields[FIELD]) for a, b in zip(one, two, strict=True))
    seen = evaluate(tile, lambda view: pytest.fail("evaluation draws"))
    assert len(seen) == 1
    assert seen[0].fields[FIELD].shape == (32, 32, 3)
    assert (seen[0].id, seen[0].index, seen[0].meta) == ("t", 5, {"patient": "p"})


def test_the_whole_tile_is_evaluated() -> None:
    image = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    evaluate = pathology_views(PathologyViews(size=64))[1]
    assert np.array_equal(evaluate(Sample({FIELD: image}, {}, "t", 0), no_draw)[0].fields[FIELD], image)


@pytest.mark.parametrize(
    "wrong",
    [{"size": 4}, {"area": (0.5, 0.2)}, {"evaluation_window": 1.5}, {"greyscale": 1.5}, {"blur": -0.1},
     {"hue": 0.6}, {"saturation": -1.0}, {"stain": 1.0}, {"stain": -0.1}, {"stain_p": 1.5}],
)  # fmt: skip
def test_settings_are_checked(wrong: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match=rf"views\.{next(iter(wrong))} is "):
        PathologyViews(**wrong)
