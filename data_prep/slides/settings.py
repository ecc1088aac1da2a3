"""Settings of the source `slides`: how large tiles are on the tissue, which are kept, and how they are stored."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

from sciencessl.data_prep.settings import require
from sciencessl.data_prep.slides.grid import overlap_px
from sciencessl.data_prep.slides.resolution import RECIPES, Target, parse_target
from sciencessl.data_prep.tiling import EDGES
from sciencessl.errors import ConfigError, unknown_name

TISSUE_METHODS = ("auto", "otsu", "saturation", "entropy", "all")
ENCODINGS = ("jpeg", "png", "raw")
STAINS = ("none", "macenko", "reinhard")
_VENDOR = re.compile(r"[\w-]+=(?=.*[1-9])\d*\.?\d+")


@dataclass(frozen=True)
class SlideSettings:
    """Settings of slides, beyond those of every source.

    Attributes:
        tile_recipe: A named tiling instead of `tile_px`, `tile_um` and `mpp`: `ptcga200` is 512 px at 0.39 um/px.
        tile_px: Side of a stored tile in pixels.
        tile_um: Side of a tile on the tissue in um, instead of `tile_px`.
        mpp: Scale of stored tiles in um/px, or `native` for that of the finest level. `20x` and the like are aliases
            for 10 / magnification um/px, since objectives differ.
        exact_mpp: Resample to exactly `mpp`; otherwise a level within 10 % of it is taken as it is, and its scale said.
        upsample: Allow tiles finer than the slide's own pixels.
        overlap: Of neighbouring tiles: `32px` (or `32`) of the stored tile, `16um`, or `0.25` of its side.
        edges: Tiles that reach over the slide's edge are left out (`skip`), filled with white (`pad`), or moved inwards
            (`shift`).
        slide_mpp: Scale of all slides in um/px, whatever their files say.
        vendor_mpp: Scale of all slides of a vendor, such as `hamamatsu=0.23`, in um/px, whatever their files say.
        tissue: How tissue is told from glass: the best of three by a score (`auto`), one of them, or `all` without
            looking.
        min_tissue: Share of tissue from which on a tile is kept, 0 to 1.
        masks: Folder of SLIDE.geojson with tissue outlines, such as those of an earlier scan edited by hand, that
            replace what would be found.
        coords: Folder of SLIDE.h5 or SLIDE_patches.h5 with the corners of tiles, as CLAM and TRIDENT write them. All of
            these are cut instead of a grid, however little tissue they show.
        tiles_per_slide: At most so many tiles of a slide, drawn by a keyed hash; None keeps all.
        tile_seed: Of that draw.
        encoding: `jpeg` (native tiles byte for byte where they serve), `png`, or `raw` pixels.
        tile_quality: Of JPEG tiles that are encoded, 1 to 100.
        stain: Normalise each slide's stain to a reference: `macenko` or `reinhard`, fitted on tiles of the slide that
            were selected before.
        pseudonymise: File with a secret key: slides and patients are then called by keyed hashes, no path is kept, and
            the map is written beside the key.

    Raises:
        ConfigError: For a value outside its range.
    """

    tile_recipe: str = ""
    tile_px: int = 256
    tile_um: float | None = None
    mpp: str = "0.5"
    exact_mpp: bool = False
    upsample: bool = False
    overlap: str = "0"
    edges: str = "skip"
    slide_mpp: float | None = None
    vendor_mpp: tuple[str, ...] = ()
    tissue: str = "auto"
    min_tissue: float = 0.5
    masks: str = ""
    coords: str = ""
    tiles_per_slide: int | None = None
    tile_seed: int = 0
    encoding: str = "jpeg"
    tile_quality: int = 90
    stain: str = "none"
    pseudonymise: str = ""

    def __post_init__(self) -> None:
        for name, allowed in (("edges", EDGES), ("tissue", TISSUE_METHODS), ("encoding", ENCODINGS), ("stain", STAINS)):
            require(name, getattr(self, name), getattr(self, name) in allowed, f"one of {', '.join(allowed)}")
        require("tile_quality", self.tile_quality, 1 <= self.tile_quality <= 100, "1 to 100")
        require("min_tissue", self.min_tissue, 0 <= self.min_tissue <= 1, "0 to 1")
        require("tile_seed", self.tile_seed, self.tile_seed >= 0, "0 or more")
        few = self.tiles_per_slide
        require("tiles_per_slide", few, few is None or few >= 1, "1 or more")
        for name in ("slide_mpp", "tile_um"):
            value = getattr(self, name)
            require(name, value, value is None or value > 0, "positive")
        for word in self.vendor_mpp:
            known = bool(_VENDOR.fullmatch(word))
            require("vendor_mpp", repr(word), known, "VENDOR=UM_PER_PX, such as hamamatsu=0.23")
        if self.masks:
            require("masks", self.masks, self.tissue == "auto", "without --tissue, which it replaces")
        if self.coords:
            plain = (self.overlap, self.edges, self.pseudonymise) == ("0", "skip", "")
            require("coords", self.coords, plain, "without --overlap and --edges, which are of a grid, and without "
                     "--pseudonymise, under which files of others have other names")
        if self.tile_recipe:
            plain = (self.tile_px, self.tile_um, self.mpp) == (SlideSettings.tile_px, None, SlideSettings.mpp)
            require("tile_recipe", self.tile_recipe, plain, "without --tile-px, --tile-um and --mpp, which it decides")
        if self.tile_um is not None:
            plain = self.tile_px == SlideSettings.tile_px
            require("tile_um", self.tile_um, plain, "without --tile-px, which it replaces")
        scale = self.target.mpp or 1.0
        overlap_px(self.overlap, self.target.tile_px, (scale, scale))

    @property
    def target(self) -> Target:
        """Size and scale of the tiles that are asked for."""
        if not self.tile_recipe:
            return parse_target(self.mpp, self.tile_px, self.tile_um, self.exact_mpp)
        if self.tile_recipe not in RECIPES:
            raise ConfigError(f"--tile-recipe: {unknown_name('tile recipe', self.tile_recipe, RECIPES)}")
        return RECIPES[self.tile_recipe]

    @property
    def mpp_of_vendor(self) -> dict[str, float]:
        """Vendor -> um/px."""
        return {vendor: float(value) for vendor, _, value in (word.partition("=") for word in self.vendor_mpp)}

    @property
    def scanned(self) -> dict[str, Any]:
        """What decides the outcome of looking at a slide, apart from its file and its row of the manifest."""
        names = ("tile_recipe", "tile_px", "tile_um", "mpp", "exact_mpp", "upsample", "overlap", "edges", "slide_mpp",
                 "vendor_mpp", "tissue", "min_tissue", "tiles_per_slide", "tile_seed", "stain")
        return {name: getattr(self, name) for name in names}
