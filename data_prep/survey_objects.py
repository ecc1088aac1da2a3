"""The sources of a catalogue: identifiers, positions on the sky or in tiles, fields, labels. No tile is opened."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from sciencessl.data_prep.catalogue import Catalogue, as_text, tidy
from sciencessl.data_prep.columns import Columns, choose_columns, first_name, require_columns
from sciencessl.data_prep.labels import make_labels
from sciencessl.data_prep.manifest import given_groups, identifiers, kept_columns
from sciencessl.data_prep.settings import PrepareSettings
from sciencessl.data_prep.sky import sky_positions
from sciencessl.data_prep.source import Labels
from sciencessl.data_prep.survey_settings import SurveySettings
from sciencessl.errors import ConfigError, DataError
from sciencessl.spec import DomainSpec

RA_NAMES = ("ra", "ra_deg", "ra_j2000", "raj2000", "_raj2000", "ra_icrs", "alpha_j2000", "alphawin_j2000",
            "right_ascension", "rightascension")
DEC_NAMES = ("dec", "dec_deg", "dec_j2000", "dej2000", "decj2000", "_dej2000", "dec_icrs", "de_icrs", "delta_j2000",
             "deltawin_j2000", "declination")
X_NAMES = ("x", "x_px", "x_pix", "xpix", "tile_x", "x_image", "xwin_image", "xcentroid")
Y_NAMES = ("y", "y_px", "y_pix", "ypix", "tile_y", "y_image", "ywin_image", "ycentroid")
TILE_NAMES = ("tile", "tile_id", "tilename", "brick", "brickname", "field", "frame", "ccd")
ONE_BASED = ("_image",)
"""Ends of column names by which SExtractor counts pixels from 1."""
PIXEL_ENDS = ("px", "pix", "pixel", "pixels")
BAD_POSITION, BAD_SIZE = "bad-position", "bad-size"


@dataclass(frozen=True)
class Objects:
    """N sources, before tiles are looked at.

    Attributes:
        ids: Their identifiers.
        ra: (N,) right ascension in degrees, ICRS; NaN where only pixels are known.
        dec: (N,) declination in degrees.
        x: (N,) 0-based pixel position along rows of its tile; NaN where only the sky is known.
        y: (N,) along columns.
        tile: Name of the tile of each pixel position; empty where there is one tile.
        size: (N,) side of each one's own field; NaN without.
        size_unit: `arcsec` or `px` of `size`; empty without.
        groups: What must not straddle splits, by a column of the catalogue; None without.
        columns: Values that stay with the pixels.
        labels: The table of labels, or None.
        bad: Row -> (reason, detail) of those that cannot be placed.
        catalogue: Where splits come from; None for a grid.
        chosen: Its columns; None for a grid.
        said: What was guessed.
    """

    ids: Sequence[str]
    ra: np.ndarray
    dec: np.ndarray
    x: np.ndarray
    y: np.ndarray
    tile: Sequence[str] = ()
    size: np.ndarray = field(default_factory=lambda: np.empty(0))
    size_unit: str = ""
    groups: Sequence[str] | None = None
    columns: Mapping[str, Sequence[Any]] = field(default_factory=dict)
    labels: Labels | None = None
    bad: Mapping[int, tuple[str, str]] = field(default_factory=dict)
    catalogue: Catalogue | None = None
    chosen: Columns | None = None
    said: tuple[str, ...] = ()

    def __len__(self) -> int:
        return len(self.ids)

    @property
    def on_sky(self) -> bool:
        """Whether positions are on the sky."""
        return not np.isnan(self.ra).all()


def catalogue_objects(
    catalogue: Catalogue, spec: DomainSpec, settings: PrepareSettings, survey: SurveySettings
) -> Objects:
    """The sources of a catalogue.

    Raises:
        ConfigError: For a column that does not exist.
        DataError: When no column says where the sources are, identifiers repeat or are missing, or votes are no votes.
    """
    columns = choose_columns(catalogue, spec, settings, files=False)
    ids = identifiers(catalogue, columns, ())
    labels, votes, vote_words = make_labels(catalogue, ids, columns.classes, spec, settings)
    kept = kept_columns(catalogue, columns, votes, spec, settings)
    if columns.group not in ("", "group"):
        kept[columns.group] = as_text(catalogue.data, columns.group)
    placed = _positions(catalogue, survey)
    sized = _sizes(catalogue, survey)
    for name in ("ra", "dec"):
        kept.pop(name, None)  # in degrees, whatever the catalogue has
    return replace(
        placed, ids=ids, size=sized.size, size_unit=sized.size_unit, bad={**placed.bad, **sized.bad},
        groups=given_groups(catalogue, columns, ids) if columns.group else None, columns=kept, labels=labels,
        catalogue=catalogue, chosen=columns, said=(*columns.guessed, *placed.said, *sized.said, *vote_words),
    )


def has_positions(catalogue: Catalogue) -> bool:
    """Whether a catalogue has columns that are named like positions on the sky."""
    known = catalogue.data.column_names
    return bool(first_name(RA_NAMES, known) and first_name(DEC_NAMES, known))


def _positions(catalogue: Catalogue, survey: SurveySettings) -> Objects:
    known = catalogue.data.column_names
    for flag in ("ra", "dec", "x", "y", "tile"):
        require_columns([getattr(survey, flag)] if getattr(survey, flag) else [], flag, catalogue)
    ra, dec = survey.ra or first_name(RA_NAMES, known), survey.dec or first_name(DEC_NAMES, known)
    x, y = survey.x or first_name(X_NAMES, known), survey.y or first_name(Y_NAMES, known)
    if ra and dec and not survey.x:
        return _on_sky(catalogue, ra, dec, "" if survey.ra else f"position from columns {ra!r} and {dec!r}")
    if x and y:
        return _in_pixels(catalogue, x, y, survey)
    raise DataError(
        f"{catalogue.described} has no columns that say where sources are, neither right ascension and declination "
        f"nor pixel x and y, among: {', '.join(known)}. Name them with --ra and --dec, or --x and --y."
    )


def _on_sky(catalogue: Catalogue, ra: str, dec: str, said: str) -> Objects:
    values = [_cells(catalogue, name) for name in (ra, dec)]
    ra_deg, dec_deg, wrong = sky_positions(*values)
    bad = {row: (BAD_POSITION, words) for row, words in wrong.items()}
    nothing = np.full(len(ra_deg), np.nan)
    return Objects((), ra_deg, dec_deg, nothing, nothing, bad=bad, said=(said,) if said else ())


def _cells(catalogue: Catalogue, name: str) -> Sequence[object]:
    column = catalogue.data[name]
    if str(column.type) in ("string", "large_string"):
        return as_text(catalogue.data, name)
    values: Sequence[object] = column.to_numpy(zero_copy_only=False)
    return values


def _in_pixels(catalogue: Catalogue, x: str, y: str, survey: SurveySettings) -> Objects:
    first = survey.pixel_origin
    if first is None:
        first = int(x.lower().endswith(ONE_BASED))
    columns = [_numbers(catalogue, name) for name in (x, y)]
    wrong = np.flatnonzero(~np.isfinite(columns[0]) | ~np.isfinite(columns[1]))
    bad = {int(row): (BAD_POSITION, f"no number in column {x!r} or {y!r}") for row in wrong}
    tile = survey.tile or first_name(TILE_NAMES, catalogue.data.column_names)
    tiles = [value or "" for value in as_text(catalogue.data, tile)] if tile else ()
    nothing = np.full(len(columns[0]), np.nan)
    said = f"position from pixel columns {x!r} and {y!r}, the first pixel's centre being {first}"
    return Objects((), nothing, nothing, columns[0] - first, columns[1] - first, tiles, bad=bad,
                   said=(f"{said}{f', tile from column {tile!r}' if tile else ''}",))


def _numbers(catalogue: Catalogue, name: str) -> np.ndarray:
    """(N,) float64 of a column; NaN for an empty cell, and for one that is no number."""
    values = tidy(catalogue.data, name)
    if any(isinstance(value, str) for value in values):
        return np.array([_number(value) for value in values])
    return np.array([np.nan if value is None else value for value in values], dtype=np.float64)


def _number(value: object) -> float:
    try:
        return float(str(value))
    except ValueError:
        return float("nan")


def _sizes(catalogue: Catalogue, survey: SurveySettings) -> Objects:
    nothing = np.full(catalogue.data.num_rows, np.nan)
    name = survey.size_column
    if not name:
        return Objects((), nothing, nothing, nothing, nothing, size=nothing)
    require_columns([name], "size-column", catalogue)
    size = survey.size_factor * _numbers(catalogue, name)
    wrong = np.flatnonzero(~(np.isfinite(size) & (size > 0)))
    if len(wrong) == len(size):
        raise ConfigError(f"--size-column {name}: not one value is a positive number.")
    unit = "px" if name.lower().endswith(PIXEL_ENDS) else "arcsec"
    bad = {int(row): (BAD_SIZE, f"column {name!r} has no positive number") for row in wrong}
    said = f"field of each source: {survey.size_factor:g} x column {name!r}, in {unit}"
    return Objects((), nothing, nothing, nothing, nothing, size=size, size_unit=unit, bad=bad, said=(said,))
