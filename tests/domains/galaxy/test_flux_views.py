"""Views of flux: each operation against a closed form, rates and streams as drawn in training, and masks kept out."""

from __future__ import annotations

import dataclasses
import itertools
import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy import stats

from sciencessl.data.loader import BatchStream, Decoder, EvaluationStream
from sciencessl.data.order import Order, augmentation_rng
from sciencessl.domains.galaxy import SPEC
from sciencessl.domains.galaxy.detections import galaxy_boxes
from sciencessl.domains.galaxy.flux_views import (
    EXTINCTION,
    Flux,
    FluxDraw,
    FluxPipeline,
    drawn_ebv,
    evaluation_window,
    noise_level,
    open_flux,
    over_known,
    reddening_factors,
    seeing,
    without_band,
)
from sciencessl.domains.galaxy.views import GalaxyViews, galaxy_views
from sciencessl.errors import ConfigError, DataError
from sciencessl.samples import Sample
from sciencessl.spec import FieldSpec, InputStats
from sciencessl.store.format import StoreHeader
from sciencessl.store.reader import Store
from sciencessl.store.seal import seal
from sciencessl.store.writer import PreparedSample, create_store, write_row
from sciencessl.train.plan import input_stats
from sciencessl.views.affine import centre_window

BANDS = ("g", "r", "z")
QUIET: dict[str, Any] = {"contrast": 0.0, "blur": 0.0, "noise": (0.0, 0.0)}
"""Settings under which a view is nothing but a resampled stamp."""
DRAWS = 3000


def sample(image: np.ndarray, **companions: np.ndarray) -> Sample:
    fields = {"image": image, **{f"image.{name}": value for name, value in companions.items()}}
    names = BANDS if image.shape[2] == 3 else tuple(f"b{i}" for i in range(image.shape[2]))
    return Sample(fields, {"channels": {"image": names}}, "g7", 7)


def scene(height: int = 48, width: int = 48, channels: int = 3) -> np.ndarray:
    """A galaxy of another flux in each band on noise of sigma 1."""
    y, x = np.mgrid[:height, :width]
    light = 80 * np.exp(-np.hypot(x - width / 2 + 0.5, y - height / 2 + 0.5) / 4)
    noise = np.random.default_rng(3).normal(size=(height, width, channels))
    return (light[..., None] * np.arange(1, channels + 1) + noise).astype(np.float32)


def train(settings: GalaxyViews, subject: Sample, number: int = 0) -> list[np.ndarray]:
    views = galaxy_views(settings)[0](subject, lambda view: augmentation_rng(0, 0, number, view))
    return [view.fields["image"] for view in views]


def evaluated(settings: GalaxyViews, subject: Sample) -> np.ndarray:
    views = galaxy_views(settings)[1](subject, lambda view: pytest.fail("evaluation draws"))
    assert set(views[0].fields) == {"image"}
    return views[0].fields["image"]


def whole(size: int = 48, **settings: Any) -> FluxPipeline:
    """A pipeline for stamps of that size."""
    return FluxPipeline(GalaxyViews(size=size, **settings), size, (1.0, 1.0))


def nothing(size: int = 48, channels: int = 3, **drawn: Any) -> FluxDraw:
    """A draw that shows the whole stamp as it is, but for what is named."""
    window = {"window": (size, size), "centre": (size / 2, size / 2), "angle": 0.0, "mirror": (False, False)}
    plain = FluxDraw(window, 1.0, 0.0, 0.0, 0.0, np.zeros(channels), 5, None)
    return replace(plain, **drawn)


def draws(count: int = DRAWS, **settings: Any) -> list[FluxDraw]:
    """What training draws for one stamp of three bands."""
    pipeline = whole(**settings)
    return [pipeline.draw((48, 48, 3), augmentation_rng(0, 0, i, 0)) for i in range(count)]


def test_a_stamp_without_companions_is_all_known() -> None:
    image = scene()
    flux = open_flux(Sample({"image": image}))
    assert flux.image is image
    assert flux.ivar is None
    assert flux.bands == ("0", "1", "2")


@pytest.mark.parametrize("dtype", ["uint8", "int32"])
def test_masked_and_non_finite_pixels_are_unknown_in_their_band_alone(dtype: str) -> None:
    image, mask = scene(), np.zeros((48, 48, 3), dtype)
    mask[3, 4, 1], mask[5, 6, 0] = 1, 64
    image[7, 8, 2], image[9, 9, 2] = np.inf, np.nan
    before = image.copy()
    flux = open_flux(sample(image, mask=mask))
    assert sorted(map(tuple, np.argwhere(np.isnan(flux.image)))) == [(3, 4, 1), (5, 6, 0), (7, 8, 2), (9, 9, 2)]
    assert flux.bands == BANDS
    assert np.array_equal(image, before, equal_nan=True)


