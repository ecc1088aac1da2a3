"""What an audit means for readers of a store: a leak refuses, look-alikes warn, and another state of the store does
neither."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from sciencessl.errors import LeakError
from sciencessl.store.audit import audit
from sciencessl.store.audit_record import CLEAN, audit_file, read_audit
from sciencessl.store.audited import Standing, audited_copies, check_audit
from sciencessl.store.reader import Store
from sciencessl.store.removals import remove
from sciencessl.store.tables import write_table


@pytest.fixture
def tiny(tmp_path: Path, make_store: Callable[..., Path]) -> Store:
    """60 images, every fifth in split=test, which share each `night` with split=train."""
    return Store(make_store(tmp_path / "tiny.zarr"))


def _patients(store: Store, **changes: str) -> None:
    """A table of groups, each of one split; some changed."""
    splits = store.column("split").tolist()
    groups = [changes.get(name, f"{split}-{number // 4}") for number, (name, split) in enumerate(zip(
        store.ids, splits, strict=True))]
    write_table(store.path, "groups", pa.table({"id": store.ids, "patient": groups}))


def test_a_store_that_was_never_audited_is_told_with_the_command(tiny: Store) -> None:
    assert check_audit(tiny) == Standing("", (
        f"note: {tiny.path} was never audited for leaks: `sciencessl store audit {tiny.path}`",))
    assert check_audit(tiny, tiny).lines[0].endswith(f"`sciencessl store audit {tiny.path} --against {tiny.path}`")


def test_a_leak_is_refused_with_evidence_report_and_what_to_do(tiny: Store) -> None:
    audit(tiny.path, group="night", pixels=False)
    folder = tiny.path.with_name("tiny.audit")
    words = "12 of 12 samples of split=test are the same thing as samples of split=train (12 by night)"
    with pytest.raises(LeakError) as caught:
        check_audit(tiny)
    assert str(caught.value) == (
        f"the audit of {tiny.path} found a leak: {words}. Pairs: {folder}/report.html. Prepare the store again with "
        "--group night, which keeps what belongs together in one split, or withdraw the test side: `sciencessl store "
        f"remove {tiny.path} --ids {folder}/remove.txt --reason leak`. --accept-leak uses it as it is; whatever "
        "comes of it says so."
    )
    test = [name for name, split in zip(tiny.ids, tiny.column("split"), strict=True) if split == "test"]
    assert sorted((folder / "remove.txt").read_text().splitlines()) == sorted(test)
    assert check_audit(tiny, accept=True) == Standing(words, (f"warning: leak accepted: {words}.",))
    assert audited_copies(tiny, tiny) == ()  # samples of one night are no copies


def test_a_leak_into_another_store_is_of_that_test_only(tmp_path: Path, tiny: Store, make_store: Any) -> None:
    again = Store(make_store(tmp_path / "again.zarr", rows=1, each=60))  # the same images
    audit(tiny.path, against=again.path, pixels=False)
    with pytest.raises(LeakError, match=r"the audit of .*tiny\.zarr against .*again\.zarr found a leak: .*To test "
                                        r"on the rest, withdraw .*: `sciencessl store remove .*again\.zarr --ids "):
        check_audit(tiny, again)
    assert "never audited" in check_audit(tiny).lines[0]
    train = {name for name, split in zip(tiny.ids, tiny.column("split"), strict=True) if split == "train"}
    assert {name for entry in audited_copies(tiny, again) for name in entry.ids} == train  # of equal bytes


def test_an_audit_of_another_state_neither_refuses_nor_clears(tiny: Store) -> None:
    _patients(tiny, g0="shared", g4="shared")
    audit(tiny.path, group="patient", pixels=False)
    with pytest.raises(LeakError, match=r"1 by patient"):
        check_audit(tiny)
    # Labels may come and go.
    write_table(tiny.path, "labels", pa.table({"id": tiny.ids, "class": ["x"] * 60}))
    with pytest.raises(LeakError):
        check_audit(tiny)
    _patients(tiny, g4="other")
    stale = Standing("", (f"note: the audit of {tiny.path} is out of date, for samples, groups or removals changed: "
                          f"`sciencessl store audit {tiny.path} --group patient`",))
    assert check_audit(tiny) == stale
    _patients(tiny, g0="shared", g4="shared")
    with pytest.raises(LeakError):
        check_audit(tiny)
    remove(tiny.path, ["g4"], "copy")
    assert check_audit(tiny) == stale
    found = audit(tiny.path, group="patient", pixels=False)
    assert (found.samples["split=test"], found.evidence) == (11, ())
    assert check_audit(tiny) == Standing()
    assert not tiny.path.with_name("tiny.audit").joinpath("remove.txt").exists()


def test_an_audit_of_another_version_or_a_damaged_one_is_told(tiny: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    audit(tiny.path, group="night", pixels=False)
    monkeypatch.setattr("sciencessl.store.audit_record.VERSION", 1000)
    assert "is out of date" in check_audit(tiny).lines[0]
    monkeypatch.undo()
    values = json.loads(audit_file(tiny.path).read_text())
    del values["judged"]
    audit_file(tiny.path).write_text(json.dumps(values))
    assert check_audit(tiny).leak == ""
    assert "tiny.audit.json cannot be read (TypeError" in check_audit(tiny).lines[0]
    assert audited_copies(tiny, tiny) == ()
    audit_file(tiny.path).write_text("{")
    assert f"Audit again: `sciencessl store audit {tiny.path}`" in check_audit(tiny).lines[0]


def test_a_clean_store_is_passed_without_a_word(tiny: Store) -> None:
    _patients(tiny)
    found = audit(tiny.path, group="patient")
    assert found.verdict == CLEAN
    assert read_audit(tiny.path) == found
    assert check_audit(tiny) == Standing()
