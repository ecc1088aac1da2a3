"""Every real slide at hand opens, or ends in the state that it should."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from sciencessl.data_prep.decode import Refused
from sciencessl.data_prep.slides.opening import open_slide

GOOD = {
    "CMU-1-Small-Region.svs": ("aperio", (2220, 2967), 1, (0.499, 0.499)),
    "openslide_python_small.svs": ("aperio", (16, 16), 1, (0.499, 0.499)),
    "openslide_python_boxes.tiff": ("generic-tiff", (300, 250), 4, (352.7778, 352.7778)),
    "camelyon_multiframe.dcm": ("dicom", (1152, 700), 1, (28.969, 28.968)),
    "highdicom_sm_image.dcm": ("dicom", (50, 50), 1, (0.499, 0.499)),
}
BAD = {
    "broken.svs": "unreadable",
    "openslide_python_unreadable.svs": "corrupt",
    "pathml_smalltif.tif": "not-rgb8",
}


@pytest.fixture(scope="module")
def slides(shared_data: Path) -> Path:
    return shared_data / "pathology" / "slides"


@pytest.mark.parametrize("name", GOOD)
def test_it_opens_and_gives_what_openslide_gives(slides: Path, name: str) -> None:
    import openslide

    vendor, size, levels, mpp = GOOD[name]
    reader, judge = open_slide(str(slides / name)), openslide.OpenSlide(str(slides / name))
    info = reader.info
    assert (info.vendor, (info.levels[0].width, info.levels[0].height), len(info.levels)) == (vendor, size, levels)
    assert info.mpp is not None
    assert (info.mpp.x, info.mpp.y) == pytest.approx(mpp)
    width, height = min(size[0], 700), min(size[1], 700)
    whole = judge.read_region((size[0] - width, size[1] - height), 0, (width, height)).convert("RGB")
    np.testing.assert_array_equal(reader.read(0, size[0] - width, size[1] - height, width, height), np.asarray(whole))
    reader.close()


@pytest.mark.parametrize("name", BAD)
def test_it_is_refused_when_it_is_opened(slides: Path, name: str) -> None:
    with pytest.raises(Refused) as refused:
        open_slide(str(slides / name))
    assert refused.value.reason == BAD[name]
    assert name not in str(refused.value)


def test_no_file_at_hand_is_left_out(slides: Path) -> None:
    assert {path.name for path in slides.iterdir()} == {*GOOD, *BAD}
