"""Synthetic whole slides on disk: pyramids of two scanners with outlines, cells and defects that are known."""

from __future__ import annotations

import csv
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from sciencessl.data_prep.outlines import DECIMALS, write_geojson
from sciencessl.data_prep.regions import Region
from sciencessl.domains.pathology.synthetic import Stain, draw_stain
from sciencessl.domains.pathology.synthetic_picture import INKS, Defects, draw_defects, draw_picture
from sciencessl.domains.pathology.synthetic_scene import CELLS, CLASSES, Scene, draw_scene, ellipse_ring
from sciencessl.domains.pathology.synthetic_tiff import write_svs, write_tiff
from sciencessl.errors import ConfigError

REGIONS = ("tumour", "gland", "stroma")
"""Classes of the areas in `annotations`; they share nothing, and cover the tissue."""

NAME_ON_LABEL = "DOE^JANE"
"""Stands on the label and macro image of each SVS and in its description, with a date of birth: nobody may show it."""

_MPP = {"north": 0.25, "south": 0.5}  # by site
_SUFFIX, _TILE_PX = {"north": ".svs", "south": ".tiff"}, {"north": 240, "south": 256}
_SLIDES_A_PATIENT = 2
_TALL = 13 / 16  # height over width: whoever swaps x and y gets something else
_EXTRAS = {
    "glass": "nothing but glass",
    "empty": "nothing but white",
    "without-mpp": "the file says no scale",
    "nonsense-mpp": "the file says 72 pixels an inch",
    "mpp-in-manifest": "the file says no scale, the manifest does",
    "truncated": "half a file",
}


@dataclass(frozen=True)
class _Slide:
    """What is asked for."""

    name: str
    patient: str
    site: str
    slide_class: str
    defect: int = 0  # 1 pen, 2 blur, 3 fold
    extra: str = ""

    @property
    def file(self) -> str:
        return self.name + _SUFFIX[self.site]


def synthetic_slides(
    folder: Path, rng: np.random.Generator, n: int, side_um: float = 512.0, extras: bool = True
) -> Path:
    """Write N synthetic slides, some broken ones besides, and all that is known of them.

    Slides of site `north` are SVS with RGB tiles of 240 px at 0.25 um/px, with label, macro and thumbnail; those of
    `south` are generic TIFF with YCbCr tiles of 256 px at 0.5 um/px. Both have three levels, the last 6.4 times coarser
    than the first. A patient has two slides, and one stain, which is near that of the site; class and site are
    crossed. One slide in four has a pen mark, one a blurred zone, one a fold. Files:

    - `SLIDE.svs`, `SLIDE.tiff`, and `manifest.csv`: file, slide, patient, site, class (`benign` or `tumour`), mpp
      where only the manifest knows it, and `made`, what is wrong with a file.
    - `annotations/SLIDE.geojson`: areas of `REGIONS` as QuPath opens them.
    - `nuclei/SLIDE.geojson`: every nucleus, an outline with a class of `CELLS`.
    - `truth.json`: what was drawn of each slide, in pixels of level 0: size, mpp, tissue outline and its share of the
      slide, counts and shares of cells, defects.

    The same generator state writes the same bytes.

    Args:
        folder: Where to write; made if missing. Give a new one: files of an earlier call would stay.
        rng: Source of all draws.
        n: Number of good slides, 1 or more.
        side_um: Width of a slide, 128 or more; its height is 13/16 of that. A slide of 1,024 um takes about a second.
        extras: Write six slides that are not good besides; the manifest says what each is.

    Returns:
        The folder, a source for `prepare pathology`.

    Raises:
        ConfigError: For n below 1, or a side below 128 um.
        MissingExtraError: When tifffile is not installed.
    """
    if n < 1 or side_um < 128:
        raise ConfigError(f"synthetic slides: n must be 1 or more and side_um 128 or more, got {n} and {side_um:g}.")
    for name in ("annotations", "nuclei"):
        (folder / name).mkdir(parents=True, exist_ok=True)
    slides = [*_good(n), *(_extra() if extras else ())]
    sites = {site: draw_stain(rng, 0.10) for site in _MPP}
    stains: dict[str, Stain] = {}
    truth = {}
    for slide in slides:
        if slide.patient not in stains:
            stains[slide.patient] = draw_stain(rng, 0.02, sites[slide.site].vectors)
        truth[slide.name] = _write_slide(folder, slide, side_um, stains[slide.patient], rng)
    _write_manifest(folder / "manifest.csv", slides)
    (folder / "truth.json").write_text(json.dumps(truth), encoding="utf-8")
    return folder


