"""A new version of a store: the old rows as they were, what was new after them, and nothing twice."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from sciencessl.data_prep import append, engine
from sciencessl.data_prep.engine import PrepareEstimate, PrepareReport, PrepareSettings, prepare
from sciencessl.errors import ConfigError, DataError, StoreError
from sciencessl.spec import DomainSpec
from sciencessl.store.format import rows_file
from sciencessl.store.reader import Store
from sciencessl.store.removals import remove
from sciencessl.store.tables import write_table
from sciencessl.store.verify import verify

Make = Callable[..., DomainSpec]
Deliver = Callable[..., Path]


@pytest.fixture
def deliver(write_images: Callable[..., Path], write_csv: Callable[..., Path]) -> Deliver:
    """Name, ids and columns of a delivery -> its folder of images and catalogue."""

    def make(name: str, ids: list[str], **columns: Callable[[str], Any]) -> Path:
        folder = write_images([f"images/{i}.jpg" for i in ids], name)
        rows = [{"id": i, "file": f"images/{i}.jpg", "class": f"k{int(i[1:]) % 2}",
                 **{column: value(i) for column, value in columns.items()}} for i in ids]
        write_csv(folder / "catalogue.csv", rows)
        return folder

    return make


@pytest.fixture
def old(make_spec: Make, deliver: Deliver, tmp_path: Path) -> Store:
    """20 samples, one of them withdrawn, with labels and a table of scores."""
    out = tmp_path / "old.zarr"
    run(make_spec(), deliver("first", [f"a{i}" for i in range(20)]), out)
    remove(out, ["a3"], "blurred")
    write_table(out, "scores", pa.table({"id": ["a1"], "x": [0.5]}), derived_from={"x": ["class"]})
    return Store(out)


def run(spec: DomainSpec, source: Path, out: Path, **settings: Any) -> PrepareReport:
    report = prepare(spec, [source], out, PrepareSettings(workers=0, **settings))
    assert isinstance(report, PrepareReport)
    return report


def test_old_samples_keep_their_place_and_new_ones_follow(
    make_spec: Make, deliver: Deliver, old: Store, tmp_path: Path
) -> None:
    more = deliver("second", [f"b{i}" for i in range(18)])
    out = tmp_path / "new.zarr"
    report = run(make_spec(), more, out, append_to=str(old.path))
    new = Store(out)
    assert (report.rows_written, report.rows_kept, len(new)) == (16, 16, 38)
    assert new.ids[:20] == old.ids
    assert sorted(new.ids[20:]) == sorted(f"b{i}" for i in range(18))
    assert new.payloads("image", range(20)) == old.payloads("image", range(20))
    b7 = (more / "images" / "b7.jpg").read_bytes()
    assert new.payloads("image", [new.ids.index("b7")]) == [b7]
    assert os.path.samefile(old.path / rows_file(2), out / rows_file(2))
    assert verify(out) == verify(old.path) == []
    # Splits are what they were, or would have been in one store.
    both = run(make_spec(), _merged(deliver, 20, 18), tmp_path / "both.zarr")
    assert {name: both.splits[name] - report.splits[name] for name in both.splits} == {
        name: int(name == old.rows["split"][old.ids.index("a3")].as_py()) for name in both.splits}


def _merged(deliver: Deliver, first: int, second: int) -> Path:
    return deliver("all", [*(f"a{i}" for i in range(first)), *(f"b{i}" for i in range(second))])


def test_tables_and_withdrawals_come_along(make_spec: Make, deliver: Deliver, old: Store, tmp_path: Path) -> None:
    run(make_spec(), deliver("second", ["b0", "b1", "b2"]), tmp_path / "new.zarr", append_to=str(old.path))
    new = Store(tmp_path / "new.zarr")
    assert new.tables == ["labels", "removals", "scores"]
    assert [new.ids[i] for i in new.removed] == ["a3"]
    assert new.table("scores").digest == old.table("scores").digest
    assert new.derived_from() == {"x": ("class",)}
    classes = dict(zip(new.ids, new.column("class").tolist(), strict=True))
    assert classes == {name: f"k{int(name[1:]) % 2}" for name in new.ids}


def test_ids_that_are_there_are_refused_unread(make_spec: Make, deliver: Deliver, old: Store, tmp_path: Path) -> None:
    more = deliver("second", ["a3", "a5", "b0", "b1"], **{"class": lambda i: "other"})
    (more / "images" / "a5.jpg").write_bytes(b"\xff\xd8 broken")
    report = run(make_spec(), more, tmp_path / "new.zarr", append_to=str(old.path))
    assert report.refused == {"duplicate-id": 2}
    assert "2 inputs are there already and are refused as duplicate-id" in report.guessed
    new = Store(tmp_path / "new.zarr")
    assert sorted(new.refusals()["id"].to_pylist()) == ["a3", "a5"]
    # Labels of what was there stay, too.
    labels = dict(zip(new.ids, new.column("class").tolist(), strict=True))
    assert (labels["a5"], labels["b0"]) == ("k1", "other")
    with pytest.raises(DataError, match=r"all 2 inputs have ids that .*old\.zarr has already, such as 'a1'"):
        run(make_spec(), deliver("third", ["a1", "a2"]), tmp_path / "none.zarr", append_to=str(old.path))


def test_again_does_nothing_and_a_dry_run_neither(
    make_spec: Make, deliver: Deliver, old: Store, tmp_path: Path
) -> None:
    more, out = deliver("second", ["b0", "b1", "a2"]), tmp_path / "new.zarr"
    settings = PrepareSettings(workers=0, append_to=str(old.path))
    planned = prepare(make_spec(), [more], out, settings, dry_run=True)
    assert isinstance(planned, PrepareEstimate)
    assert (planned.n_samples, planned.rows, planned.refused) == (3, 2, {"duplicate-id": 1})
    assert not out.exists()
    first = run(make_spec(), more, out, append_to=str(old.path))
    files = {path: path.stat().st_mtime_ns for path in out.rglob("*")}
    again = run(make_spec(), more, out, append_to=str(old.path))
    assert again.nothing_to_do
    assert again.manifest_digest == first.manifest_digest
    assert {path: path.stat().st_mtime_ns for path in out.rglob("*")} == files
    assert run(make_spec(), more, out, append_to=str(old.path), verify_inputs=True).nothing_to_do


@pytest.mark.parametrize("stage", ["keep_rows", "write_missing", "seal", "_update_labels"])
def test_cut_anywhere_it_goes_on_to_the_same(
    make_spec: Make, deliver: Deliver, old: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, stage: str
) -> None:
    more, out = deliver("second", ["b0", "b1", "a2"]), tmp_path / "new.zarr"

    def cut(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(engine, stage, cut)
    with pytest.raises(KeyboardInterrupt):
        run(make_spec(), more, out, append_to=str(old.path))
    monkeypatch.undo()
    whole = run(make_spec(), more, tmp_path / "whole.zarr", append_to=str(old.path))
    assert run(make_spec(), more, out, append_to=str(old.path)).manifest_digest == whole.manifest_digest
    assert Store(out).table_digests() == Store(whole.out).table_digests()
    assert verify(out) == []


def test_samples_withdrawn_meanwhile_do_not_come_back(
    make_spec: Make, deliver: Deliver, old: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    more, out = deliver("second", ["b0", "b1"]), tmp_path / "new.zarr"

    def cut(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(engine, "write_missing", cut)
        with pytest.raises(KeyboardInterrupt):
            run(make_spec(), more, out, append_to=str(old.path))
    remove(old.path, ["a7"], "consent withdrawn")
    run(make_spec(), more, out, append_to=str(old.path))
    assert {Store(out).ids[i] for i in Store(out).removed} == {"a3", "a7"}


KILLED = """
import os, signal, sys
from pathlib import Path
from sciencessl.data_prep import append
from sciencessl.data_prep.engine import PrepareSettings, prepare
from sciencessl.domains.web import SPEC
def deadly(old, out, header, row, link=append.link_row):
    if row == 5:
        os.kill(os.getpid(), signal.SIGKILL)
    return link(old, out, header, row)
