"""OpenSlide gives exactly a level's pixels, white where there is none, and errors that can be counted."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from sciencessl.data_prep.decode import Refused
from sciencessl.data_prep.slides import openslide_reader
from sciencessl.data_prep.slides.openslide_reader import OpenSlideReader, exact_start, on_white, pyramid
from sciencessl.data_prep.slides.slide import Mpp

SIZES = [(1003, 801), (250, 200), (62, 50)]


@pytest.fixture(scope="module")
def slide(tmp_path_factory: pytest.TempPathFactory, write_slide: Any) -> tuple[Path, list[np.ndarray]]:
    """Levels of 1/4.012 and 1/4.005: the downsample that OpenSlide has is a mean, and no whole number."""
    path = tmp_path_factory.mktemp("slide") / "fraction.tif"
    return path, write_slide(path, SIZES, resolution=(20_000, 10_000), resolutionunit=3)


def test_every_window_of_every_level_is_that_of_the_file(slide: tuple[Path, list[np.ndarray]]) -> None:
    # A defect elsewhere: the place in level-0 pixels is no whole pixel of the level, and all are smoothed and shifted.
    path, levels = slide
    reader = OpenSlideReader(str(path))
    rng = np.random.default_rng(0)
    read = [0, 0, 0]
    for level, pixels in enumerate(levels):
        height, width = pixels.shape[:2]
        for _ in range(40):
            x, y = int(rng.integers(width - 8)), int(rng.integers(height - 8))
            if not reader.exact(level, np.array([x, y])).all():
                continue
            w, h = int(rng.integers(1, width - x + 1)), int(rng.integers(1, height - y + 1))
            np.testing.assert_array_equal(reader.read(level, x, y, w, h), pixels[y : y + h, x : x + w])
            read[level] += 1
    assert min(read) >= 10
    np.testing.assert_array_equal(reader.read(1, 0, 0, 250, 200), levels[1])
    reader.close()


def test_without_an_exact_start_pixels_are_off_by_less_than_half_a_pixel_of_level_0(
    tmp_path: Path, write_slide: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    levels = write_slide(tmp_path / "s.tif", SIZES)
    monkeypatch.setattr(openslide_reader, "MARGIN_PX", 0)
    reader = OpenSlideReader(str(tmp_path / "s.tif"))
    x = next(x for x in range(100, 200) if not reader.exact(1, np.array([x]))[0])
    got, ramp = reader.read(1, x, 0, 40, 40).astype(float), levels[1].astype(float)
    sides = [ramp[0:40, x + d : x + d + 40] for d in (-1, 0, 1)]
    reach = 0.13 * np.maximum(abs(sides[0] - sides[1]), abs(sides[2] - sides[1])) + 1.5
    assert (abs(got - sides[1]) <= reach).all()
    reader.close()


def test_an_exact_start_is_whole_in_both_scales() -> None:
    assert exact_start(17, 1.0) == (17, 17)
    assert exact_start(17, 4.0) == (68, 17)
    assert exact_start(5, 1.5) == (6, 4)
    # 4.00024: places are whole for a while, then drift, until 1 / 0.00024 pixels later they are whole again.
    assert exact_start(30, 4.00024) == (120, 30)
    assert exact_start(2000, 4.00024) is None
    place, pixel = exact_start(4200, 4.00024) or (0, 0)
    assert abs(place / 4.00024 - pixel) < 1 / 512


def test_large_windows_are_read_in_blocks_that_fit(
    slide: tuple[Path, list[np.ndarray]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(openslide_reader, "BLOCK_PX", 100)
    reader = OpenSlideReader(str(slide[0]))
    np.testing.assert_array_equal(reader.read(0, 3, 5, 901, 450), slide[1][0][5:455, 3:904])
    reader.close()


def test_outside_is_white(slide: tuple[Path, list[np.ndarray]]) -> None:
    reader = OpenSlideReader(str(slide[0]))
    got = reader.read(0, -10, 790, 30, 20)
    np.testing.assert_array_equal(got[:11, 10:], slide[1][0][790:, :20])
    assert (got[11:] == 255).all()
    assert (got[:, :10] == 255).all()
    assert (reader.read(0, 5000, 5000, 4, 3) == 255).all()
    reader.close()


def test_transparent_pixels_become_white_in_proportion() -> None:
    rgba = np.array([[[0, 100, 255, 0], [0, 100, 255, 255], [0, 100, 200, 51]]], np.uint8)
    assert on_white(rgba).tolist() == [[[255, 255, 255], [0, 100, 255], [204, 224, 244]]]


def test_a_downsample_is_whole_where_sizes_agree_up_to_rounding() -> None:
    sizes = [(1003, 801), (250, 200), (62, 51), (31, 25), (300, 100)]
    found = [level.downsample for level in pyramid(sizes, [None] * 5)]
    assert found[:4] == [(1.0, 1.0), (4.0, 4.0), (16.0, 16.0), (32.0, 32.0)]
    # A defect elsewhere: 3.34 cut to 3, and one axis taken for both.
    assert found[4] == (1003 / 300, 801 / 100)


def test_the_scale_of_both_axes_is_read_with_where_it_is_from(slide: tuple[Path, list[np.ndarray]]) -> None:
    reader = OpenSlideReader(str(slide[0]))
    assert reader.info.mpp == Mpp(0.5, 1.0, "openslide.mpp-x")
    assert (reader.info.backend, reader.info.vendor) == ("openslide", "generic-tiff")
    assert reader.info.levels[0].tile_px == (64, 64)
    reader.close()


@pytest.mark.parametrize(
    ("said", "expected"),
    [
        ({"openslide.mpp-x": "0.25", "openslide.mpp-y": "0.26"}, Mpp(0.25, 0.26, "openslide.mpp-x")),
        ({"openslide.mpp-x": "0.25", "aperio.MPP": "0,499"}, Mpp(0.499, 0.499, "aperio.MPP")),
        ({"aperio.MPP": "nan"}, None),
        ({"aperio.MPP": "unknown"}, None),
        ({"aperio.MPP": "0"}, Mpp(0, 0, "aperio.MPP")),
        ({}, None),
    ],
)
def test_properties_give_a_scale_or_none(said: dict[str, str], expected: Mpp | None) -> None:
    assert openslide_reader._mpp(said) == expected


def test_what_is_no_slide_is_refused_without_its_name(tmp_path: Path) -> None:
    path = tmp_path / "Jane Doe 1950.svs"
    path.write_text("not a slide")
    with pytest.raises(Refused) as refused:
        OpenSlideReader(str(path))
    assert refused.value.reason == "unreadable"
    assert "Jane" not in str(refused.value)
    assert str(tmp_path) not in str(refused.value)


def test_a_file_that_vanishes_is_missing(
    slide: tuple[Path, list[np.ndarray]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "s.tif"
    path.write_bytes(slide[0].read_bytes())
    reader = OpenSlideReader(str(path))
    path.unlink()

    def fail(*args: Any) -> None:
        raise reader_error(f"Can't open {path}")

    reader_error = type("OpenSlideError", (Exception,), {})
    monkeypatch.setattr(reader._slide, "read_region", fail)
    with pytest.raises(Refused, match=r"^missing-file: its pixels cannot be read: .*Can't open the file$"):
        reader.read(0, 0, 0, 8, 8)
    reader.close()


def test_a_reader_is_not_sent_to_another_process(slide: tuple[Path, list[np.ndarray]]) -> None:
    # A defect elsewhere: handles opened before a fork are shared by all workers.
    reader = OpenSlideReader(str(slide[0]))
    with pytest.raises(TypeError, match=r"OpenSlideReader holds an open file and cannot be sent .* open_slide there"):
        pickle.dumps(reader)
    assert reader.native_jpeg(0, 0, 0) is None
    reader.close()


def test_no_associated_image_is_ever_read(shared_data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import openslide

    def fail(self: object) -> None:
        raise AssertionError("label or macro was asked for")

    monkeypatch.setattr(openslide.OpenSlide, "associated_images", property(fail))
    reader = OpenSlideReader(str(shared_data / "pathology" / "slides" / "CMU-1-Small-Region.svs"))
    assert reader.info.power == 20
    assert "42673" not in repr(reader.info)
    reader.close()


def test_a_missing_library_says_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import sys

    from sciencessl.errors import MissingExtraError

    monkeypatch.setitem(sys.modules, "openslide", None)
    with pytest.raises(MissingExtraError, match=r"openslide-python.*sciencessl\[pathology\]"):
        OpenSlideReader(str(tmp_path / "a.svs"))


