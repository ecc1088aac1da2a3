"""Inputs from sources and a catalogue: files joined, identifiers unique, groups whole, columns carried."""

from __future__ import annotations

import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from sciencessl.data_prep.listing import Reader
from sciencessl.data_prep.manifest import Manifest, are_stamps, read_manifest
from sciencessl.data_prep.settings import PrepareSettings
from sciencessl.data_prep.source import Input
from sciencessl.errors import ConfigError, DataError
from sciencessl.spec import ColumnSpec, DomainSpec

Make = Callable[..., DomainSpec]
Write = Callable[..., Path]
Galaxies = Callable[..., tuple[Path, list[dict[str, Any]]]]


def read(spec: DomainSpec, *sources: str | Path, **settings: Any) -> Manifest:
    return read_manifest(spec, sources, PrepareSettings(**settings), Reader())


def by_id(manifest: Manifest) -> dict[str, Input]:
    return {entry.id: entry for entry in manifest.inputs}


def test_catalogue_rows_become_inputs(make_spec: Make, galaxies: Galaxies) -> None:
    folder, rows = galaxies(4)
    manifest = read(make_spec(), folder, keep=("mag",))
    entry = by_id(manifest)["587722952767439451"]
    assert entry.file == "images/1.jpg"
    assert entry.size == (folder / entry.file).stat().st_size
    assert entry.stamp == (folder / entry.file).stat().st_mtime_ns
    assert dict(entry.columns) == {"mag": rows[1]["mag"], "group": entry.id}
    assert manifest.labels is not None
    assert manifest.labels.data["class"].to_pylist() == [row["class"] for row in rows]


def test_missing_files_stay_as_inputs_without_a_place(make_spec: Make, galaxies: Galaxies) -> None:
    folder, _ = galaxies(4)
    (folder / "images/2.jpg").unlink()
    missing = [entry.id for entry in read(make_spec(), folder).inputs if entry.handle is None]
    assert missing == ["587722952767439452"]


def test_no_file_found_at_all(make_spec: Make, galaxies: Galaxies) -> None:
    folder, _ = galaxies(3, file=lambda i: f"/archive/{i}.jpg")
    with pytest.raises(DataError, match=r"none of the 3 files .*column 'file'.*the first is '/archive/0\.jpg'.*--file"):
        read(make_spec(), folder)


def test_catalogue_elsewhere_finds_files_in_the_source(make_spec: Make, galaxies: Galaxies, tmp_path: Path) -> None:
    folder, _ = galaxies(3)
    (folder / "catalogue.csv").rename(tmp_path / "mine.csv")
    manifest = read(make_spec(), folder, catalogue=str(tmp_path / "mine.csv"))
    assert all(entry.handle is not None for entry in manifest.inputs)


def test_files_are_found_by_identifier(make_spec: Make, write_images: Write, write_csv: Callable[..., Path]) -> None:
    folder = write_images(["x/587.jpg", "y/588.jpeg"])
    write_csv(folder / "catalogue.csv", [{"iauname": name} for name in ("587", "588", "589")])
    manifest = read(make_spec(), folder)
    assert [(e.id, e.file, e.handle is None) for e in manifest.inputs] == [
        ("587", "x/587.jpg", False), ("588", "y/588.jpeg", False), ("589", "589", True)
    ]
    assert "file by name, from the id" in manifest.guessed


def test_glob_takes_only_its_rows(make_spec: Make, galaxies: Galaxies) -> None:
    folder, _ = galaxies(12)
    manifest = read(make_spec(), f"{folder}/*/1*.jpg")
    assert sorted(entry.file for entry in manifest.inputs) == ["images/1.jpg", "images/10.jpg", "images/11.jpg"]
    assert manifest.labels is not None
    assert manifest.labels.data.num_rows == 3
    assert "9 rows of the catalogue name other files and are left out" in manifest.guessed


def test_unlisted_images_and_deeper_catalogues_are_said(make_spec: Make, galaxies: Galaxies, encode: Any) -> None:
    folder, _ = galaxies(3)
    (folder / "images/extra.jpg").write_bytes(encode())
    assert "1 image files are not in the catalogue and are left out" in read(make_spec(), folder).guessed
    (folder.parent / "beside.jpg").write_bytes(encode())
    said = read(make_spec(), folder.parent).guessed
    assert "data/catalogue.csv lies below the source and is not used; pass --catalogue to use it" in said


def test_catalogue_inside_and_beside_an_archive(make_spec: Make, galaxies: Galaxies, tmp_path: Path) -> None:
    folder, _ = galaxies(3)
    with zipfile.ZipFile(tmp_path / "in.zip", "w") as inside, zipfile.ZipFile(tmp_path / "out.zip", "w") as bare:
        for path in sorted(folder.rglob("*.*")):
            inside.write(path, f"survey/{path.relative_to(folder)}")
            if path.suffix == ".jpg":
                bare.write(path, path.relative_to(folder))
    ids = set(by_id(read(make_spec(), folder)))
    assert set(by_id(read(make_spec(), tmp_path / "in.zip"))) == ids
    (folder / "catalogue.csv").rename(tmp_path / "out.csv")
    beside = read(make_spec(), tmp_path / "out.zip")
    assert set(by_id(beside)) == ids
    assert all(entry.handle is not None for entry in beside.inputs)


