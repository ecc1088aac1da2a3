"""Pixel scales of slides: where they are from, what is asked for, and which level serves it."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

from sciencessl.data_prep.decode import Refused
from sciencessl.data_prep.slides.slide import Mpp, SlideInfo
from sciencessl.errors import ConfigError

FINEST_MPP, COARSEST_MPP = 0.05, 40.0
"""um a pixel that a scanner may give; what lies outside is a wrong tag rather than a scale."""
NATIVE_WITHIN = 0.1
"""A level whose scale differs from what is asked for by at most this share is stored as it is."""
EXACT_WITHIN = 1e-3
"""The same where the scale is to be exact: below what a tile of 512 px can show."""
SQUARE_WITHIN = 0.05
"""Pixels whose sides differ by more than this share are made square: they are never stored as they are."""
STRANGE_BEYOND = 0.2
"""Pixels whose sides differ by more than this share are a wrong tag."""
LEAST_TILE_PX, MOST_TILE_PX = 8, 2048
"""Sides of stored tiles."""

_GIVE_MPP = "give its um/px with --slide-mpp, the manifest column `mpp`, or --vendor-mpp"
_POWER = re.compile(r"(\d+(?:\.\d+)?)x")


@dataclass(frozen=True)
class Target:
    """What stored tiles are to be.

    Attributes:
        mpp: um a stored pixel on both axes; None keeps the pixels of level 0, whatever their scale.
        tile_px: Side in stored pixels.
        exact: Resample to exactly `mpp`, also where a level is close to it.
    """

    mpp: float | None
    tile_px: int
    exact: bool = False

    @property
    def field_um(self) -> float | None:
        """Side of a tile in um where its scale is `mpp`; None where the slide decides."""
        return None if self.mpp is None else self.mpp * self.tile_px


RECIPES = {"ptcga200": Target(0.39, 512)}
"""Known choices. `ptcga200`: fields of 200 um at 0.39 um/px; its 512 px are 199.68 um (the data card of PTCGA200)."""


def parse_target(mpp: str, tile_px: int, tile_um: float | None = None, exact: bool = False) -> Target:
    """What a user asks for, checked.

    Args:
        mpp: um/px such as `0.5`; `native` for the pixels of level 0; or an objective power such as `20x`, an alias for
            10/20 = 0.5 um/px. Only an alias, since objectives of one power differ in scale.
        tile_px: Side in stored pixels, 8 to 2048.
        tile_um: Side in um; where given, `tile_px` follows from it, rounded to whole pixels.
        exact: See `Target`.

    Returns:
        The target; its field is exactly `tile_px` pixels, so it may differ from `tile_um` by half a pixel.

    Raises:
        ConfigError: For a scale that cannot be read or lies outside 0.05 to 40 um/px, a side outside its range, or a
            side in um at the native scale, where it would be another number of pixels for each slide.
    """
    scale = _target_mpp(mpp)
    if tile_um is not None:
        if scale is None:
            raise ConfigError(f"tile_um is {tile_um:g} and mpp `native`: tiles would have another side for each slide; "
                              "give the side as tile_px, or a scale in um/px.")
        if not 0 < tile_um < COARSEST_MPP * 2 * MOST_TILE_PX:
            raise ConfigError(f"tile_um is {tile_um:g}; expected the side of a tile in um, above 0.")
        tile_px = round(tile_um / scale)
    if not LEAST_TILE_PX <= tile_px <= MOST_TILE_PX:
        said = "" if tile_um is None else f" ({tile_um:g} um at {scale:g} um/px)"
        raise ConfigError(f"tile_px is {tile_px}{said}; expected a side of {LEAST_TILE_PX} to {MOST_TILE_PX} pixels.")
    return Target(scale, tile_px, exact)


def _target_mpp(text: str) -> float | None:
    word = text.strip().lower()
    if word == "native":
        return None
    power = _POWER.fullmatch(word)
    try:
        mpp = 10 / float(power[1]) if power else float(word)
    except (ValueError, ZeroDivisionError):
        mpp = 0.0
    if not FINEST_MPP <= mpp <= COARSEST_MPP:
        raise ConfigError(f"mpp is {text!r}; expected {FINEST_MPP:g} to {COARSEST_MPP:g} um/px such as `0.5`, a power "
                          "such as `20x` (an alias for 10/20 = 0.5 um/px), or `native`.")
    return mpp


def slide_mpp(info: SlideInfo, flag: float | None, manifest: float | None, vendor: Mapping[str, float]) -> Mpp:
    """Scale of level 0 with its origin: of the flag, the manifest, the vendor and the file, the first that says one.

    Args:
        info: The slide.
        flag: um/px of all slides (`--slide-mpp`), or None.
        manifest: um/px that the manifest gives for this slide, or None.
        vendor: um/px of all slides of a vendor (`--vendor-mpp`), by `info.vendor`.

    Returns:
        The scale of both axes, each 0.05 to 40 um/px, the coarser at most 20 % above the finer.

    Raises:
        Refused: With reason `no-mpp` where nobody says a scale, or `strange-mpp` where it lies outside that range.
    """
    given = [(flag, "--slide-mpp"), (manifest, "manifest"), (vendor.get(info.vendor), f"--vendor-mpp {info.vendor}")]
    said = next((Mpp(value, value, origin) for value, origin in given if value is not None), info.mpp)
    if said is None:
        raise Refused("no-mpp", f"the file says no um/px; {_GIVE_MPP}")
    finer, coarser = sorted((said.x, said.y))
    scale = f"{said.origin} says {said.x:.4g} x {said.y:.4g} um/px"
    if not (finer >= FINEST_MPP and coarser <= COARSEST_MPP):
        raise Refused("strange-mpp", f"{scale}, outside {FINEST_MPP:g} to {COARSEST_MPP:g}; {_GIVE_MPP}")
    if coarser > finer * (1 + STRANGE_BEYOND):
        raise Refused("strange-mpp", f"{scale}, whose axes differ by more than {STRANGE_BEYOND:.0%}; {_GIVE_MPP}")
    return said


@dataclass(frozen=True)
class Serving:
    """How a level serves a target.

    Attributes:
        level: Its index.
        step: (x, y) pixels of the level to a stored pixel; 1.0 where its pixels are stored as they are.
        mpp: (x, y) um a stored pixel.
    """

    level: int
    step: tuple[float, float]
    mpp: tuple[float, float]


def serving_level(info: SlideInfo, mpp: Mpp, target: Target, upsample: bool = False) -> Serving:
    """The level that serves a target, and how.

    Of the levels whose pixels are square (to 5 %) and within 10 % of the target on both axes (0.1 % where it is exact),
    the nearest is stored as it is. Else the coarsest level that is no coarser than the target on either axis is shrunk
    to exactly the target, each axis by its own ratio.

    Args:
        info: The slide.
        mpp: Scale of its level 0.
        target: What is asked for.
        upsample: Where level 0 is too coarse, enlarge it.

    Raises:
        Refused: With reason `too-coarse` where level 0 would have to be enlarged, and `upsample` is not set.
    """
    scales = [(mpp.x * level.downsample[0], mpp.y * level.downsample[1]) for level in info.levels]
    if target.mpp is None:
        return Serving(0, (1.0, 1.0), scales[0])
    wanted = target.mpp
    within = EXACT_WITHIN if target.exact else NATIVE_WITHIN
    native = [index for index, scale in enumerate(scales) if _is_square(scale) and _away(scale, wanted) <= within]
    if native:
        nearest = min(native, key=lambda index: _away(scales[index], wanted))
        return Serving(nearest, (1.0, 1.0), scales[nearest])
    fine = [index for index, scale in enumerate(scales) if max(scale) <= wanted * (1 + EXACT_WITHIN)]
    if not fine and not upsample:
        raise Refused("too-coarse", f"level 0 has {scales[0][0]:.4g} x {scales[0][1]:.4g} um/px and {wanted:.4g} are "
                      "asked for; ask for a coarser scale, or allow pixels to be enlarged with --upsample")
    level = max(fine, key=lambda index: max(scales[index]), default=0)
    return Serving(level, (wanted / scales[level][0], wanted / scales[level][1]), (wanted, wanted))


def _is_square(scale: tuple[float, float]) -> bool:
    return max(scale) <= min(scale) * (1 + SQUARE_WITHIN)


def _away(scale: tuple[float, float], wanted: float) -> float:
    """Share by which the axis that is further from it differs from what is wanted; float noise counts as nothing."""
    return round(max(abs(side / wanted - 1) for side in scale), 9)
