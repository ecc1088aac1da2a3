"""Tables of the synthetic survey: the catalogue that an astronomer would have, and the truth that only we know."""

from __future__ import annotations

import csv
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np

from sciencessl.domains.galaxy.exposure import PIXEL_SCALE
from sciencessl.domains.galaxy.morphology import BANDS, CLASSES, Galaxies
from sciencessl.spec import LabelSchema

_KNOWN = ("id_str", "ra", "dec", *(f"mag_{band}" for band in BANDS), "r50_arcsec", "redshift", "class")
_TRUTH = ("id_str", "class", "ra", "dec", *(f"flux_{band}" for band in BANDS), "r50_arcsec", "axis_ratio",
          "position_angle", "handedness")  # fmt: skip
_HUBBLE_MPC = 3e5 / 70  # c / H0
_LUMINOSITY = (-21.0, 0.7)  # mean and scatter of absolute r magnitudes


def write_catalogue(
    path: Path, names: Sequence[str], galaxies: Galaxies, sky: np.ndarray, schema: LabelSchema, votes: np.ndarray,
    rng: np.random.Generator,
) -> None:
    """Write what a survey and its volunteers know: positions, magnitudes, half-light radii, redshifts, classes, votes.

    Redshifts are those of galaxies with absolute r magnitudes around -21, by Hubble's law to first order (ours).

    Args:
        path: CSV file.
        names: N identifiers.
        galaxies: N of them.
        sky: (N, 2) right ascension and declination of each, degrees.
        schema: Of the votes.
        votes: (N, A) counts.
        rng: Source of the luminosities.
    """
    magnitudes = 22.5 - 2.5 * np.log10(galaxies.flux)
    absolute = rng.normal(*_LUMINOSITY, len(galaxies))
    redshift = 10 ** (0.2 * (magnitudes[:, 1] - absolute) - 5) / _HUBBLE_MPC
    radius = galaxies.radius * PIXEL_SCALE
    _write(path, (*_KNOWN, *schema.columns), (
        (name, *_degrees(sky[i]), *(f"{m:.3f}" for m in magnitudes[i]), f"{radius[i]:.3f}", f"{redshift[i]:.4f}",
         CLASSES[galaxies.kind[i]], *votes[i].tolist())
        for i, name in enumerate(names)
    ))


def write_truth(
    path: Path, names: Sequence[str], galaxies: Galaxies, sky: np.ndarray, stars: np.ndarray, stars_sky: np.ndarray,
    turn: float,
) -> None:
    """Write what was drawn of galaxies and stars.

    Columns: fluxes in nanomaggies; `position_angle` of the major axis in degrees from north through east, 0 to 180;
    `handedness` of arms, 1 where they wind anticlockwise from the nucleus outwards with north up and east left, else
    -1. Stars have class `star`, and no shape.

    Args:
        path: CSV file.
        names: Identifiers of the N galaxies.
        galaxies: N of them.
        sky: (N, 2) right ascension and declination, degrees.
        stars: (M, 3) fluxes of stars.
        stars_sky: (M, 2) where they are.
        turn: Angle in radians by which the pixel grid is turned against north.
    """
    # The x axis points west, and north is turned by `turn` from the y axis: east of north is the angle less a quarter.
    angle = np.degrees(galaxies.angle + turn - np.pi / 2) % 180
    rows: list[Sequence[object]] = [
        (name, CLASSES[galaxies.kind[i]], *_degrees(sky[i]), *_fluxes(galaxies.flux[i]),
         f"{galaxies.radius[i] * PIXEL_SCALE:.4f}", f"{galaxies.axis_ratio[i]:.4f}", f"{angle[i]:.2f}",
         int(galaxies.handedness[i]) if CLASSES[galaxies.kind[i]] == "spiral" else "")
        for i, name in enumerate(names)
    ]
    rows += [(f"star{i:06d}", "star", *_degrees(place), *_fluxes(flux), "", "", "", "")
             for i, (place, flux) in enumerate(zip(stars_sky, stars, strict=True))]
    _write(path, _TRUTH, rows)


def _degrees(place: np.ndarray) -> tuple[str, str]:
    return f"{place[0]:.7f}", f"{place[1]:.7f}"


def _fluxes(flux: np.ndarray) -> tuple[str, ...]:
    return tuple(f"{value:.5f}" for value in flux)


def _write(path: Path, header: Sequence[str], rows: Iterable[Sequence[object]]) -> None:
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(header)
        writer.writerows(rows)
