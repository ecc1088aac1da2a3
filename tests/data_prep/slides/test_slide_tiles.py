"""Reading the tiles of a part of a slide when some of them cannot be read."""

from __future__ import annotations

import pickle
from collections.abc import Callable

import numpy as np
import pytest

from sciencessl.data_prep.decode import Refused
from sciencessl.data_prep.slides import slide_tiles as module
from sciencessl.data_prep.slides.grid import tile_grid
from sciencessl.data_prep.slides.resolution import Target
from sciencessl.data_prep.slides.slide import Mpp
from sciencessl.data_prep.slides.slide_tiles import SlidePart, SlideTiles, TileIds
from sciencessl.data_prep.source import Input, Task
from sciencessl.spec import FieldSpec
from sciencessl.store.writer import PreparedSample, Refusal
from tests.data_prep.slides.slides_in_memory import SlideInMemory, slide_in_memory, textured

TILES = SlideTiles(FieldSpec("bytes", ("r", "g", "b")), "tile", "png", 90)


class Holed(SlideInMemory):
    """A slide with a hole; after an error its handle is of no use, as OpenSlide's."""

    hole = (64, 64)
    dead = False

    def read(self, level: int, x: int, y: int, width: int, height: int) -> np.ndarray:
        if self.dead or (x <= self.hole[0] < x + width and y <= self.hole[1] < y + height):
            self.dead = True
            raise Refused("corrupt", "a tile of /data/Miller/slide.svs cannot be read")
        return super().read(level, x, y, width, height)


def opening(monkeypatch: pytest.MonkeyPatch, make: Callable[[], SlideInMemory]) -> SlidePart:
    """A part whose slide is opened by `make`."""
    reader = make()
    monkeypatch.setattr(module, "open_slide", lambda path: make())
    grid = tile_grid(reader.info, Mpp(0.5, 0.5, "test"), Target(0.5, 32, False))
    return SlidePart("S1", "/data/Miller/slide.svs", reader.info, Mpp(0.5, 0.5, "test"), grid,
                     np.ones(len(grid), np.float32), secrets=("/data/Miller/slide.svs", "Miller"))


def read(part: SlidePart) -> list[PreparedSample | Refusal]:
    entry = Input("S1#0", "S1", 1, 1, "train", {"group": "P", "tiles": "x"}, part, len(part.grid), ids=part.ids)
    return list(TILES.read(Task(0, (entry,))))


def whole() -> SlideInMemory:
    return slide_in_memory(textured(160, 160), mpp=0.5)


def holed() -> Holed:
    plain = whole()
    return Holed(plain.info, plain.pixels)


def test_a_bad_native_tile_takes_no_other_along(monkeypatch: pytest.MonkeyPatch) -> None:
    class Native(SlideInMemory):
        def native_jpeg(self, level: int, column: int, row: int) -> bytes | None:
            if (column, row) == (3, 0):
                raise Refused("corrupt", "cut")
            return None  # then pixels are read

    plain = whole()
    part = opening(monkeypatch, lambda: Native(plain.info, plain.pixels))
    monkeypatch.setattr(SlideTiles, "passes_through", lambda self, part: True)
    monkeypatch.setattr(module, "native_place", lambda info, grid, index: (index % 5, index // 5))
    refused = [item for item in read(part) if isinstance(item, Refusal)]
    assert [item.id for item in refused] == [part.ids[3]]


def test_one_bad_tile_costs_itself_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    items = read(opening(monkeypatch, holed))
    refused = [item for item in items if isinstance(item, Refusal)]
    assert [item.id for item in refused] == ["S1_64_64"]
    assert refused[0].reason == "corrupt"
    assert "Miller" not in refused[0].detail
    assert len(items) == 25
    assert len({item.id for item in items}) == 25


def test_what_is_left_of_a_bad_slide_is_what_the_good_one_has(monkeypatch: pytest.MonkeyPatch) -> None:
    good = {item.id: item.columns["pixel_hash"] for item in read(opening(monkeypatch, whole))}
    bad = {item.id: item.columns["pixel_hash"] for item in read(opening(monkeypatch, holed))
           if isinstance(item, PreparedSample)}
    assert bad == {name: value for name, value in good.items() if name != "S1_64_64"}


def test_a_slide_that_does_not_open_costs_all_of_its_tiles(monkeypatch: pytest.MonkeyPatch) -> None:
    part = opening(monkeypatch, whole)

    def gone(path: str) -> SlideInMemory:
        raise Refused("missing-file", f"{path} is not there")

    monkeypatch.setattr(module, "open_slide", gone)
    items = read(part)
    assert {item.reason for item in items} == {"missing-file"}
    assert [item.id for item in items] == list(part.ids)
    assert not any("Miller" in item.detail for item in items)


def test_a_slide_that_has_changed_is_not_read(monkeypatch: pytest.MonkeyPatch) -> None:
    part = opening(monkeypatch, whole)
    monkeypatch.setattr(module, "open_slide", lambda path: slide_in_memory(textured(96, 160), mpp=0.5))
    assert {item.reason for item in read(part)} == {"changed"}


def test_tiles_say_what_was_known_of_their_slide(monkeypatch: pytest.MonkeyPatch) -> None:
    first = read(opening(monkeypatch, whole))[0]
    assert first.columns["slide"] == "S1"
    assert first.columns["group"] == "P"
    assert "tiles" not in first.columns
    assert (first.columns["mpp"], first.columns["field_px_x"], first.columns["valid"]) == (0.5, 32.0, 1.0)
    assert first.split == "train"


def test_names_of_tiles_are_made_when_they_are_asked_for() -> None:
    names = TileIds("S1", np.array([0.0, 255.6, 1e6]), np.array([0.0, 10.4, 3.0]))
    assert list(names) == ["S1_0_0", "S1_256_10", "S1_1000000_3"]
    assert list(names[1:]) == ["S1_256_10", "S1_1000000_3"]
    assert len(pickle.dumps(TileIds("S1", np.zeros(1000), np.zeros(1000)))) < 17_000
