"""Stretches against closed forms and astropy, back again, and fits that masks and empty bands don't upset."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pytest
from astropy.io import fits
from astropy.visualization import make_lupton_rgb

from sciencessl.errors import ConfigError, DataError
from sciencessl.views.stretch import (
    KINDS,
    LEGACY_SCALES,
    Stretch,
    fit_stretch,
    legacy_stretch,
    lupton_stretch,
    noise_level,
    with_missing,
)

BY_BAND = ["linear", "asinh", "log", "percentile"]


def field(seed: int = 0, sky: float = 0.02, size: tuple[int, int] = (60, 50)) -> np.ndarray:
    """A galaxy in three bands, noise below it: (H, W, 3) float32."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[: size[0], : size[1]]
    light = np.exp(-np.hypot(y - size[0] / 2, x - size[1] / 2) / 4)[..., None] * [1.0, 2.5, 4.0]
    noisy: np.ndarray = (sky + light + rng.normal(0, [0.01, 0.02, 0.03], (*size, 3))).astype(np.float32)
    return noisy


def test_linear_asinh_and_log_are_their_closed_forms() -> None:
    zero, scale, b = (1.0, -2.0), (4.0, 8.0), (0.1, 0.02)
    flux = np.array([[[1.0, 6.0], [3.0, -2.5], [0.0, 100.0]]])
    u = (flux - zero) / scale
    cases = {
        "linear": u, "percentile": u, "asinh": np.arcsinh(u / b) / np.arcsinh(1 / np.array(b)),
        "log": np.sign(u) * np.log(1 + abs(u) / b) / np.log(1 + 1 / np.array(b)),
    }
    for kind, want in cases.items():
        stretch = Stretch(kind, zero, scale, b if kind in ("asinh", "log") else ())  # type: ignore[arg-type]
        assert np.allclose(stretch.apply(flux, clip=False), want, atol=1e-6)
        assert np.allclose(stretch.apply(flux), want.clip(0, 1), atol=1e-6)
        assert stretch.apply(flux).dtype == np.float32
        assert stretch.apply(np.array([[zero, np.add(zero, scale)]])).tolist() == [[[0, 0], [1, 1]]]


@pytest.mark.parametrize("kind", BY_BAND)
def test_flux_comes_back(kind: str) -> None:
    images = [field(seed) for seed in range(3)]
    stretch = fit_stretch(images, 3, kind)  # type: ignore[arg-type]
    wide = np.concatenate([images[0], -images[0], 1e3 * images[1], 1e-4 * images[2]])
    back = stretch.invert(stretch.apply(wide, clip=False))
    assert back.dtype == np.float32
    unit = np.array(stretch.scale) * (stretch.softening or 1e-2)
    assert (np.abs(back - wide) / np.maximum(np.abs(wide), unit)).max() < 1e-5
    cut = stretch.invert(stretch.apply(np.full((1, 1, 3), 1e6)))
    assert np.allclose(cut, np.add(stretch.zero, stretch.scale), rtol=1e-5)


@pytest.mark.parametrize("kind", ["lupton", "legacy"])
def test_what_mixes_bands_says_that_it_has_no_inverse(kind: str) -> None:
    stretch = Stretch(kind, (0.0,) * 3, (1.0,) * 3, (0.1,))  # type: ignore[arg-type]
    with pytest.raises(DataError, match=r"mixes the bands of a pixel.*use linear, asinh, log or percentile"):
        stretch.invert(np.zeros((2, 2, 3)))


def test_lupton_is_the_rule_of_the_paper_pixel_by_pixel() -> None:
    """f(I) = asinh(Q (I - m) / stretch) / Q, R = r f(I) / I, all three divided by the largest where that is above 1."""
    flux, s, q, m = field(sky=0.0), 0.4, 6.0, 0.05
    got = lupton_stretch(3, s, q, m).apply(flux)
    for y, x in [(0, 0), (5, 7), (29, 24), (30, 25), (31, 30), (40, 20)]:
        r, g, b = flux[y, x].astype(float).tolist()
        intensity = (r + g + b) / 3
        factor = math.asinh(q * (intensity - m) / s) / q / intensity if intensity > m else 0.0
        shown = [max(v * factor, 0.0) for v in (r, g, b)]
        want = [v / max(1.0, *shown) for v in shown]
        assert got[y, x] == pytest.approx(want, abs=1e-6)
    assert got[30, 25].max() == 1.0
    # Colours stay where nothing is negative, also where pixels saturate.
    bright = got.min(axis=2) > 0
    assert bright.sum() > 50
    shown, seen = got[bright], flux[bright]
    assert np.allclose(shown[:, 0] / shown[:, 2], seen[:, 0] / seen[:, 2], rtol=1e-4)