def _good(n: int) -> Iterator[_Slide]:
    for number in range(n):
        patient = number // _SLIDES_A_PATIENT
        yield _Slide(f"S{number:03d}", f"P{patient:03d}", ("north", "south")[patient // 2 % 2], CLASSES[patient % 2],
                     number % 4)


def _extra() -> Iterator[_Slide]:
    for number, name in enumerate(_EXTRAS):
        yield _Slide(name, f"X{number:03d}", "north" if name == "truncated" else "south", CLASSES[0], extra=name)


def _write_slide(folder: Path, slide: _Slide, side_um: float, stain: Stain, rng: np.random.Generator) -> dict[str, Any]:
    mpp = _MPP[slide.site]
    size = (round(side_um / mpp), round(_TALL * side_um / mpp))
    scene = None if slide.extra in ("glass", "empty") else draw_scene(
        (size[0] * mpp, size[1] * mpp), slide.slide_class, rng)
    pens = list(INKS)
    defects = Defects() if scene is None else draw_defects(
        scene, pens[int(slide.name[1:]) // 4 % len(pens)] if slide.defect == 1 else "", slide.defect == 2,
        slide.defect == 3, rng)
    picture = draw_picture(scene, defects, stain, size, mpp, rng)
    if slide.extra == "empty":
        picture[:] = 255
    _write_pixels(folder / slide.file, slide, picture, mpp)
    known = {"file": slide.file, "made": slide.extra, "class": slide.slide_class, "patient": slide.patient,
             "site": slide.site, "width": size[0], "height": size[1], "mpp": mpp}
    if scene is None:
        return {**known, "tissue_share": 0.0}
    write_geojson(folder / "annotations" / f"{slide.name}.geojson", _areas(scene, mpp))
    write_geojson(folder / "nuclei" / f"{slide.name}.geojson", _outlines(scene, mpp))
    return {**known, **_known(scene, defects, mpp)}


def _write_pixels(path: Path, slide: _Slide, picture: np.ndarray, mpp: float) -> None:
    tile_px = _TILE_PX[slide.site]
    if slide.site == "north":
        said = f"Date = 11/28/26|Filename = {slide.name}|Patient = {NAME_ON_LABEL}|DOB = 1950-01-01"
        write_svs(path, picture, tile_px, mpp, _label(slide), said)
    else:
        said_mpp = {"without-mpp": None, "mpp-in-manifest": None, "nonsense-mpp": 25400 / 72}.get(slide.extra, mpp)
        write_tiff(path, picture, tile_px, said_mpp)
    if slide.extra == "truncated":
        path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def _label(slide: _Slide) -> np.ndarray:
    """A photograph of the slide's label, which says whose tissue it is."""
    label = np.full((160, 200, 3), 235, np.uint8)
    for row, text in enumerate((NAME_ON_LABEL, "1950-01-01", slide.patient, slide.name)):
        cv2.putText(label, text, (8, 34 + 36 * row), cv2.FONT_HERSHEY_SIMPLEX, 0.8, (20, 20, 20), 2)
    return label


def _areas(scene: Scene, mpp: float) -> Iterator[Region]:
    glands = [ellipse_ring(*gland, corners=48) for gland in scene.glands.tolist()]
    holes = glands if scene.tumour is None else [scene.tumour, *glands]
    if scene.tumour is not None:
        yield Region((scene.tumour / mpp,), "tumour")
    yield from (Region((ring / mpp,), "gland") for ring in glands)
    yield Region(tuple(ring / mpp for ring in (scene.tissue, *holes)), "stroma")


def _outlines(scene: Scene, mpp: float) -> Iterator[Region]:
    nuclei = scene.nuclei
    ellipses = np.concatenate([nuclei.place, nuclei.axes, nuclei.angle[:, None]], axis=1).tolist()
    for kind, (x, y, along, across, angle) in zip(nuclei.kind, ellipses, strict=True):
        yield Region((ellipse_ring(x, y, along, across, angle, corners=12) / mpp,), CELLS[kind])


def _rounded(places: np.ndarray) -> Any:
    return np.round(places, DECIMALS).tolist()


def _known(scene: Scene, defects: Defects, mpp: float) -> dict[str, Any]:
    counts = np.bincount(scene.nuclei.kind, minlength=len(CELLS))
    x, y = (scene.tissue / mpp).T
    area = abs(float(x @ np.roll(y, -1) - y @ np.roll(x, -1))) / 2
    known: dict[str, Any] = {
        "tissue": _rounded(scene.tissue / mpp), "tissue_share": area * mpp**2 / (scene.size[0] * scene.size[1]),
        "cells": dict(zip(CELLS, counts.tolist(), strict=True)),
        "shares": dict(zip(CELLS, scene.shares.tolist(), strict=True)),
        "pen": defects.pen, "stroke_width": defects.stroke_width / mpp,
    }
    for name, places in (("stroke", defects.stroke), ("fold", defects.fold), ("blurred", defects.blurred)):
        known[name] = None if places is None else _rounded(np.asarray(places) / mpp)
    return known


def _write_manifest(path: Path, slides: Sequence[_Slide]) -> None:
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(["file", "slide", "patient", "site", "class", "mpp", "made"])
        for slide in slides:
            mpp = _MPP[slide.site] if slide.extra == "mpp-in-manifest" else ""
            writer.writerow([slide.file, slide.name, slide.patient, slide.site, slide.slide_class, mpp,
                             _EXTRAS.get(slide.extra, "")])
