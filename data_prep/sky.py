"""Positions on the sky: degrees out of what catalogues write, unit vectors, and separations that hold at small angles.

On unit vectors RA 0/360 and the poles are places like any other. Rounding moves a point by less than 1e-10 arcsec.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

import numpy as np

from sciencessl.errors import DataError

ARCSEC = np.pi / 180 / 3600
"""One arcsec in radians."""
LEAST_RA, MOST_RA, MOST_DEC = -180.0, 360.0, 90.0
"""Degrees that a position may have: some catalogues count RA from -180 to 180."""

_NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)(e[+-]?\d+)?")
_SEXAGESIMAL = re.compile(
    r"([+-]?)\s*(\d+)(?:\s*([:hd°])\s*|\s+)"
    r"""(?:(\d+)(?:\s*[:m'′]\s*|\s+)(\d+\.?\d*)\s*(?:s|"|″|'')?|(\d+\.?\d*)\s*[m'′]?)"""
)
_MISSING = ("", "nan", "null", "none", "--")


def unit_vectors(ra_deg: np.ndarray, dec_deg: np.ndarray) -> np.ndarray:
    """(N, 3) float64 points on the unit sphere of (N,) positions in degrees. RA may have any number of turns."""
    ra, dec = np.deg2rad(np.asarray(ra_deg, np.float64)), np.deg2rad(np.asarray(dec_deg, np.float64))
    return np.stack([np.cos(dec) * np.cos(ra), np.cos(dec) * np.sin(ra), np.sin(dec)], axis=-1)


def chord(separation_arcsec: np.ndarray | float) -> np.ndarray:
    """Straight distance of two points on the unit sphere: 2 sin(half the angle), for 0 to 180 degrees in arcsec.

    Source: plane geometry.
    """
    return np.asarray(2 * np.sin(np.asarray(separation_arcsec, np.float64) * ARCSEC / 2))


def angle_arcsec(chords: np.ndarray | float) -> np.ndarray:
    """The angle in arcsec under which chords of the unit sphere (0 to 2) are seen; inverts `chord`."""
    return np.asarray(2 * np.arcsin(np.minimum(np.asarray(chords, np.float64) / 2, 1)) / ARCSEC)


def separation_arcsec(ra1: np.ndarray, dec1: np.ndarray, ra2: np.ndarray, dec2: np.ndarray) -> np.ndarray:
    """(N,) angles in arcsec between two positions in degrees each, exact to 1e-10 arcsec from 0 to 180 degrees.

    `2 atan2(|a - b|, |a + b|)` of the unit vectors, which neither vanishing nor opposite directions hurt, as the
    inverse cosine of their product would be. Source: Kahan, "How Futile are Mindless Assessments of Roundoff", 2006.
    """
    a, b = unit_vectors(ra1, dec1), unit_vectors(ra2, dec2)
    return np.asarray(2 * np.arctan2(np.linalg.norm(a - b, axis=-1), np.linalg.norm(a + b, axis=-1)) / ARCSEC)


def require_positions(ra_deg: np.ndarray, dec_deg: np.ndarray, what: str) -> tuple[np.ndarray, np.ndarray]:
    """Positions as (N,) float64, if all of them are places on the sky.

    Args:
        ra_deg: (N,) from -180 to 360.
        dec_deg: (N,) from -90 to 90.
        what: Whose they are, for the message.

    Raises:
        DataError: For lengths that differ, or naming the first row that is missing or out of range.
    """
    ra, dec = np.asarray(ra_deg, np.float64), np.asarray(dec_deg, np.float64)
    _require_lengths(ra, dec, what)
    good = (ra >= LEAST_RA) & (ra <= MOST_RA) & (np.abs(dec) <= MOST_DEC)
    if not good.all():
        row = int(np.argmin(good))
        raise DataError(
            f"{what}: {int((~good).sum()):,} of {len(ra):,} positions are no places on the sky, the first in row {row} "
            f"(from 0): ra {ra[row]:g}, dec {dec[row]:g}. Expected degrees, ra from {LEAST_RA:g} to {MOST_RA:g} and "
            f"dec from {-MOST_DEC:g} to {MOST_DEC:g}. Correct such rows, or leave them out."
        )
    return ra, dec


def _require_lengths(ra: Sequence[object] | np.ndarray, dec: Sequence[object] | np.ndarray, what: str) -> None:
    if len(ra) != len(dec):
        raise DataError(f"{what}: {len(ra):,} values of ra and {len(dec):,} of dec; expected one of each a row.")


def sky_positions(ra: Sequence[object], dec: Sequence[object]) -> tuple[np.ndarray, np.ndarray, dict[int, str]]:
    """Degrees out of two columns of a catalogue; a row that cannot be read has a reason and spoils no other.

    Numbers, and text that is a number, are degrees. RA in three or two parts is hours (`10:20:30.4`, `10 20 30.4`,
    `10h20m30.4s`) unless it says degrees (`155d07m36s`); Dec in parts is degrees.

    Args:
        ra: N numbers, texts or None.
        dec: Likewise.

    Returns:
        (N,) RA in [0, 360) and (N,) Dec in [-90, 90], float64 and NaN in rows that are bad; row, from 0 -> the reason
        in words, for bad rows only.

    Raises:
        DataError: For lengths that differ.
    """
    _require_lengths(ra, dec, "positions")
    reasons: dict[int, list[str]] = {}
    degrees = []
    for name, values, least, most in (("ra", ra, LEAST_RA, MOST_RA), ("dec", dec, -MOST_DEC, MOST_DEC)):
        found = _column(name, values, reasons)
        for row in np.flatnonzero((found < least) | (found > most)).tolist():
            reasons.setdefault(row, []).append(
                f"{name} {values[row]} lies outside {least:g} to {most:g} degrees"
            )
        degrees.append(found)
    for found in degrees:
        found[list(reasons)] = np.nan
    turned = degrees[0] % 360
    turned[turned == 360] = 0  # of a tiny negative number
    return turned, degrees[1], {row: "; ".join(said) for row, said in sorted(reasons.items())}


def _column(name: str, values: Sequence[object], reasons: dict[int, list[str]]) -> np.ndarray:
    """(N,) degrees, which may be out of range; NaN where `reasons` has got one."""
    whole = np.asarray(values)
    if whole.dtype.kind in "fiu":
        found = whole.astype(np.float64)
        for row in np.flatnonzero(np.isnan(found)).tolist():
            reasons.setdefault(row, []).append(f"{name} is missing")
        return found
    found = np.full(len(values), np.nan)
    for row, value in enumerate(values):
        number = _degrees(name, value)
        if isinstance(number, str):
            reasons.setdefault(row, []).append(number)
        else:
            found[row] = number
    return found


def _degrees(name: str, value: object) -> float | str:
    """One value in degrees, or why it is none."""
    text = "" if value is None else str(value).strip().lower().replace("−", "-")
    if _NUMBER.fullmatch(text):
        return float(text)
    if text in _MISSING:
        return f"{name} is missing"
    parts = _SEXAGESIMAL.fullmatch(text)
    if parts is None:
        example = "hours such as 10:20:30.4" if name == "ra" else "degrees in parts such as -10:20:30.4"
        return f"{name} {value!r} is neither a number of degrees nor {example}"
    sign, whole, mark, minutes, seconds, last = parts.groups()
    return _joined(name, value, sign == "-", int(whole), mark, float(minutes or last), float(seconds or 0))


def _joined(
    name: str, value: object, negative: bool, whole: int, mark: str | None, minutes: float, seconds: float
) -> float | str:
    """Degrees of parts, or why they are none."""
    # Tables that were rounded hold 60.0 seconds.
    if minutes >= 60 or seconds > 60:
        return f"{name} {value!r} has {minutes:g} minutes and {seconds:g} seconds; expected below 60 of each"
    degrees = whole + minutes / 60 + seconds / 3600
    if name == "dec" and mark == "h":
        return f"dec {value!r} is in hours; expected degrees"
    if name == "ra" and mark not in ("d", "°"):
        if negative or degrees > 24:
            return f"ra {value!r} lies outside 0 to 24 hours; degrees are written 155d07m36s, or as one number"
        degrees *= 15
    return -degrees if negative else degrees