def test_the_minimum_is_taken_from_the_intensity_and_not_from_each_band() -> None:
    # A defect elsewhere: a minimum that is taken from each band changes colours and cuts what is below it in one band.
    flux = np.array([[[0.02, 0.5, 0.98]]])
    shown = lupton_stretch(3, 1.0, 4.0, minimum=0.1).apply(flux)[0, 0]
    assert shown / shown[2] == pytest.approx(flux[0, 0] / 0.98, rel=1e-5)
    assert lupton_stretch(3, 1.0, 4.0, minimum=0.1).apply(flux / 5 - 1e-9).max() == 0
    theirs = make_lupton_rgb(*flux.T, minimum=0.1, stretch=1.0, Q=4)[0, 0]
    assert theirs[0] == 0
    assert shown[0] * 255 > 3


def test_lupton_without_minimum_is_astropys() -> None:
    flux, s, q = field(sky=0.0), 0.5, 8.0
    # astropy normalises the curve by its slope at a tenth of the stretch: this much flux is white there.
    white = math.sinh(math.asinh(0.1 * q) / 0.1) * s / q
    ours = Stretch("lupton", (0.0,) * 3, (white,) * 3, (s / q / white,)).apply(flux).astype(np.float64) * 255
    theirs = make_lupton_rgb(*np.moveaxis(flux.astype(np.float64), 2, 0), minimum=0, stretch=s, Q=q)
    assert len(np.unique(theirs)) > 100
    assert np.abs(ours - (theirs + 0.5)).max() < 0.51  # it cuts to whole levels


def test_saturated_pixels_keep_their_colour_unless_each_band_is_cut() -> None:
    stretch = Stretch("lupton", (0.0,) * 3, (1.0,) * 3, (0.1,))
    flux = np.array([[[8.0, 4.0, 2.0]]])
    assert stretch.apply(flux)[0, 0] == pytest.approx([1.0, 0.5, 0.25])
    factor = math.asinh(14 / 3 / 0.1) / math.asinh(10) / (14 / 3)
    each = Stretch("lupton", (0.0,) * 3, (1.0,) * 3, (0.1,), clip="each")
    assert each.apply(flux)[0, 0] == pytest.approx([1.0, min(1.0, 4 * factor), 2 * factor], rel=1e-6)


def test_the_legacy_viewer_scales_flux_and_offset_together() -> None:
    flux = 0.05 * field(sky=0.0)[..., ::-1]  # z, r, g
    # A defect elsewhere: image * (scale + m * f(I) / I) instead of (image * scale + m) * f(I) / I.
    x = flux * np.array([2.2, 3.4, 6.0]) + 0.03
    intensity = np.maximum(x, 0).mean(axis=2, keepdims=True)
    want = (x * np.arcsinh(20 * intensity) / np.sqrt(20) / intensity).clip(0, 1)
    got = legacy_stretch(["z", "r", "g"]).apply(flux)
    assert np.allclose(got, want, atol=1e-6)
    assert 0 < want.min() < 0.12 < 0.7 < want.max()
    dark = legacy_stretch(["z", "r", "g"]).apply(np.full((1, 1, 3), -1.0))
    assert dark.tolist() == [[[0.0, 0.0, 0.0]]]
    with pytest.raises(ConfigError, match="no band of the Legacy Surveys viewer named 'y'"):
        legacy_stretch(["g", "r", "y"])
    assert set(LEGACY_SCALES) == set("ugriz")


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("kind", KINDS)
def test_missing_pixels_stay_missing(kind: str) -> None:
    # A defect elsewhere: NaN becomes 0 silently.
    flux = field()
    whole = legacy_stretch(["g", "r", "z"]) if kind == "legacy" else fit_stretch([flux], 3, kind)  # type: ignore[arg-type]
    flux[3, 4, 1], flux[5, 6] = np.nan, -np.inf
    before = flux.copy()
    shown = whole.apply(flux)
    bad = np.zeros(flux.shape, bool)
    bad[5, 6] = True
    bad[3, 4, slice(None) if kind in ("lupton", "legacy") else 1] = True
    assert np.array_equal(np.isnan(shown), bad)
    known = shown[~bad]
    assert 0 <= known.min() <= known.max() <= 1
    assert np.array_equal(flux, before, equal_nan=True)