@pytest.mark.parametrize("wrong", [scene()[..., 0], scene().astype(float), scene().astype(np.int16)])
def test_other_arrays_are_refused(wrong: np.ndarray) -> None:
    with pytest.raises(DataError, match=rf"uint8 or float32, got {wrong.dtype} of shape .*sample g7; `prepare`"):
        open_flux(Sample({"image": wrong}, id="g7"))


@pytest.mark.parametrize("name", ["mask", "ivar"])
def test_a_companion_of_another_shape_is_refused(name: str) -> None:
    with pytest.raises(DataError, match=rf"image\.{name} of sample g7 has shape \(48, 48\), its image \(48, 48, 3\)"):
        open_flux(sample(scene(), **{name: np.zeros((48, 48))}))


def test_the_stored_noise_is_that_of_the_inverse_variance() -> None:
    ivar = np.full((48, 48, 3), 4.0, np.float32)
    ivar[0, :5, 0] = 0, -1, np.nan, np.inf, 1e-4
    sigma = Flux(scene(), BANDS, ivar).sigma
    np.testing.assert_allclose(sigma[0, :5, 0], [np.nan] * 4 + [100], rtol=1e-6)
    assert np.all(sigma[1:] == 0.5)


def test_a_band_without_inverse_variance_has_a_level_of_its_own() -> None:
    ivar = np.full((48, 48, 3), 4.0, np.float32)
    ivar[..., 1] = 0.0
    image = scene()
    sigma = Flux(image, BANDS, ivar).sigma
    assert np.ptp(sigma[..., 1]) == 0
    assert sigma[0, 0, 1] == noise_level(image)[1]
    assert np.all(sigma[..., 0] == 0.5)


def test_the_noise_level_does_not_count_light_nor_unknown_pixels() -> None:
    y, x = np.mgrid[:96, :96]
    light = 100 * np.exp(-((x - 48) ** 2 + (y - 48) ** 2) / 800.0)
    image = np.random.default_rng(0).normal(size=(96, 96, 3)) * [1.0, 5.0, 0.0] + light[..., None] * [1.0, 1.0, 0.0]
    image[20:60, 10:90] = np.nan
    image[::3, ::7] = np.nan
    np.testing.assert_allclose(noise_level(image.astype(np.float32)), [1.0, 5.0, 0.0], rtol=0.06)
    assert np.array_equal(noise_level(np.full((8, 8, 2), np.nan, np.float32)), [0.0, 0.0])


def test_the_noise_of_a_real_field_is_found_under_its_galaxies(shared_data: Path) -> None:
    """Stamps on the two brightest galaxies of an SDSS field, where the spread of all pixels is twice the field's."""
    fits = pytest.importorskip("astropy.io.fits")
    field = fits.getdata(shared_data / "galaxy" / "fits_sdss_gri" / "reprojected_sdss_r.fits.bz2").astype(np.float32)
    sigma = stats.median_abs_deviation(field, axis=None, scale="normal")
    for y, x in ((188, 278), (131, 163)):
        stamp = field[y - 48 : y + 48, x - 48 : x + 48, None]
        assert stats.median_abs_deviation(stamp, axis=None, scale="normal") > 1.8 * sigma
        assert noise_level(stamp)[0] == pytest.approx(sigma, rel=0.08)


# A defect elsewhere: NaN and bad pixels go through interpolation and blur, or become zeros that look like data.
@pytest.mark.parametrize("bad", [np.nan, np.inf, 1e30, -5000.0])
def test_no_value_under_a_mask_reaches_a_view(bad: float) -> None:
    """Whatever stands under the mask, the view has the same bits, and flat flux stays flat beside it."""
    flat = np.full((48, 48, 3), 7.0, np.float32)
    mask = (np.random.default_rng(0).random(flat.shape) < 0.15).astype(np.uint8)
    mask[20:34, 5:19] = 1
    settings = GalaxyViews(size=40, **{**QUIET, "blur": 1.0}, evaluation_window=0.9)
    spoilt = np.where(mask > 0, np.float32(bad), flat)
    for number in range(5):
        for clean, found in zip(
            train(settings, sample(flat, mask=mask), number), train(settings, sample(spoilt, mask=mask), number),
            strict=True,
        ):
            assert np.array_equal(clean, found, equal_nan=True)
            np.testing.assert_allclose(found[np.isfinite(found)], 7.0, rtol=1e-5)
            assert 0 < np.isnan(found).sum() < found.size / 2
    shown = evaluated(settings, sample(spoilt, mask=mask))
    assert np.array_equal(shown, evaluated(settings, sample(flat, mask=mask)), equal_nan=True)
    np.testing.assert_allclose(shown[np.isfinite(shown)], 7.0, rtol=1e-5)
    assert np.isnan(shown).any()


