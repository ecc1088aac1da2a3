"""Samples as pictures for people: which bands are red, green and blue, how bright, which way up.

Flux is shown by the stretch in `meta["stretch"]`, which is one for all samples of a store: `store.display.fit_display`.
A sample without it is stretched by itself, which makes faint and bright galaxies look alike.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from functools import partial

import numpy as np

from sciencessl.samples import Sample
from sciencessl.views.stretch import Stretch, fit_stretch, with_missing

STRETCH = "stretch"
"""Entry of `Sample.meta` with the `Stretch` of all bands that a float field is shown by."""

CHANNELS = "channels"
"""Entry of `Sample.meta` with the names of the channels of each field."""

MISSING = (44, 44, 68)
"""Red, green and blue of pixels that are masked or missing: a dark blue that no stretch of a grey sky gives."""

BANDS = ("u", "g", "r", "i", "vis", "z", "y", "j", "h", "k", "ks")
"""Bands from short to long wavelengths."""


def display_rgb(field: str, rows_up: bool = False) -> Callable[[Sample], np.ndarray]:
    """Sample -> (H, W, 3) uint8, as a function that travels to other processes.

    8-bit images of one or three channels are shown as they are. Of other bands, the longest wavelength is red, the
    middle one green and the shortest blue (`rgb_bands`); two bands are red and blue with their mean as green. A pixel
    that is not finite, or whose `FIELD.mask` is not 0, has the colour `MISSING`; a band without any pixel is black.

    Args:
        field: Name of the field.
        rows_up: Rows of float fields count from the bottom, as FITS has them, so they are shown in reverse: a sky with
            north up and east left then looks as in the image files of surveys, and spirals turn the same way.
    """
    return partial(_show, field, rows_up)


def rgb_bands(names: Sequence[str]) -> tuple[int, ...]:
    """Positions of the bands that are shown as red, green and blue: longest, middle and shortest wavelength.

    A band is known by the last word of its name (`hsc_g`, `sdss.r`), in either case. Where one is unknown or two are
    equal, bands count as stored from short to long. Of two bands the longer comes first; one is alone.

    >>> rgb_bands(["r", "g", "z"])
    (2, 0, 1)
    """
    words = [re.split(r"[^a-z]+", name.lower())[-1] for name in names]
    order = list(range(len(names)))
    if len(set(words)) == len(words) and all(word in BANDS for word in words):
        order.sort(key=lambda position: BANDS.index(words[position]))
    return (order[-1], order[len(order) // 2], order[0]) if len(order) > 2 else tuple(reversed(order))


def _show(field: str, rows_up: bool, sample: Sample) -> np.ndarray:
    image = sample.fields[field]
    channels = image.shape[2]
    names = sample.meta.get(CHANNELS, {}).get(field, [""] * channels)
    if image.dtype == np.uint8:
        return _colours(image if channels in (1, 3) else image[..., rgb_bands(names)])
    if rows_up:
        image = image[::-1]
    flux = with_missing(image, _mask(sample, field, rows_up))
    stretch = sample.meta.get(STRETCH) or fit_stretch([flux], channels)
    bands = rgb_bands(names)
    return _painted(flux[..., bands], stretch.of_bands(bands))


def _mask(sample: Sample, field: str, rows_up: bool) -> np.ndarray | None:
    mask = sample.fields.get(f"{field}.mask")
    return mask[::-1] if mask is not None and rows_up else mask


def _painted(flux: np.ndarray, stretch: Stretch) -> np.ndarray:
    missing = np.isnan(flux)
    empty = missing.all(axis=(0, 1))
    if not empty.all():
        # Black is the flux that becomes 0, so that the intensity of the other bands can be told.
        flux = np.where(empty, np.asarray(stretch.zero, flux.dtype), flux)
    shown = np.nan_to_num(stretch.apply(flux) * 255 + 0.5).astype(np.uint8)
    picture = _colours(shown)
    picture[np.isnan(flux).any(axis=2)] = MISSING
    return picture


def _colours(image: np.ndarray) -> np.ndarray:
    """One, two or three channels as three."""
    if image.shape[2] == 1:
        return np.repeat(image, 3, axis=2)
    if image.shape[2] == 2:
        image = np.stack([image[..., 0], image.mean(axis=2).astype(np.uint8), image[..., 1]], axis=2)
    return np.ascontiguousarray(image)
