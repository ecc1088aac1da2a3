from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from sciencessl.domains.galaxy.tasks import MORPHOLOGY, TASKS
from sciencessl.errors import ConfigError, DataError, StoreError
from sciencessl.evaluate.tasks import find_task, load_task
from sciencessl.spec import TransferTask
from sciencessl.store.reader import Store
from sciencessl.store.tables import write_table

NAMES = [f"g{i:03d}" for i in range(36)]
KINDS = ("elliptical", "edge-on", "spiral")
BY_GROUP = TransferTask("tissue", "class", unit="group")


def test_labels_units_and_splits_are_those_of_the_store(survey: Store) -> None:
    data = load_task(survey, MORPHOLOGY)
    assert data.classes == ("edge-on", "elliptical", "spiral")
    assert (len(data.train), len(data.test)) == (96, 48)
    for index, labels, units, split in ((data.train, data.train_labels, data.train_units, "train"),
                                        (data.test, data.test_labels, data.test_units, "test")):
        assert set(index) == set(survey.split(split).all())
        for i, label, unit in zip(index, labels, units, strict=True):
            assert unit == survey.ids[i]
            assert data.classes[label] == KINDS[int(unit[1:]) % 3]
    assert data.task.unit == "object"
    assert data.dropped == {}


def test_values_that_are_not_mapped_are_dropped_and_counted(tmp_path: Path, make_store: Any) -> None:
    classes = {name: ("spiral-clockwise", "edge-on", "merger")[i % 3] for i, name in enumerate(NAMES)} | {"g000": None}
    data = load_task(make_store(tmp_path / "s", NAMES, classes=classes), MORPHOLOGY)
    assert data.classes == ("edge-on", "spiral")
    assert data.dropped == {"merger": 12}
    assert len(data.train) + len(data.test) == 23


def test_classes_in_an_order_keep_that_of_the_task_or_of_their_numbers(tmp_path: Path, make_store: Any) -> None:
    store = make_store(tmp_path / "s", NAMES, classes={name: (2, 10, 1)[i % 3] for i, name in enumerate(NAMES)})
    assert load_task(store, TransferTask("t", "class", ordered=True)).classes == ("1", "2", "10")
    assert load_task(store, TransferTask("t", "class")).classes == ("1", "10", "2")
    listed = TransferTask("t", "class", {"1": "low", "10": "high", "2": "high"}, ordered=True)
    assert load_task(store, listed).classes == ("low", "high")


