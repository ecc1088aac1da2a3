"""Galaxies by their place on the sky: one object under two names, stamps that show each other, and what audits say."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from astropy.io import fits
from astropy.wcs import WCS

import sciencessl
from sciencessl.domains.galaxy.places import OVERLAP, SAME
from sciencessl.errors import LeakError
from sciencessl.evaluate.leak_check import check_leak
from sciencessl.evaluate.tasks import load_task
from sciencessl.evaluate.tested_on import load_across
from sciencessl.registry import load_domain
from sciencessl.spec import FieldSpec, TransferTask
from sciencessl.store import audit_record
from sciencessl.store.audit import audit
from sciencessl.store.audit_report import audit_text
from sciencessl.store.audited import audited_copies, check_audit
from sciencessl.store.format import StoreHeader
from sciencessl.store.label import label
from sciencessl.store.reader import Store
from sciencessl.store.seal import seal
from sciencessl.store.sides import Nearness, Side, near_things
from sciencessl.store.writer import PreparedSample, create_store, write_row

ARCSEC = 1 / 3600
Entry = tuple[str, str, Mapping[str, Any]]


def build(
    path: Path, entries: Sequence[Entry], domain: str = "galaxy", settings: Mapping[str, Any] | None = None
) -> Store:
    """A sealed store of images of noise, no two alike."""
    name = load_domain(domain).primary
    field = FieldSpec("bytes", ("r", "g", "b"))
    header = StoreHeader(domain, "images", {name: field}, 1, len(entries), dict(settings or {}), "p", "c")
    seed = int.from_bytes(str(path).encode(), "little")
    raws = [cv2.imencode(".png", np.random.default_rng([seed, k]).integers(0, 255, (24, 24, 3), np.uint8))[1].tobytes()
            for k in range(len(entries))]
    create_store(path, header, sum(map(len, raws)))
    samples = [PreparedSample(own, split, {name: raw}, dict(columns))
               for (own, split, columns), raw in zip(entries, raws, strict=True)]
    write_row(path, header, 0, samples, [], "inputs")
    seal(path, header)
    return Store(path)


def at(ra: float | None, dec: float | None, size: int = 40, scale: float = 0.5, **columns: Any) -> dict[str, Any]:
    return {"ra": ra, "dec": dec, "size_px": size, "scale_arcsec_px": scale, **columns}


def rules(store: Store) -> dict[str, Nearness]:
    return {rule.by: rule for rule in near_things(Side.of_splits(store, "train"), Side.of_splits(store, "test"))}


def named(store: Store, rule: Nearness) -> dict[str, tuple[str, float]]:
    pool, test = Side.of_splits(store, "train"), Side.of_splits(store, "test")
    return {store.ids[test.index[k]]: (store.ids[pool.index[j]], round(float(rule.separation[k]), 6))
            for k, j in enumerate(rule.match) if j >= 0}


FIELD = [
    ("a", "train", at(0.0, 0.0)),
    ("b", "train", at(30 * ARCSEC, 0.0)),
    ("same as a, across RA 0", "test", at(360 - 1 * ARCSEC, 0.0)),
    ("shown by b", "test", at(30 * ARCSEC, 9.0 * ARCSEC)),
    ("beyond half a side of b", "test", at(30 * ARCSEC, 10.5 * ARCSEC)),
    ("wide enough to show b", "test", at(30 * ARCSEC, 11 * ARCSEC, 60)),
]


def test_one_object_and_overlapping_stamps_are_told_apart(tmp_path: Path) -> None:
    store = build(tmp_path / "s.zarr", FIELD)
    found = rules(store)
    assert list(found) == [SAME, OVERLAP]
    assert named(store, found[SAME]) == {"same as a, across RA 0": ("a", 1.0)}
    assert named(store, found[OVERLAP]) == {"shown by b": ("b", 9.0), "wide enough to show b": ("b", 11.0)}
    assert (found[SAME].same, found[OVERLAP].same, found[SAME].unplaced) == (True, False, 0)


def test_the_radius_of_preparation_is_that_of_the_comparison(tmp_path: Path) -> None:
    store = build(tmp_path / "s.zarr", FIELD[:4], settings={"survey": {"match_arcsec": 10.0}})
    assert named(store, rules(store)[SAME]) == {"same as a, across RA 0": ("a", 1.0), "shown by b": ("b", 9.0)}


def test_without_sizes_only_one_object_is_told(tmp_path: Path) -> None:
    entries = [(own, split, {"ra": values["ra"], "dec": values["dec"]}) for own, split, values in FIELD]
    assert list(rules(build(tmp_path / "s.zarr", entries))) == [SAME]


def test_without_positions_nothing_is_told(tmp_path: Path) -> None:
    entries = [(own, split, {"mag": 1.0}) for own, split, _ in FIELD]
    assert rules(build(tmp_path / "s.zarr", entries)) == {}


def test_samples_without_a_place_equal_nothing_and_are_counted(tmp_path: Path) -> None:
    entries = [("a", "train", at(None, None)), ("b", "train", at(1.0, 2.0)), ("c", "test", at(None, 0.0)),
               ("d", "test", at(1.0, 2.0))]
    store = build(tmp_path / "s.zarr", entries)
    found = rules(store)[SAME]
    assert (named(store, found), found.unplaced) == ({"d": ("b", 0.0)}, 2)
    notes = audit(store.path, pixels=False).notes
    assert notes[0].startswith("2 samples of two sides have no place on record")
    assert notes[1].startswith("No group column")


def test_a_domain_without_places_tells_nothing(tmp_path: Path) -> None:
    assert rules(build(tmp_path / "s.zarr", FIELD, "web")) == {}


def test_an_audit_finds_one_object_under_two_names(tmp_path: Path) -> None:
    store = build(tmp_path / "s.zarr", FIELD[:3])
    found = audit(store.path)
    (entry,) = found.evidence
    assert (found.verdict, entry.kind, entry.by) == (audit_record.LEAK, audit_record.PLACE, SAME)
    assert entry.ids == ("same as a, across RA 0",)
    said = audit_text(found)
    assert ("1 sample of split=test is at the same place as samples of split=train by sky position, such as same as a, "
            "across RA 0 and a (1 arcsec apart).") in said
    assert "places: sky position, overlap on the sky" in said
    assert "--group-by object" in said
    assert (tmp_path / "s.audit" / "remove.txt").read_text() == "same as a, across RA 0\n"
    assert "1 arcsec apart" in (tmp_path / "s.audit" / "report.html").read_text()
    with pytest.raises(LeakError, match=r"1 of 1 samples of split=test .*1 by sky position"):
        check_audit(store)
    assert audited_copies(store, store) == ()  # another image of an object is not the image that was learned from


def test_overlaps_alone_warn_and_refuse_nothing(tmp_path: Path) -> None:
    store = build(tmp_path / "s.zarr", [*FIELD[:2], FIELD[3]])
    found = audit(store.path, pixels=False)
    assert (found.verdict, [entry.kind for entry in found.evidence]) == (audit_record.SUSPECT, [audit_record.OVERLAP])
    (line,) = check_audit(store).lines
    assert "1 sample of split=test overlaps samples of split=train, so that one image shows the centre" in line
    assert "(9 arcsec apart)" in line
    assert not (tmp_path / "s.audit" / "remove.txt").exists()


def test_the_place_of_each_sample_makes_clean_possible_without_groups(tmp_path: Path) -> None:
    far = [(f"g{k}", "test" if k % 3 == 0 else "train", at(k * 0.1, 5.0)) for k in range(24)]
    found = audit(build(tmp_path / "s.zarr", far).path)
    assert (found.verdict, found.notes, found.groups) == (audit_record.CLEAN, (), ())


def test_two_stores_with_other_ids_share_an_object(tmp_path: Path) -> None:
    labels = [("smooth", "featured")[k % 2] for k in range(8)]
    first = build(tmp_path / "a.zarr", [(f"a{k}", "train", at(10 + k, 80.0, **{"class": labels[k]})) for k in range(8)])
    other = build(tmp_path / "b.zarr", [(f"b{k}", "test", at(10 + k, 80.0 + (0.5 if k < 2 else 7) * ARCSEC,
                                                            **{"class": labels[k]})) for k in range(8)])
    found = audit(first.path, other.path, pixels=False)
    same, overlap = found.evidence
    assert (same.by, same.ids, overlap.by, overlap.samples) == (SAME, ("b0", "b1"), OVERLAP, 6)
    data = load_across(first, TransferTask("t", "class"), other)
    with pytest.raises(LeakError, match=r"2 of 8 test samples .*: 2 by sky position \(such as b0, b1, 0\.5 arcsec"):
        check_leak(first, data, other)
    assert "2 by sky position" in check_leak(first, data, other, accept=True).pool


def test_a_transfer_within_one_store_looks_at_the_sky_too(tmp_path: Path) -> None:
    split = ["train"] * 8 + ["test"] * 4
    entries = [(f"g{k}", split[k], at(10 + k % 8, 0.0, **{"class": "ab"[k % 2]})) for k in range(12)]
    store = build(tmp_path / "s.zarr", entries)
    with pytest.raises(LeakError, match="4 by sky position"):
        check_leak(store, load_task(store, TransferTask("t", "class")), store)


def test_positions_that_came_as_a_table_make_an_audit_out_of_date(tmp_path: Path) -> None:
    store = build(tmp_path / "s.zarr", [("a", "train", {"mag": 1.0}), ("b", "test", {"mag": 1.0})])
    assert audit(store.path, pixels=False).verdict == audit_record.NOTHING
    table = tmp_path / "x.csv"
    table.write_text("id,ra,dec\na,10,0\nb,10,0\n")
    label(store.path, table)
    again = Store(store.path)
    assert "is out of date" in check_audit(again).lines[0]
    assert audit(store.path, pixels=False).verdict == audit_record.LEAK


@pytest.mark.parametrize("shape", [{"fit": "pad", "size_px": 48}, {"fit": "resample", "size_px": 16}])
@pytest.mark.parametrize(("groups", "kinds"), [
    ("", {audit_record.PLACE, audit_record.OVERLAP}), ("object", {audit_record.OVERLAP}), ("overlap", set()),
])
def test_a_prepared_survey_keeps_together_what_it_groups(
    groups: str, kinds: set[str], shape: dict[str, Any], tmp_path: Path
) -> None:
    # Fields have 12 or 48 px of the tile: half a side is that of the field on the sky, not of the stored array.
    rng = np.random.default_rng(5)
    wcs = WCS(naxis=2)
    wcs.wcs.ctype, wcs.wcs.crval, wcs.wcs.crpix = ["RA---TAN", "DEC--TAN"], [0.0, 1.0], [100.5, 100.5]
    wcs.wcs.cdelt = [-0.4 / 3600, 0.4 / 3600]
    (tmp_path / "sky").mkdir()
    for band in "gr":
        plane = rng.normal(0, 1, (200, 200)).astype(np.float32)
        fits.PrimaryHDU(plane, wcs.to_header()).writeto(tmp_path / "sky" / f"t0-{band}.fits")
    x, y = rng.uniform(30, 170, (2, 60))
    x[1::2], y[1::2] = x[::2] + np.tile([1.0, 15.0], 15), y[::2]  # pairs 0.4 and 6 arcsec apart
    place, side = wcs.pixel_to_world(x, y), np.repeat(rng.choice([4.8, 19.2], 30), 2)
    columns = zip(range(60), place.ra.deg.tolist(), place.dec.deg.tolist(), side.tolist(), strict=True)
    lines = [f"s{k:02d},{ra!r},{dec!r},{arcsec}{'' if groups else f',own{k}'}" for k, ra, dec, arcsec in columns]
    title = f"id,ra,dec,side_arcsec{'' if groups else ',group'}"
    (tmp_path / "sky" / "catalogue.csv").write_text("\n".join([title, *lines]))
    settings = {**shape, "size_column": "side_arcsec", "test_fraction": 0.5, "min_coverage": 0.0, "workers": 0}
    settings |= {"group_by": groups} if groups else {}
    store = Store(sciencessl.prepare("galaxy", [tmp_path / "sky"], tmp_path / "s.zarr", settings).out)
    shown = np.asarray(store.column("size_px")) * np.asarray(store.column("scale_arcsec_px"))
    np.testing.assert_allclose(shown[np.argsort(store.ids)], side, rtol=1e-3)
    assert {entry.kind for entry in audit(store.path, pixels=False).evidence} == kinds
