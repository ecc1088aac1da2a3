"""The source `slides` through `prepare`: from files to a store, states of slides, names, resume."""

from __future__ import annotations

import csv
import json
import os
import shutil
import zipfile
from pathlib import Path

import numpy as np
import pytest

from sciencessl.data.decode import decode
from sciencessl.data_prep.slides.scan import SlideFile, SlideScan, safe, scan_key, write_scan
from sciencessl.data_prep.slides.scanning import scan_slides
from sciencessl.data_prep.slides.settings import SlideSettings
from sciencessl.errors import ConfigError, DataError
from sciencessl.preparation import prepare
from sciencessl.store.reader import Store
from tests.data_prep.slides.tiny_slides import GLASS, tissue_picture, write_slide


@pytest.fixture(scope="module")
def scans(tmp_path_factory) -> Path:
    """Three slides of two patients at 0.5 um/px, and what goes wrong: no scale, nonsense, glass, half a file."""
    folder = tmp_path_factory.mktemp("scans")
    for number, name in enumerate(("a1", "a2", "b1")):
        write_slide(folder / f"{name}.svs", tissue_picture(640, 512, number), 0.5, aperio=True)
    write_slide(folder / "blind.tif", tissue_picture(640, 512, 3), None)
    write_slide(folder / "strange.tif", tissue_picture(640, 512, 4), 400.0)
    write_slide(folder / "glass.tif", np.full((512, 640, 3), GLASS, np.uint8), 0.5)
    (folder / "half.svs").write_bytes((folder / "a1.svs").read_bytes()[:4000])
    with (folder / "manifest.csv").open("w", newline="") as stream:
        rows = csv.writer(stream)
        rows.writerow(["slide", "patient", "site", "class", "mpp"])
        rows.writerows([["a1", "A", "north", "tumour", ""], ["a2", "A", "north", "tumour", ""],
                        ["b1", "B", "south", "normal", ""], ["blind", "C", "south", "normal", ""],
                        ["strange", "C", "south", "normal", ""], ["glass", "D", "south", "normal", ""],
                        ["half", "D", "south", "normal", ""], ["gone", "E", "south", "normal", ""]])
    return folder


TILES = {"tile_px": 64, "workers": 0, "min_tissue": 0.3}


@pytest.fixture(scope="module")
def prepared(scans, tmp_path_factory):
    out = tmp_path_factory.mktemp("out") / "tiles.zarr"
    return prepare("pathology", [scans], out, TILES)


def states(folder: Path) -> dict[str, str]:
    with (folder / "slides.csv").open(newline="") as stream:
        return {row["slide"]: row["state"] for row in csv.DictReader(stream)}


def test_every_slide_ends_in_a_state_and_bad_ones_are_refused_with_a_hint(prepared):
    found = states(prepared.out.with_name("tiles.slides"))
    assert found == {"a1": "ready", "a2": "ready", "b1": "ready", "blind": "no-mpp", "strange": "strange-mpp",
                     "glass": "no-tissue", "half": found["half"], "gone": "missing-file"}
    assert found["half"] in ("unreadable", "corrupt", "truncated")
    assert sum(prepared.refused.values()) == 5
    told = {row["id"]: row["detail"] for row in Store(prepared.out).refusals().to_pylist()}
    assert "--slide-mpp" in told["blind"]
    assert "masks" in told["glass"]
    assert any("8 (3 ready" in line for line in prepared.guessed)


def test_tiles_say_where_they_are_and_how_large(prepared):
    store = Store(prepared.out)
    x, y, mpp = (np.asarray(list(store.column(name))) for name in ("x_px", "y_px", "mpp"))
    assert np.all(x % 64 == 0)
    assert np.all(y % 64 == 0)
    assert np.allclose(mpp, 0.5, rtol=1e-3)
    assert np.allclose(np.asarray(list(store.column("field_px_x"))), 64)
    assert {*store.column("site")} == {"north", "south"}
    assert {*store.column("patient")} == {"A", "B"}
    assert np.asarray(list(store.column("tissue"))).min() >= 0.3
    for identifier, slide, left, top in zip(store.ids, store.column("slide"), x, y, strict=True):
        assert identifier == f"{slide}_{left:.0f}_{top:.0f}"