def test_weighted_smoothing_equals_an_independent_one() -> None:
    image = scene()
    image[np.random.default_rng(1).random(image.shape) < 0.2] = np.nan
    image[10:20, 30:40] = np.nan
    known = np.isfinite(image)
    # By the Fourier transform of the kernel, exp(t (cos w - 1)), of the stamp with its reflections.
    transfer = np.exp(1.3**2 * (np.cos(2 * np.pi * np.fft.fftfreq(94)) - 1))
    both = transfer[:, None, None] * transfer[:, None]
    values, weights = (
        np.fft.ifft2(np.fft.fft2(np.pad(x, ((0, 46), (0, 46), (0, 0)), "reflect"), axes=(0, 1)) * both, axes=(0, 1))
        .real[:48, :48]
        for x in (np.where(known, image, 0), known.astype(float))
    )
    with np.errstate(all="ignore"):
        want = np.where(weights >= 0.5, values / weights, np.nan)
    got = seeing(image, 1.3)
    assert np.array_equal(np.isnan(got), np.isnan(want))
    np.testing.assert_allclose(got, want, rtol=1e-4, atol=1e-4)
    assert np.isnan(got[14, 34]).all()  # in the middle of a hole wider than the PSF
    assert np.isfinite(got).mean() > known.mean() + 0.1  # single pixels are filled


@pytest.mark.parametrize("sigma_px", [0.4, 1.0, 2.5])
def test_seeing_adds_in_quadrature_and_keeps_flux(sigma_px: float) -> None:
    y, x = np.mgrid[:64, :64] - 31.5
    star = np.exp(-(x**2 + y**2) / (2 * 2.0**2)).astype(np.float32)[..., None]
    seen = seeing(star, sigma_px)[..., 0].astype(float)
    assert seen.sum() == pytest.approx(star.sum(), rel=1e-4)
    assert (seen * x**2).sum() / seen.sum() == pytest.approx(2.0**2 + sigma_px**2, rel=1e-3)


def test_without_a_hole_nothing_is_weighted() -> None:
    image = scene()
    calls = []
    assert over_known(lambda x: calls.append(x) or x, image) is image  # type: ignore[func-returns-value]
    assert calls[0] is image


def test_another_exposure_is_one_factor_and_leaves_the_sky_where_it_is() -> None:
    image = scene()
    flux = Flux(image, BANDS)
    assert np.array_equal(whole().apply(flux, nothing(exposure=1.3)), image * np.float32(1.3))
    star = np.zeros((48, 48, 3), np.float32)
    star[22:26, 22:26] = 1e4
    for number in range(20):
        for view in train(GalaxyViews(blur=0.0, shift=0.0), sample(star), number):
            assert view.max() > 5e3
            assert view[0, 0].tolist() == [0.0] * 3


def test_a_whole_window_is_the_stamp() -> None:
    image = scene()
    image[4, 5, 1] = np.nan
    assert np.array_equal(whole().apply(open_flux(sample(image)), nothing()), image, equal_nan=True)


def test_a_view_keeps_surface_brightness_not_total_flux() -> None:
    """A galaxy seen larger by 1.2 along both axes covers 1.44 times the pixels, each as bright."""
    y, x = np.mgrid[:96, :96] - 47.5
    blob = np.exp(-(x**2 + y**2) / (2 * 5.0**2)).astype(np.float32)[..., None]
    pipeline = whole(96)
    for zoom in (0.9, 1.2):
        window = {**nothing(96, 1).window, "window": (96 / zoom, 96 / zoom), "angle": 0.6}
        view = pipeline.apply(Flux(blob, ("r",)), nothing(96, 1, window=window))
        assert view.max() == pytest.approx(blob.max(), rel=0.02)
        assert view.sum() == pytest.approx(blob.sum() * zoom**2, rel=0.01)


