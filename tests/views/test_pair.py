"""Pipelines as views: one generator a view, samples that keep their identity."""

from __future__ import annotations

import math
import random
from dataclasses import fields
from typing import Any

import numpy as np
import pytest

from sciencessl.data.order import augmentation_rng
from sciencessl.registry import load_domain
from sciencessl.samples import Sample
from sciencessl.views.affine import RotatedCrop, centre_window
from sciencessl.views.operations import CropResize
from sciencessl.views.pair import crop_least_px, evaluation_views, multi_crop_views, train_views
from sciencessl.views.pipeline import Pipeline
from sciencessl.views.settings import CropViews


def sample(image: np.ndarray) -> Sample:
    return Sample({"image": image, "mask": np.ones(2)}, {"patient": "p"}, "a", 4)


def test_view_v_is_pipeline_v_with_generator_v() -> None:
    def add(image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        return image + rng.integers(1000)

    def subtract(image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        return image - rng.integers(1000)

    image = np.zeros((2, 2, 1))
    views = train_views("image", [add, subtract])(sample(image), lambda v: np.random.default_rng(v + 5))
    drawn = [int(np.random.default_rng(v + 5).integers(1000)) for v in range(2)]
    assert [int(view.fields["image"][0, 0, 0]) for view in views] == [drawn[0], -drawn[1]]
    for view in views:
        assert (view.id, view.index, view.meta) == ("a", 4, {"patient": "p"})
        assert list(view.fields) == ["image"]
    assert image.max() == 0


def test_evaluation_is_one_view_that_draws_nothing() -> None:
    views = evaluation_views("image", lambda image: image * 2)(
        sample(np.ones((2, 2, 1))), lambda v: pytest.fail("drew")
    )
    assert len(views) == 1
    assert np.array_equal(views[0].fields["image"], np.full((2, 2, 1), 2.0))
    assert (views[0].id, views[0].index, views[0].meta) == ("a", 4, {"patient": "p"})


def seer_crops(**changes: Any) -> CropViews:
    return CropViews(**{"size": 160, "area": (0.14, 1.0), "small_views": 4, "small_size": 96, **changes})


@pytest.mark.parametrize("large", [1, 2, 3])
def test_small_views_follow_the_large_ones(large: int) -> None:
    asked = []

    def pipeline(size: int, area: tuple[float, float], number: int) -> Any:
        asked.append((size, area, number))
        return lambda image, rng: np.full((size, size, 1), number)

    views = multi_crop_views("image", seer_crops(large_views=large), pipeline)
    made = views(sample(np.zeros((2, 2, 1))), np.random.default_rng)
    kinds = [(160, (0.14, 1.0))] * large + [(96, (0.05, 0.14))] * 4
    assert asked == [(*kind, v) for v, kind in enumerate(kinds)]
    assert [view.fields["image"].shape[0] for view in made] == [160] * large + [96] * 4
    assert [int(view.fields["image"].max()) for view in made] == list(range(large + 4))


def test_the_hungrier_of_large_and_small_views_says_how_large_an_image_must_be() -> None:
    def pipeline(*asked: Any) -> Any:
        return None

    def least(**changes: Any) -> float:
        return multi_crop_views("image", seer_crops(**changes), pipeline, (3 / 4, 4 / 3)).least_px["image"]

    assert least() == pytest.approx(96 / math.sqrt(0.05 * 0.75))
    assert least(small_size=48) == least(small_views=0) == pytest.approx(160 / math.sqrt(0.14 * 0.75))


@pytest.mark.parametrize("domain", ["galaxy", "pathology", "web"])
def test_small_views_of_a_domain_have_their_size_and_change_no_large_one(domain: str) -> None:
    spec = load_domain(domain)
    image = np.random.default_rng(0).integers(0, 256, (80, 100, 3), dtype=np.uint8)
    photo = Sample({spec.primary: image})

    def views(epoch: int, **settings: Any) -> list[np.ndarray]:
        make = spec.views(spec.train_options(size=48, **settings))[0]
        return [v.fields[spec.primary] for v in make(photo, lambda view: augmentation_rng(0, epoch, 1, view))]

    many = views(0, small_views=4, small_size=24)
    assert [view.shape for view in many] == [(48, 48, 3)] * 2 + [(24, 24, 3)] * 4
    alone, again, other = views(0), views(0, small_views=4, small_size=24), views(1, small_views=4, small_size=24)
    assert len(alone) == 2
    assert all(np.array_equal(a, b) for a, b in zip(many, alone, strict=False))
    assert all(np.array_equal(a, b) for a, b in zip(many, again, strict=True))
    assert not any(np.array_equal(a, b) for a, b in zip(many, other, strict=True))
    assert len({view.tobytes() for view in many}) == 6


@pytest.mark.parametrize("domain", ["galaxy", "pathology", "web"])
def test_there_are_as_many_large_views_as_asked_for_and_the_first_ones_stay_the_same(domain: str) -> None:
    spec = load_domain(domain)
    photo = Sample({spec.primary: np.random.default_rng(0).integers(0, 256, (80, 100, 3), dtype=np.uint8)})

    def views(large: int) -> list[np.ndarray]:
        make = spec.views(spec.train_options(size=48, large_views=large))[0]
        return [v.fields[spec.primary] for v in make(photo, lambda view: augmentation_rng(0, 0, 1, view))]

    one, two, four = views(1), views(2), views(4)
    assert [len(one), len(two), len(four)] == [1, 2, 4]
    assert {view.shape for view in four} == {(48, 48, 3)}
    assert all(np.array_equal(a, b) for few in (one, two) for a, b in zip(few, four, strict=False))
    assert len({view.tobytes() for view in four}) == 4


def test_large_views_take_turns_with_colours_that_two_have_of_their_own() -> None:
    spec = load_domain("web")
    made: Any = spec.views(spec.train_options(large_views=4, small_views=1))[0]
    blurred = [pipeline.transforms[4].p for pipeline in made.pipelines]
    assert blurred == [1.0, 0.1, 1.0, 0.1, 1.0]


@pytest.mark.parametrize("domain", ["galaxy", "pathology", "web"])
@pytest.mark.parametrize("channels", [1, 3])
def test_plain_views_are_the_crops_of_full_ones_and_nothing_more(domain: str, channels: int) -> None:
    """With the same generator, a full view begins with the same crop and mirror image."""
    spec = load_domain(domain)
    image = np.random.default_rng(0).integers(0, 256, (80, 100, channels), dtype=np.uint8)
    plain, full = (
        spec.views(spec.train_options(plain=plain, large_views=3, small_views=1))[0] for plain in (True, False)
    )
    geometry = ("RotatedCrop", "CropResize", "HorizontalFlip")
    mirrored = 0
    for number in range(12):
        views = plain(Sample({spec.primary: image}), lambda view, number=number: augmentation_rng(0, 0, number, view))
        for v, (view, pipeline) in enumerate(zip(views, full.pipelines, strict=True)):  # type: ignore[attr-defined]
            steps = getattr(pipeline, "_stamp" if channels == 3 else "_grey", pipeline).transforms
            moving = [step for step in steps if type(step).__name__ in geometry]
            expected = Pipeline(moving)(image, augmentation_rng(0, 0, number, v))
            assert np.array_equal(view.fields[spec.primary], expected)
            mirrored += bool(moving[-1].params.get("mirror", [moving[-1].params])[0])
    assert 12 < mirrored < 36


@pytest.mark.parametrize("domain", ["galaxy", "pathology", "web"])
def test_small_views_show_the_area_that_was_asked_for(domain: str) -> None:
    """A ramp along each axis: what a view spans of it, whatever its angle, tells the window."""
    spec = load_domain(domain)
    ramp = np.zeros((200, 200, 3), np.uint8)
    ramp[..., 0], ramp[..., 1] = np.arange(200), np.arange(200)[:, None]
    plain = {"brightness": 0.0, "contrast": 0.0, "saturation": 0.0, "hue": 0.0, "greyscale": 0.0, "blur": 0.0}
    known = {entry.name for entry in fields(spec.train_options)}
    settings = {"small_views": 3, "small_area": (0.04, 0.09), **{k: v for k, v in plain.items() if k in known}}
    made: Any = spec.views(spec.train_options(**settings))[0]
    for seed in range(10):
        for pipeline in made.pipelines[2:]:
            crop = Pipeline(getattr(pipeline, "_stamp", pipeline).transforms[:1])
            view = crop(ramp, np.random.default_rng(seed)).astype(float)
            # A step of one pixel along each axis of the view, in pixels of the image, from its middle, which no edge
            # reflects: the determinant is the area of one of its pixels.
            middle = view[8:24, 8:24, :2]
            across = (middle[:, -1] - middle[:, 0]).mean(axis=0) / 15
            down = (middle[-1] - middle[0]).mean(axis=0) / 15
            area = abs(np.linalg.det(np.stack([across, down]))) * 32 * 32 / 200**2
            assert 0.03 < area < 0.11


def smallest_crop(crop: Any, height: int, width: int, draws: int = 400) -> float:
    """Shortest side of the windows that a crop draws from an image of that size, in pixels."""
    rng = np.random.default_rng(0)
    crop.set_random_state(rng, random.Random(0))
    shortest = math.inf
    for _ in range(draws):
        drawn = crop.get_params_dependent_on_data({"shape": (height, width, 3)}, {})
        if "window" in drawn:
            shortest = min(shortest, *drawn["window"])
        else:
            left, top, right, bottom = drawn["crop_coords"]
            shortest = min(shortest, right - left, bottom - top)
    return shortest


@pytest.mark.parametrize("kind", [CropResize, RotatedCrop])
@pytest.mark.parametrize(
    ("area", "aspect"),
    [((0.08, 1.0), (3 / 4, 4 / 3)), ((0.2, 1.0), (1.0, 1.0)), ((0.3, 0.85), (0.95, 1.05)), ((1.0, 1.0), (0.5, 0.8))],
)
def test_no_crop_is_enlarged_from_least_px_on(
    kind: type, area: tuple[float, float], aspect: tuple[float, float]
) -> None:
    size = 64
    least = crop_least_px(size, area, aspect)
    crop = kind(size, area, aspect)
    for longer in (1.0, 1.4, 3.0, 12.0):
        short = math.ceil(least)
        long = round(short * longer)
        assert smallest_crop(crop, short, long) >= size
        assert smallest_crop(crop, long, short) >= size
    # And not from much less on: the rule leaves no reduction out that square images could have.
    if area[0] < 1:
        assert smallest_crop(crop, round(0.85 * least), round(0.85 * least)) < size


def test_the_least_size_is_that_of_the_smallest_crop_of_the_longest_shape() -> None:
    """BYOL at 224 by hand: a crop of 8 % at 4:3 has a shorter side of sqrt(0.08 * 0.75) of a square image's."""
    assert crop_least_px(224, (0.08, 1.0), (3 / 4, 4 / 3)) == pytest.approx(224 / 0.2449490, rel=1e-6)
    assert crop_least_px(64, (0.25, 1.0)) == pytest.approx(128)


@pytest.mark.parametrize(
    ("domain", "settings", "train", "evaluate"),
    [
        ("web", {"size": 224}, 914.47, 256), ("web", {"size": 64, "area": (0.25, 1.0)}, 147.80, 73),
        ("pathology", {"size": 64}, 143.11, 64), ("pathology", {"size": 64, "evaluation_window": 0.5}, 143.11, 128),
        ("galaxy", {"size": 64}, 119.88, 85.33),
        ("web", {"size": 160, "area": (0.14, 1.0), "small_views": 4, "small_size": 96}, 495.74, 183),
    ],
)
def test_domains_declare_the_least_size_that_their_views_need(
    domain: str, settings: dict[str, Any], train: float, evaluate: float
) -> None:
    spec = load_domain(domain)
    views = spec.views(spec.train_options(**settings))
    declared = [view.least_px for view in views]  # type: ignore[attr-defined]
    assert declared == [pytest.approx({spec.primary: least}, abs=0.01) for least in (train, evaluate)]


def test_the_evaluated_window_is_not_enlarged_from_the_declared_size_on(monkeypatch: pytest.MonkeyPatch) -> None:
    seen = []
    monkeypatch.setattr("sciencessl.views.affine.resize", lambda image, height, width: seen.append(image.shape[0]))
    for size in (32, 64, 224):
        for fraction in (0.3, 0.5, 0.75, 1.0):
            centre_window(np.zeros((math.ceil(size / fraction), 999, 1)), fraction, size)
            assert seen[-1] >= size


def test_views_that_declare_nothing_need_the_whole_image() -> None:
    assert train_views("image", []).least_px == evaluation_views("image", lambda x: x).least_px == {"image": math.inf}


def test_the_first_view_alone_is_the_same_as_among_others() -> None:
    def draw(image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        return image + rng.integers(1000)

    def unwanted(image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        pytest.fail("made the second view")

    image = sample(np.zeros((2, 2, 1)))
    alone = train_views("image", [draw, unwanted], 7.0).first
    both = train_views("image", [draw, draw])(image, np.random.default_rng)
    (one,) = alone(image, np.random.default_rng)
    assert np.array_equal(one.fields["image"], both[0].fields["image"])
    assert alone.least_px == {"image": 7.0}