def test_native_tiles_pass_byte_for_byte_and_show_what_openslide_shows(prepared, scans):
    openslide = pytest.importorskip("openslide")
    store = Store(prepared.out)
    assert all(store.column("passthrough"))
    slides = {name: openslide.OpenSlide(str(scans / f"{name}.svs")) for name in ("a1", "a2", "b1")}
    x, y, names = (list(store.column(name)) for name in ("x_px", "y_px", "slide"))
    raw = (scans / "a1.svs").read_bytes()
    field = store.header.fields["tile"]
    chosen = range(0, len(store), 7)
    for index, payload in zip(chosen, store.payloads("tile", chosen), strict=True):
        shown = slides[names[index]].read_region((int(x[index]), int(y[index])), 0, (64, 64)).convert("RGB")
        assert np.array_equal(decode(bytes(payload), field), np.asarray(shown))
        if names[index] == "a1":
            start = bytes(payload).rindex(b"\xff\xda")
            assert bytes(payload)[start:-2] in raw


def test_labels_of_slides_are_those_of_their_tiles(prepared):
    store = Store(prepared.out)
    classes, slides = list(store.column("class")), list(store.column("slide"))
    assert {(slide, name) for slide, name in zip(slides, classes, strict=True)} == {
        ("a1", "tumour"), ("a2", "tumour"), ("b1", "normal")}


def test_a_patient_is_in_one_split(prepared):
    store = Store(prepared.out)
    assert len({*zip(store.column("patient"), store.column("split"), strict=True)}) == 2


def test_a_second_call_does_nothing_and_does_not_look_again(prepared, scans):
    folder = prepared.out.with_name("tiles.slides")
    before = {path: path.stat().st_mtime_ns for path in (folder / "scan").iterdir()}
    again = prepare("pathology", [scans], prepared.out, TILES)
    assert again.nothing_to_do
    assert again.manifest_digest == prepared.manifest_digest
    assert {path: path.stat().st_mtime_ns for path in (folder / "scan").iterdir()} == before


def test_workers_change_nothing(prepared, scans, tmp_path):
    other = prepare("pathology", [scans], tmp_path / "t.zarr", {**TILES, "workers": 2})
    assert other.manifest_digest == prepared.manifest_digest


def test_a_damaged_record_is_made_again(scans, tmp_path):
    out = tmp_path / "t.zarr"
    first = prepare("pathology", [scans / "a1.svs"], out, TILES)
    record = tmp_path / "t.slides" / "scan" / "a1.json"
    record.write_text(record.read_text()[:100])
    again = prepare("pathology", [scans / "a1.svs"], out, TILES)
    assert again.manifest_digest == first.manifest_digest
    assert json.loads(record.read_text())["state"] == "ready"


def test_a_slide_without_a_scale_goes_on_once_it_is_known(scans, tmp_path):
    with pytest.raises(DataError, match="no-mpp"):
        prepare("pathology", [scans / "blind.tif"], tmp_path / "t.zarr", TILES)
    assert states(tmp_path / "t.slides") == {"blind": "no-mpp"}
    told = prepare("pathology", [scans / "blind.tif"], tmp_path / "t.zarr", {**TILES, "slide_mpp": 0.5})
    assert told.n_samples
    assert {*Store(told.out).column("mpp_origin")} == {"--slide-mpp"}


def test_slides_that_come_later_are_appended(scans, tmp_path):
    first, both = tmp_path / "first", tmp_path / "both"
    for folder, names in ((first, ["a1"]), (both, ["a1", "b1"])):
        folder.mkdir()
        for name in names:
            shutil.copy2(scans / f"{name}.svs", folder)
    old = prepare("pathology", [first], tmp_path / "old.zarr", TILES)
    new = prepare("pathology", [both], tmp_path / "new.zarr", {**TILES, "append_to": str(old.out)})
    assert not new.refused
    assert new.n_samples > old.n_samples
    assert any("left alone" in line for line in new.guessed)
    assert Store(new.out).ids[: old.n_samples] == Store(old.out).ids


