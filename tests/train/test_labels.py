"""From names to labels of split=train."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from sciencessl.errors import ConfigError
from sciencessl.store.reader import Store
from sciencessl.store.removals import remove
from sciencessl.store.tables import write_table
from sciencessl.train.labels import find_labels


def test_questions_of_a_table_share_one_term_and_columns_have_their_own(tiny_store: Path) -> None:
    store = Store(tiny_store)
    votes, classes = find_labels(store, ["class", "arms", "smooth"])
    assert votes.name == "arms+smooth"
    assert votes.schema is not None
    assert [q.name for q in votes.schema.questions] == ["arms", "smooth"]
    assert votes.columns == ("arms_1", "arms_2", "arms_more", "smooth_yes", "smooth_no")
    assert votes.values.shape == (60, 5)
    assert (votes.table, votes.note) == ("votes", "drawn at random")
    assert (classes.name, classes.classes, classes.table) == ("class", ("edge-on", "round", "spiral"), "labels")


def test_labels_outside_training_are_hidden(tiny_store: Path) -> None:
    store = Store(tiny_store)
    test = store.split_codes() != 0
    assert test.any()
    raw = store.table("votes").counts(store.ids, ["smooth_yes", "smooth_no"])
    assert (raw[test] > 0).any()
    votes, classes = find_labels(store, ["smooth", "class"])
    assert (votes.values[test] == 0).all()
    assert np.array_equal(votes.values[~test], raw[~test])
    assert (classes.values[test] == -1).all()
    column = store.column("class")
    for i in np.flatnonzero(~test):
        expected = None if classes.values[i] < 0 else classes.classes[classes.values[i]]
        assert column[i] == expected


def test_labelled_rows_are_counted_by_question(tiny_store: Path) -> None:
    store = Store(tiny_store)
    votes, classes = find_labels(store, ["smooth", "arms", "class"])
    train = store.split_codes() == 0
    raw = store.table("votes").counts(store.ids, votes.columns)[train]
    assert votes.rows_of() == {"smooth": int((raw[:, :2].sum(1) > 0).sum()), "arms": int((raw[:, 2:].sum(1) > 0).sum())}
    assert votes.labelled == int((raw.sum(1) > 0).sum())
    assert classes.rows_of() == {"class": int((classes.values >= 0).sum())}


def test_row_columns_of_whole_numbers_are_classes(tiny_store: Path) -> None:
    (night,) = find_labels(Store(tiny_store), ["night"])
    assert (night.classes, night.table, night.note) == (("0", "1"), "", "")


def test_no_names_are_no_labels(tiny_store: Path) -> None:
    assert find_labels(Store(tiny_store), []) == []


def test_numbers_with_gaps_are_classes_too(tmp_path: Path, make_store: Any) -> None:
    path = make_store(tmp_path / "s.zarr")
    rows = {"id": [f"g{i}" for i in range(20)], "kind": [float(i % 3) for i in range(20)]}
    write_table(path, "later", pa.table(rows))
    (kind,) = find_labels(Store(path), ["kind"])
    assert kind.classes == ("0.0", "1.0", "2.0")
    assert kind.labelled == 16


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (["smoth"], r"Did you mean 'smooth'\?.*Questions: smooth, arms. Columns: .*class"),
        (["mag"], "measurements such as"),
        (["id"], "48 different values in 48 samples: these are names"),
        (["one"], r"holds 1 classes \('same' alone\)"),
        (["test-only"], "holds 0 classes"),
        (["smooth", "smooth"], "given more than once"),
    ],
)
def test_what_is_no_label_is_refused(names: list[str], message: str, tiny_store: Path) -> None:
    with pytest.raises(ConfigError, match=message):
        find_labels(Store(tiny_store), names)


def test_withdrawn_samples_teach_nothing(tiny_store: Path, tmp_path: Path) -> None:
    copy = Path(shutil.copytree(tiny_store, tmp_path / "copy.zarr"))
    votes, classes = find_labels(Store(copy), ["smooth", "class"])
    labelled = int(np.flatnonzero((classes.values >= 0) & (votes.values > 0).any(axis=1))[0])
    remove(copy, [Store(copy).ids[labelled]], "blurred")
    later = find_labels(Store(copy), ["smooth", "class"])
    assert [labels.labelled for labels in later] == [votes.labelled - 1, classes.labelled - 1]
    assert later[1].values[labelled] == -1