@pytest.mark.parametrize("strength", [0.5, 1.0, 2.0])
def test_noise_has_the_stored_variance_times_the_square_of_its_strength(strength: float) -> None:
    ivar = np.broadcast_to(np.array([4.0, 1.0, 0.04], np.float32), (96, 96, 3)).copy()
    ivar[:48] *= 4
    ivar[0, 0] = 0
    image = np.zeros((96, 96, 3), np.float32)
    image[1, 1] = np.nan
    flux = Flux(image, BANDS, ivar)
    added = whole(96).apply(flux, nothing(96, noise=strength))
    assert np.all(added[0, 0] == 0)  # nothing is known of its noise
    assert np.isnan(added[1, 1]).all()
    for half, factor in ((added[2:48], 2.0), (added[48:], 1.0)):
        pulls = half / (strength * np.array([0.5, 1.0, 5.0]) / factor)
        count = pulls[..., 0].size
        assert np.all(abs(pulls.mean(axis=(0, 1))) < 4 / math.sqrt(count))
        assert np.all(abs(pulls.std(axis=(0, 1)) - 1) < 4 / math.sqrt(2 * count))
        assert stats.kstest(pulls.ravel(), "norm").pvalue > 1e-3
    assert abs(np.corrcoef(added[2:].reshape(-1, 3).T)[0, 1]) < 4 / math.sqrt(94 * 96)


def test_noise_without_inverse_variance_follows_the_differences_of_near_pixels() -> None:
    image = np.random.default_rng(0).normal(size=(96, 96, 3)).astype(np.float32) * [1, 3, 0]
    flux = Flux(image.astype(np.float32), BANDS)
    view = whole(96).apply(flux, nothing(96, noise=1.0))
    np.testing.assert_allclose((view - flux.image).std(axis=(0, 1)), [1, 3, 0], rtol=0.06)


def test_noise_to_a_new_level_adds_what_is_missing_and_takes_nothing_away() -> None:
    """Bands of old noise 1, 3 and 5 brought to 4: sqrt(15), sqrt(7) and nothing are added."""
    flux = Flux(np.zeros((96, 96, 3), np.float32), BANDS, np.full((96, 96, 3), [1, 1 / 9, 1 / 25], np.float32))
    asked = {"g": (0.0, 8.0), "r": (4.0, 4.0), "z": (4.0, 4.0)}
    view = whole(96, noise_to=asked).apply(flux, nothing(96, noise=1.0, levels=np.array([0.5, 0.1, 0.9])))
    np.testing.assert_allclose(view.std(axis=(0, 1)), [math.sqrt(15), math.sqrt(7), 0], rtol=0.03)
    # Dust makes the old noise smaller: through 10^(-0.4 * 3.214 * 0.2) of it, more is added in g.
    dimmed = whole(96, noise_to={"g": (4.0, 4.0)}).apply(flux, nothing(96, ebv=0.2))
    np.testing.assert_allclose(dimmed.std(axis=(0, 1)), [math.sqrt(16 - 0.5533**2), 0, 0], rtol=0.03)


def test_noiseless_flux_gets_a_new_level_but_not_where_its_weight_is_unknown() -> None:
    image = np.zeros((48, 48, 3), np.float32)
    pipeline = whole(noise_to=dict.fromkeys(BANDS, (2.0, 2.0)))
    simulated = pipeline.apply(Flux(image, BANDS), nothing())
    assert simulated.std() == pytest.approx(2.0, rel=0.03)
    ivar = np.ones_like(image)
    ivar[5, 5] = 0
    weighted = pipeline.apply(Flux(image, BANDS, ivar), nothing())
    assert np.all(weighted[5, 5] == 0)
    assert weighted.std() == pytest.approx(math.sqrt(3), rel=0.03)


def test_a_new_noise_level_of_an_unknown_band_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"views\.noise_to names the band 'G'; the bands of this store are g, r, z\."):
        train(GalaxyViews(noise_to={"G": (1.0, 2.0)}), sample(scene()))


def test_reddening_by_hand() -> None:
    """E(B-V) = 0.1 in g of DECam: A = 0.3214 mag, a factor of 10^-0.12856 = 0.743772."""
    factors = reddening_factors(("g", "Y", "HSC-G"), 0.1, {"HSC-G": 3.240})
    assert factors.dtype == np.float32
    np.testing.assert_allclose(factors, [0.743772, 0.906650, 0.741993], rtol=2e-6)
    assert reddening_factors(("g",), 0.1, {"g": 0.0}) == 1
    view = whole().apply(Flux(scene(), BANDS), nothing(ebv=0.1))
    np.testing.assert_allclose(view, scene() * reddening_factors(BANDS, 0.1), rtol=1e-6)