def test_under_a_key_no_name_and_no_path_is_left(scans, tmp_path):
    key = tmp_path / "key"
    key.write_text("k" * 40)
    secret = tmp_path / "Miller^Anna"
    secret.mkdir()
    for name in ("a1", "half"):
        shutil.copy2(scans / f"{name}.svs", secret / f"TCGA-AB-1234-{name}.svs")
    done = prepare("pathology", [secret], tmp_path / "o" / "t.zarr", {**TILES, "pseudonymise": str(key)})
    assert sum(done.refused.values()) == 1
    written = b"".join(path.read_bytes() for path in (tmp_path / "o").rglob("*") if path.is_file())
    for word in (b"Miller", b"TCGA-AB", b"1234-a1", str(tmp_path).encode()):
        assert word not in written
    assert not any("Miller" in line or "TCGA" in line for line in done.guessed)
    names = "".join(path.name for path in (tmp_path / "o").rglob("*"))
    assert "TCGA" not in names
    assert "TCGA-AB-1234-a1" in (tmp_path / "key.map.csv").read_text()


def test_under_a_key_figures_stay_whatever_sources_and_slides_are_called(scans, tmp_path, monkeypatch):
    key = tmp_path / "key"
    key.write_text("k" * 40)
    folder = tmp_path / "s"
    (folder / "Miller").mkdir(parents=True)
    shutil.copy2(scans / "a1.svs", folder / "Miller" / "1.svs")
    shutil.copy2(scans / "half.svs", folder / "Miller" / "4.svs")
    (folder / "Miller" / "manifest.csv").write_text("slide\n1\n4\n")
    monkeypatch.chdir(folder)
    done = prepare("pathology", ["."], tmp_path / "t.zarr", {**TILES, "pseudonymise": str(key)})
    assert any("px = 32 um at 0.5 um/px" in line for line in done.guessed)
    assert not any("Miller" in line for line in done.guessed)
    assert "byte 4000" in Store(done.out).refusals()["detail"][0].as_py()


def test_under_a_key_the_map_explains_slides_even_if_there_is_no_tile(scans, tmp_path):
    key = tmp_path / "key"
    key.write_text("k" * 40)
    with pytest.raises(DataError, match="not one tile"):
        prepare("pathology", [scans / "half.svs"], tmp_path / "t.zarr", {**TILES, "pseudonymise": str(key)})
    assert "slide,half,S" in (tmp_path / "key.map.csv").read_text()


def test_tiles_per_slide_draws_the_same_ones_again(scans, tmp_path):
    few = {**TILES, "tiles_per_slide": 5}
    first = prepare("pathology", [scans / "a1.svs"], tmp_path / "1.zarr", few)
    assert first.n_samples == 5
    again = prepare("pathology", [scans / "a1.svs"], tmp_path / "2.zarr", few)
    assert again.manifest_digest == first.manifest_digest
    other = prepare("pathology", [scans / "a1.svs"], tmp_path / "3.zarr", {**few, "tile_seed": 1})
    assert {*Store(other.out).ids} != {*Store(first.out).ids}


@pytest.mark.parametrize("encoding", ["png", "raw"])
def test_lossless_tiles_are_the_pixels(scans, tmp_path, encoding):
    done = prepare("pathology", [scans / "a1.svs"], tmp_path / "t.zarr", {**TILES, "encoding": encoding})
    store = Store(done.out)
    assert not any(store.column("passthrough"))
    jpeg = prepare("pathology", [scans / "a1.svs"], tmp_path / "j.zarr", TILES)
    assert sorted(store.column("pixel_hash")) == sorted(Store(jpeg.out).column("pixel_hash"))