def test_repeated_and_empty_identifiers(make_spec: Make, galaxies: Galaxies) -> None:
    folder, _ = galaxies(8, objid=lambda i: i // 2)
    with pytest.raises(DataError, match=r"'objid': 4 identifiers occur more than once: '0' \(2 times\), '1'.*--id"):
        read(make_spec(), folder)
    folder, _ = galaxies(3, objid=lambda i: i or "")
    with pytest.raises(DataError, match=r"1 row\(s\) have an empty column 'objid'"):
        read(make_spec(), folder)


def test_identifiers_from_names_keep_the_suffix_only_when_they_must(make_spec: Make, write_images: Write) -> None:
    assert set(by_id(read(make_spec(), write_images(["a/1.jpg", "b/1.jpg"], folder="x")))) == {"a/1", "b/1"}
    clash = read(make_spec(), write_images(["a/1.jpg", "a/1.png"], folder="y"))
    assert set(by_id(clash)) == {"a/1.jpg", "a/1.png"}


def test_groups_never_straddle_drawn_splits(make_spec: Make, galaxies: Galaxies) -> None:
    folder, _ = galaxies(60, patient=lambda i: f"p{i % 15}")
    manifest = read(make_spec(), folder, test_fraction=0.4, val_fraction=0.2)
    splits: dict[str, set[str]] = {}
    for entry in manifest.inputs:
        splits.setdefault(entry.columns["patient"], set()).add(entry.split)
    assert len(splits) == 15
    assert all(len(found) == 1 for found in splits.values())
    assert {s for found in splits.values() for s in found} == {"train", "val", "test"}
    assert manifest.settings["split"] == {"seed": 0, "test": 0.4, "val": 0.2}


def test_splits_are_stratified_on_request(make_spec: Make, galaxies: Galaxies) -> None:
    folder, rows = galaxies(20)
    manifest = read(make_spec(), folder, stratify=True, test_fraction=0.25)
    classes = [row["class"] for row in rows]
    for kind in {*classes}:
        tested = sum(e.split == "test" for e, c in zip(manifest.inputs, classes, strict=True) if c == kind)
        assert abs(tested - 0.25 * classes.count(kind)) < 1
    assert manifest.settings["split"]["stratified"] == "class"
    assert "stratified" not in read(make_spec(), folder).settings["split"]


def test_stratified_splits_without_classes_or_with_given_splits(make_spec: Make, galaxies: Galaxies) -> None:
    folder, _ = galaxies(4, split=lambda i: "train")
    with pytest.raises(ConfigError, match=r"--stratify draws splits .* but splits are given by column 'split'"):
        read(make_spec(), folder, stratify=True)


def test_given_splits_that_leak_or_name_nothing(make_spec: Make, galaxies: Galaxies) -> None:
    folder, _ = galaxies(6, patient=lambda i: "p", split=lambda i: ("train", "test")[i % 2])
    with pytest.raises(DataError, match=r"1 group\(s\) of column 'patient' lie in two"):
        read(make_spec(), folder)
    folder, _ = galaxies(6, fold=lambda i: f"fold{i}")
    with pytest.raises(DataError, match=r"'fold' holds 6 value\(s\) that name no split: 'fold0'"):
        read(make_spec(), folder, split="fold")


def test_kept_columns(make_spec: Make, galaxies: Galaxies) -> None:
    folder, _ = galaxies(3, ra=lambda i: 150.5 + i, width=lambda i: i, **{"a.b": lambda i: "x"})
    spec = make_spec(columns=(ColumnSpec("ra", "float64", "position"), ColumnSpec("dec", "float64", "position")))
    assert dict(read(spec, folder).inputs[0].columns)["ra"] == 150.5
    kept = dict(read(spec, folder, keep=("all",)).inputs[1].columns)
    assert set(kept) == {"mag", "ra", "catalogue_width", "a_b", "group"}
    assert (kept["mag"], kept["catalogue_width"]) == (15.5, 1)
    with pytest.raises(ConfigError, match=r"--keep magn: no such column.*Did you mean 'mag'"):
        read(spec, folder, keep=("magn",))


def test_flags_without_a_catalogue(make_spec: Make, write_images: Write) -> None:
    folder = write_images(["a/1.jpg", "b/2.jpg"])
    with pytest.raises(ConfigError, match=r"--group patient: no such column in the folders \(there is no catalogue\)"):
        read(make_spec(), folder, group="patient")


def test_stamps_and_images_do_not_mix(make_spec: Make, write_images: Write) -> None:
    folder = write_images(["1.jpg", "2.jpg"])
    assert not are_stamps(read(make_spec(), folder).inputs)
    (folder / "3.fits").write_bytes(b"")
    with pytest.raises(DataError, match="mixes 1 FITS files with 2 image files"):
        are_stamps(read(make_spec(), folder).inputs)


def test_sources_may_be_relative_and_go_up(
    make_spec: Make, galaxies: Galaxies, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, _ = galaxies(3)
    (tmp_path / "work[1]").mkdir()
    monkeypatch.chdir(tmp_path / "work[1]")
    expected = read(make_spec(), folder).inputs
    assert read(make_spec(), "../data").inputs == expected
    picked = read(make_spec(), "../data/images/*.jpg", catalogue="../data/catalogue.csv").inputs
    assert [(e.id, e.file) for e in picked] == [(e.id, e.file.removeprefix("images/")) for e in expected]