def test_dust_dims_blue_bands_more() -> None:
    factors = reddening_factors(tuple(EXTINCTION), 0.3)
    assert tuple(EXTINCTION) == ("u", "g", "r", "i", "z", "y")
    assert np.all(np.diff(factors) > 0)


def test_reddening_of_a_band_without_a_coefficient_is_refused() -> None:
    five = sample(scene(channels=5))
    with pytest.raises(
        ConfigError, match=r"views\.reddening needs A / E\(B-V\) of every band; it is not known for b0, b1, b2, b3, b4 "
        r"of b0, .*\. Give it, as in `views\.extinction: \{b0: 2\.5\}`, or set views\.reddening to 0\."
    ):  # fmt: skip
        train(GalaxyViews(reddening=0.05), five)
    assert train(GalaxyViews(reddening=0.05, extinction=dict.fromkeys(("b0", "b1", "b2", "b3", "b4"), 1.0)), five)
    assert evaluated(GalaxyViews(reddening=0.05), five).shape == (64, 64, 5)


def test_dust_is_exponential_up_to_its_end() -> None:
    values = np.array([one.ebv for one in draws(reddening=0.2, reddening_max=0.3)])
    cut = stats.truncexpon(b=0.3 / 0.2, scale=0.2)
    assert stats.kstest(values, cut.cdf).pvalue > 1e-3
    assert drawn_ebv(0.0, 0.2, 0.3) == 0
    assert drawn_ebv(1 - 1e-16, 0.2, 0.3) == pytest.approx(0.3)
    assert drawn_ebv(0.7, 0.0, 0.3) == 0


def test_what_is_drawn_stays_in_its_range() -> None:
    found = draws(noise=(0.5, 2.0), blur=1.0, blur_px=(0.7, 3.0), contrast=0.4)
    for values, low, high in (
        ([one.noise for one in found], 0.5, 2.0), ([one.blur_px for one in found], 0.7, 3.0),
        ([one.exposure for one in found if one.exposure != 1], 0.6, 1.4),
    ):
        assert stats.kstest(values, stats.uniform(low, high - low).cdf).pvalue > 1e-3


HAPPENED: dict[str, Callable[[FluxDraw], bool]] = {
    "blur": lambda one: one.blur_px > 0,
    "band_drop": lambda one: one.dropped is not None,
}


# A defect elsewhere: the probability of a blur and of noise was handed on as 1 - p, so that p = 1 meant never.
@pytest.mark.parametrize("name", HAPPENED)
@pytest.mark.parametrize("rate", [0.0, 0.3, 1.0])
def test_an_operation_happens_at_its_rate(name: str, rate: float, has_rate: Callable[..., bool]) -> None:
    hits = np.array([HAPPENED[name](one) for one in draws(**{name: rate})])
    assert has_rate(hits, rate)


@pytest.mark.parametrize(
    ("setting", "off"), [("blur", 0.0), ("band_drop", 0.0), ("noise", (0.0, 0.0)), ("reddening", 0.0)]
)
def test_what_is_certain_shows_in_every_view_and_what_is_off_in_none(setting: str, off: Any) -> None:
    """In pixels, not in what was drawn."""
    on = {"blur": 1.0, "band_drop": 1.0, "noise": (1.0, 1.0), "reddening": 0.2}[setting]
    subject = sample(scene())
    plain, without, certain = (
        GalaxyViews(size=24, **{**QUIET, **more}) for more in ({}, {setting: off}, {setting: on, "blur_px": (1.0, 1.5)})
    )
    for number in range(30):
        for base, never, always in zip(*(train(s, subject, number) for s in (plain, without, certain)), strict=True):
            assert np.array_equal(base, never)
            changed = abs(base - always).max(axis=(0, 1))
            assert np.isnan(changed).sum() == 1 if setting == "band_drop" else np.all(changed > 0.01)


def test_plain_views_of_flux_are_its_windows_alone() -> None:
    loud: dict[str, Any] = {
        "size": 24, "blur": 1.0, "band_drop": 1.0, "reddening": 0.2, "noise_to": {"g": (5.0, 9.0)}, "noise": (1.0, 2.0),
    }
    subject = sample(scene())
    for number in range(20):
        plain = train(GalaxyViews(plain=True, **loud), subject, number)
        quiet = train(GalaxyViews(size=24, **QUIET), subject, number)
        assert all(np.array_equal(a, b) for a, b in zip(plain, quiet, strict=True))