def test_a_slide_that_is_deleted_midway_costs_its_tiles_only(scans, tmp_path, monkeypatch):
    folder = tmp_path / "s"
    folder.mkdir()
    for name in ("a1", "b1"):
        shutil.copy2(scans / f"{name}.svs", folder)
    from sciencessl.data_prep.slides import source as module

    real = module.scan_slides

    def looked(*args):
        found = real(*args)
        os.unlink(folder / "b1.svs")
        return found

    monkeypatch.setattr(module, "scan_slides", looked)
    done = prepare("pathology", [folder], tmp_path / "t.zarr", TILES)
    assert set(done.refused) == {"missing-file"}
    assert {*Store(done.out).column("slide")} == {"a1"}


def test_edited_masks_decide_what_is_tissue(scans, tmp_path):
    masks = tmp_path / "masks"
    masks.mkdir()
    square = [[64, 64], [320, 64], [320, 320], [64, 320], [64, 64]]
    (masks / "a1.geojson").write_text(json.dumps({"type": "FeatureCollection", "features": [{
        "type": "Feature", "geometry": {"type": "Polygon", "coordinates": [square]},
        "properties": {"objectType": "annotation", "classification": {"name": "Tissue"}}}]}))
    done = prepare("pathology", [scans / "a1.svs"], tmp_path / "t.zarr", {**TILES, "masks": str(masks)})
    assert done.n_samples == 16


def test_a_manifest_names_slides_with_or_without_their_ending(scans, tmp_path):
    folder = tmp_path / "s"
    (folder / "sub").mkdir(parents=True)
    for name in ("a1", "a2", "b1"):
        shutil.copy2(scans / f"{name}.svs", folder)
    shutil.copy2(scans / "b1.svs", folder / "sub")
    (folder / "manifest.csv").write_text("slide,patient\na1.svs,P\na2,P\nb1,Q\n")
    done = prepare("pathology", [folder], tmp_path / "t.zarr", TILES)
    assert {*Store(done.out).column("slide")} == {"a1.svs", "a2"}
    assert done.refused == {"missing-file": 1}
    assert "or there are several" in Store(done.out).refusals()["detail"][0].as_py()


def test_what_the_older_store_refused_is_not_listed_twice(scans, tmp_path):
    for name in ("a1", "a2", "half"):
        (tmp_path / "s").mkdir(exist_ok=True)
        if name != "a2":
            shutil.copy2(scans / f"{name}.svs", tmp_path / "s")
    old = prepare("pathology", [tmp_path / "s"], tmp_path / "old.zarr", TILES)
    shutil.copy2(scans / "a2.svs", tmp_path / "s")
    more = {**TILES, "append_to": str(old.out)}
    new = prepare("pathology", [tmp_path / "s"], tmp_path / "new.zarr", more)
    assert new.refused == {"truncated": 1}
    with pytest.raises(DataError, match="nothing to append"):
        prepare("pathology", [tmp_path / "s"], tmp_path / "newer.zarr", {**TILES, "append_to": str(new.out)})


@pytest.mark.parametrize("rows", ["slide,file,patient\nx,a1.svs,P\ny,a1.svs,Q\n", "slide\na1\na1.svs\n", ""])
def test_one_file_is_never_two_slides(scans, tmp_path, rows):
    # Otherwise one slide could be trained on and tested on.
    shutil.copy2(scans / "a1.svs", tmp_path)
    if rows:
        (tmp_path / "manifest.csv").write_text(rows)
    else:
        (tmp_path / "link.svs").symlink_to(tmp_path / "a1.svs")
    with pytest.raises(DataError, match="are one file"):
        prepare("pathology", [tmp_path], tmp_path / "t.zarr", TILES)


def test_names_of_any_length_and_script_are_slides_like_others(scans, tmp_path):
    name = "组织" * 35 + "#1 %C3<b>"
    folder = tmp_path / "s"
    folder.mkdir()
    shutil.copy2(scans / "a1.svs", folder / f"{name}.svs")
    done = prepare("pathology", [folder], tmp_path / "t.zarr", TILES)
    assert {*Store(done.out).column("slide")} == {name}
    assert safe(name) != safe(f"{name}2")
    assert len(safe("a" * 5000)) == len(safe(name)) <= 200


