"""Files of slides in HDF5: ours, and those of two other tools in their own layout, join a store by coordinates."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from sciencessl import cli
from sciencessl.errors import ConfigError, DataError, MissingExtraError
from sciencessl.evaluate.embed import embed, read_embeddings
from sciencessl.evaluate.feature_table import is_feature_table, read_feature_table
from sciencessl.evaluate.slide_h5 import read_slide_h5
from sciencessl.store.reader import Store
from sciencessl.store.tables import write_table

h5py = pytest.importorskip("h5py")

COORDS = np.array([[0, 512], [1024, 512], [512, 70000]])
VALUES = np.arange(12, dtype=np.float32).reshape(3, 4) / 7


def clam_file(path: Path, coords: np.ndarray = COORDS, values: np.ndarray | None = VALUES) -> Path:
    """As CLAM's: growing datasets; of coordinates (`patches/`) the attributes of the level, of features none."""
    with h5py.File(path, "w") as stored:
        coordinates = stored.create_dataset("coords", data=coords.astype(np.int32), maxshape=(None, 2), chunks=(1, 2))
        if values is None:
            coordinates.attrs.update(
                {"patch_size": 256, "patch_level": 1, "downsample": (4.0, 4.0), "name": path.stem,
                 "downsampled_level_dim": (500, 400), "level_dim": (500, 400), "save_path": "somewhere"})
        else:
            stored.create_dataset("features", data=values, maxshape=(None, 4), chunks=(1, 4))
    return path


def trident_file(
    path: Path, coords: np.ndarray = COORDS, values: np.ndarray | None = VALUES, slide: str = ""
) -> Path:
    """As TRIDENT's: plain datasets, and what tiles are in the attributes of their coordinates."""
    with h5py.File(path, "w") as stored:
        stored.create_dataset("coords", data=coords.astype(np.int64)).attrs.update(
            {"patch_size": 256, "patch_size_level0": 512, "level0_magnification": 40, "target_magnification": 20,
             "overlap": 0, "name": slide or path.stem, "savetodir": "somewhere"})
        if values is not None:
            stored.create_dataset("features", data=values).attrs.update({"name": slide or path.stem})
    return path


def test_files_of_both_tools_are_read_with_and_without_an_axis_for_the_slide(tmp_path: Path) -> None:
    plain = read_slide_h5(clam_file(tmp_path / "S-1.h5"))
    nested = read_slide_h5(trident_file(tmp_path / "other.h5", values=VALUES[None], slide="S-1"))
    for found in (plain, nested):
        assert found.ids == ["S-1_0_512", "S-1_1024_512", "S-1_512_70000"]
        assert found.features is not None
        assert np.array_equal(found.features, VALUES)
        assert found.coords.dtype == np.int64
    assert nested.attributes["patch_size_level0"] == 512
    bare = read_slide_h5(clam_file(tmp_path / "S-2.h5", values=None))
    assert bare.features is None
    assert (bare.slide, int(bare.attributes["patch_level"])) == ("S-2", 1)
    with h5py.File(trident_file(tmp_path / "S-3_patches.h5", values=None), "a") as stored:
        del stored["coords"].attrs["name"]
    assert read_slide_h5(tmp_path / "S-3_patches.h5").slide == "S-3"


def test_half_precision_and_coordinates_as_floats_serve(tmp_path: Path) -> None:
    path = clam_file(tmp_path / "S.h5", values=VALUES.astype(np.float16))
    with h5py.File(path, "a") as stored:
        del stored["coords"]
        stored["coords"] = COORDS.astype(np.float64) + 1e-7
    found = read_slide_h5(path)
    assert np.array_equal(found.coords, COORDS)
    assert found.features is not None
    assert np.array_equal(found.features, VALUES.astype(np.float16).astype(np.float32))


def test_a_folder_is_a_table_of_features(tmp_path: Path) -> None:
    clam_file(tmp_path / "A.h5")
    trident_file(tmp_path / "B.h5", values=VALUES + 1)
    assert is_feature_table(tmp_path)
    table = read_feature_table(tmp_path)
    assert np.array_equal(table.rows(["B_0_512", "A_512_70000"]), [VALUES[0] + 1, VALUES[2]])


