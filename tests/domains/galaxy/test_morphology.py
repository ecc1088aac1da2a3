"""Rendered galaxies: flux, place, shape, and the answers drawn from their shape."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from sciencessl.domains.galaxy.morphology import BOX, CLASSES, answer_fractions, draw_galaxies, render
from sciencessl.domains.galaxy.schema import SCHEMAS


def second_moments(image: np.ndarray, x: float, y: float) -> tuple[float, float]:
    """Axis ratio and position angle from flux-weighted second moments."""
    rows, columns = np.indices(image.shape)
    dx, dy = columns - x, rows - y
    xx, yy, xy = (float((image * part).sum()) for part in (dx * dx, dy * dy, dx * dy))
    values = np.linalg.eigvalsh([[xx, xy], [xy, yy]])
    return float(np.sqrt(values[0] / values[1])), 0.5 * np.arctan2(2 * xy, xx - yy)


def centres(n: int) -> np.ndarray:
    return np.full((n, 2), (BOX - 1) / 2) + np.random.default_rng(9).uniform(-0.5, 0.5, (n, 2))


def test_each_band_sums_to_its_flux() -> None:
    galaxies = draw_galaxies(30, np.random.default_rng(0))
    images = render(galaxies, centres(30))
    assert images.dtype == np.float32
    assert (images >= 0).all()
    np.testing.assert_allclose(images.sum(axis=(2, 3)), galaxies.flux, rtol=1e-4)


def test_elliptical_has_its_axis_ratio_and_angle() -> None:
    galaxies = draw_galaxies(60, np.random.default_rng(0))
    small = (galaxies.radius < 7) & (galaxies.sersic < 2)
    kept = galaxies.take(np.flatnonzero((galaxies.kind == 0) & (galaxies.axis_ratio < 0.8) & small))
    assert len(kept) > 3
    places = centres(len(kept))
    for image, (x, y), ratio, angle in zip(
        render(kept, places)[:, 1], places, kept.axis_ratio, kept.angle, strict=True
    ):
        measured, turned = second_moments(image, x, y)
        # The rim fades the light of the far wings, which rounds the outline a little.
        assert abs(measured - ratio) < 0.05
        assert abs(np.sin(turned - angle)) < 0.03


def test_edge_on_discs_are_thinner_than_all_others() -> None:
    galaxies = draw_galaxies(60, np.random.default_rng(3))
    places = centres(60)
    images = render(galaxies, places)[:, 1]
    ratio = np.array([second_moments(image, *place)[0] for image, place in zip(images, places, strict=True)])
    thin = galaxies.kind == CLASSES.index("edge-on")
    assert np.median(ratio[thin]) < 0.6 * np.median(ratio[~thin])


def test_the_same_galaxy_looks_the_same_wherever_it_is_rendered() -> None:
    """A galaxy on two overlapping tiles is rendered twice, beside other galaxies."""
    galaxies = draw_galaxies(14, np.random.default_rng(3))
    places = centres(14)
    some = np.array([9, 2, 13])
    np.testing.assert_array_equal(render(galaxies, places)[some], render(galaxies.take(some), places[some]))


def test_mergers_have_two_nuclei() -> None:
    galaxies = draw_galaxies(400, np.random.default_rng(3))
    mergers = galaxies.take(np.flatnonzero(galaxies.kind == CLASSES.index("merger")))
    assert len(mergers) == 400 // 13
    middle = (BOX - 1) / 2
    straight = replace(mergers, angle=np.zeros(len(mergers)), phase=np.zeros(len(mergers)))
    images = render(straight, np.full((len(mergers), 2), middle))[:, 1]
    second = np.rint(middle + straight.separation * straight.radius).astype(int)
    apart = 0
    for image, x in zip(images, second, strict=True):
        peaks = [image[38:42, at - 1 : at + 2].max() for at in (round(middle), x)]
        apart += min(peaks) > 1.2 * image[38:42, round((middle + x) / 2)].max()
    # Some are so close, or so unequal, that the second is a shoulder of the first.
    assert apart > 0.8 * len(mergers)


def test_handedness_is_a_mirror_image() -> None:
    galaxies = draw_galaxies(60, np.random.default_rng(0))
    spirals = galaxies.take(np.flatnonzero(galaxies.kind == 1)[:5])
    straight = replace(spirals, angle=np.zeros(5), phase=np.zeros(5), bar=np.zeros(5))
    middle = np.full((5, 2), (BOX - 1) / 2)
    one, other = (
        # The same draws of patchiness would not be mirrored, so average many of them away.
        np.mean([render(replace(straight, handedness=np.full(5, hand), seed=np.arange(5) + 5 * draw), middle)[:, 1]
                 for draw in range(12)], axis=0)
        for hand in (1, -1)
    )
    mirrored = np.abs(one - other[:, ::-1]).sum(axis=(1, 2)) / one.sum(axis=(1, 2))
    as_is = np.abs(one - other).sum(axis=(1, 2)) / one.sum(axis=(1, 2))
    assert (mirrored < 0.5 * as_is).all()


def test_colour_and_brightness_do_not_depend_on_class() -> None:
    galaxies = draw_galaxies(6000, np.random.default_rng(0))
    colour = np.log(galaxies.flux[:, 0] / galaxies.flux[:, 2])
    brightness = np.log(galaxies.flux[:, 1])
    for value in (colour, brightness):
        means = [value[galaxies.kind == kind].mean() for kind in range(4)]
        assert np.ptp(means) < 0.15 * value.std()


def test_answers_follow_the_shape() -> None:
    schema = SCHEMAS["gzd5"]
    galaxies = draw_galaxies(3000, np.random.default_rng(0))
    fractions = answer_fractions(galaxies, schema, np.random.default_rng(1))
    assert fractions.shape == (3000, 34)
    for start, stop in schema.groups:
        np.testing.assert_allclose(fractions[:, start:stop].sum(axis=1), 1.0, atol=1e-9)

    def mean(column: str, rows: np.ndarray) -> float:
        return float(fractions[rows, schema.columns.index(column)].mean())

    smooth = [mean("smooth-or-featured-dr5_smooth", galaxies.kind == kind) for kind in range(3)]
    assert smooth[0] > 0.8
    assert max(smooth[1:]) < 0.5
    assert mean("merging-dr5_merger", galaxies.kind == 3) > 0.5 > 0.05 > mean("merging-dr5_merger", galaxies.kind != 3)
    edge = [mean("disk-edge-on-dr5_yes", galaxies.kind == kind) for kind in range(3)]
    assert edge[2] > 0.85 > 0.15 > max(edge[:2])
    for number in (1, 2, 3, 4):
        counts = [mean(f"spiral-arm-count-dr5_{arms}", galaxies.arms == number) for arms in (1, 2, 3, 4)]
        assert np.argmax(counts) == number - 1
    assert mean("spiral-winding-dr5_tight", galaxies.pitch < 14) > 0.5
    assert mean("spiral-winding-dr5_loose", galaxies.pitch > 29) > 0.5
    assert mean("bulge-size-dr5_none", galaxies.bulge < 0.05) > mean("bulge-size-dr5_none", galaxies.bulge > 0.3) + 0.5
