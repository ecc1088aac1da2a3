"""The synthetic slides on disk: files, annotations and truth agree with each other and with the pixels."""

from __future__ import annotations

import csv
import json
from contextlib import closing
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from sciencessl.data_prep.annotations import read_annotations
from sciencessl.data_prep.decode import Refused
from sciencessl.data_prep.regions import Region, rasterise
from sciencessl.data_prep.slides.opening import open_slide
from sciencessl.data_prep.slides.resolution import slide_mpp
from sciencessl.data_prep.tile_quality import optical_density, pen_pixels
from sciencessl.domains.pathology.synthetic_scene import CELLS
from sciencessl.domains.pathology.synthetic_slides import NAME_ON_LABEL, REGIONS, synthetic_slides
from sciencessl.errors import ConfigError

openslide = pytest.importorskip("openslide")
GOOD = [f"S{number:03d}" for number in range(6)]
SIZES = {".svs": (768, 624), ".tiff": (384, 312)}


@pytest.fixture(scope="module")
def truth(slides_folder: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((slides_folder / "truth.json").read_text(encoding="utf-8"))
    return found


@pytest.fixture(scope="module")
def rows(slides_folder: Path) -> dict[str, dict[str, str]]:
    with (slides_folder / "manifest.csv").open(encoding="utf-8") as file:
        return {row["slide"]: row for row in csv.DictReader(file)}


def level0(path: Path) -> np.ndarray:
    with openslide.OpenSlide(path) as slide:
        return np.asarray(slide.read_region((0, 0), 0, slide.dimensions))[..., :3]


def density(path: Path) -> np.ndarray:
    """Optical density of green, which both stains absorb most."""
    return optical_density(cv2.GaussianBlur(level0(path), (3, 3), 0))[..., 1]


def inside(truth: dict[str, Any], ring: Any) -> np.ndarray:
    region = Region((np.array(ring, float),), "")
    return rasterise([region], (truth["height"], truth["width"]), (1.0, 1.0))


def test_manifest_crosses_sites_and_classes(slides_folder: Path, rows: dict[str, dict[str, str]]) -> None:
    assert [rows[name]["patient"] for name in GOOD] == ["P000", "P000", "P001", "P001", "P002", "P002"]
    assert [rows[name]["class"] for name in GOOD] == ["benign"] * 2 + ["tumour"] * 2 + ["benign"] * 2
    assert [rows[name]["site"] for name in GOOD] == ["north"] * 4 + ["south"] * 2
    files = {path.name for path in slides_folder.iterdir() if path.suffix in SIZES}
    assert {row["file"] for row in rows.values()} == files
    assert {name for name, row in rows.items() if row["mpp"]} == {"mpp-in-manifest"}
    assert [name for name, row in rows.items() if not row["made"]] == GOOD


@pytest.mark.parametrize(("name", "vendor", "mpp", "tile_px"), [("S000", "aperio", 0.25, 240),
                                                               ("S004", "generic-tiff", 0.5, 256)])  # fmt: skip
def test_openslide_opens_them(
    slides_folder: Path, rows: dict[str, dict[str, str]], truth: dict[str, Any], name: str, vendor: str, mpp: float,
    tile_px: int,
) -> None:
    with openslide.OpenSlide(slides_folder / rows[name]["file"]) as slide:
        said = slide.properties
        width, height = SIZES[Path(rows[name]["file"]).suffix]
        assert slide.level_dimensions == ((width, height), (width // 2, height // 2),
                                          (round(width / 6.4), round(height / 6.4)))  # fmt: skip
        assert slide.level_downsamples == pytest.approx((1, 2, 6.4), rel=0.01)
        assert said["openslide.vendor"] == vendor
        assert float(said["openslide.mpp-x"]) == float(said["openslide.mpp-y"]) == mpp
        assert int(said["openslide.level[0].tile-width"]) == tile_px
    assert (truth[name]["width"], truth[name]["height"], truth[name]["mpp"]) == (width, height, mpp)


def test_levels_show_the_same(slides_folder: Path) -> None:
    for file in ("S000.svs", "S004.tiff"):
        with openslide.OpenSlide(slides_folder / file) as slide:
            fine = level0(slides_folder / file)
            for level, size in enumerate(slide.level_dimensions):
                coarse = np.asarray(slide.read_region((0, 0), level, size))[..., :3]
                averaged = cv2.resize(fine, size, interpolation=cv2.INTER_AREA)
                assert np.corrcoef(averaged.ravel(), coarse.ravel())[0, 1] > 0.98


def test_each_broken_slide_is_what_the_manifest_says(slides_folder: Path) -> None:
    def scale(name: str, manifest: float | None = None) -> float:
        with closing(open_slide(str(slides_folder / name))) as reader:
            return slide_mpp(reader.info, None, manifest, {}).x

    reasons = {}
    for name in ("without-mpp.tiff", "nonsense-mpp.tiff", "truncated.svs"):
        with pytest.raises(Refused) as refused:
            scale(name)
        reasons[name] = refused.value.reason
    assert [*reasons.values()] == ["no-mpp", "strange-mpp", "truncated"]
    with pytest.raises(Refused):
        scale("mpp-in-manifest.tiff")
    assert scale("mpp-in-manifest.tiff", 0.5) == 0.5
    assert level0(slides_folder / "empty.tiff").min() == 255
    assert 230 < level0(slides_folder / "glass.tiff").min() < 244


def test_who_it_is_stands_where_nobody_may_look(slides_folder: Path) -> None:
    with openslide.OpenSlide(slides_folder / "S000.svs") as slide:
        assert {*slide.associated_images} == {"label", "macro", "thumbnail"}
        for name in ("label", "macro"):
            written = np.asarray(slide.associated_images[name].convert("L"))[:160, :200] < 60
            assert 0.02 < written.mean() < 0.3
        assert NAME_ON_LABEL in slide.properties["openslide.comment"]
    assert NAME_ON_LABEL.encode() not in (slides_folder / "S004.tiff").read_bytes()


def test_tissue_is_where_the_truth_says(slides_folder: Path, rows: dict[str, dict[str, str]], truth: Any) -> None:
    for name in GOOD:
        picture = cv2.GaussianBlur(level0(slides_folder / rows[name]["file"]), (0, 0), 2)
        seen = optical_density(picture)[..., 1] > 0.04
        known = inside(truth[name], truth[name]["tissue"])
        assert known.mean() == pytest.approx(truth[name]["tissue_share"], abs=0.002)
        assert 0.3 < known.mean() < 0.65
        assert seen[known].mean() > 0.9  # all but the lumina of glands
        if not truth[name]["pen"]:
            assert seen[~known].mean() < 0.05


def test_areas_share_nothing_and_cover_the_tissue(slides_folder: Path, truth: Any) -> None:
    for name in GOOD:
        shape = (truth[name]["height"], truth[name]["width"])
        regions = read_annotations(slides_folder / "annotations" / f"{name}.geojson")
        masks = {kind: rasterise([region for region in regions if region.class_name == kind], shape, (1.0, 1.0))
                 for kind in REGIONS}
        assert {region.class_name for region in regions} <= {*REGIONS}
        assert masks["tumour"].any() == (truth[name]["class"] == "tumour")
        total = sum(mask.astype(int) for mask in masks.values())
        assert int(np.max(total)) == 1
        assert np.array_equal(total == 1, inside(truth[name], truth[name]["tissue"]))


def test_nuclei_are_dark_and_counted(slides_folder: Path, rows: dict[str, dict[str, str]], truth: Any) -> None:
    for name in GOOD:
        nuclei = read_annotations(slides_folder / "nuclei" / f"{name}.geojson")
        counts = {kind: sum(nucleus.class_name == kind for nucleus in nuclei) for kind in CELLS}
        assert counts == truth[name]["cells"]
        dark = density(slides_folder / rows[name]["file"])
        x, y = np.array([nucleus.centroid for nucleus in nuclei]).T.astype(int)
        tissue = inside(truth[name], truth[name]["tissue"])
        if truth[name]["blurred"] or truth[name]["fold"]:
            continue
        between = tissue & ~rasterise(nuclei, tissue.shape, (1.0, 1.0))
        assert np.median(dark[y, x]) > 1.3 * np.median(dark[between])
        assert (dark[y, x] > np.median(dark[between])).mean() > 0.97


def test_defects_are_where_the_truth_says(slides_folder: Path, rows: dict[str, dict[str, str]], truth: Any) -> None:
    assert [truth[name]["pen"] for name in GOOD] == ["", "blue", "", "", "", "green"]
    assert [bool(truth[name]["blurred"]) for name in GOOD] == [False, False, True, False, False, False]
    assert [bool(truth[name]["fold"]) for name in GOOD] == [False, False, False, True, False, False]
    for name in ("S001", "S005"):
        pen = pen_pixels(level0(slides_folder / rows[name]["file"]))
        line = np.zeros(pen.shape, np.uint8)
        points = np.rint(truth[name]["stroke"]).astype(np.int32)
        cv2.polylines(line, [points], False, 1, round(truth[name]["stroke_width"]))
        assert pen[cv2.erode(line, np.ones((5, 5))) > 0].mean() > 0.95
        assert pen[cv2.dilate(line, np.ones((5, 5))) == 0].mean() < 0.01
    dark, (x, y, half_x, half_y) = density(slides_folder / "S002.svs"), truth["S002"]["blurred"]
    edges = np.abs(cv2.Laplacian(dark, cv2.CV_32F))
    zone = np.s_[int(y - half_y / 2) : int(y + half_y / 2), int(x - half_x / 2) : int(x + half_x / 2)]
    tissue = inside(truth["S002"], truth["S002"]["tissue"])
    tissue[int(y - half_y) : int(y + half_y), int(x - half_x) : int(x + half_x)] = False
    assert edges[zone].mean() < 0.6 * edges[tissue].mean()
    dark, fold = density(slides_folder / "S003.svs"), inside(truth["S003"], truth["S003"]["fold"])
    assert np.median(dark[fold]) > 1.5 * np.median(dark[inside(truth["S003"], truth["S003"]["tissue"])])


def test_stain_belongs_to_the_patient(slides_folder: Path, rows: dict[str, dict[str, str]], truth: Any) -> None:
    colour = {}
    for name in GOOD:
        picture = level0(slides_folder / rows[name]["file"])
        colour[name] = np.median(picture[inside(truth[name], truth[name]["tissue"])], axis=0)
    same = [np.abs(colour[GOOD[i]] - colour[GOOD[i + 1]]).max() for i in (0, 2, 4)]
    other = [np.abs(colour[GOOD[i]] - colour[GOOD[j]]).max() for i, j in ((0, 2), (0, 4), (2, 4))]
    assert max(same) < min(other)


def test_same_generator_writes_same_slides(tmp_path: Path) -> None:
    def written(name: str, seed: int) -> dict[str, bytes]:
        folder = synthetic_slides(tmp_path / name, np.random.default_rng(seed), 1, side_um=128.0, extras=False)
        return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*.*")}

    first = written("a", 1)
    assert {*first} == {"S000.svs", "annotations/S000.geojson", "nuclei/S000.geojson", "manifest.csv", "truth.json"}
    assert written("b", 1) == first
    assert written("c", 2)["S000.svs"] != first["S000.svs"]


def test_no_slides_and_slides_without_room(tmp_path: Path) -> None:
    for n, side_um in ((0, 512.0), (1, 100.0)):
        with pytest.raises(ConfigError, match=f"n must be 1 or more and side_um 128 or more, got {n} and {side_um:g}"):
            synthetic_slides(tmp_path, np.random.default_rng(0), n, side_um)