def test_instances_of_flux_are_its_sources_and_masks_are_kept_out_of_them() -> None:
    """Four sources of one band each, on noise; one pixel of each is masked."""
    image = np.random.default_rng(0).normal(0, 1, (96, 96, 3)).astype(np.float32)
    mask, places = np.zeros(image.shape, np.int32), [(34, 36), (60, 34), (36, 62), (62, 60)]
    y, x = np.mgrid[:96, :96]
    for k, (column, row) in enumerate(places):
        image[..., k % 3] += 200 * np.exp(-((x - column) ** 2 + (y - row) ** 2) / 18).astype(np.float32)
        mask[row, column] = 1
        image[row, column] = 1e6
    subject = sample(image, mask=mask)
    boxes = galaxy_boxes(open_flux(subject))
    for place in places:
        inside = (boxes[:, :2] < place).all(axis=1) & (boxes[:, 2:] > place).all(axis=1)
        assert (boxes[inside, 2:] - boxes[inside, :2]).max(axis=1).min() < 28
    settings = GalaxyViews(size=32, instances=4, instance_size=16, area=(0.75, 0.85), shift=0.05)
    for number in range(5):
        views = train(settings, subject, number)
        assert [view.shape[0] for view in views] == [32, 32] + [16] * 8
        assert all(view.dtype == np.float32 and np.nanmax(view) < 1000 for view in views)
        bright = [np.nanmax(view) for view in views[2:]]
        assert min(bright) > 50
    first = galaxy_views(settings)[0].first(subject, lambda view: augmentation_rng(0, 0, 0, view))  # type: ignore[attr-defined]
    assert len(first) == 1
    assert np.nanmax(first[0].fields["image"]) < 1000


@pytest.mark.parametrize("gone", [np.nan, 0.0])
def test_flux_without_light_has_no_sources_and_instances_all_the_same(gone: float) -> None:
    image = np.full((40, 40, 2), gone, np.float32)
    assert len(galaxy_boxes(Flux(image, ("g", "r")))) == 0
    assert len(train(GalaxyViews(size=32, instances=2, instance_size=8), sample(image), 0)) == 6


def test_operations_are_independent_within_and_between_views(has_rate: Callable[..., bool]) -> None:
    pipeline = FluxPipeline(GalaxyViews(blur=0.3, band_drop=0.4), 24, (0.3, 0.8))
    flags: dict[str, tuple[float, Callable[[FluxDraw], bool]]] = {
        "blur": (0.3, HAPPENED["blur"]), "band_drop": (0.4, HAPPENED["band_drop"]),
        "exposure": (0.8, lambda one: one.exposure != 1), "flip x": (0.5, lambda one: one.window["mirror"][0]),
        "flip y": (0.5, lambda one: one.window["mirror"][1]), "much noise": (0.5, lambda one: one.noise > 0.5),
    }  # fmt: skip
    found = [[pipeline.draw((48, 48, 3), augmentation_rng(0, 0, i, v)) for i in range(DRAWS)] for v in range(2)]
    hits = {name: np.array([[test(one) for one in view] for view in found]) for name, (_, test) in flags.items()}
    for name, (rate, _) in flags.items():
        assert has_rate(hits[name][0], rate), name
        assert has_rate(hits[name][0] & hits[name][1], rate**2), name
    for one, other in itertools.combinations(flags, 2):
        assert has_rate(hits[one][0] & hits[other][0], flags[one][0] * flags[other][0]), (one, other)


@pytest.mark.parametrize(
    "change",
    [{"blur": 0.0}, {"noise": (0.0, 0.0)}, {"reddening": 0.0}, {"contrast": 0.0}, {"band_drop": 0.0},
     {"noise_to": {"g": (1.0, 2.0)}}, {"blur_px": (0.5, 0.6)}],
)  # fmt: skip
def test_switching_one_operation_off_changes_the_draws_of_no_other(change: dict[str, Any]) -> None:
    on: dict[str, Any] = {"blur": 0.5, "reddening": 0.1, "band_drop": 0.5}
    own = {"contrast": "exposure", "blur": "blur_px", "reddening": "ebv", "band_drop": "dropped"}
    changed = {own.get(name, name) for name in change}
    for one, other in zip(draws(60, **on), draws(60, **{**on, **change}), strict=True):
        for entry in dataclasses.fields(FluxDraw):
            if entry.name not in changed:
                assert np.array_equal(getattr(one, entry.name), getattr(other, entry.name)), entry.name


