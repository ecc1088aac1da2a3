"""`store audit`: planted leaks are found with what shows them, look-alikes are not called copies, and what was not
looked at is never called clean."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from sciencessl import cli, prepare
from sciencessl.errors import StoreError
from sciencessl.registry import load_domain
from sciencessl.spec import FieldSpec
from sciencessl.store.audit import audit
from sciencessl.store.audit_record import CLEAN, COPY, LEAK, LOOK_ALIKE, NOTHING, SUSPECT, Audit, audit_file, read_audit
from sciencessl.store.audit_report import audit_text
from sciencessl.store.audited import Standing, audited_copies, check_audit
from sciencessl.store.format import StoreHeader, shard_file
from sciencessl.store.reader import Store
from sciencessl.store.seal import seal
from sciencessl.store.writer import PreparedSample, create_store, write_row
from tests.photos import COPIES, encoded, photo_store
from tests.photos import photo as smooth

IMAGE = FieldSpec("bytes", ("r", "g", "b"))
PHOTOS = 30


def photo(seed: int, side: int = 96) -> np.ndarray:
    rng = np.random.default_rng(seed)
    noise = cv2.GaussianBlur(rng.normal(size=(side, side, 3)).astype("f4"), (0, 0), side / 60)
    return np.clip(128 + 45 * noise / noise.std(), 0, 255).astype(np.uint8)


def sky(seed: int, side: int = 96) -> np.ndarray:
    """A dark stamp with noise, a galaxy in its centre and a few faint stars."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[:side, :side] - side / 2
    angle, ratio, size = rng.uniform(0, np.pi), rng.uniform(0.3, 1), rng.uniform(5, 9)
    u, v = x * np.cos(angle) + y * np.sin(angle), y * np.cos(angle) - x * np.sin(angle)
    light = 180 * np.exp(-np.hypot(u / size, v / (size * ratio)))
    for row, column in rng.uniform(-side / 2, side / 2, (6, 2)):
        light += rng.uniform(10, 90) * np.exp(-((x - column) ** 2 + (y - row) ** 2) / 4)
    noise = cv2.GaussianBlur(rng.normal(0, 7, (side, side, 3)).astype("f4"), (0, 0), 0.8)
    return np.clip(light[..., None] + 8 + noise, 0, 255).astype(np.uint8)


def turned(image: np.ndarray, deg: float, zoom: float = 1.0) -> np.ndarray:
    centre = ((image.shape[1] - 1) / 2, (image.shape[0] - 1) / 2)
    matrix = cv2.getRotationMatrix2D(centre, deg, zoom)
    return np.asarray(cv2.warpAffine(image, matrix, image.shape[1::-1], borderMode=cv2.BORDER_REFLECT))


def png(image: np.ndarray) -> bytes:
    return bytes(cv2.imencode(".png", image)[1])


def jpeg(image: np.ndarray, quality: int = 75) -> bytes:
    return bytes(cv2.imencode(".jpg", image, [cv2.IMWRITE_JPEG_QUALITY, quality])[1])


Entry = tuple[str, str, bytes, Mapping[str, Any]]


def build(path: Path, entries: Sequence[Entry], settings: Mapping[str, Any] | None = None, domain: str = "web") -> Path:
    """A sealed store of one row; each entry is (id, split, encoded image, columns)."""
    name = load_domain(domain).primary
    header = StoreHeader(domain, "images", {name: IMAGE}, 1, len(entries), settings or {}, "plan", "config")
    create_store(path, header, sum(len(raw) for _, _, raw, _ in entries))
    samples = [PreparedSample(own, split, {name: raw}, dict(columns)) for own, split, raw, columns in entries]
    write_row(path, header, 0, samples, [], "inputs")
    seal(path, header)
    return path


