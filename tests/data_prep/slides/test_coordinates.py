"""Tiles at the corners that another tool chose: cut there, called by them, and refused where sizes disagree."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from sciencessl.data.decode import decode
from sciencessl.data_prep.decode import Refused
from sciencessl.data_prep.slides.coordinates import coordinate_grid, find_coordinates
from sciencessl.data_prep.slides.resolution import Target
from sciencessl.data_prep.slides.slide import Level, Mpp, SlideInfo
from sciencessl.errors import ConfigError
from sciencessl.evaluate.slide_h5 import SlideH5
from sciencessl.preparation import prepare
from sciencessl.store.reader import Store
from tests.data_prep.slides.tiny_slides import tissue_picture, write_slide

h5py = pytest.importorskip("h5py")

LEVELS = (Level(2000, 1600, (1.0, 1.0)), Level(500, 400, (4.0, 4.0)))
MPP = Mpp(0.25, 0.25, "test")
INFO = SlideInfo(levels=LEVELS, mpp=MPP, vendor="v", backend="flat")
TRIDENT = {"patch_size": 64, "patch_size_level0": 128}
CLAM = {"patch_size": 64, "patch_level": 1, "downsample": (4.0, 4.0)}


def grid(coords, told, mpp=0.5, tile_px=64):
    return coordinate_grid(INFO, MPP, Target(mpp, tile_px, False), False, SlideH5("s", np.array(coords), None, told))


def test_corners_stay_and_pixels_move_to_the_nearest_stored_one():
    found = grid([[301, 40], [10, 40], [301, 40], [0, 7]], TRIDENT)
    assert np.array_equal(np.stack([found.x0, found.y0], axis=1), [[0, 7], [10, 40], [301, 40]])
    assert found.step == (2.0, 2.0)
    assert np.array_equal(found.x, [0, 10, 300])  # 150.5 stored pixels, to even
    assert np.array_equal(found.y, [8, 40, 40])
    assert found.field0 == (128.0, 128.0)
    assert np.array_equal(found.valid, [1, 1, 1])


def test_levels_of_the_other_tool_do_not_matter_but_fields_do():
    found = grid([[400, 800]], CLAM, mpp=1.0)
    assert (found.level, found.x.tolist(), found.y.tolist(), found.field0) == (1, [100.0], [200.0], (256.0, 256.0))
    with pytest.raises(Refused, match=r"tiles of 256 px of level 0 \(64 um\), and 64 px of 0.5 um are 128") as refused:
        grid([[400, 800]], CLAM)
    assert refused.value.reason == "other-tiles"
    assert len(grid([[400, 800]], {**TRIDENT, "patch_size_level0": 130})) == 1  # 1.6 %: magnifications are rounded


def test_a_tile_over_the_edge_says_its_share_and_one_beyond_is_of_another_slide():
    assert np.allclose(grid([[1936, 0]], {}).valid, 0.5)
    with pytest.raises(Refused, match=r"1 of 2 coordinates lie outside the slide, of 2000 x 1600 px"):
        grid([[0, 0], [2000, 0]], {})


def write(path: Path, coords: list[list[int]], told: dict) -> None:
    with h5py.File(path, "w") as stored:
        stored.create_dataset("coords", data=np.array(coords)).attrs.update(told)


def test_prepare_cuts_there_and_names_slides_without_coordinates(tmp_path: Path):
    (tmp_path / "slides").mkdir()
    pictures = {name: tissue_picture(320, 256, number) for number, name in enumerate(("a", "b", "c"))}
    for name, picture in pictures.items():
        write_slide(tmp_path / "slides" / f"{name}.svs", picture, 0.5, aperio=True)
    folder = tmp_path / "coords"
    folder.mkdir()
    write(folder / "a.h5", [[3, 5], [67, 5], [200, 190]], {**CLAM, "patch_level": 0, "downsample": (1.0, 1.0)})
    write(folder / "b_patches.h5", [[128, 64]], {"patch_size": 128, "patch_size_level0": 128, "name": "b"})
    report = prepare("pathology", [tmp_path / "slides"], tmp_path / "t.zarr",
                     {"tile_px": 64, "coords": str(folder), "workers": 0, "encoding": "png"})
    store = Store(report.out)
    assert sorted(store.ids) == ["a_200_190", "a_3_5", "a_67_5"]
    assert dict(report.refused) == {"no-coords": 1, "other-tiles": 1}
    assert any("3 at the corners of --coords" in line for line in report.guessed)
    told = {row["id"]: row["detail"] for row in store.refusals().to_pylist()}
    assert told["c"] == "--coords has neither c.h5 nor c_patches.h5"
    field, index = store.header.fields["tile"], store.ids.index("a_67_5")
    shown = decode(store.payloads("tile", [index])[0], field).astype(int)
    assert np.abs(shown - pictures["a"][5:69, 67:131]).mean() < 6  # JPEG of quality 92 lies between
    assert prepare("pathology", [tmp_path / "slides"], report.out, {
        "tile_px": 64, "coords": str(folder), "workers": 0, "encoding": "png"}).nothing_to_do


def test_settings_that_speak_of_a_grid_do_not_go_with_coordinates(tmp_path: Path):
    for more in ({"overlap": "16px"}, {"edges": "pad"}, {"pseudonymise": "key"}):
        with pytest.raises(ConfigError, match="without --overlap and --edges, which are of a grid"):
            prepare("pathology", [tmp_path], tmp_path / "t.zarr", {"coords": str(tmp_path), **more})


def test_a_file_that_is_no_coordinates_is_refused_by_name_without_its_path(tmp_path: Path):
    (tmp_path / "s.h5").write_bytes(b"no")
    with pytest.raises(Refused, match=r"^no-coords: s.h5 cannot be read as HDF5") as refused:
        find_coordinates(str(tmp_path), "s")
    assert str(tmp_path) not in refused.value.detail