def test_parity_safe_views_are_the_same_but_for_their_flips() -> None:
    for one, other in zip(draws(50), draws(50, parity_safe=True), strict=True):
        assert other.window["mirror"] == (False, False)
        assert replace(one, window={}, levels=0) == replace(other, window={}, levels=0)
        assert {**one.window, "mirror": 0} == {**other.window, "mirror": 0}


def test_same_generator_same_bits_and_the_stamp_is_left_alone() -> None:
    image = scene()
    image[3:9, 3:9] = np.nan
    ivar, mask = np.full(image.shape, 2.0, np.float32), np.zeros(image.shape, np.int32)
    subject = sample(image, ivar=ivar, mask=mask)
    before = image.copy()
    settings = GalaxyViews(size=32, blur=1.0, reddening=0.1, band_drop=0.5, small_views=1, small_size=16)
    one, again, other = train(settings, subject, 4), train(settings, subject, 4), train(settings, subject, 5)
    assert [view.shape for view in one] == [(32, 32, 3), (32, 32, 3), (16, 16, 3)]
    assert all(view.dtype == np.float32 for view in one)
    assert all(np.array_equal(a, b, equal_nan=True) for a, b in zip(one, again, strict=True))
    assert not np.array_equal(one[0], other[0], equal_nan=True)
    assert not np.array_equal(one[0], one[1], equal_nan=True)
    assert np.array_equal(image, before, equal_nan=True)
    alone = galaxy_views(settings)[0].first(subject, lambda view: augmentation_rng(0, 0, 4, view))  # type: ignore[attr-defined]
    assert [np.array_equal(view.fields["image"], one[0], equal_nan=True) for view in alone] == [True]


def test_one_band_is_dropped_and_each_as_often(has_rate: Callable[..., bool]) -> None:
    gone = [np.isnan(without_band(scene(8, 8), one.dropped or 0.0)).all(axis=(0, 1)) for one in draws(band_drop=1.0)]
    assert all(lost.sum() == 1 for lost in gone)
    assert all(has_rate(np.array(gone)[:, band], 1 / 3) for band in range(3))


@pytest.mark.parametrize("share", [0.0, 0.4, 0.999])
def test_the_last_band_that_is_there_stays(share: float) -> None:
    view = scene(8, 8)
    view[..., 1] = np.nan
    assert np.isfinite(without_band(view, share)).any(axis=(0, 1)).sum() == 1
    view[..., 2] = np.nan
    assert without_band(view, share) is view
    assert without_band(view[..., :1], share).shape == (8, 8, 1)
    unknown = np.full((8, 8, 3), np.nan, np.float32)
    assert np.isnan(without_band(unknown, share)).all()


def test_a_band_that_was_never_observed_stays_missing_and_spoils_no_other() -> None:
    image = scene()
    image[..., 2] = np.nan
    for view in train(GalaxyViews(size=24, blur=1.0), sample(image, ivar=np.ones(image.shape, np.float32))):
        assert np.isnan(view[..., 2]).all()
        assert np.isfinite(view[..., :2]).all()


def test_a_stamp_of_which_nothing_is_known_gives_views_of_which_nothing_is_known() -> None:
    image = np.full((48, 48, 3), np.nan, np.float32)
    settings = GalaxyViews(size=24, blur=1.0, band_drop=1.0)
    for view in (*train(settings, sample(image)), evaluated(settings, sample(image))):
        assert np.isnan(view).all()


def test_the_model_sees_the_mean_where_nothing_is_known() -> None:
    torch = pytest.importorskip("torch")
    from sciencessl.views.to_input import standardise

    view = without_band(scene(8, 8), 0.0)
    x = torch.from_numpy(view.transpose(2, 0, 1)[None])
    got = standardise(x, InputStats((0.1, 0.2, 0.3), (1.0, 2.0, 3.0), (1.0, 1.0, 1.0), "asinh"))
    assert bool((got[0, 0] == 0).all())
    assert not bool((got[0, 1] == 0).any())


@pytest.mark.parametrize("size", [24, 36, 60])
def test_the_evaluation_window_is_the_middle_of_what_is_known(size: int) -> None:
    image = scene()
    settings = GalaxyViews(size=size, evaluation_window=0.75)
    assert np.array_equal(evaluated(settings, sample(image)), centre_window(image, 0.75, size))
    mask = np.zeros(image.shape, np.uint8)
    mask[24, 24, 1] = 1
    shown = evaluated(settings, sample(image, mask=mask))
    np.testing.assert_allclose(shown[..., 0], centre_window(image, 0.75, size)[..., 0], rtol=1e-5, atol=1e-5)
    # Of a pixel of 1.5 x 1.5 stored ones, one that is masked is 0.44 at most.
    assert np.isnan(shown[..., 1]).sum() in {24: (0,), 36: (1,), 60: (1, 2, 4)}[size]
    assert np.array_equal(evaluation_window(open_flux(sample(image, mask=mask)), 0.75, size), shown, equal_nan=True)


