"""A compacted store: the samples that were left, bit for bit, in rows that both stores share."""

from __future__ import annotations

import json
import os
import shutil
import signal
from collections import namedtuple
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pyarrow as pa
import pytest

from sciencessl import cli
from sciencessl.errors import ConfigError, DataError, StoreError
from sciencessl.store import derived, links
from sciencessl.store.compact import compact, compact_text
from sciencessl.store.format import rows_file, shard_file
from sciencessl.store.lock import only_writer
from sciencessl.store.reader import Store
from sciencessl.store.removals import remove
from sciencessl.store.shuffle import shuffle
from sciencessl.store.tables import REMOVALS, write_table
from sciencessl.store.verify import verify

Make = Callable[..., Store]
Content = Callable[[Store], dict[str, object]]
SampleFactory = Callable[..., object]


@pytest.fixture
def cut(survey: Store) -> Store:
    """The survey without one sample of its first row."""
    remove(survey.path, ["a1"], "blurred")
    write_table(survey.path, "more", pa.table({"id": ["a0"], "x": [1]}))
    return Store(survey.path)


def test_what_is_left_is_there_bit_for_bit(cut: Store, tmp_path: Path, content: Content) -> None:
    found = compact(cut.path, tmp_path / "new.zarr")
    new = Store(tmp_path / "new.zarr")
    assert (found.n_samples, found.removed, found.rows_linked, found.rows_rewritten) == (6, 1, 2, 1)
    assert content(new) == content(cut)
    assert len(new) == 6
    assert new.removed.size == 0
    assert new.digest != cut.digest
    assert new.refusals().equals(cut.refusals())
    assert verify(new.path) == []
    assert verify(cut.path) == []


def test_columns_keep_their_types(
    tmp_path: Path, make: Make, sample: SampleFactory, content: Content
) -> None:
    columns = {"short": np.float32(0.1), "small": np.int16(7), "when": np.datetime64("2020-01-01", "ns"), "word": "x",
               "missing": None}
    old = make(tmp_path / "old.zarr", [[sample("a", **columns), sample("b", **columns), sample("c")]])
    remove(old.path, ["b"], "x")
    compact(old.path, tmp_path / "new.zarr")
    new = Store(tmp_path / "new.zarr")
    assert new.rows.schema == old.rows.schema
    assert content(new) == content(Store(old.path))


def test_tables_come_along_without_what_is_gone(cut: Store, tmp_path: Path) -> None:
    compact(cut.path, tmp_path / "new.zarr")
    new = Store(tmp_path / "new.zarr")
    assert new.tables == ["labels", "more"]
    assert new.table("labels").data.to_pylist() == [{"id": "c0", "class": "spiral"}]
    assert (new.table("labels").note, new.derived_from()) == ("by hand", {"class": ("votes",)})
    # A table that loses nothing is the same table to every run.
    assert new.table("more").digest == cut.table("more").digest


def test_rows_that_lost_nothing_share_their_files(cut: Store, tmp_path: Path) -> None:
    compact(cut.path, tmp_path / "new.zarr")
    image = shard_file("image", cut.header.fields["image"], 2)
    for name in (image, rows_file(2)):
        assert os.path.samefile(cut.path / name, tmp_path / "new.zarr" / name)
    assert not os.path.samefile(cut.path / rows_file(0), tmp_path / "new.zarr" / rows_file(0))
    shutil.rmtree(cut.path)
    assert verify(tmp_path / "new.zarr") == []


def test_files_are_copied_where_links_are_impossible(
    cut: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = compact(cut.path, tmp_path / "linked.zarr")
    monkeypatch.setattr(links, "os", SimpleNamespace(link=_refuse))
    again = compact(cut.path, tmp_path / "copied.zarr")
    assert again.manifest_digest == first.manifest_digest
    assert not os.path.samefile(cut.path / rows_file(2), tmp_path / "copied.zarr" / rows_file(2))
    assert verify(tmp_path / "copied.zarr") == []


def _refuse(*_: object) -> None:
    raise OSError(18, "Invalid cross-device link")


def test_a_second_call_writes_nothing_and_a_dry_run_neither(cut: Store, tmp_path: Path) -> None:
    out = tmp_path / "new.zarr"
    planned = compact(cut.path, out, dry_run=True)
    assert not out.exists()
    assert "would hold 6 samples, without 1 withdrawn ones" in compact_text(planned)
    first = compact(cut.path, out)
    assert (planned.rows_rewritten, planned.bytes) == (first.rows_rewritten, first.bytes)
    files = {path: path.stat().st_mtime_ns for path in out.rglob("*")}
    again = compact(cut.path, out)
    assert again.nothing_to_do
    assert again.manifest_digest == first.manifest_digest
    assert {path: path.stat().st_mtime_ns for path in out.rglob("*")} == files
    assert compact_text(again).startswith(f"{out}: nothing to do")


@pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="no such signal here")
@pytest.mark.parametrize("after", [2, 9, 14])
def test_a_kill_leaves_what_a_second_call_completes(
    cut: Store, tmp_path: Path, killed: Callable[[int, str], int], after: int
) -> None:
    out = tmp_path / "new.zarr"
    code = f"from sciencessl.store.compact import compact; compact({str(cut.path)!r}, {str(out)!r})"
    assert killed(after, code) == -signal.SIGKILL
    assert compact(cut.path, out).manifest_digest == compact(cut.path, tmp_path / "whole.zarr").manifest_digest
    assert verify(out) == []


def test_what_it_refuses(survey: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    out = tmp_path / "new.zarr"
    with pytest.raises(DataError, match="has no withdrawn samples, so there is nothing to leave out"):
        compact(survey.path, out)
    remove(survey.path, ["a0"], "x")
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "thesis.txt").touch()
    with pytest.raises(StoreError, match="exists and is no store, so it is left alone"):
        compact(survey.path, tmp_path / "folder")
    with only_writer(out), pytest.raises(StoreError, match="is being written by another process"):
        compact(survey.path, out)
    usage = namedtuple("usage", "total used free")(10, 10, 0)
    monkeypatch.setattr(derived.shutil, "disk_usage", lambda _: usage)
    with pytest.raises(StoreError, match=r"needs 0\.00 GiB and .* has 0\.00 GiB free\. Make room, or choose an --out"):
        compact(survey.path, out)
    monkeypatch.undo()
    compact(survey.path, out)
    remove(survey.path, ["c0"], "x")
    with pytest.raises(StoreError, match="holds something else than what `store compact` makes of"):
        compact(survey.path, out)
    remove(survey.path, survey.ids, "x")
    with pytest.raises(DataError, match=r"all 7 samples of .* are withdrawn: nothing would be left"):
        compact(survey.path, tmp_path / "none.zarr")
    assert REMOVALS not in Store(out).tables


def test_nothing_is_written_into_the_store_that_is_read(cut: Store, tmp_path: Path) -> None:
    (tmp_path / "link.zarr").symlink_to(cut.path)
    for out in (cut.path, cut.path / "rows" / ".." / "new.zarr", tmp_path / "link.zarr" / "new.zarr", tmp_path):
        for derive in (compact, shuffle):
            with pytest.raises(ConfigError, match=r"or one lies in the other: a sealed store is never edited"):
                derive(cut.path, out, dry_run=True)


def test_the_verb(cut: Store, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["store", "compact", str(cut.path), "--out", str(tmp_path / "new.zarr")]
    assert cli.run([*words, "--dry-run", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["manifest_digest"] == ""
    assert cli.run(words) == 0
    assert "without 1 withdrawn ones\n2 rows linked, 1 written anew" in capsys.readouterr().out
