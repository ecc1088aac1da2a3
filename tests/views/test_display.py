"""Samples as pictures: which band is which colour, one stretch for all, missing pixels that stay known, handedness."""

from __future__ import annotations

import numpy as np
import pytest

from sciencessl.errors import DataError
from sciencessl.samples import Sample
from sciencessl.views.display import MISSING, display_rgb, rgb_bands
from sciencessl.views.stretch import Stretch, fit_stretch

RAMP = Stretch("linear", (0.0,) * 3, (1.0,) * 3)


def sample(
    image: np.ndarray, stretch: Stretch | None = None, names: str = "", mask: np.ndarray | None = None
) -> Sample:
    meta = {"channels": {"image": tuple(names)}} if names else {}
    fields = {"image": image} | ({} if mask is None else {"image.mask": mask})
    return Sample(fields, meta | ({"stretch": stretch} if stretch else {}))


def test_rgb8_is_shown_as_it_is() -> None:
    image = np.random.default_rng(0).integers(0, 256, (5, 7, 3), dtype=np.uint8)
    assert np.array_equal(display_rgb("image")(sample(image)), image)
    assert np.array_equal(display_rgb("image", rows_up=True)(sample(image, names="rgb")), image)


@pytest.mark.parametrize("channels", [1, 2, 3, 4, 5])
@pytest.mark.parametrize("dtype", ["uint8", "float32", "int16"])
def test_any_channels_are_shown_as_rgb8(channels: int, dtype: str) -> None:
    image = (np.random.default_rng(0).random((9, 6, channels)) * 255).astype(dtype)
    shown = display_rgb("image")(sample(image))
    assert shown.shape == (9, 6, 3)
    assert shown.dtype == np.uint8
    assert len(np.unique(shown)) > 20
    if channels == 1:
        assert np.array_equal(shown[..., 0], shown[..., 2])


@pytest.mark.parametrize(
    ("names", "red_green_blue"),
    [
        (["g", "r", "z"], (2, 1, 0)), (["r", "g", "z"], (2, 0, 1)), (["u", "g", "r", "i", "z"], (4, 2, 0)),
        (["hsc_y", "hsc_g", "hsc_r", "hsc_z", "hsc_i"], (0, 4, 1)), (["sdss.I", "sdss.G", "sdss.R"], (0, 2, 1)),
        (["H", "VIS", "Y", "J"], (0, 3, 1)), (["band0", "band1", "band2", "band3"], (3, 2, 0)),
        (["g", "x", "r"], (2, 1, 0)), (["a_g", "b_g", "r"], (2, 1, 0)), (["", "", ""], (2, 1, 0)),
        (["z", "g"], (0, 1)), (["g", "z"], (1, 0)), (["r"], (0,)),
    ],
)
def test_the_longest_wavelength_is_red_whatever_the_order_stored(
    names: list[str], red_green_blue: tuple[int, ...]
) -> None:
    assert rgb_bands(names) == red_green_blue


def test_names_decide_the_colours_of_flux() -> None:
    flux = np.zeros((4, 4, 3), np.float32)
    flux[1, 1, 0], flux[2, 2, 1] = 1.0, 1.0
    shown = display_rgb("image")(sample(flux, RAMP, "zgr"))
    assert shown[1, 1].tolist() == [255, 0, 0]
    assert shown[2, 2].tolist() == [0, 0, 255]
    assert display_rgb("image")(sample(flux, RAMP))[1, 1].tolist() == [0, 0, 255]


def test_two_bands_are_red_and_blue_with_their_mean_between() -> None:
    flux = np.array([[[1.0, 0.5]]], np.float32)
    shown = display_rgb("image")(sample(flux, Stretch("linear", (0.0,) * 2, (1.0,) * 2), "zg"))
    assert shown.tolist() == [[[255, 191, 128]]]


def test_a_fixed_stretch_shows_equal_flux_equally_bright_and_one_fitted_to_each_stamp_does_not() -> None:
    rng = np.random.default_rng(0)
    noise = rng.normal(0, 0.01, (32, 32, 3)).astype(np.float32)
    faint, bright = noise.copy(), noise.copy()
    faint[14:18, 14:18] += 0.2
    bright[4:28, 4:28] += 20.0
    bright[14:18, 14:18] = faint[14:18, 14:18]
    stretch = fit_stretch([faint, bright], 3)
    # A defect elsewhere: flux is stretched between percentiles of each stamp, so that equal flux differs in brightness.
    fixed = [display_rgb("image")(sample(flux, stretch))[15, 15] for flux in (faint, bright)]
    assert fixed[0].tolist() == fixed[1].tolist()
    alone = [display_rgb("image")(sample(flux))[15, 15].astype(int) for flux in (faint, bright)]
    assert (alone[0] - alone[1]).min() > 50


def test_missing_and_masked_pixels_have_a_colour_of_their_own() -> None:
    flux = np.random.default_rng(0).random((12, 12, 3), dtype=np.float32)
    mask = np.zeros((12, 12, 3), np.int32)
    flux[4, 4, 1], flux[5, 5] = np.nan, np.inf
    mask[6, 6, 0] = 2**30
    # A defect elsewhere: NaN is shown as black without a word.
    shown = display_rgb("image")(sample(flux, RAMP, mask=mask))
    bad = np.zeros((12, 12), bool)
    bad[[4, 5, 6], [4, 5, 6]] = True
    assert np.array_equal((shown == MISSING).all(axis=2), bad)
    with pytest.raises(DataError, match=r"mask of shape \(3, 3, 3\) does not fit an image of shape \(12, 12, 3\)"):
        display_rgb("image")(sample(flux, RAMP, mask=mask[:3, :3]))


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("kind", ["asinh", "lupton"])
def test_a_band_that_was_not_observed_is_black_and_a_stamp_of_nothing_is_missing(kind: str) -> None:
    flux = np.random.default_rng(0).random((12, 12, 3), dtype=np.float32)
    stretch = fit_stretch([flux], 3, kind)  # type: ignore[arg-type]
    flux[..., 0] = np.nan
    shown = display_rgb("image")(sample(flux, stretch, "grz"))
    assert shown[..., 2].max() == 0
    assert shown[..., :2].max() > 60
    flux[3, 3, 1] = np.nan
    assert display_rgb("image")(sample(flux, stretch, "grz"))[3, 3].tolist() == list(MISSING)
    for known in (stretch, None):
        assert (display_rgb("image")(sample(np.full((4, 4, 3), np.nan, np.float32), known)) == MISSING).all()


def test_constant_pixels_are_black() -> None:
    assert display_rgb("image")(sample(np.full((4, 4, 1), 3.0, np.float32))).max() == 0


def test_rows_that_count_from_the_bottom_are_shown_in_reverse_with_their_mask() -> None:
    """A pinwheel: mirrored, its arms would turn the other way."""
    flux = np.zeros((5, 5, 3), np.float32)
    mask = np.zeros((5, 5, 3), np.uint8)
    flux[0, 1], mask[4, 2, 0] = 1.0, 1
    shown = display_rgb("image", rows_up=True)(sample(flux, RAMP, mask=mask))
    assert shown[4, 1].tolist() == [255] * 3
    assert shown[0, 2].tolist() == list(MISSING)
    assert (shown.sum(axis=2) > 0).sum() == 2
    assert display_rgb("image")(sample(flux, RAMP))[0, 1].tolist() == [255] * 3