@pytest.mark.parametrize("kind", KINDS[:-1])
def test_a_fit_is_what_numpy_says_of_all_finite_pixels(kind: str) -> None:
    images = [field(seed) for seed in range(4)]
    images[0][10:20, :, 1] = np.nan
    stretch = fit_stretch(iter(images), 3, kind, ends=(2.0, 99.0))  # type: ignore[arg-type]
    pixels = [np.concatenate([image[..., c].ravel() for image in images]).astype(float) for c in range(3)]
    pixels = [values[np.isfinite(values)] for values in pixels]
    low, sky, high = (np.array([np.percentile(values, q) for values in pixels]) for q in (2, 50, 99))
    noise = np.array([1.4826 * np.median(abs(values - np.median(values))) for values in pixels])
    black = low if kind == "percentile" else sky - noise if kind in ("asinh", "log") else sky
    assert stretch.zero == pytest.approx(black)
    width = np.full(3, (high - black).max()) if kind == "linear" else high - black
    assert stretch.scale == pytest.approx(width)
    if kind == "lupton":
        assert stretch.softening == pytest.approx([3 * np.sqrt(((noise / width) ** 2).sum()) / 3])
    elif kind in ("asinh", "log"):
        assert stretch.softening == pytest.approx(3 * noise / width)
    assert fit_stretch(images, 3, kind, ends=(2.0, 99.0)) == stretch  # type: ignore[arg-type]


def test_noise_alone_does_not_fill_the_range() -> None:
    sky = np.random.default_rng(0).normal(5, 2, (80, 80, 1))
    noise = noise_level(sky.ravel())
    for kind in ("linear", "asinh", "log", "lupton"):
        stretch = fit_stretch([sky], 1, kind)  # type: ignore[arg-type]
        assert stretch.zero[0] + stretch.scale[0] == pytest.approx(np.median(sky) + 5 * noise)
        assert np.quantile(stretch.apply(sky), 0.999) < 0.8


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("kind", KINDS[:-1])
def test_empty_and_constant_bands_are_dark_and_harm_no_other(kind: str) -> None:
    flux = field()
    alone = fit_stretch([flux], 3, kind)  # type: ignore[arg-type]
    flux[..., 0], flux[..., 1] = np.nan, 7.0
    stretch = fit_stretch([flux], 3, kind)  # type: ignore[arg-type]
    assert stretch.zero[:2] == (0.0, 7.0)
    assert stretch.scale[2] == alone.scale[2]
    assert min(stretch.scale) > 0
    shown = stretch.apply(np.nan_to_num(flux))
    assert np.isfinite(shown).all()
    if kind in BY_BAND:
        assert shown[..., :2].max() == 0
    nothing = fit_stretch([], 2, kind)  # type: ignore[arg-type]
    assert (nothing.zero, nothing.scale) == ((0.0, 0.0), (1.0, 1.0))