def test_other_coordinates_are_told_from_slides_without_a_file_with_counts(tmp_path: Path) -> None:
    # A defect elsewhere: bags of another tiling are joined by position in the file, and nobody notices.
    clam_file(tmp_path / "A.h5")
    with pytest.raises(DataError, match=r"no features for 3 of the 4 samples .* being 'A_0_513' .* 1 slides have no "
                                        r"file, and 2 tiles of 1 slides that have one lie at other coordinates"):
        read_feature_table(tmp_path).rows(["A_0_512", "A_0_513", "A_9_9", "C_0_0"])


def test_bad_files_say_what_is_wrong(tmp_path: Path) -> None:
    # A defect elsewhere: a file that was cut off by a kill counts as done.
    raw = clam_file(tmp_path / "whole.h5").read_bytes()
    (tmp_path / "torn.h5").write_bytes(raw[: len(raw) // 2])
    with pytest.raises(DataError, match=r"torn.h5 cannot be read as HDF5 .*written to its end"):
        read_slide_h5(tmp_path / "torn.h5")
    with h5py.File(tmp_path / "no.h5", "w") as stored:
        stored["features"] = VALUES
    with pytest.raises(DataError, match=r"no.h5 holds features; expected a dataset 'coords' of \(N, 2\)"):
        read_slide_h5(tmp_path / "no.h5")
    with pytest.raises(DataError, match=r"'features' is float32 \(2, 4\) for 3 coordinates"):
        read_slide_h5(clam_file(tmp_path / "short.h5", values=VALUES[:2]))
    with pytest.raises(DataError, match=r"'coords' is int64 \(3, 3\)"):
        read_slide_h5(trident_file(tmp_path / "wide.h5", coords=np.ones((3, 3)), values=None))


def test_folders_that_are_no_table_say_so(tmp_path: Path) -> None:
    clam_file(tmp_path / "A.h5")
    clam_file(tmp_path / "B.h5", values=None)
    with pytest.raises(DataError, match=r"1 of 2 files hold coordinates and no features, such as B.h5"):
        read_feature_table(tmp_path)
    clam_file(tmp_path / "B.h5", values=VALUES[:, :2])
    with pytest.raises(DataError, match=r"features differ in width \(2 in B.h5, 4 in A.h5\)"):
        read_feature_table(tmp_path)
    (tmp_path / "B.h5").unlink()
    clam_file(tmp_path / "A.h5", COORDS[:0], VALUES[:0])
    with pytest.raises(DataError, match="none of its 1 files holds a tile"):
        read_feature_table(tmp_path)


def test_without_h5py(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = clam_file(tmp_path / "A.h5")
    monkeypatch.setitem(sys.modules, "h5py", None)
    with pytest.raises(MissingExtraError, match=r"A\.h5 is HDF5, which h5py reads: pip install h5py"):
        read_slide_h5(path)


@pytest.fixture(scope="module")
def tiles(tmp_path_factory: pytest.TempPathFactory, make_store: Any) -> Store:
    """Forty tiles of three slides at 0.25 um/px that are stored at 0.5."""
    names = [f"t{i:03d}" for i in range(40)]
    columns = {
        name: {"slide": ("s/1", "s2", "s3")[i % 3], "x_px": 1000.0 + 16 * i, "y_px": 64.4, "field_px_x": 16.0,
               "mpp": 0.5, "slide_mpp_x": 0.25, "width": 8} for i, name in enumerate(names)}
    return make_store(tmp_path_factory.mktemp("h5") / "tiles.zarr", names, domain="pathology", side=8,
                      columns=columns, classes={})


def test_embed_writes_a_file_a_slide_that_is_read_back(
    tmp_path: Path, tiles: Store, make_run: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sciencessl.evaluate.embed.SHARD", 16)  # slides lie in several shards
    run = make_run(tmp_path / "run", tiles)
    result = embed(run, tiles.path, tmp_path / "out", workers=0, format="h5")
    assert (result.samples, result.shards, result.slides) == (40, 3, 3)
    files = sorted(path.name for path in (tmp_path / "out" / "h5").iterdir())
    assert files == ["s%2F1.h5", "s2.h5", "s3.h5"]
    with h5py.File(tmp_path / "out" / "h5" / "s%2F1.h5") as stored:
        assert dict(stored["coords"].attrs) == {
            "name": "s/1", "patch_size": 8, "patch_size_level0": 16, "level0_magnification": 40,
            "target_magnification": 20}
        assert (stored["coords"].shape, stored["features"].dtype) == ((14, 2), np.float32)
    ids, values = read_embeddings(tmp_path / "out")
    place = {name: row for row, name in enumerate(tiles.ids)}
    rows = [place[name] for name in ids]
    x, slides = tiles.column("x_px")[rows], tiles.column("slide")[rows]
    table = read_feature_table(tmp_path / "out" / "h5")
    assert len(table.place) == 40
    assert np.array_equal(table.rows([f"{s}_{left:.0f}_64" for s, left in zip(slides, x, strict=True)]), values)


def test_files_of_other_embeddings_do_not_stay(tmp_path: Path, tiles: Store, make_run: Any) -> None:
    out = tmp_path / "out"
    embed(make_run(tmp_path / "a", tiles), tiles.path, out, workers=0, format="h5")
    again = embed(tmp_path / "a", tiles.path, out, workers=0)
    assert (again.computed, (out / "h5").is_dir()) == (0, True)
    embed(make_run(tmp_path / "b", tiles, seed=1), tiles.path, out, workers=0, overwrite=True)
    assert not (out / "h5").exists()


def test_what_has_no_place_on_a_slide_is_refused_before_anything_is_computed(
    tmp_path: Path, survey: Store, run: Path
) -> None:
    with pytest.raises(DataError, match=r"does not say where its samples lie: there is no column slide, x_px.*parquet"):
        embed(run, survey.path, tmp_path / "out", workers=0, format="h5")
    with pytest.raises(ConfigError, match="no format of embeddings named 'h6'"):
        embed(run, survey.path, tmp_path / "out", workers=0, format="h6")  # type: ignore[arg-type]
    assert not (tmp_path / "out").exists()


def test_features_of_another_tool_through_the_command_line(
    tmp_path: Path, make_store: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    """Transfer on a folder of TRIDENT's files scores what their features say: the class, without error."""
    numbered = {f"S{number // 8:02d}_{512 * (number % 8)}_0": f"S{number // 8:02d}" for number in range(160)}
    columns = {name: {"slide": slide, "group": slide, "site": f"site {int(slide[1:]) // 5}"}
               for name, slide in numbered.items()}
    splits = {name: "test" if int(slide[1:]) % 4 > 1 else "train" for name, slide in numbered.items()}
    store = make_store(tmp_path / "t.zarr", list(numbered), domain="pathology", side=8, columns=columns, classes={},
                       splits=splits)
    classes = ["tumour" if int(slide[1:]) % 2 else "normal" for slide in numbered.values()]
    write_table(store.path, "labels", pa.table({"id": list(numbered), "class": classes}))
    (tmp_path / "uni").mkdir()
    rng = np.random.default_rng(0)
    for slide in sorted({*numbered.values()}):
        coords = np.stack([512 * np.arange(8), np.zeros(8)], axis=1)
        values = rng.normal(size=(8, 4)).astype(np.float32) + 9 * np.float32(int(slide[1:]) % 2)
        trident_file(tmp_path / "uni" / f"{slide}.h5", coords, values)
    words = ["transfer", str(tmp_path / "uni"), "--data", str(store.path), "--out", str(tmp_path / "few"), "--arms",
             "frozen", "--labels", "5/class", "--subsets", "2"]
    assert cli.run(words) == 0
    assert "1.000" in capsys.readouterr().out
    words[words.index(str(tmp_path / "few"))] = str(tmp_path / "folded")
    assert cli.run([*words, "--folds", "2", "--folds-by", "site"]) == 0
    said = capsys.readouterr().out
    assert "every labelled sample once, in 2 folds by site" in said
    assert "1.000" in said
    assert cli.run([*words, "--folds-by", "site"]) == 2
    assert "--folds-by site needs --folds, and no --repeats" in capsys.readouterr().err
