"""Views of galaxies: colour stays a measurement, handedness can be kept, and every operation has its rate."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from sciencessl.data.order import augmentation_rng
from sciencessl.domains.galaxy import SPEC
from sciencessl.domains.galaxy.views import FIELD, GalaxyViews, galaxy_views
from sciencessl.errors import ConfigError
from sciencessl.samples import Sample

IMAGE = np.random.default_rng(0).integers(0, 256, (16, 16, 3), dtype=np.uint8)
RATES = {"RotatedCrop": 1.0, "ByolColourJitter": 0.8, "Greyscale": 0.3, "GaussianBlur": 0.3}


def sample(image: np.ndarray) -> Sample:
    return Sample({FIELD: image}, {}, "g", 0)


def train(settings: GalaxyViews, image: np.ndarray, number: int) -> list[np.ndarray]:
    views = galaxy_views(settings)[0](sample(image), lambda view: augmentation_rng(0, 0, number, view))
    return [view.fields[FIELD] for view in views]


@pytest.fixture(scope="module")
def flags(applied: Callable[..., Any]) -> tuple[list[str], np.ndarray]:
    names, found = applied(SPEC, GalaxyViews(size=8), IMAGE)
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


def test_hue_and_saturation_of_stamps_are_jittered_and_may_be_left_alone() -> None:
    colour = np.broadcast_to(np.array([130, 110, 90], np.uint8), (24, 24, 3)).copy()
    settings = GalaxyViews(size=16, greyscale=0.0, brightness=0.0, contrast=0.0)
    steps = [np.diff(view[0, 0].astype(int)) for i in range(50) for view in train(settings, colour, i)]
    assert np.ptp(steps, axis=0).min() > 10


def test_colour_is_not_touched_without_them() -> None:
    """On one colour, contrast does nothing and a shift moves all bands alike: hue and saturation alone would not."""
    colour = np.broadcast_to(np.array([130, 110, 90], np.uint8), (24, 24, 3)).copy()
    brightness = set()
    for i in range(150):
        for view in train(GalaxyViews(size=16, greyscale=0.0, saturation=0.0, hue=0.0), colour, i):
            steps = np.diff(view.astype(int), axis=2)
            assert np.abs(steps + 20).max() <= 1  # each band is rounded by itself
            brightness.add(int(view[0, 0, 0]))
    assert min(brightness) < 115
    assert max(brightness) > 145


def test_greyscale_drops_colour_of_stamps_only() -> None:
    stamp = train(GalaxyViews(size=16, greyscale=1.0), IMAGE, 0)[0]
    assert np.array_equal(stamp[..., 0], stamp[..., 2])
    five = np.random.default_rng(0).integers(0, 256, (24, 24, 5), dtype=np.uint8)
    got = train(GalaxyViews(size=16, greyscale=1.0), five, 0)[0]
    assert got.shape == (16, 16, 5)
    assert not np.array_equal(got[..., 0], got[..., 2])


@pytest.mark.parametrize("channels", [1, 3, 5])
def test_flux_is_scaled_and_smoothed_but_never_shifted_or_greyed(channels: int) -> None:
    flux = np.random.default_rng(0).normal(0.5, 30, (32, 32, channels)).astype(np.float32)
    settings = GalaxyViews(size=16, greyscale=1.0, brightness=1.0)
    constant = np.broadcast_to(np.arange(1, channels + 1, dtype=np.float32), (32, 32, channels)).copy()
    for i in range(60):
        for view, double, level in zip(
            train(settings, flux, i), train(settings, 2 * flux, i), train(settings, constant, i), strict=True
        ):
            assert view.dtype == np.float32
            np.testing.assert_allclose(double, 2 * view, rtol=1e-4, atol=1e-2)  # twice the exposure, twice the view
            np.testing.assert_allclose(level / constant[:16, :16], level[0, 0, 0], rtol=1e-5)  # colours are kept
            assert 0.6 <= level[0, 0, 0] <= 1.4
            assert view.min() < 0


@pytest.mark.parametrize(("parity_safe", "mirrored"), [(False, 0.5), (True, 0.0)])
def test_parity_safe_views_never_show_a_mirror_image(parity_safe: bool, mirrored: float) -> None:
    """An L of three blobs: the turn from its long to its short arm has one sense unless it was mirrored."""
    y, x = np.mgrid[:64, :64] - 31.5
    corner, far, near = (
        np.exp(-((x - a) ** 2 + (y - b) ** 2) / 18.0) for a, b in ((-6.0, -6.0), (-6.0, 12.0), (4.0, -6.0))
    )
    image = (np.stack([corner, far, near], -1) * 255).astype(np.uint8)
    settings = GalaxyViews(
        size=48, area=(0.7, 0.85), shift=0.05, parity_safe=parity_safe, brightness=0.0, greyscale=0.0, contrast=0.0,
        saturation=0.0, hue=0.0,
    )
    grid = np.stack(np.mgrid[:48, :48][::-1], -1).reshape(-1, 2)
    senses = []
    for i in range(150):
        for view in train(settings, image, i):
            weights = view.reshape(-1, 3).astype(float) ** 2
            corner_at, far_at, near_at = ((weights[:, c : c + 1] * grid).sum(0) / weights[:, c].sum() for c in range(3))
            (a, b), (c, d) = far_at - corner_at, near_at - corner_at
            senses.append(a * d - b * c > 0)
    share = np.mean(senses)  # unmirrored, far x near = (0, 18) x (10, 0) is negative
    assert abs(share - mirrored) <= 4 * np.sqrt(mirrored * (1 - mirrored) / len(senses))


@pytest.mark.parametrize("shape", [(80, 80, 3), (90, 60, 3), (20, 24, 3), (70, 70, 1), (40, 55, 5)])
@pytest.mark.parametrize("dtype", ["uint8", "float32"])
def test_sizes_and_determinism(shape: tuple[int, int, int], dtype: str) -> None:
    image = (np.random.default_rng(0).random(shape) * 255).astype(dtype)
    settings = GalaxyViews(size=32)
    evaluate = galaxy_views(settings)[1]
    never = pytest.fail
    first, again = (evaluate(sample(image), lambda view: never("evaluation draws"))[0].fields[FIELD] for _ in range(2))
    assert first.shape == (32, 32, shape[2])
    assert first.dtype == image.dtype
    assert np.array_equal(first, again)
    one, two = train(settings, image, 7), train(settings, image, 7)
    assert [view.shape for view in one] == [(32, 32, shape[2])] * 2
    assert all(np.array_equal(a, b) for a, b in zip(one, two, strict=True))
    assert not np.array_equal(one[0], one[1])


def test_the_evaluation_window_is_the_middle() -> None:
    image = np.random.default_rng(0).integers(0, 256, (80, 100, 3), dtype=np.uint8)
    evaluate = galaxy_views(GalaxyViews(size=60, evaluation_window=0.75))[1]
    views = evaluate(sample(image), lambda view: pytest.fail("drew"))
    assert np.array_equal(views[0].fields[FIELD], image[10:70, 20:80])


@pytest.mark.parametrize(
    "wrong",
    [{"size": 4}, {"area": (0.5, 0.2)}, {"area": (0.0, 1.0)}, {"shift": 0.6}, {"evaluation_window": 0.0},
     {"greyscale": 1.5}, {"blur": -0.1}, {"contrast": -1.0}, {"brightness": 2.0}, {"aspect": (0.0, 1.0)},
     {"aspect": (1.2, 0.8)}],
)  # fmt: skip
def test_settings_are_checked(wrong: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match=rf"views\.{next(iter(wrong))} is "):
        GalaxyViews(**wrong)
