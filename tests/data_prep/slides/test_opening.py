"""Any file opens as a slide or is refused with a reason to count by and words that name no path."""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from sciencessl.data_prep.decode import Refused
from sciencessl.data_prep.listing import SLIDE_SUFFIXES
from sciencessl.data_prep.slides.opening import one_per_slide, open_slide


def refused(path: Path) -> Refused:
    with pytest.raises(Refused) as found:
        open_slide(str(path))
    assert str(path.parent) not in str(found.value)
    assert path.name not in str(found.value)
    return found.value


def test_a_tiled_tiff_a_plain_image_and_a_tiff_of_strips_open(tmp_path: Path, write_slide: Any, image: Any) -> None:
    import tifffile

    write_slide(tmp_path / "a.tif", [(300, 200)])
    Image.fromarray(image(30, 20)).save(tmp_path / "b.jpg")
    tifffile.imwrite(tmp_path / "c.tif", image(30, 20), photometric="rgb")
    for name, width in (("a.tif", 300), ("b.jpg", 30), ("c.tif", 30)):
        reader = open_slide(str(tmp_path / name))
        assert reader.info.levels[0].width == width
        assert reader.read(0, 0, 0, 5, 6).shape == (6, 5, 3)
        reader.close()


def test_files_that_are_no_slides(tmp_path: Path) -> None:
    for name, content, reason in (
        ("zero.svs", b"", "truncated"),
        ("text.svs", b"not a slide", "unreadable"),
        ("half.tif", b"II*\0\x08", "truncated"),
        ("loop.tif", b"II*\0\x08\0\0\0\0\0\x08\0\0\0", "unreadable"),
        ("nothing.tif", b"II*\0\0\0\0\0", "unreadable"),
    ):
        path = tmp_path / name
        path.write_bytes(content)
        assert refused(path).reason == reason, name
    (tmp_path / "folder.svs").mkdir()
    assert "a folder" in str(refused(tmp_path / "folder.svs"))
    os.mkfifo(tmp_path / "pipe.svs")
    assert refused(tmp_path / "pipe.svs").reason == "unreadable"
    assert str(refused(tmp_path / "gone.svs")) == "missing-file: No such file or directory"


def test_a_thumbnail_without_its_slide_does_not_pass_for_one(tmp_path: Path, image: Any) -> None:
    # A defect elsewhere: an .mrxs is a small JPEG of the whole slide, and opens as a picture where its folder is lost.
    Image.fromarray(image(60, 40)).save(tmp_path / "a.mrxs", "JPEG")
    found = refused(tmp_path / "a.mrxs")
    assert (found.reason, found.detail) == (
        "unreadable", "no reader knows its format; it needs the folder of the same name beside it"
    )  # fmt: skip


def test_one_file_stands_for_a_slide_of_several(tmp_path: Path) -> None:
    for name in ("a.mrxs", "a/x.jpg", "b/x.jpg", "c.vms", "c_1.jpg", "d.jpg"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("[Virtual Microscope Specimen]\r\nImageFile=c_1.jpg\r\n")
    names = ["a.mrxs", "a/x.jpg", "b/x.jpg", "c.vms", "c_1.jpg", "d.jpg"]
    left = one_per_slide(str(tmp_path / name) for name in names)
    assert left == [str(tmp_path / name) for name in ("a.mrxs", "b/x.jpg", "c.vms", "d.jpg")]
    assert {".svs", ".ndpi", ".dcm", ".mrxs", ".png", ".jpg", ".tiff"} <= set(SLIDE_SUFFIXES)


def test_a_dicom_series_is_one_slide_whatever_its_files(shared_data: Path, tmp_path: Path) -> None:
    slides = shared_data / "pathology" / "slides"
    for place, name in (("1", "camelyon_multiframe"), ("1", "highdicom_sm_image"), ("2", "camelyon_multiframe")):
        (tmp_path / place).mkdir(exist_ok=True)
        shutil.copy(slides / f"{name}.dcm", tmp_path / place / f"{name}.dcm")
    shutil.copy(slides / "highdicom_sm_image.dcm", tmp_path / "1" / "second.dcm")
    (tmp_path / "1" / "text.dcm").write_text("no DICOM")
    found = sorted(str(path) for path in tmp_path.rglob("*.dcm"))
    kept = [os.path.relpath(path, tmp_path) for path in one_per_slide(found)]
    assert kept == ["1/camelyon_multiframe.dcm", "1/highdicom_sm_image.dcm", "1/text.dcm", "2/camelyon_multiframe.dcm"]


def test_an_svs_that_was_cut_anywhere_is_refused_or_whole(shared_data: Path, tmp_path: Path) -> None:
    raw = (shared_data / "pathology" / "slides" / "CMU-1-Small-Region.svs").read_bytes()
    path = tmp_path / "cut.svs"
    for size in (4, 7, 8, 1000, 1_200_000, 1_275_960, 1_300_000, 1_500_000, 1_900_000):
        path.write_bytes(raw[:size])
        assert refused(path).reason == "truncated", size
    # Only the last picture, which is never read, has lost its end.
    path.write_bytes(raw[:-10])
    reader = open_slide(str(path))
    assert np.ptp(reader.read(0, 900, 1400, 200, 60)) > 50
    reader.close()
