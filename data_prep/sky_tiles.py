"""What a survey tile is, before any pixel is read: named bands on one pixel grid, each with mask and weights."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

if TYPE_CHECKING:
    from astropy.wcs import WCS

Kind = Literal["image", "mask", "ivar", "variance", "sigma"]
"""What the numbers of a plane are. Weights come as inverse variance, variance or standard deviation."""


@dataclass(frozen=True, slots=True)
class Plane:
    """One two-dimensional array of numbers in a FITS file.

    Attributes:
        path: File on disk.
        hdu: Number of the HDU that holds it.
        layer: Its index along the first axis of a cube; -1 where the HDU is two-dimensional.
        kind: What the numbers are.
    """

    path: str
    hdu: int
    layer: int = -1
    kind: Kind = "image"


@dataclass(frozen=True, slots=True)
class Band:
    """One band of a tile.

    Attributes:
        image: Its flux.
        mask: Bit planes or booleans, 0 where a pixel is good; None where the survey has none.
        weight: Inverse variance, variance or standard deviation; None where the survey has none.
        unit: BUNIT as the header has it; empty where it has none.
        psf_fwhm_arcsec: Full width at half maximum of the PSF; None where the header does not say.
    """

    image: Plane
    mask: Plane | None = None
    weight: Plane | None = None
    unit: str = ""
    psf_fwhm_arcsec: float | None = None

    @property
    def planes(self) -> tuple[Plane, ...]:
        """All planes of the band."""
        return tuple(plane for plane in (self.image, self.mask, self.weight) if plane is not None)


@dataclass(frozen=True)
class SkyTile:
    """Bands that share one pixel grid.

    Attributes:
        id: Unique among the tiles: what the names of its files share.
        shape: (H, W) in pixels.
        bands: Name -> band.
        header: FITS cards of the WCS as text, distortions included; empty where there is no celestial WCS.
        wcs_plane: Where the WCS needs look-up tables of its file (CPDIS, D2IMDIS, -TAB): the plane whose header it is.
        files: Relative name -> (size in bytes, modification time in ns) of each file that it is read from.
    """

    id: str
    shape: tuple[int, int]
    bands: Mapping[str, Band]
    header: str = ""
    wcs_plane: Plane | None = None
    files: Mapping[str, tuple[int, int]] = field(default_factory=dict)

    @cached_property
    def wcs(self) -> WCS | None:
        """The full celestial WCS; None without one. Built on first use in each process."""
        from sciencessl.data_prep.fits_wcs import build_wcs

        return build_wcs(self)

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in self.__dict__.items() if name != "wcs"}


def own_bits(dtype: np.dtype[Any] | str) -> tuple[int, int]:
    """The two highest positive bits of a stored mask: (no coverage, not finite in the tile).

    Args:
        dtype: `uint8` for masks that are booleans or missing, `int32` for bit planes of the survey.
    """
    highest = 7 if np.dtype(dtype) == np.uint8 else 30
    return 1 << highest, 1 << (highest - 1)