append.link_row = deadly
prepare(SPEC, [sys.argv[1]], Path(sys.argv[2]), PrepareSettings(workers=0, append_to=sys.argv[3]))
"""


@pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="no such signal here")
def test_a_kill_leaves_what_a_second_call_completes(deliver: Deliver, tmp_path: Path) -> None:
    from sciencessl.domains.web import SPEC

    old, out = tmp_path / "old.zarr", tmp_path / "new.zarr"
    run(SPEC, deliver("first", [f"a{i}" for i in range(16)]), old)
    more = deliver("second", ["b0", "b1"])
    died = subprocess.run([sys.executable, "-c", KILLED, str(more), str(out), str(old)], check=False, timeout=120)
    assert died.returncode == -signal.SIGKILL
    with pytest.raises(StoreError, match="never sealed"):
        Store(out)
    assert len(Store(run(SPEC, more, out, append_to=str(old)).out)) == 18
    assert verify(out) == []


def test_versions_can_be_appended_to_again(make_spec: Make, deliver: Deliver, old: Store, tmp_path: Path) -> None:
    second, third = tmp_path / "v2.zarr", tmp_path / "v3.zarr"
    run(make_spec(), deliver("second", ["b0", "b1"]), second, append_to=str(old.path))
    report = run(make_spec(), deliver("third", ["c0", "b1"]), third, append_to=str(second))
    new = Store(third)
    assert new.ids[:22] == Store(second).ids
    assert (new.ids[22:], report.refused) == (["c0"], {"duplicate-id": 1})
    digests = {Store(path).digest for path in (old.path, second, third)}
    assert len(digests) == 3


def test_what_must_agree(make_spec: Make, deliver: Deliver, old: Store, tmp_path: Path) -> None:
    more, out = deliver("second", ["b0", "b1"]), tmp_path / "new.zarr"
    with pytest.raises(StoreError, match=r"must be prepared as it was: jpeg_quality was 95, is 80\. Pass the same"):
        run(make_spec(), more, out, append_to=str(old.path), jpeg_quality=80)
    with pytest.raises(StoreError, match="domain 'toy' instead of 'other'"):
        run(make_spec(name="other"), more, out, append_to=str(old.path))
    (tmp_path / "link.zarr").symlink_to(old.path)
    for same in (old.path, more / ".." / old.path.name, tmp_path / "link.zarr", old.path / "new.zarr"):
        with pytest.raises(ConfigError, match=r"a sealed store is never edited\. Choose another --out"):
            run(make_spec(), more, same, append_to=str(old.path), overwrite=True)
    assert verify(old.path) == []
    with pytest.raises(StoreError, match="is no store: there is nothing of that name"):
        run(make_spec(), more, out, append_to=str(tmp_path / "absent.zarr"))
    assert not out.exists()
    run(make_spec(), more, out, append_to=str(old.path))
    with pytest.raises(StoreError, match="was prepared from something else"):
        run(make_spec(), deliver("third", ["c0"]), out, append_to=str(old.path))


def test_a_group_stays_in_its_split(make_spec: Make, deliver: Deliver, tmp_path: Path) -> None:
    first = deliver("first", ["a0", "a1"], patient=lambda i: i, split=lambda i: "train")
    run(make_spec(), first, tmp_path / "old.zarr")
    straddling = deliver("second", ["b0", "b1"], patient=lambda i: {"b0": "a0"}.get(i, i), split=lambda i: "test")
    with pytest.raises(DataError, match=r"group 'a0' is in split=train of .*old\.zarr and in split=test of what is"):
        run(make_spec(), straddling, tmp_path / "new.zarr", append_to=str(tmp_path / "old.zarr"))
    same = deliver("third", ["b0", "b1"], patient=lambda i: {"b0": "a0"}.get(i, i),
                   split=lambda i: "train" if i == "b0" else "test")
    assert run(make_spec(), same, tmp_path / "new.zarr", append_to=str(tmp_path / "old.zarr")).splits["test"] == 1


def test_rows_of_arrays_have_the_places_of_the_old_store(make_spec: Make, tmp_path: Path) -> None:
    fits = pytest.importorskip("astropy.io.fits")
    for name, ids in (("first", ["a0", "a1"]), ("second", [f"b{i}" for i in range(40)])):
        (tmp_path / name).mkdir()
        for number, identifier in enumerate(ids):
            stamp = np.random.default_rng(number).normal(size=(3, 9, 9)).astype("f4")
            fits.writeto(tmp_path / name / f"{identifier}.fits", stamp)
    run(make_spec(), tmp_path / "first", tmp_path / "old.zarr")
    report = run(make_spec(), tmp_path / "second", tmp_path / "new.zarr", append_to=str(tmp_path / "old.zarr"))
    old, new = Store(tmp_path / "old.zarr"), Store(tmp_path / "new.zarr")
    # Two stamps in two rows leave one place a row.
    assert "rows take 1 samples, as those of the older store do: 40 rows; `store shuffle` makes larger ones" in \
        report.guessed
    assert old.header.places == new.header.places == 1
    assert report.rows_written == 40
    np.testing.assert_array_equal(new.payloads("image", [0])[0], old.payloads("image", [0])[0])
    assert verify(new.path) == []


def test_old_rows_are_copied_where_links_are_impossible(
    make_spec: Make, deliver: Deliver, old: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    more = deliver("second", ["b0"])
    linked = run(make_spec(), more, tmp_path / "linked.zarr", append_to=str(old.path))
    asked = []
    monkeypatch.setattr(append, "can_link", lambda *_: False)
    monkeypatch.setattr(append, "require_space", lambda out, needed: asked.append(needed))
    run(make_spec(), more, tmp_path / "copied.zarr", append_to=str(old.path))
    assert asked == [sum(len(raw) for raw in old.payloads("image", range(20)))]
    assert Store(tmp_path / "copied.zarr").digest == linked.manifest_digest
