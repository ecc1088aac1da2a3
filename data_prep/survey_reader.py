"""Reading the stamps of a tile's sources: flux, mask and weights of every band, and what belongs to each stamp."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from sciencessl.data_prep.cutouts import affine_wcs, cut_stamps, origins, tile_scale_arcsec, world_to_pixel
from sciencessl.data_prep.decode import Refused, hash_pixels
from sciencessl.data_prep.fits_tiles import Planes
from sciencessl.data_prep.sky_level import fill_missing, sky_and_noise
from sciencessl.data_prep.sky_tiles import Band, Plane, SkyTile, own_bits
from sciencessl.data_prep.source import Input, Item, Task
from sciencessl.data_prep.survey_settings import SurveySettings
from sciencessl.spec import FieldSpec
from sciencessl.store.format import digest
from sciencessl.store.writer import PreparedSample, Refusal

MASK, IVAR = "mask", "ivar"
"""What the companions of a field are called: `image.mask`, `image.ivar`."""
LOW_COVERAGE, NO_PIXELS = "low-coverage", "no-known-pixel"
ENTROPY_NAME = "survey"
"""Name under which noise that fills missing pixels is drawn."""


@dataclass(frozen=True)
class Chunk:
    """Sources that one tile owns, up to a number: what one input is read from.

    Attributes:
        owner: The tile.
        others: Tiles that show some of the sources too, and which of them.
        ids: n identifiers.
        splits: n splits.
        ra: (n,) degrees; NaN without a WCS.
        dec: (n,) degrees.
        x: (n,) 0-based pixel position in the owner.
        y: (n,)
        field_px: (n,) side of the field in pixels of the owner.
        columns: Values that stay with the pixels, n a column.
    """

    owner: SkyTile
    others: Sequence[tuple[SkyTile, np.ndarray]]
    ids: Sequence[str]
    splits: Sequence[str]
    ra: np.ndarray
    dec: np.ndarray
    x: np.ndarray
    y: np.ndarray
    field_px: np.ndarray
    columns: Mapping[str, Sequence[Any]] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.ids)


@dataclass
class Stamps:
    """Stamps of n sources in C bands as they fill up.

    Attributes:
        image: (n, C, S, S) float32; NaN where nothing is known.
        mask: (n, C, S, S) bit planes with our own two bits on top.
        ivar: The same of inverse variances, or None.
    """

    image: np.ndarray
    mask: np.ndarray
    ivar: np.ndarray | None

    @classmethod
    def empty(cls, n: int, channels: int, side: int, mask_dtype: str, weights: bool) -> Stamps:
        """Nothing known yet."""
        shape = (n, channels, side, side)
        return cls(
            np.full(shape, np.nan, np.float32), np.full(shape, own_bits(mask_dtype)[0], mask_dtype),
            np.zeros(shape, np.float32) if weights else None,
        )
