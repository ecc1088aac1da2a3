"""Settings of the source `survey`: which sources of a catalogue are cut from which tiles, how large, and how."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from sciencessl.data_prep.settings import require

FILLS = ("nan", "zero", "sky", "noise")
FITS = ("resample", "pad")
MOST_SIDE_PX = 2048
"""Largest stamp: five bands with mask and inverse variance are then as large as a row of a store."""
GROUPINGS = ("overlap", "object", "tile")


@dataclass(frozen=True)
class SurveySettings:
    """How sky tiles and a catalogue become stamps. Columns and bands are guessed, and the guess is printed.

    Attributes:
        bands: Bands to store, in this order, as tiles name them; empty takes all, ordered by wavelength where known.
        tile_pattern: How file names are read, such as `tile-{tile}-{band}.fits` or `{tile}_{kind}_{band}.fits`; empty
            guesses from headers and names.
        ra: Column with right ascension, degrees or sexagesimal hours.
        dec: Column with declination, degrees or sexagesimal.
        x: Column with pixel positions along rows, for catalogues without sky positions.
        y: Column with pixel positions along columns.
        pixel_origin: 0 where the first pixel's centre is 0, 1 where it is 1 as in FITS and SExtractor; when not given,
            1 for columns named like X_IMAGE and 0 else.
        tile: Column that names the tile of pixel positions; needed when there are several.
        size_px: Side of stored stamps in pixels. Where no other size is given they are pixels of the tile, as they are.
        size_arcsec: Side of the field of each stamp in arcsec.
        size_column: Column with the side of each source's own field: in arcsec, or in pixels of the tile where the
            column's name ends in px or pix.
        size_factor: The column's value is multiplied by this: 6 with half-light radii shows six of them.
        scale_arcsec_px: Stored pixel scale; stamps are resampled to it with their flux conserved. By default pixels
            stay as the tile has them.
        fit: What becomes of a field that has not `size_px` pixels: `resample` it with its flux conserved, or `pad` it
            with missing pixels.
        reproject: Resample bands or tiles whose pixel grids differ onto one tangent-plane grid at each source.
        stitch: Fill what a stamp lacks at the edge of its tile from neighbouring tiles.
        fill: What missing pixels hold: `nan`, `zero`, the local `sky`, or `noise` of the local level around it. Masks
            tell them in any case.
        min_coverage: Sources with a smaller share of known pixels in a band that is there are refused, 0 to 1.
        mask_bits: Numbers of the mask's bits that make a pixel bad; empty means every bit.
        subtract_sky: Subtract the local sky of each band; the level that was measured is stored either way.
        grid_px: Without a catalogue: cut whole tiles into stamps this many pixels apart; 0 asks for a catalogue.
        group_by: What must not straddle splits: sources that show each other (`overlap`: closer than half a stamp), one
            `object` (closer than `match_arcsec`), or all of a `tile`. A group column of the catalogue comes first.
        match_arcsec: Sources closer than this are one object.

    Raises:
        ConfigError: For a value outside its range, or two that contradict each other.
    """

    bands: tuple[str, ...] = ()
    tile_pattern: str = ""
    ra: str = ""
    dec: str = ""
    x: str = ""
    y: str = ""
    pixel_origin: int | None = None
    tile: str = ""
    size_px: int = 64
    size_arcsec: float | None = None
    size_column: str = ""
    size_factor: float = 1.0
    scale_arcsec_px: float | None = None
    fit: str = "resample"
    reproject: bool = False
    stitch: bool = False
    fill: str = "nan"
    min_coverage: float = 0.5
    mask_bits: tuple[int, ...] = ()
    subtract_sky: bool = False
    grid_px: int = 0
    group_by: str = "overlap"
    match_arcsec: float = 1.5

    @property
    def resamples(self) -> bool:
        """Whether stored pixels are not those of the tiles."""
        sized = bool(self.size_arcsec or self.size_column or self.scale_arcsec_px)
        return self.reproject or (sized and self.fit == "resample")

    def __post_init__(self) -> None:
        for name, allowed in (("fill", FILLS), ("fit", FITS), ("group_by", GROUPINGS)):
            require(name, getattr(self, name), getattr(self, name) in allowed, f"one of {', '.join(allowed)}")
        require("size_px", self.size_px, 4 <= self.size_px <= MOST_SIDE_PX, f"4 to {MOST_SIDE_PX}")
        for name in ("size_arcsec", "scale_arcsec_px"):
            value = getattr(self, name)
            require(name, value, value is None or value > 0, "positive")
        for name in ("size_factor", "match_arcsec"):
            require(name, getattr(self, name), getattr(self, name) > 0, "positive")
        require("min_coverage", self.min_coverage, 0 <= self.min_coverage <= 1, "0 to 1")
        require("pixel_origin", self.pixel_origin, self.pixel_origin in (None, 0, 1), "0 or 1")
        require("grid_px", self.grid_px, self.grid_px >= 0, "0 or more")
        require("mask_bits", self.mask_bits, all(0 <= bit <= 28 for bit in self.mask_bits), "numbers from 0 to 28")
        self._check_together()

    def _check_together(self) -> None:
        sizes = [name for name in ("size_arcsec", "size_column", "scale_arcsec_px") if getattr(self, name)]
        require(" and ".join(sizes), "given together", len(sizes) <= 1, "only one of them: each decides the field")
        whole = self.fit != "pad" or not (self.reproject or self.scale_arcsec_px)
        require("fit", "pad", whole, "resample with --reproject or --scale-arcsec-px, which give stamps new pixels")
        require("tile_pattern", repr(self.tile_pattern), not self.tile_pattern or "{tile}" in self.tile_pattern,
                 "a file name with {tile} in it")
        _require_pair(self, ("ra", "dec"))
        _require_pair(self, ("x", "y"))


def _require_pair(settings: SurveySettings, names: Sequence[str]) -> None:
    given = [name for name in names if getattr(settings, name)]
    require(" and ".join(names), f"given as {' and '.join(given)} alone", len(given) != 1, "given together")
