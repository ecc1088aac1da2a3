"""Withdrawn samples: no reader gives them, nothing else changes, and what is on record fits the rows."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from sciencessl import cli
from sciencessl.errors import ConfigError, DataError, StoreError
from sciencessl.store.info import info, info_text
from sciencessl.store.joined import JoinedStores
from sciencessl.store.label import label
from sciencessl.store.lock import only_writer
from sciencessl.store.reader import Store
from sciencessl.store.removals import remove, remove_text
from sciencessl.store.show import show
from sciencessl.store.sides import Side
from sciencessl.store.tables import REMOVALS, write_table
from sciencessl.store.verify import verify

Make = Callable[..., Store]
SampleFactory = Callable[..., object]


def ids_of(store: Store, index: np.ndarray) -> list[str]:
    return [store.ids[i] for i in index]


def test_no_split_and_no_side_gives_withdrawn_samples(survey: Store) -> None:
    before = {name: ids_of(survey, survey.split(name).all()) for name in ("train", "val", "test")}
    found = remove(survey.path, ["a0", "c1"], "consent withdrawn")
    store = Store(survey.path)
    assert (found.removed, found.n_removed, found.n_samples) == (2, 2, 5)
    for name, ids in before.items():
        assert ids_of(store, store.split(name).all()) == [i for i in ids if i not in ("a0", "c1")]
        assert found.splits[name] == len(store.split(name))
    assert "a0" not in ids_of(store, store.present.all())
    assert sorted(ids_of(store, Side.of_splits(store, "train", "val", "test").index)) == ["a1", "a2", "a3", "c0", "c2"]
    joined = JoinedStores([store, survey])
    assert len(joined.split("train")) == len(store.split("train")) + len(survey.split("train"))
    # What is fixed stays: indices, pixels and the digest of the store.
    assert store.ids == survey.ids
    assert store.digest == survey.digest
    assert store.payloads("image", [store.ids.index("a0")]) == survey.payloads("image", [survey.ids.index("a0")])
    assert verify(survey.path) == []


def test_withdrawals_add_up_and_the_first_reason_stays(survey: Store) -> None:
    first = remove(survey.path, ["c0"], "blurred")
    again = remove(survey.path, ["c0", "a1", "a1"], "duplicate")
    assert (again.removed, again.already, again.n_removed) == (1, 1, 2)
    assert again.digest != first.digest
    rows = {row["id"]: row["reason"] for row in survey.table(REMOVALS).data.to_pylist()}
    assert rows == {"a1": "duplicate", "c0": "blurred"}
    assert remove(survey.path, ["a1"], "other").digest == again.digest
    assert "0 samples withdrawn" in remove_text(remove(survey.path, ["a1"], "other"))


def test_an_open_store_keeps_the_samples_it_began_with(survey: Store) -> None:
    train = survey.split("train")
    remove(survey.path, ["c0"], "blurred")
    assert len(survey.split("train")) == len(train)
    assert survey.removals_digest == survey.table_digests()[REMOVALS] != ""


def test_unknown_ids_are_named_and_nothing_is_written(survey: Store) -> None:
    with pytest.raises(DataError, match=r"1 of 2 ids are not in .*: 'a9'\. Nothing was removed\. Its ids look like 'a"):
        remove(survey.path, ["a0", "a9"], "why")
    with pytest.raises(DataError, match=r"12 of 12 ids are not in .* and 2 more"):
        remove(survey.path, [f"x{i}" for i in range(12)], "why")
    assert REMOVALS not in survey.tables


@pytest.mark.parametrize(("arguments", "message"), [
    ({"ids": ["a0"]}, "needs a --reason"),
    ({"ids": ["a0"], "reason": " "}, "needs a --reason"),
    ({"reason": "x"}, "was given no ids"),
    ({"reason": "x", "file": "absent.txt"}, "--ids absent.txt cannot be read .* expected a text file with one id"),
])
def test_what_it_cannot_do_without(survey: Store, arguments: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        remove(survey.path, **arguments)  # type: ignore[arg-type]


def test_ids_come_from_a_file(survey: Store, tmp_path: Path) -> None:
    (tmp_path / "ids.txt").write_text("id\na0\n\n c2 \n")
    assert remove(survey.path, reason="x", file=tmp_path / "ids.txt").removed == 2


def test_odd_ids_are_taken_literally(tmp_path: Path, make: Make, sample: SampleFactory) -> None:
    odd = ["a\u2028b", "x\x85y", " lead", "trail ", "-x", "*", "a,b", '"q"', "NaN", "007", "\u00fc"]
    store = make(tmp_path / "s.zarr", [[sample(name) for name in [*odd, "trail", "stays"]]])
    (tmp_path / "ids.txt").write_bytes("\r\n".join(["id", *odd, " trail", ""]).encode("utf-8-sig"))
    found = remove(store.path, reason="x", file=tmp_path / "ids.txt")
    assert (found.removed, ids_of(Store(store.path), Store(store.path).present.all())) == (len(odd) + 1, ["stays"])
    assert verify(store.path) == []


def test_damaged_withdrawals_are_never_overwritten(survey: Store) -> None:
    remove(survey.path, ["a0"], "consent")
    (survey.path / "tables/removals/table.json").write_bytes(b"{}")
    for call in (lambda: remove(survey.path, ["a1"], "x"), lambda: Store(survey.path).split("train")):
        with pytest.raises(StoreError, match="bring back a copy of it, or delete its folder and withdraw the samples"):
            call()


def test_two_at_once_would_lose_one(survey: Store) -> None:
    with only_writer(survey.path), pytest.raises(StoreError, match="is being written by another process"):
        remove(survey.path, ["a0"], "x")


def test_info_counts_what_is_left_and_what_is_gone(survey: Store) -> None:
    remove(survey.path, ["c0", "c1", "c2"], "dome closed")
    found = info(survey.path)
    assert (found["n_samples"], found["removed"]) == (4, {"dome closed": 3})
    assert found["splits"] == {"train": 2, "val": 1, "test": 1}
    assert found["columns"]["width"]["range"] == [0.0, 3.0]
    assert {"index", "reason"}.isdisjoint(found["columns"])
    assert "withdrawn: 3 dome closed; their pixels are still in the store" in info_text(found)


def test_a_sheet_shows_only_what_is_left(survey: Store, tmp_path: Path) -> None:
    remove(survey.path, survey.ids, "all of it")
    with pytest.raises(StoreError, match="has no samples: there is nothing to show"):
        show(survey.path, tmp_path / "sheet.png")


def test_labels_count_only_what_is_left(survey: Store, tmp_path: Path) -> None:
    (tmp_path / "x.csv").write_text("id,x\na0,1\nc0,2\n")
    before = label(survey.path, tmp_path / "x.csv", "n")
    remove(survey.path, ["a0", "a1"], "x")
    after = label(survey.path, tmp_path / "x.csv", "n")
    assert (before.unlabelled, after.unlabelled) == (5, 4)
    assert after.unchanged
    with pytest.raises(ConfigError, match="'removals' is written by `sciencessl store remove`"):
        label(survey.path, tmp_path / "x.csv", REMOVALS)


@pytest.mark.parametrize(("ids", "index", "fault"), [
    (["a0"], [0], "its ids are not those of the samples"),
    (["a0", "a1"], [3, 2], "not ascending, or beyond"),
    (["a0"], [70], "not ascending, or beyond"),
])
def test_verify_compares_withdrawals_with_the_rows(
    survey: Store, ids: list[str], index: list[int], fault: str
) -> None:
    assert survey.ids[0] != "a0"
    data = pa.table({"id": ids, "index": pa.array(index, pa.uint64()), "reason": ["x"] * len(ids)})
    write_table(survey.path, REMOVALS, data)
    assert [(entry.where, fault in entry.what) for entry in verify(survey.path)] == [("tables/removals", True)]


def test_the_verb(survey: Store, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["store", "remove", str(survey.path)]
    assert cli.run([*words, "a0", "a1", "--reason", "blurred", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["splits"] == {"train": 2, "val": 2, "test": 1}
    (tmp_path / "ids.txt").write_text("zz\n")
    assert cli.run([*words, "--ids", str(tmp_path / "ids.txt"), "--reason", "x"]) == 1
    assert "1 of 1 ids are not in" in capsys.readouterr().err
    assert cli.run([*words, "a2"]) == 2
