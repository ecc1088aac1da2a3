"""From names to labels of split=train."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from sciencessl.errors import ConfigError
from sciencessl.spec import LabelSchema, Question
from sciencessl.store.joined import JoinedStores
from sciencessl.store.reader import Store
from sciencessl.store.removals import remove
from sciencessl.store.tables import write_table
from sciencessl.train.labels import find_labels


def test_questions_of_a_table_share_one_term_and_columns_have_their_own(tiny_store: Path) -> None:
    store = Store(tiny_store)
    votes, classes = find_labels(JoinedStores([store]), ["class", "arms", "smooth"])
    assert votes.name == "arms+smooth"
    assert votes.schema is not None
    assert [q.name for q in votes.schema.questions] == ["arms", "smooth"]
    assert votes.columns == ("arms_1", "arms_2", "arms_more", "smooth_yes", "smooth_no")
    assert votes.values.shape == (60, 5)
    assert (votes.tables, votes.note) == ((("votes",),), "drawn at random")
    assert (classes.name, classes.classes, classes.tables) == ("class", ("edge-on", "round", "spiral"), (("labels",),))


def test_labels_outside_training_are_hidden(tiny_store: Path) -> None:
    store = Store(tiny_store)
    test = store.split_codes() != 0
    assert test.any()
    raw = store.table("votes").counts(store.ids, ["smooth_yes", "smooth_no"])
    assert (raw[test] > 0).any()
    votes, classes = find_labels(JoinedStores([store]), ["smooth", "class"])
    assert (votes.values[test] == 0).all()
    assert np.array_equal(votes.values[~test], raw[~test])
    assert (classes.values[test] == -1).all()
    column = store.column("class")
    for i in np.flatnonzero(~test):
        expected = None if classes.values[i] < 0 else classes.classes[classes.values[i]]
        assert column[i] == expected


def test_labelled_rows_are_counted_by_question(tiny_store: Path) -> None:
    store = Store(tiny_store)
    votes, classes = find_labels(JoinedStores([store]), ["smooth", "arms", "class"])
    train = store.split_codes() == 0
    raw = store.table("votes").counts(store.ids, votes.columns)[train]
    assert votes.rows_of() == {"smooth": int((raw[:, :2].sum(1) > 0).sum()), "arms": int((raw[:, 2:].sum(1) > 0).sum())}
    assert votes.labelled == int((raw.sum(1) > 0).sum())
    assert classes.rows_of() == {"class": int((classes.values >= 0).sum())}


def test_row_columns_of_whole_numbers_are_classes(tiny_store: Path) -> None:
    (night,) = find_labels(JoinedStores([Store(tiny_store)]), ["night"])
    assert (night.classes, night.tables, night.note) == (("0", "1"), ((),), "")


def test_no_names_are_no_labels(tiny_store: Path) -> None:
    assert find_labels(JoinedStores([Store(tiny_store)]), []) == []


def test_numbers_with_gaps_are_classes_too(tmp_path: Path, make_store: Any) -> None:
    path = make_store(tmp_path / "s.zarr")
    rows = {"id": [f"g{i}" for i in range(20)], "kind": [float(i % 3) for i in range(20)]}
    write_table(path, "later", pa.table(rows))
    (kind,) = find_labels(JoinedStores([Store(path)]), ["kind"])
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
        find_labels(JoinedStores([Store(tiny_store)]), names)


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory, make_store: Any) -> JoinedStores:
    """Two stores of 60: the second has no class `spiral`, another order of classes, and a question of its own."""
    folder = tmp_path_factory.mktemp("pair")
    first, second = (Store(make_store(folder / f"{name}.zarr", seed=i)) for i, name in enumerate("ab"))
    ids = [f"g{i}" for i in range(60)]
    classes = pa.table({"id": ids, "class": ["round", "barred", "edge-on"] * 20})
    write_table(second.path, "labels", classes, note="by a student")
    bar = LabelSchema("bars", (Question("bar", ("yes", "no")),))
    write_table(second.path, "votes-2", pa.table({"id": ids, "bar_yes": [3] * 60, "bar_no": [1] * 60}), schema=bar)
    numbers = [None if i % 3 else 1 for i in range(60)]
    write_table(first.path, "kinds", pa.table({"id": ids, "kind": pa.array([1, 2] * 30)}))
    write_table(second.path, "kinds", pa.table({"id": ids, "kind": pa.array(numbers)}))
    return JoinedStores([first, second])


def test_classes_are_numbered_over_all_stores(pair: JoinedStores) -> None:
    (found,) = find_labels(pair, ["class"])
    assert found.classes == ("barred", "edge-on", "round", "spiral")
    assert (found.tables, found.note) == ((("labels",), ("labels",)), "by a student")
    raw = np.concatenate([store.column("class") for store in pair.stores])
    train = np.concatenate([store.split_codes() == 0 for store in pair.stores])
    for value, number, used in zip(raw, found.values, train, strict=True):
        assert (number == -1) if value is None or not used else found.classes[number] == value
    assert found.labelled == found.rows.sum() == (found.values >= 0).sum()


def test_whole_numbers_with_and_without_gaps_are_the_same_classes(pair: JoinedStores) -> None:
    (found,) = find_labels(pair, ["kind"])
    assert found.classes == ("1.0", "2.0")
    assert set(found.values[60:].tolist()) == {-1, 0}


def test_a_store_without_a_question_is_unlabelled_in_it(pair: JoinedStores) -> None:
    votes, bars = find_labels(pair, ["bar", "arms"])[::-1]
    assert (votes.name, bars.name) == ("arms", "bar")
    assert (bars.values[:60] == 0).all()
    assert bars.rows_of() == {"bar": 48}
    assert bars.tables == ((), ("votes-2",))
    assert votes.tables == (("votes",), ("votes",))
    for k, store in enumerate(pair.stores):
        counts = store.table("votes").counts(store.ids, votes.columns)
        counts[store.split_codes() != 0] = 0
        assert np.array_equal(votes.values[60 * k : 60 * (k + 1)], counts)


def test_one_name_for_two_questions_is_refused(pair: JoinedStores, tmp_path: Path, make_store: Any) -> None:
    other = Store(make_store(tmp_path / "c.zarr", seed=2))
    schema = LabelSchema("tiny", (Question("smooth", ("yes", "no", "unsure")),))
    votes = pa.table({"id": ["g0", "g1"], "smooth_yes": [1, 2], "smooth_no": [1, 2], "smooth_unsure": [0, 1]})
    write_table(other.path, "votes", votes, schema=schema)
    joined = JoinedStores([pair.stores[0], other])
    with pytest.raises(ConfigError, match=r"--labels smooth: in .*a.zarr .*answers yes, no, in .*c.zarr .*unsure"):
        find_labels(joined, ["smooth"])


def test_withdrawn_samples_teach_nothing(tiny_store: Path, tmp_path: Path) -> None:
    copy = Path(shutil.copytree(tiny_store, tmp_path / "copy.zarr"))
    votes, classes = find_labels(JoinedStores([Store(copy)]), ["smooth", "class"])
    labelled = int(np.flatnonzero((classes.values >= 0) & (votes.values > 0).any(axis=1))[0])
    remove(copy, [Store(copy).ids[labelled]], "blurred")
    later = find_labels(JoinedStores([Store(copy)]), ["smooth", "class"])
    assert [labels.labelled for labels in later] == [votes.labelled - 1, classes.labelled - 1]
    assert later[1].values[labelled] == -1


def test_labels_that_a_score_chose_carry_it_in_their_note(tmp_path: Path, make_store: Any) -> None:
    store = Store(make_store(tmp_path / "s.zarr"))
    names = [store.ids[i] for i in store.split("train").all()[:20]]
    schema = LabelSchema("rings", (Question("ring", ("yes", "no")), Question("bar", ("yes", "no"))))
    votes = {column: [1.0] * 20 for column in schema.columns}
    how = ["bald"] * 15 + ["random"] * 5
    write_table(store.path, "votes", pa.table({"id": names, **votes, "sampled_by": how}), schema, note="by volunteers")
    (found,) = find_labels(JoinedStores([Store(store.path)]), ["ring", "bar"])
    # Before any colon, and once however many questions: what marks, reports and exports say of the run.
    assert found.note == "labels, 15 of 20 of samples that bald chose, not a random draw; by volunteers"


def test_a_question_is_looked_for_where_its_columns_are(tmp_path: Path, tiny_store: Path) -> None:
    """Two tables of campaigns: the schema of the first knows the second one's question, but has no column of it."""
    shutil.copytree(tiny_store, tmp_path / "s.zarr")
    store = Store(tmp_path / "s.zarr")
    bars = [Question(f"bar-{campaign}", ("yes", "no")) for campaign in ("x1", "x2")]
    both = LabelSchema("both", tuple(bars))
    for name, question, schema in (("a", bars[0], both), ("b", bars[1], LabelSchema("two", (bars[1],)))):
        counts = {column: np.arange(60) + place for place, column in enumerate(question.columns)}
        write_table(store.path, name, pa.table({"id": store.ids, **counts}), schema)
    joined = JoinedStores([Store(store.path)])
    (found,) = find_labels(joined, ["bar-x2"])
    assert found.tables == (("b",),)
    assert found.labelled
    with pytest.raises(ConfigError, match="no such question or column"):
        find_labels(joined, ["bar-x3"])