def test_edits_of_a_mask_outlive_what_is_found_again(scans, tmp_path):
    mask = tmp_path / "t.slides" / "masks" / "a1.geojson"
    anew = {**TILES, "overwrite": True}
    prepare("pathology", [scans / "a1.svs"], tmp_path / "t.zarr", anew)
    found = mask.read_text()
    prepare("pathology", [scans / "a1.svs"], tmp_path / "t.zarr", {**anew, "tile_px": 32})
    assert [path.name for path in mask.parent.iterdir()] == ["a1.geojson"]
    edited = found.replace("Tissue", "Drawn")
    mask.write_text(edited)
    again = {**anew, "masks": str(mask.parent)}
    prepare("pathology", [scans / "a1.svs"], tmp_path / "t.zarr", again)
    assert mask.read_text() == edited
    stamp = (tmp_path / "t.slides" / "scan" / "a1.json").stat().st_mtime_ns
    prepare("pathology", [scans / "a1.svs"], tmp_path / "t.zarr", again)
    assert (tmp_path / "t.slides" / "scan" / "a1.json").stat().st_mtime_ns == stamp
    prepare("pathology", [scans / "a1.svs"], tmp_path / "t.zarr", anew)
    assert mask.read_text() == found
    assert (tmp_path / "t.slides" / "masks-edited" / "a1.geojson").read_text() == edited


def test_a_folder_of_masks_that_is_not_there_is_no_reason_to_look_for_tissue(scans, tmp_path):
    with pytest.raises(ConfigError, match=r"--masks .*gone: no such folder"):
        prepare("pathology", [scans / "a1.svs"], tmp_path / "t.zarr", {**TILES, "masks": str(tmp_path / "gone")})


def test_a_bad_mask_is_a_state_that_names_no_path(scans, tmp_path):
    masks = tmp_path / "masks"
    masks.mkdir()
    (masks / "a1.geojson").write_text("{")
    done = prepare("pathology", [scans / "a1.svs", scans / "b1.svs"], tmp_path / "t.zarr",
                   {**TILES, "masks": str(masks)})
    assert done.refused == {"bad-mask": 1}
    assert str(tmp_path) not in Store(done.out).refusals()["detail"][0].as_py()
    assert any("1 of 2 slides have a mask" in line for line in done.guessed)


def test_a_slide_that_could_not_be_read_is_looked_at_again_before_its_store_is_begun(tmp_path):
    file = SlideFile("a1", "", 0, 0)
    write_scan(tmp_path, SlideScan("a1", scan_key(file, SlideSettings()), "crashed", "killed"))
    assert scan_slides([file], SlideSettings(), tmp_path, 0)[0].state == "crashed"
    assert scan_slides([file], SlideSettings(), tmp_path, 0, again=True)[0].state == "missing-file"


def test_slides_in_archives_are_refused_with_what_to_do(scans, tmp_path):
    with zipfile.ZipFile(tmp_path / "more.zip", "w") as archive:
        archive.write(scans / "b1.svs", "b1.svs")
    done = prepare("pathology", [scans / "a1.svs", tmp_path / "more.zip"], tmp_path / "t.zarr", TILES)
    assert "unpack" in Store(done.out).refusals()["detail"][0].as_py()


def test_settings_say_what_they_allow():
    for values, words in (({"tile_recipe": "ptcga200", "mpp": "1"}, "which it decides"),
                          ({"tile_um": 100.0, "tile_px": 64}, "which it replaces"),
                          ({"edges": "cut"}, "skip, pad, shift"), ({"tile_px": 4}, "8 to"), ({"mpp": "fast"}, "mpp"),
                          ({"vendor_mpp": ("x",)}, "VENDOR=UM_PER_PX"), ({"tile_recipe": "ptcga"}, "ptcga200")):
        with pytest.raises(ConfigError, match=words):
            prepare("pathology", ["nowhere"], "t.zarr", values)
