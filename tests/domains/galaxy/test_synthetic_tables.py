"""The truth of the synthetic survey: angles and hands as they are on the sky."""

from __future__ import annotations

import csv
import math
from dataclasses import replace
from pathlib import Path

import numpy as np
from astropy.coordinates import SkyCoord
from astropy.wcs import WCS

from sciencessl.domains.galaxy.morphology import draw_galaxies
from sciencessl.domains.galaxy.synthetic_tables import write_truth


def test_position_angles_are_from_north_through_east(tmp_path: Path) -> None:
    """Against astropy: the direction on the sky of a step along the major axis in pixels."""
    galaxies = draw_galaxies(12, np.random.default_rng(0))
    galaxies = replace(galaxies, angle=np.linspace(0, np.pi, 12, endpoint=False))
    turn = math.radians(4.0)
    wcs = WCS(naxis=2)
    wcs.wcs.ctype = ["RA---TAN", "DEC--TAN"]
    wcs.wcs.crval, wcs.wcs.crpix = [150.0, 20.0], [1.0, 1.0]
    wcs.wcs.cd = 1e-4 * np.array([[-math.cos(turn), math.sin(turn)], [math.sin(turn), math.cos(turn)]])
    steps = np.stack([np.cos(galaxies.angle), np.sin(galaxies.angle)], axis=1)
    nothing = np.empty((0, 3))
    write_truth(tmp_path / "t.csv", [f"g{i}" for i in range(12)], galaxies, np.zeros((12, 2)), nothing, nothing, turn)
    with (tmp_path / "t.csv").open(encoding="utf-8") as file:
        written = np.array([float(row["position_angle"]) for row in csv.DictReader(file)])
    middle, ends = SkyCoord(150.0, 20.0, unit="deg"), SkyCoord(wcs.all_pix2world(steps, 0), unit="deg")
    apart = (middle.position_angle(ends).deg - written + 90) % 180 - 90
    assert np.abs(apart).max() < 0.02


def test_only_spirals_have_a_hand_and_stars_no_shape(tmp_path: Path) -> None:
    galaxies = draw_galaxies(30, np.random.default_rng(0))
    write_truth(tmp_path / "t.csv", [f"g{i}" for i in range(30)], galaxies, np.zeros((30, 2)), np.ones((2, 3)),
                np.zeros((2, 2)), 0.0)
    with (tmp_path / "t.csv").open(encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert {row["handedness"] for row in rows if row["class"] == "spiral"} == {"1", "-1"}
    assert {row["handedness"] for row in rows if row["class"] != "spiral"} == {""}
    assert [row["axis_ratio"] for row in rows[30:]] == ["", ""]
    assert [row["class"] for row in rows[30:]] == ["star", "star"]
