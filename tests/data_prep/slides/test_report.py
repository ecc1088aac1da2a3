"""The quality report of slides."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

import cv2
import numpy as np
import pytest

from sciencessl.data_prep.slides.report import write_slide_report
from sciencessl.preparation import prepare
from tests.data_prep.slides.tiny_slides import GLASS, tissue_picture, write_slide

TILES = {"tile_px": 64, "workers": 0, "min_tissue": 0.3}


@pytest.fixture(scope="module")
def scans(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("scans")
    secret = np.zeros((24, 48, 3), np.uint8)
    secret[:] = (0, 255, 0)
    write_slide(folder / "a1.svs", tissue_picture(640, 512, 0), 0.5, aperio=True, label=secret)
    write_slide(folder / "b1.svs", tissue_picture(640, 512, 1), 0.5, aperio=True)
    write_slide(folder / "blind.tif", tissue_picture(640, 512, 2), None)
    write_slide(folder / "glass.tif", np.full((512, 640, 3), GLASS, np.uint8), 0.5)
    (folder / "text.svs").write_text("no slide")
    return folder


@pytest.fixture(scope="module")
def folder(scans: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("out") / "t.zarr"
    prepare("pathology", [scans], out, TILES)
    return out.with_name("t.slides")


def test_it_counts_states_and_shows_what_to_do(folder: Path) -> None:
    page = (folder / "report.html").read_text()
    assert "Slides: 5, of which 2 ready, 1 no-mpp, 1 no-tissue, 1 unreadable." in page
    assert "Kept byte for byte: 100% of tiles." in page
    assert page.index("blind") < page.index("a1")  # what went wrong comes first
    assert "--slide-mpp" in page


def test_it_carries_its_pictures(folder: Path) -> None:
    page = (folder / "report.html").read_text()
    sources = re.findall(r'src="([^"]{0,30})', page)
    assert len(sources) >= 4 + 4
    assert all(source.startswith("data:image/") for source in sources)
    links = re.findall(r'href="(overlays/[^"]+)"', page)
    assert sorted(links) == sorted(f"overlays/{path.name}" for path in (folder / "overlays").iterdir())


def test_frames_lie_where_tiles_were_cut(folder: Path) -> None:
    drawn = cv2.cvtColor(cv2.imread(str(folder / "overlays" / "a1.png")), cv2.COLOR_BGR2RGB)
    green = np.all(drawn == (0, 140, 80), axis=2)
    # Native tiles of 64 px at scale 1: frames begin at multiples of 64.
    rows, columns = np.nonzero(green)
    assert {rows.min() % 64, columns.min() % 64} == {0}
    assert {(rows.max() + 1) % 64, (columns.max() + 1) % 64} == {0}


def test_labels_of_scanners_are_shown_nowhere(folder: Path) -> None:
    for path in [*(folder / "thumbnails").iterdir(), *(folder / "overlays").iterdir()]:
        pixels = cv2.imread(str(path)).astype(int)
        assert not np.any((pixels[..., 1] > 200) & (pixels[..., 0] < 60) & (pixels[..., 2] < 60)), path


def test_associated_images_are_never_asked_for(
    scans: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    openslide = pytest.importorskip("openslide")

    def asked(self: object) -> None:
        raise AssertionError("an associated image was asked for")

    monkeypatch.setattr(openslide.OpenSlide, "associated_images", property(asked))
    assert prepare("pathology", [scans / "a1.svs"], tmp_path / "t.zarr", TILES).n_samples


def test_a_second_call_leaves_it_and_a_changed_state_does_not(folder: Path) -> None:
    page = folder / "report.html"
    before = page.stat().st_mtime_ns
    assert write_slide_report(folder.with_name("t.zarr")) == page
    assert page.stat().st_mtime_ns == before
    states = folder / "slides.csv"
    text = states.read_text()
    states.write_text(text.replace("no slide", "no slide at all") + "")
    states.write_text(states.read_text().replace("unreadable", "corrupt", 1))
    write_slide_report(folder.with_name("t.zarr"))
    assert "1 corrupt" in page.read_text()
    states.write_text(text)


def test_names_are_escaped(scans: Path, tmp_path: Path) -> None:
    source = tmp_path / "s"
    source.mkdir()
    shutil.copy2(scans / "a1.svs", source / "<b>&'x'.svs")
    done = prepare("pathology", [source], tmp_path / "t.zarr", TILES)
    page = (tmp_path / "t.slides" / "report.html").read_text()
    assert done.n_samples
    assert "<b>&'x'" not in page
    assert "&lt;b&gt;&amp;" in page


def test_a_store_of_images_has_none(tmp_path: Path) -> None:
    for number in range(3):
        cv2.imwrite(str(tmp_path / f"{number}.png"), tissue_picture(64, 64, number))
    done = prepare("pathology", [tmp_path], tmp_path / "o" / "t.zarr", {"workers": 0})
    assert write_slide_report(done.out) is None
    assert not (tmp_path / "o" / "t.slides").exists()