def entries(make: Callable[[int], np.ndarray], first: int = 0, test: int = 5, n: int = PHOTOS) -> list[Entry]:
    """Different images, every `test`-th of them in split=test, in groups of two."""
    split = ["test" if i // 2 % test == test - 1 else "train" for i in range(n)]
    return [(f"s{first + i}", split[i], png(make(first + i)), {"site": f"g{(first + i) // 2}"}) for i in range(n)]


def copies(make: Callable[[int], np.ndarray]) -> list[Entry]:
    """Five test images that are train images, changed."""
    train = [i for i in range(PHOTOS) if i // 2 % 5 != 4]
    raws = [
        png(np.ascontiguousarray(np.rot90(make(train[0])))),
        jpeg(turned(make(train[1]), 33, 1.2)),
        jpeg(np.ascontiguousarray(turned(make(train[2]), -140)[:, ::-1])),
        jpeg(cv2.resize(make(train[3]), (64, 64), interpolation=cv2.INTER_AREA)),
        jpeg(make(train[4]), 60),
    ]
    return [(f"copy of s{train[k]}", "test", raw, {"site": f"new{k}"}) for k, raw in enumerate(raws)]


def of_kind(found: Audit, kind: str) -> dict[str, str]:
    return {pair.test: pair.pool for entry in found.evidence if entry.kind == kind for pair in entry.pairs}


@pytest.mark.parametrize("make", [photo, sky])
def test_changed_copies_are_found_and_nothing_else(make: Callable[[int], np.ndarray], tmp_path: Path) -> None:
    found = audit(build(tmp_path / "s.zarr", [*entries(make), *copies(make)]), group="site")
    assert found.verdict == LEAK
    assert {entry.kind for entry in found.evidence} == {COPY}
    assert of_kind(found, COPY) == {name: name.removeprefix("copy of ") for name, *_ in copies(make)}
    assert found.null is not None
    assert found.pairs == 24 * 11


@pytest.mark.parametrize("make", [photo, sky])
def test_what_only_looks_alike_is_clean(make: Callable[[int], np.ndarray], tmp_path: Path) -> None:
    store = build(tmp_path / "s.zarr", entries(make, n=60))
    found = audit(store, group="site")
    assert (found.verdict, found.evidence, found.notes) == (CLEAN, (), ())
    assert "clean: sides share no sample" in audit_text(found)
    assert not (tmp_path / "s.audit").exists()


def test_without_groups_it_is_never_clean(tmp_path: Path) -> None:
    found = audit(build(tmp_path / "s.zarr", entries(photo)))
    assert (found.verdict, found.groups, found.evidence) == (NOTHING, (), ())
    assert "No group column" in found.notes[0]
    assert "clean:" not in audit_text(found)
    ids = [(name, split, raw, {"group": name}) for name, split, raw, _ in entries(photo)]
    assert audit(build(tmp_path / "ids.zarr", ids), pixels=False).groups == ()


def test_near_copies_are_found_by_recorded_hashes_too(tmp_path: Path) -> None:
    train = [(f"a{i}", "train", encoded(smooth(i))) for i in range(8)]
    made = {f"b{kind}": make(smooth(n)) for n, (kind, make) in enumerate(COPIES.items())}
    test = [(name, "test", raw) for name, raw in made.items()]
    found = audit(photo_store(tmp_path / "s.zarr", [*train, *test]).path, pixels=False)
    (evidence,) = found.evidence
    assert (found.verdict, evidence.kind, evidence.by, {*evidence.ids}) == (LEAK, COPY, "perceptual hash", {*made})
    assert "4 samples of split=test are copies of samples of split=train by their perceptual hash" in audit_text(found)
    plain = audit(photo_store(tmp_path / "plain.zarr", [*train, *test], hashed=False).path, pixels=False)
    assert plain.evidence == ()


def test_straddling_groups_are_a_leak_however_they_are_declared(tmp_path: Path) -> None:
    mixed = [(name, "test" if i in (0, 7) else split, raw, {"site": columns["site"], "group": columns["site"],
                                                              "patient": columns["site"]})
             for i, (name, split, raw, columns) in enumerate(entries(photo))]
    declared = audit(build(tmp_path / "a.zarr", mixed), group="site", pixels=False)
    (evidence,) = [entry for entry in declared.evidence if entry.by == "site"]
    assert (declared.verdict, evidence.kind, evidence.samples, evidence.values) == (LEAK, "identity", 2, 2)
    assert {(pair.test, pair.pool, pair.value) for pair in evidence.pairs} == {("s0", "s1", "g0"), ("s7", "s6", "g3")}
    recorded = audit(build(tmp_path / "b.zarr", mixed, {"group": "site"}), pixels=False)
    identity = audit(build(tmp_path / "c.zarr", mixed, domain="pathology"), pixels=False)
    assert (recorded.groups, identity.groups) == (("site",), ("patient", "group"))
    assert recorded.verdict == identity.verdict == LEAK


def test_equal_contents_are_a_leak(tmp_path: Path) -> None:
    twice = [*entries(photo), ("again", "val", png(photo(1)), {"site": "x"})]
    found = audit(build(tmp_path / "s.zarr", twice), group="site", pixels=False)
    (evidence,) = found.evidence
    assert (evidence.kind, evidence.by, evidence.samples) == ("contents", "stored bytes", 1)
    assert (evidence.pairs[0].test, evidence.pairs[0].pool) == ("again", "s1")
    assert found.verdict == LEAK


def test_another_store_is_compared_with_what_was_learned_from(tmp_path: Path) -> None:
    here = build(tmp_path / "here.zarr", entries(photo))
    other = [(f"t{name}", split, raw, columns) for name, split, raw, columns in entries(photo, first=100, n=12)]
    # s8 is a test sample here: that the other store holds it too takes nothing from a test there.
    clean = build(tmp_path / "clean.zarr", [*other, ("x", "train", jpeg(turned(photo(8), 50)), {"site": "x"})])
    found = audit(here, clean, group="site")
    assert (found.verdict, found.samples) == (CLEAN, {"split=train": 24, "all of clean.zarr": 13})
    leaking = build(tmp_path / "leak.zarr", [*other, ("y", "train", jpeg(turned(photo(0), 50)), {"site": "x"})])
    found = audit(here, leaking, group="site")
    assert (found.verdict, of_kind(found, COPY)) == (LEAK, {"y": "s0"})
    written = json.loads(audit_file(here, leaking).read_text())
    assert audit_file(here, leaking).name == "here.against-leak.audit.json"
    assert (written["manifest_digest"], written["against_digest"]) == (Store(here).digest, Store(leaking).digest)
    assert (tmp_path / "here.against-leak.audit" / "report.html").exists()


def test_the_result_lies_beside_the_store_with_its_digest(tmp_path: Path) -> None:
    store = build(tmp_path / "s.zarr", [*entries(photo), *copies(photo)])
    found = audit(store, group="site", out=tmp_path / "out")
    written = json.loads((tmp_path / "s.audit.json").read_text())
    assert (written["verdict"], written["manifest_digest"]) == (LEAK, Store(store).digest)
    assert written["confirmed_above"] == found.confirmed_above
    page = (tmp_path / "out" / "report.html").read_text()
    assert page.count("<img src=\"data:image/jpeg;base64,") == 5
    assert "<span>copy of s0</span><span>s0</span>" in page
    removed = (tmp_path / "out" / "remove.txt").read_text().splitlines()
    assert removed == [pair.test for pair in found.evidence[0].pairs]
    assert {name for entry in audited_copies(Store(store), Store(store)) for name in entry.ids} == {
        name for name, *_ in copies(photo)}
    assert read_audit(store) == found
    sheet = cv2.imread(str(tmp_path / "out" / "pairs.png"))
    assert sheet is not None
    assert sheet.std() > 20


def test_damaged_samples_are_named_and_the_rest_compared(tmp_path: Path) -> None:
    hashed = [(name, split, raw, {**columns, "pixel_hash": name})
              for name, split, raw, columns in [*entries(photo), *copies(photo)]]
    hashed.append(("broken", "test", b"no image", {"site": "b", "pixel_hash": "b"}))
    found = audit(build(tmp_path / "s.zarr", hashed), group="site")
    assert (found.unreadable, found.verdict) == (("broken",), LEAK)
    assert len(of_kind(found, COPY)) == 5
    alone = [entry for entry in hashed if not entry[0].startswith("copy")]
    rest = audit(build(tmp_path / "t.zarr", alone), group="site")
    assert (rest.verdict, rest.evidence) == (NOTHING, ())
    assert "1 images could not be read, such as broken" in rest.notes[0]
    (tmp_path / "s.zarr" / shard_file("image", IMAGE, 0)).write_bytes(b"")
    assert len(audit(tmp_path / "s.zarr", group="site").unreadable) == 36


def test_few_or_empty_images_measure_no_null(tmp_path: Path) -> None:
    few = audit(build(tmp_path / "few.zarr", entries(photo, n=12)), group="site")
    assert (few.verdict, few.null) == (NOTHING, None)
    assert "Fewer than 100 pairs" in few.notes[0]
    flat = [(f"f{i}", "test" if i % 3 else "train", png(np.full((20, 20, 3), 2 * i, np.uint8)), {"site": str(i)})
            for i in range(30)]
    assert audit(build(tmp_path / "flat.zarr", flat), group="site").verdict == NOTHING
    one = audit(build(tmp_path / "one.zarr", [(n, "train", raw, c) for n, _, raw, c in entries(photo, n=4)]))
    assert (one.verdict, one.pairs) == (NOTHING, 0)
    assert any("all samples are on one side" in note for note in one.notes)


def test_scores_between_the_thresholds_warn(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = build(tmp_path / "s.zarr", [*entries(photo), *copies(photo)])
    # As if a copy were confirmed only where chance gives one in 1e30 stores.
    monkeypatch.setattr("sciencessl.store.audit.FALSE_CONFIRMED", 1e-30)
    found = audit(store, group="site")
    assert (found.verdict, len(of_kind(found, LOOK_ALIKE))) == (SUSPECT, 5)
    assert "warning: 5 samples of split=test look much like samples of split=train" in audit_text(found)
    (line,) = check_audit(Store(store)).lines
    assert line.startswith(f"warning: {store}: 5 samples of split=test look much like samples of split=train, such as")
    assert line.endswith(f"too little to confirm: look at the pairs. Pairs: {tmp_path / 's.audit' / 'report.html'}")
    assert audited_copies(Store(store), Store(store)) == ()
    assert not (tmp_path / "s.audit" / "remove.txt").exists()


def test_a_column_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match=r"no column 'sit'\. Did you mean 'site'"):
        audit(build(tmp_path / "s.zarr", entries(photo, n=4)), group="sit")


def test_the_verb_exits_with_4_on_a_leak(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    leaking = build(tmp_path / "leak.zarr", [*entries(photo), ("again", "test", png(photo(1)), {"site": "x"})])
    assert cli.run(["store", "audit", str(leaking), "--group", "site", "--json"]) == 4
    assert json.loads(capsys.readouterr().out)["verdict"] == LEAK
    short = build(tmp_path / "short.zarr", entries(photo, n=12))
    assert cli.run(["store", "audit", str(short), "--group", "site"]) == 0
    assert "nothing found, which is not to say that it is clean" in capsys.readouterr().out
    assert cli.run(["store", "audit", str(short), "--against", str(leaking), "--out", str(tmp_path / "page")]) == 4
    assert (tmp_path / "page" / "report.html").exists()


def _tiles(folder: Path, shared: Path, photographs: int, named: str) -> Path:
    """A store of the tiles of some photographs: split by photograph where the column has a name that is known."""
    with (shared / "pathology/lc25000_lung/catalogue.csv").open() as stream:
        rows = list(csv.DictReader(stream))
    names = sorted({row["source_tile"] for row in rows})
    kept = set(names if photographs >= len(names) else names[:: len(names) // photographs])
    table = folder / "tiles.csv"
    with table.open("w", newline="") as stream:
        writer = csv.writer(stream)
        writer.writerow(["file", "class", named])
        writer.writerows([row["file"], row["class"], row["source_tile"]] for row in rows if row["source_tile"] in kept)
    prepare("pathology", [shared / "pathology/lc25000_lung"], folder / "tiles.zarr",
            {"catalogue": str(table), "keep": (named,), "workers": 0})
    return folder / "tiles.zarr"


SOME = [12, pytest.param(182, marks=pytest.mark.slow)]
"""Photographs: some 240 tiles, and all 3,650."""


@pytest.mark.parametrize("photographs", SOME)
def test_lc25000_split_by_tile_leaks_by_name_and_by_pixels_and_is_not_trained_on(
    photographs: int, tmp_path: Path, shared_data: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    store = _tiles(tmp_path, shared_data, photographs, "photograph")
    opened = Store(store)
    photograph = dict(zip(opened.ids, opened.column("photograph").tolist(), strict=True))
    named = audit(store, group="photograph", pixels=False)
    # Some tiles are equal byte for byte, too.
    (evidence,) = [entry for entry in named.evidence if entry.by == "photograph"]
    assert named.verdict == LEAK
    assert cli.run(["store", "audit", str(store)]) == 4
    alone = read_audit(store)
    assert alone is not None
    found = of_kind(alone, COPY)
    assert all(photograph[test] == photograph[pool] for test, pool in found.items())
    assert len({photograph[test] for test in found}) >= 0.5 * evidence.values
    asked = ["pretrain", "--data", str(store), "--out", str(tmp_path / "run"), "--backbone", "test_resnet", "--steps",
             "1", "--batch", "4", "--views.size", "32", "--compute.workers", "0", "--compute.precision", "float32",
             "--compute.memory_format", "contiguous"]
    assert cli.run(asked) == 4
    assert "are the same thing as samples of split=train" in capsys.readouterr().err
    assert cli.run([*asked, "--accept-leak"]) == 0


@pytest.mark.parametrize("photographs", SOME)
def test_lc25000_split_by_photograph_is_clean(photographs: int, tmp_path: Path, shared_data: Path) -> None:
    store = _tiles(tmp_path, shared_data, photographs, "source_tile")
    assert audit(store).verdict == CLEAN
    assert check_audit(Store(store)) == Standing()


@pytest.mark.parametrize("every", [18, pytest.param(1, marks=pytest.mark.slow)])
def test_sdss_stamps_are_not_refused_with_or_without_a_group(every: int, tmp_path: Path, shared_data: Path) -> None:
    """Of 200 stamps, and of all 3,600."""
    lines = (shared_data / "galaxy/sdss_gz1/catalogue.csv").read_text().splitlines()
    (tmp_path / "some.csv").write_text("\n".join([lines[0], *lines[1::every]]))
    prepare("galaxy", [shared_data / "galaxy/sdss_gz1"], tmp_path / "sdss.zarr",
            {"catalogue": str(tmp_path / "some.csv"), "keep": ("objid",), "resize_px": 128, "workers": 0})
    alone = audit(tmp_path / "sdss.zarr")
    assert (alone.verdict, alone.evidence) == (NOTHING, ())
    grouped = audit(tmp_path / "sdss.zarr", group="objid")
    assert (grouped.verdict, grouped.evidence) == (CLEAN, ())
    assert check_audit(Store(tmp_path / "sdss.zarr")) == Standing()
