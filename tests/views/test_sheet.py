"""Contact sheets: where each tile lies, what is written below it, and what is refused."""

from __future__ import annotations

import numpy as np
import pytest

from sciencessl.errors import ConfigError
from sciencessl.views.sheet import GAP, contact_sheet, fitted, shortened, tile


def flat(value: int, height: int = 10, width: int = 10) -> np.ndarray:
    return np.full((height, width, 3), value, np.uint8)


@pytest.mark.parametrize(("height", "width"), [(10, 20), (40, 80), (20, 10), (300, 3), (1, 1)])
def test_a_tile_keeps_the_aspect_on_white(height: int, width: int) -> None:
    found = tile(flat(7, height, width), 32)
    assert found.shape == (32, 32, 3)
    dark = (found[..., 0] == 7).sum()
    scale = 32 / max(height, width)
    assert dark == max(1, round(height * scale)) * max(1, round(width * scale))
    assert set(np.unique(found)) <= {7, 255}


@pytest.mark.parametrize(
    "image", [np.zeros((4, 4), np.uint8), np.zeros((4, 4, 3), np.float32), np.zeros((0, 4, 3), np.uint8)]
)
def test_a_tile_of_anything_but_rgb8_is_refused(image: np.ndarray) -> None:
    with pytest.raises(ConfigError, match=r"\(H, W, 3\) uint8"):
        tile(image, 8)


def test_tiles_run_along_rows() -> None:
    sheet = contact_sheet([flat(value) for value in (10, 20, 30, 40, 50)], columns=3, tile_px=16)
    assert sheet.shape == (2 * (16 + GAP) + GAP, 3 * (16 + GAP) + GAP, 3)
    centres = [(GAP + 8 + row * (16 + GAP), GAP + 8 + column * (16 + GAP)) for row in range(2) for column in range(3)]
    assert [int(sheet[place][0]) for place in centres] == [10, 20, 30, 40, 50, 255]


def test_captions_take_room_and_leave_the_images_alone() -> None:
    images = [flat(0), flat(0)]
    bare, written = contact_sheet(images, tile_px=90), contact_sheet(images, ["a", "b\nc"], tile_px=90)
    assert written.shape[1] == bare.shape[1]
    assert written.shape[0] > bare.shape[0] + 20
    below = written[GAP + 90 :]
    assert (below < 128).any()
    np.testing.assert_array_equal(written[: GAP + 90], bare[: GAP + 90])
    assert contact_sheet(images, columns=9, tile_px=90).shape == bare.shape


def test_two_captions_differ_by_what_they_say() -> None:
    one, other = (contact_sheet([flat(0)], [text], tile_px=90) for text in ("galaxy 1", "galaxy 2"))
    assert (one != other).any()


def test_long_captions_are_cut_in_the_middle_to_their_tile() -> None:
    name = "587722981742084144"
    short = fitted(name, 90, 10)
    assert "…" in short
    assert name.startswith(short.partition("…")[0])
    assert name.endswith(short.partition("…")[2])
    assert fitted("short", 90, 10) == "short"
    assert shortened(name, 9) == "5877…4144"


@pytest.mark.parametrize(
    ("count", "captions", "columns"), [(0, [], 2), (2, ["only one"], 2), (2, [], 0)]
)
def test_a_sheet_that_cannot_be_laid_out_is_refused(count: int, captions: list[str], columns: int) -> None:
    with pytest.raises(ConfigError, match="a contact sheet needs images"):
        contact_sheet([flat(0)] * count, captions, columns=columns)