def test_large_stamps_are_looked_at_evenly_and_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every 1,024th pixel of rows of 512 would be one column."""
    image = np.tile(np.arange(512, dtype=np.float32)[None, :, None], (2048, 1, 1))
    seen: list[np.ndarray] = []
    monkeypatch.setattr("sciencessl.views.stretch.noise_level", lambda values: seen.append(values) or 1.0)
    stretch = fit_stretch([image], 1, "percentile")
    assert 2**13 < len(seen[0]) <= 2**14
    assert len(np.unique(seen[0])) == 512
    assert stretch.zero[0] == pytest.approx(0.01 * 511, abs=1)
    assert stretch.scale[0] == pytest.approx(0.987 * 511, abs=1)


def test_some_bands_of_a_rule_are_the_rule_of_these_bands() -> None:
    flux = field()
    for kind in BY_BAND:
        stretch = fit_stretch([flux], 3, kind)  # type: ignore[arg-type]
        assert np.array_equal(stretch.of_bands((2, 0)).apply(flux[..., [2, 0]]), stretch.apply(flux)[..., [2, 0]])
    lupton = fit_stretch([flux], 3, "lupton")
    assert np.allclose(lupton.of_bands((2, 1, 0)).apply(flux[..., ::-1]), lupton.apply(flux)[..., ::-1], atol=1e-6)


@pytest.mark.parametrize("kind", KINDS[:-1])
def test_a_stretch_survives_json(kind: str) -> None:
    stretch = fit_stretch([field()], 3, kind)  # type: ignore[arg-type]
    again = Stretch.from_dict(json.loads(json.dumps(stretch.to_dict())))
    assert again == stretch
    assert hash(again) == hash(stretch)


def test_masks_and_infinities_become_missing_and_a_clean_image_is_not_copied() -> None:
    image = field()
    assert with_missing(image, None) is image
    mask = np.zeros(image.shape, np.int32)
    assert with_missing(image, mask) is image
    mask[1, 2, 0], image[3, 3, 1] = 4, np.inf
    found = with_missing(image, mask)
    assert found.dtype == np.float32
    assert np.argwhere(np.isnan(found)).tolist() == [[1, 2, 0], [3, 3, 1]]
    assert np.isfinite(image[1, 2, 0])


def test_the_noise_level_is_that_of_the_background() -> None:
    rng = np.random.default_rng(3)
    values = np.concatenate([rng.normal(5, 2, 20_000), np.full(1000, 1e6)])
    assert noise_level(values) == pytest.approx(2.0, rel=0.1)
    padded = np.concatenate([np.zeros(30_000), rng.normal(0, 2, 20_000)])
    assert noise_level(padded) == pytest.approx(2.0, rel=0.1)
    assert noise_level(np.full(9, 3.0)) == noise_level(np.empty(0)) == 0.0


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"kind": "asin", "softening": ()}, "no stretch named 'asin'. Did you mean 'asinh'"),
        ({"softening": (0.1,)}, "'asinh' of 2 bands: expected one zero and one scale a band and 2 softening, got 2, "),
        ({"kind": "lupton"}, "2 bands: expected .* 1 softening"),
        ({"scale": (1.0,)}, "one zero and one scale a band"),
        ({"scale": (1.0, 0.0)}, "scale .1.0, 0.0. and softening .* finite and positive"),
        ({"zero": (0.0, math.nan)}, "zero .0.0, nan. must be finite"),
        ({"softening": (0.1, math.inf)}, "finite and positive"),
        ({"kind": "lupton", "softening": (0.1,), "minimum": 1.0}, "minimum is 1.0 and clip 'together'"),
        ({"kind": "lupton", "softening": (0.1,), "clip": "none"}, "clip 'none'; expected .* 'together' or 'each'"),
    ],
)
def test_values_that_make_no_stretch_are_named(values: dict[str, object], message: str) -> None:
    good = {"kind": "asinh", "zero": (0.0, 0.0), "scale": (1.0, 1.0), "softening": (0.1, 0.1)}
    with pytest.raises(ConfigError, match=message):
        Stretch(**good | values)  # type: ignore[arg-type]


def test_images_of_other_bands_and_fits_that_cannot_be_are_refused() -> None:
    stretch = fit_stretch([field()], 3)
    for image in (np.zeros((4, 4, 2)), np.zeros((4, 4))):
        with pytest.raises(DataError, match=r"stretch of 3 bands: expected \(H, W, 3\), got"):
            stretch.apply(image)
        with pytest.raises(DataError, match=r"stretch of 3 bands"):
            stretch.invert(image)
        with pytest.raises(DataError, match=r"fit of a stretch: expected \(H, W, 3\) images"):
            fit_stretch([image], 3)
    with pytest.raises(ConfigError, match="no stretch to fit named 'legacy'"):
        fit_stretch([field()], 3, "legacy")
    for ends in ((99.0, 1.0), (0.0, 101.0)):
        with pytest.raises(ConfigError, match="two ascending percentiles"):
            fit_stretch([field()], 3, ends=ends)


def test_a_field_of_sdss_is_shown_as_astropy_shows_it_and_comes_back(shared_data: Path) -> None:
    bands = [fits.getdata(shared_data / f"galaxy/fits_sdss_gri/reprojected_sdss_{band}.fits.bz2") for band in "irg"]
    flux = np.stack(bands, axis=2).astype(np.float32)
    white = math.sinh(math.asinh(0.8) / 0.1) * 0.5 / 8
    ours = Stretch("lupton", (0.0,) * 3, (white,) * 3, (0.5 / 8 / white,)).apply(flux).astype(np.float64) * 255
    theirs = make_lupton_rgb(*np.moveaxis(flux.astype(np.float64), 2, 0), minimum=0, stretch=0.5, Q=8)
    assert (theirs > 100).sum() > 1000
    # A pixel in ten thousand lies so near a whole level that float32 decides.
    assert (np.abs(ours - (theirs + 0.5)) > 0.51).mean() < 1e-4
    assert np.abs(ours - theirs).max() < 1.01
    for kind in ("asinh", "log"):
        stretch = fit_stretch([flux], 3, kind)  # type: ignore[arg-type]
        back = stretch.invert(stretch.apply(flux, clip=False))
        unit = np.array(stretch.scale) * stretch.softening
        assert (np.abs(back - flux) / np.maximum(np.abs(flux), unit)).max() < 1e-5
        assert 0.02 < np.median(stretch.apply(flux)) < 0.2