def test_shrinking_averages_the_known_pixels_of_each_block() -> None:
    image = scene()
    image[20, 21, 0] = np.nan
    image[30:32, 30:32, 0] = np.nan
    image[26, 28:30, 0] = np.nan
    got = evaluated(GalaxyViews(size=24, evaluation_window=1.0), sample(image))
    blocks = image.reshape(24, 2, 24, 2, 3)
    want = np.nanmean(np.where(np.isnan(blocks).all(axis=(1, 3), keepdims=True), 0, blocks), axis=(1, 3))
    assert np.isnan(got[15, 15, 0])
    want[15, 15, 0] = np.nan
    np.testing.assert_allclose(got, want, rtol=1e-4, atol=1e-4)


def test_both_views_read_the_companions() -> None:
    for view in galaxy_views(GalaxyViews()):
        assert view.reads == ("image", "image.mask", "image.ivar")  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("wrong", "said"),
    [({"noise": (1.0, 0.5)}, r"noise is \(1.0, 0.5\)"), ({"noise": (-1.0, 0.5)}, "noise is "),
     ({"noise": (0.0, math.inf)}, "noise is "), ({"blur_px": (0.5,)}, r"blur_px is \(0.5,\)"),
     ({"noise_to": {"g": (2.0, 1.0)}}, r"noise_to\['g'\] is \(2.0, 1.0\)"),
     ({"extinction": {"q": -1.0}}, r"extinction\['q'\] is -1.0"), ({"extinction": {"q": math.nan}}, "extinction"),
     ({"reddening": -0.1}, "reddening is -0.1"), ({"reddening_max": 0.0}, "reddening_max is 0.0"),
     ({"band_drop": 1.2}, "band_drop is 1.2"), ({"band_drop": math.nan}, "band_drop is nan")],
)  # fmt: skip
def test_settings_are_checked(wrong: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigError, match=rf"^views\.{said}.*; it must be "):
        GalaxyViews(**wrong)


@pytest.fixture
def flux_store(tmp_path: Path) -> Store:
    """Four stamps of two bands with mask and inverse variance, as `prepare` stores a survey."""
    spec = FieldSpec("array", ("g", "z"), "float32", shape=(40, 40))
    fields = {"image": spec, "image.mask": replace(spec, dtype="int32", primary=False),
              "image.ivar": replace(spec, primary=False)}  # fmt: skip
    header = StoreHeader("galaxy", "survey", fields, 1, 4, {}, "plan", "config")
    create_store(tmp_path / "flux.zarr", header, 200_000)
    samples = []
    for number in range(4):
        image = scene(40, 40, 2).transpose(2, 0, 1).copy()
        mask = np.zeros(image.shape, np.int32)
        mask[0, 18:22, 18:22] = 1 << 30
        image[mask > 0] = 1e6
        given = {"image": image, "image.mask": mask, "image.ivar": np.ones_like(image)}
        samples.append(PreparedSample(f"s{number}", "train", given, {}))
    write_row(tmp_path / "flux.zarr", header, 0, samples, [], "inputs")
    seal(tmp_path / "flux.zarr", header)
    return Store(tmp_path / "flux.zarr")


def test_training_and_evaluation_read_mask_and_weights_from_the_store(flux_store: Store) -> None:
    decoder, settings = Decoder(flux_store, SPEC.decode), GalaxyViews(size=32, reddening=0.1)
    arguments = (decoder, Order(4, 0, 4, slots=1), flux_store.split("train"), galaxy_views, settings, {}, ["image"])
    batch = next(iter(BatchStream(*arguments)))
    shown = next(iter(EvaluationStream(decoder, np.arange(4), galaxy_views, settings, ["image"])))
    for view in (*batch.views, *shown.views):
        assert set(view) == {"image"}
        image = view["image"].numpy()
        assert image.shape == (4, 2, 32, 32)
        assert np.nanmax(image) < 1000
        assert np.isnan(image[:, 0]).any(axis=(1, 2)).all()
        assert np.isfinite(image[:, 1]).all()
    stats = input_stats(flux_store, SPEC, settings)
    assert max(stats.scale) < 50
