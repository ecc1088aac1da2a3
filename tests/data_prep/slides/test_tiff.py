"""What a TIFF says is read with its units, and damage in its directories is told from the rest."""

from __future__ import annotations

import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile

from sciencessl.data_prep.decode import Refused
from sciencessl.data_prep.slides.slide import Mpp
from sciencessl.data_prep.slides.tiff import check_chain, check_whole, is_tiff, read_facts, resolution

ZEROS = np.zeros((32, 48, 3), np.uint8)


def scale(path: Path, x: Any, y: Any, unit: int | None) -> Mpp | None:
    """Of a file whose tags hold these fractions."""
    tifffile.imwrite(path, ZEROS, photometric="rgb", resolution=(1, 1), resolutionunit=unit or 1)
    raw = bytearray(path.read_bytes())
    with tifffile.TiffFile(path) as tiff:
        tags = tiff.pages[0].tags
        for tag, value in ((282, x), (283, y)):
            struct.pack_into("<II", raw, tags[tag].valueoffset, *value)
        if unit is None:
            struct.pack_into("<H", raw, tags[296].offset, 65000)
    path.write_bytes(raw)
    with tifffile.TiffFile(path) as tiff:
        return resolution(tiff)


@pytest.mark.parametrize(
    ("x", "y", "unit", "expected"),
    [
        ((20_000, 1), (40_000, 1), 3, (0.5, 0.25)),
        ((50_800, 1), (50_800, 1), 2, (0.5, 0.5)),
        # A defect elsewhere: of a fraction only the number above the line is read.
        ((200_400_802, 10_000), (80_000, 4), 3, (0.49900000, 0.5)),
        ((20_000, 1), (20_000, 1), 1, None),
        ((0, 1), (20_000, 1), 3, None),
        ((20_000, 0), (20_000, 1), 3, None),
        ((50_800, 1), (50_800, 1), None, (0.5, 0.5)),
    ],
)
def test_the_scale_has_a_unit_and_two_axes(
    tmp_path: Path, x: Any, y: Any, unit: int | None, expected: tuple[float, float] | None
) -> None:
    found = scale(tmp_path / "a.tif", x, y, unit)
    if expected is None:
        assert found is None
    else:
        assert found is not None
        assert (found.x, found.y) == pytest.approx(expected, rel=1e-6)
        assert found.origin == "TIFF resolution tags"


def test_magic_of_both_byte_orders_and_sizes(tmp_path: Path) -> None:
    for name, options in (("a", {}), ("b", {"byteorder": ">"}), ("c", {"bigtiff": True}),
                          ("d", {"bigtiff": True, "byteorder": ">"})):
        path = tmp_path / name
        tifffile.imwrite(path, ZEROS, photometric="rgb", **options)
        assert is_tiff(str(path))
        check_chain(str(path))
        raw = path.read_bytes()
        place = raw[8:16] if "bigtiff" in options else raw[4:8]
        first = int.from_bytes(place, "big" if "byteorder" in options else "little")
        path.write_bytes(raw[: first + 10])
        with pytest.raises(Refused, match=r"^truncated: the file ends at byte \d+, within its TIFF directory; copy"):
            check_chain(str(path))
        path.write_bytes(raw[:first])
        with pytest.raises(Refused, match=rf"^truncated: .* its TIFF directory is at {first}"):
            check_chain(str(path))
    (tmp_path / "e").write_bytes(b"\xff\xd8\xff\xe0")
    assert not is_tiff(str(tmp_path / "e"))


def test_directories_that_go_round_in_circles_end(tmp_path: Path) -> None:
    path = tmp_path / "a.tif"
    tifffile.imwrite(path, ZEROS, photometric="rgb")
    raw = bytearray(path.read_bytes())
    first = int.from_bytes(raw[4:8], "little")
    entries = int.from_bytes(raw[first : first + 2], "little")
    struct.pack_into("<I", raw, first + 2 + 12 * entries, first)
    path.write_bytes(raw)
    check_chain(str(path))
    assert len(read_facts(str(path), alone=True).levels) == 1


def test_levels_pages_and_places_of_tiles(tmp_path: Path, write_slide: Any) -> None:
    path = tmp_path / "a.tif"
    write_slide(path, [(400, 300), (200, 150)], compression="jpeg")
    facts = read_facts(str(path), alone=True)
    assert [(page.width, page.height) for page in facts.levels] == [(400, 300), (200, 150)]
    page = facts.pages[0]
    assert (page.tile_px, page.columns, page.rows, page.compression, page.samples) == ((64, 64), 7, 5, 7, 3)
    assert len(page.offsets) == 35
    check_whole(page, path.stat().st_size)
    with pytest.raises(Refused, match=r"^truncated: the file has 1000 bytes, and its pixels end at \d+"):
        check_whole(page, 1000)


def test_scanners_hold_more_images_and_a_plain_tiff_may_not(tmp_path: Path) -> None:
    tifffile.imwrite(tmp_path / "a.tif", np.zeros((3, 32, 48, 3), np.uint8), photometric="rgb")
    assert len(read_facts(str(tmp_path / "a.tif"), alone=False).pages) == 3
    with pytest.raises(Refused, match=r"^not-rgb8: a stack of 3 images \(channels, focal planes or pages\), expected"):
        read_facts(str(tmp_path / "a.tif"), alone=True)