def test_where_leaves_samples_out_first(tmp_path: Path, make_store: Any) -> None:
    bands = {name: {"band": "gr"[i // 3 % 2]} for i, name in enumerate(NAMES)}
    store = make_store(tmp_path / "s", NAMES, columns=bands)
    task = TransferTask("t", "class", where={"band": ("g",)})
    data = load_task(store, task)
    assert {store.ids[i] for i in [*data.train, *data.test]} == {n for i, n in enumerate(NAMES) if i // 3 % 2 == 0}


def test_a_class_without_a_training_label_is_left_out_and_named(tmp_path: Path, make_store: Any) -> None:
    splits = {name: "test" for i, name in enumerate(NAMES) if i % 3 == 2}
    data = load_task(make_store(tmp_path / "s", NAMES, splits=splits), MORPHOLOGY)
    assert data.classes == ("edge-on", "elliptical")
    assert data.dropped == {"spiral (no label in split=train)": 12}


def test_whole_numbers_read_the_same_with_missing_values(tmp_path: Path, make_store: Any) -> None:
    store = make_store(tmp_path / "s", NAMES, classes={})
    task = TransferTask("t", "grade", classes={"0": "low", "1": "high"})
    write_table(store.path, "grades", pa.table({"id": NAMES, "grade": [None, *[i % 2 for i in range(1, 36)]]}))
    data = load_task(store, task)
    assert store.column("grade").dtype.kind == "f"
    assert data.classes == ("high", "low")
    assert len(data.train) + len(data.test) == 35


def test_finding_a_task() -> None:
    assert find_task(TASKS, "morphology") is MORPHOLOGY
    assert find_task(TASKS[:1], "") is MORPHOLOGY
    with pytest.raises(ConfigError, match=r"no task named 'morfology'. Did you mean 'morphology'"):
        find_task(TASKS, "morfology")
    with pytest.raises(ConfigError, match="choose a --task: morphology, spiral-edge-on, rings"):
        find_task(TASKS, "")


def test_a_task_whose_column_is_absent(tmp_path: Path, make_store: Any) -> None:
    store = make_store(tmp_path / "s", NAMES, classes={}, columns={name: {"klass": "x"} for name in NAMES})
    with pytest.raises(StoreError, match=r"reads column 'class', which .* does not have\. Did you mean 'klass'"):
        load_task(store, MORPHOLOGY)


def test_an_empty_test_split(tmp_path: Path, make_store: Any) -> None:
    store = make_store(tmp_path / "s", NAMES, splits=dict.fromkeys(NAMES, "train"))
    with pytest.raises(DataError, match=r"split=test of .* has 0 labelled samples of 0 classes in column 'class'"):
        load_task(store, MORPHOLOGY)


def test_one_class_only(tmp_path: Path, make_store: Any) -> None:
    classes = {name: ("spiral", "merger")[i % 2] for i, name in enumerate(NAMES)}
    store = make_store(tmp_path / "s", NAMES, classes=classes)
    with pytest.raises(DataError, match=r"1 classes \(spiral\) in column 'class'; two classes are needed \(left out: "
                                        r"18 merger\)"):
        load_task(store, MORPHOLOGY)


def _grouped(folder: Path, make_store: Any, groups: dict[str, Any], **more: Any) -> Store:
    return make_store(folder, NAMES, columns={name: {"group": group} for name, group in groups.items()}, **more)


def test_units_are_groups_where_the_task_says_so(tmp_path: Path, make_store: Any) -> None:
    # The split follows blocks of three, and so do the groups.
    store = _grouped(tmp_path / "s", make_store, {name: f"tile{i // 3}" for i, name in enumerate(NAMES)})
    data = load_task(store, BY_GROUP)
    assert data.task.unit == "group"
    assert data.train_units.tolist() == [f"tile{int(store.ids[i][1:]) // 3}" for i in data.train]


def test_without_groups_the_unit_is_the_sample(survey: Store) -> None:
    data = load_task(survey, BY_GROUP)
    assert data.task.unit == "object"
    assert len(set(data.train_units)) == len(data.train)


def test_samples_without_a_unit(tmp_path: Path, make_store: Any) -> None:
    groups = {name: f"tile{i // 3}" for i, name in enumerate(NAMES)} | {"g000": None}
    store = _grouped(tmp_path / "s", make_store, groups)
    with pytest.raises(DataError, match=r"1 samples of .* have no 'group', which is the unit of the task"):
        load_task(store, BY_GROUP)


def test_too_few_test_units(tmp_path: Path, make_store: Any) -> None:
    splits = {name: "test" if i < 6 else "train" for i, name in enumerate(NAMES)}
    groups = {name: "ab"[i % 2] if i < 6 else f"t{i}" for i, name in enumerate(NAMES)}
    store = _grouped(tmp_path / "s", make_store, groups, splits=splits)
    with pytest.raises(DataError, match="2 units for 3 classes, which say nothing of the spread"):
        load_task(store, BY_GROUP)


def test_metrics_that_no_curve_is_drawn_for(survey: Store) -> None:
    with pytest.raises(ConfigError, match="no primary metric named 'auroc'"):
        load_task(survey, TransferTask("t", "class", metric="auroc"))


def test_the_digest_is_of_ids_and_classes(survey: Store) -> None:
    assert load_task(survey, MORPHOLOGY).digest == load_task(survey, MORPHOLOGY).digest
    renamed = TransferTask("t", "class", classes={kind: kind.upper() for kind in KINDS})
    assert load_task(survey, renamed).digest != load_task(survey, MORPHOLOGY).digest
    assert np.array_equal(load_task(survey, renamed).train, load_task(survey, MORPHOLOGY).train)


VOTES = TransferTask("bars", kind="counts", columns=("bar_yes", "bar_no"))
SIGNS = TransferTask("signs", kind="multilabel", columns=("ring", "bar", "merger"))


def _with_table(folder: Path, make_store: Any, **columns: list[Any]) -> Store:
    store = make_store(folder, NAMES, classes={})
    write_table(store.path, "extra", pa.table({"id": NAMES, **columns}))
    return store


def test_votes_are_read_and_rows_without_any_are_unlabelled(tmp_path: Path, make_store: Any) -> None:
    yes, no = [i % 4 for i in range(36)], [None if i % 4 == 0 else 1 for i in range(36)]
    store = _with_table(tmp_path / "s", make_store, bar_yes=yes, bar_no=no)
    data = load_task(store, VOTES)
    numbers = [int(store.ids[i][1:]) for i in data.train]
    assert all(i % 4 for i in numbers)
    assert data.train_targets.tolist() == [[i % 4, 1] for i in numbers]
    assert data.train_labels.tolist() == [0] * len(numbers)
    assert (data.classes, data.strata) == (VOTES.columns, VOTES.columns)
    assert (len(data.train) + len(data.test), data.test_targets.shape) == (27, (len(data.test), 2))


def test_labels_are_present_absent_or_unknown_and_the_rarest_present_is_the_stratum(
    tmp_path: Path, make_store: Any
) -> None:
    ring = [i % 2 == 0 for i in range(36)]
    bar = [None if i < 18 else float(i % 4 == 0) for i in range(36)]
    merger = [1 if i in (4, 20, 9, 10) else 0 for i in range(36)]
    data = load_task(_with_table(tmp_path / "s", make_store, ring=ring, bar=bar, merger=merger), SIGNS)
    assert data.strata == ("ring", "bar", "merger", "none of these")
    ids = {name: k for k, name in enumerate(data.train_units)}
    # Training galaxies: merger 3, bar 3 of those known, ring 12. g004 is a ring and a merger, g021 nothing.
    strata = {name: data.strata[data.train_labels[ids[name]]] for name in ("g004", "g000", "g021", "g028")}
    assert strata == {"g004": "merger", "g000": "ring", "g021": "none of these", "g028": "bar"}
    np.testing.assert_array_equal(data.train_targets[ids["g004"]], [1, np.nan, 1])
    assert (len(data.train), len(data.test)) == (24, 12)


def test_where_and_digest_of_votes(tmp_path: Path, make_store: Any) -> None:
    counts = {"bar_yes": [i % 5 for i in range(36)], "bar_no": [1] * 36}
    store = _with_table(tmp_path / "s", make_store, **counts, survey=["ab"[i % 2] for i in range(36)])
    half = load_task(store, TransferTask("b", kind="counts", columns=VOTES.columns, where={"survey": ("a",)}))
    assert all(int(store.ids[i][1:]) % 2 == 0 for i in [*half.train, *half.test])
    other = _with_table(tmp_path / "t", make_store, **{**counts, "bar_no": [2] * 36})
    assert load_task(store, VOTES).digest != load_task(other, VOTES).digest


@pytest.mark.parametrize(
    ("columns", "task", "message"),
    [
        ({"bar_yes": [-1] * 36, "bar_no": [1] * 36}, VOTES, r"column 'bar_yes' of .* has 24 values such as -1; kind"),
        ({"bar_yes": ["x"] * 36, "bar_no": [1] * 36}, VOTES, r"column 'bar_yes' of .* holds no numbers"),
        ({"bar_yes": [3] * 36, "bar_no": [0] * 36}, VOTES, r"split=train of .* 24 labelled samples, lacks votes"),
        ({"ring": [2] * 36, "bar": [1] * 36, "merger": [0] * 36}, SIGNS, r"needs 1 \(present\), 0 \(absent\) or mis"),
        ({"ring": [None] * 36, "bar": [1, 0] * 18, "merger": [0] * 36}, SIGNS, r"has no value in 'ring', whether"),
        ({"ring": [1] * 36, "bar": [1] * 36, "merger": [0] * 36}, SIGNS, r"lacks a label that is both present and"),
    ],
)
def test_columns_that_cannot_be_labels(
    tmp_path: Path, make_store: Any, columns: dict[str, Any], task: TransferTask, message: str
) -> None:
    with pytest.raises(DataError, match=message):
        load_task(_with_table(tmp_path / "s", make_store, **columns), task)


def test_several_columns_that_are_absent(survey: Store) -> None:
    with pytest.raises(StoreError, match=r"reads column 'bar_yes', which .* does not have"):
        load_task(survey, VOTES)


def test_retrieval_reads_classes(survey: Store) -> None:
    task = TransferTask("r", "class", kind="retrieval")
    assert task.metric == "mean_average_precision"
    data = load_task(survey, task)
    assert (data.classes, data.train_targets) == (("edge-on", "elliptical", "spiral"), None)


def test_labels_of_samples_that_a_score_chose_are_in_no_curve(tmp_path: Path, make_store: Any) -> None:
    kept = [i for i in range(36) if i % 4]
    how = ["bald" if i % 4 == 0 else "random" for i in range(36)]
    store = _with_table(tmp_path / "s", make_store, ring=["yes", "no"] * 18, sampled_by=how)
    data = load_task(store, TransferTask("ring", "ring"))
    assert {store.ids[i] for i in [*data.train, *data.test]} == {NAMES[i] for i in kept}
    assert data.dropped == {"chosen by bald, not at random": 9}
    # Labels of another table, which does not say, are as before; and so is a table that was drawn at random throughout.
    write_table(store.path, "labels", pa.table({"id": NAMES, "class": [KINDS[i % 3] for i in range(36)]}))
    assert len(load_task(Store(store.path), MORPHOLOGY).train) == 24
    whole = _with_table(tmp_path / "r", make_store, ring=["yes", "no"] * 18, sampled_by=["random"] * 36)
    assert load_task(whole, TransferTask("ring", "ring")).dropped == {}


def test_votes_of_samples_that_a_score_chose_are_left_out_on_both_sides(tmp_path: Path, make_store: Any) -> None:
    counts = {"bar_yes": [i % 5 for i in range(36)], "bar_no": [1] * 36}
    store = _with_table(tmp_path / "s", make_store, **counts, sampled_by=["random", "random", "bald", None] * 9)
    data = load_task(store, VOTES)
    assert {int(store.ids[i][1:]) % 4 for i in [*data.train, *data.test]} == {0, 1}
    assert data.dropped == {"chosen by bald, not at random": 9, "chosen by nobody knows what, not at random": 9}
    none = _with_table(tmp_path / "n", make_store, **counts, sampled_by=["bald"] * 36)
    with pytest.raises(DataError, match=r"0 labelled samples, lacks votes for two answers in columns bar_yes, bar_no "
                                        r"\(left out: 36 chosen by bald, not at random\)"):
        load_task(none, VOTES)


def test_a_mark_in_the_rows_holds_for_labels_that_have_none_of_their_own(tmp_path: Path, make_store: Any) -> None:
    rows = {name: {"sampled_by": ("random", "entropy")[i % 2]} for i, name in enumerate(NAMES)}
    data = load_task(make_store(tmp_path / "s", NAMES, columns=rows), MORPHOLOGY)
    assert data.dropped == {"chosen by entropy, not at random": 18}
