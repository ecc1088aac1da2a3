"""Views for segmentation: image and label image move together, colour changes the image alone."""

from __future__ import annotations

import numpy as np
import pytest

from sciencessl.domains.pathology.views import PathologyViews, pathology_views
from sciencessl.errors import ConfigError, DataError
from sciencessl.evaluate.dense_masks import Masks
from sciencessl.evaluate.dense_views import MASK, Window, dense_views, draw_window
from sciencessl.registry import load_domain
from sciencessl.samples import Sample
from tests.evaluate.discs import disc, png

SETTINGS = PathologyViews(size=32, stain=0.0, brightness=0.0, contrast=0.0, saturation=0.0, hue=0.0, blur=0.0)


def _masks(image: np.ndarray) -> Masks:
    numbers = np.full(256, 255, np.uint8)
    numbers[:2] = 0, 1
    return Masks({0: png(image)}, ("background", "disc"), numbers, "a test")


def _seen(settings: PathologyViews, image: np.ndarray, mask: np.ndarray, seed: int) -> dict[str, np.ndarray]:
    train = dense_views(pathology_views, "tile", _masks(mask), settings)[0]
    return train(Sample({"tile": image}, index=0), lambda view: np.random.default_rng([seed, view]))[0].fields


def test_image_and_label_image_stay_on_each_other() -> None:
    mask = disc(3)[1]
    image = np.repeat(mask[..., None] * 200, 3, axis=2).astype(np.uint8)
    kinds = set()
    for seed in range(40):
        found = _seen(SETTINGS, image, mask, seed)
        assert found["tile"].shape == (32, 32, 3)
        assert found[MASK].shape == (32, 32, 1)
        bright = found["tile"][..., 0] > 100
        assert np.mean(bright != found[MASK][..., 0]) < 0.05  # the rim, where the image is interpolated
        kinds.add(bright.tobytes())
    assert len(kinds) > 20


def test_a_view_never_touches_values_of_the_label_image_and_colour_changes_the_image_alone() -> None:
    image, mask = disc(5)
    mask = np.where(mask == 1, 1, 255).astype(np.uint8)
    plain, jittered = (_seen(settings, image, mask, 1) for settings in (SETTINGS, PathologyViews(size=32)))
    assert set(np.unique(plain[MASK])) <= {1, 255}
    assert np.array_equal(plain[MASK], jittered[MASK])
    assert not np.array_equal(plain["tile"], jittered["tile"])


def test_windows_lie_inside_and_come_in_all_eight_positions() -> None:
    drawn = [draw_window(np.random.default_rng(seed)) for seed in range(300)]
    assert {(window.turns, window.mirror) for window in drawn} == {(k, m) for k in range(4) for m in (False, True)}
    assert all(0 <= start <= 1 - window.side for window in drawn for start in (window.top, window.left))
    assert min(window.side for window in drawn) ** 2 == pytest.approx(0.5, abs=0.02)


def test_evaluation_sees_the_whole_tile() -> None:
    evaluate = dense_views(pathology_views, "tile", None, PathologyViews(size=16, evaluation_window=0.5))[1]
    image = disc(2)[0]
    (found,) = evaluate(Sample({"tile": image}, index=0), lambda view: np.random.default_rng(view))
    assert np.array_equal(found.fields["tile"], Window()(image, 16))
    assert found.fields["tile"].mean() == pytest.approx(image.mean(), abs=0.6)


def test_tiles_that_are_not_square_and_domains_with_other_views_are_refused() -> None:
    evaluate = dense_views(pathology_views, "tile", None, PathologyViews(size=16))[1]
    with pytest.raises(DataError, match="the image is 20 x 30 pixels; tiles must be square"):
        evaluate(Sample({"tile": np.zeros((30, 20, 3), np.uint8)}), lambda view: np.random.default_rng(view))
    flux = load_domain("galaxy")
    with pytest.raises(ConfigError, match="kind 'dense' needs a domain whose views are image operations"):
        dense_views(flux.views, flux.primary, None, flux.train_options())
