from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from sciencessl.domains.galaxy.tasks import MORPHOLOGY
from sciencessl.errors import ConfigError, DataError, StoreError
from sciencessl.evaluate.leak_check import check_leak
from sciencessl.evaluate.tasks import load_task
from sciencessl.evaluate.tested_on import load_across, load_held_out
from sciencessl.spec import TransferTask
from sciencessl.store.reader import Store
from sciencessl.store.removals import remove
from sciencessl.store.tables import write_table

NAMES = [f"g{i:03d}" for i in range(72)]
OTHERS = [f"h{i:03d}" for i in range(30)]
SITES = {name: "abc"[i // 9 % 3] for i, name in enumerate(NAMES)}
BY_GROUP = TransferTask("tissue", "class", unit="group")


def _sites(folder: Path, make_store: Any, **changes: Any) -> Store:
    splits = {name: ("train", "train", "val", "test")[i // 3 % 4] for i, name in enumerate(NAMES)}
    columns = {name: {"site": SITES[name], **changes.get(name, {})} for name in NAMES}
    made: Store = make_store(folder, NAMES, splits=splits, columns=columns)
    return made


def test_one_site_is_left_out(tmp_path: Path, make_store: Any) -> None:
    store = _sites(tmp_path / "s", make_store)
    data = load_held_out(store, MORPHOLOGY, "site", "b")
    place = {name: i for i, name in enumerate(store.ids)}
    train = {*store.split("train").all().tolist()}
    assert set(data.test) == {place[name] for name in NAMES if SITES[name] == "b"}
    assert {int(i) in train for i in data.test} == {True, False}
    assert set(data.train) == {i for i in train if SITES[store.ids[i]] != "b"}
    whole = load_task(store, MORPHOLOGY)
    assert data.classes == whole.classes
    assert data.digest != whole.digest
    assert data.test_ids.tolist() == [store.ids[i] for i in data.test]
    assert [data.classes[c] for c in data.test_labels] == [("elliptical", "edge-on", "spiral")[int(name[1:]) % 3]
                                                           for name in data.test_ids]
    check_leak(store, data, store)


def test_a_sample_of_no_known_site_is_on_neither_side(tmp_path: Path, make_store: Any) -> None:
    store = _sites(tmp_path / "s", make_store, g000={"site": None}, g001={"site": None})
    data = load_held_out(store, MORPHOLOGY, "site", "b")
    assert not {"g000", "g001"} & {*data.train_ids, *data.test_ids}
    assert "g002" in data.train_ids


def test_kinds_with_several_columns_are_tested_elsewhere_too(tmp_path: Path, make_store: Any) -> None:
    store = _sites(tmp_path / "s", make_store)
    votes = {"yes": [i % 4 for i in range(72)], "no": [i % 3 for i in range(72)]}
    write_table(store.path, "votes", pa.table({"id": NAMES, **votes}))
    data = load_held_out(store, TransferTask("v", kind="counts", columns=("yes", "no")), "site", "a")
    assert data.test_targets is not None
    expected = [[int(name[1:]) % 4, int(name[1:]) % 3] for name in data.test_ids]
    assert data.test_targets.tolist() == expected
    assert {SITES[name] for name in data.train_ids} == {"b", "c"}


def test_a_value_that_does_not_occur_lists_those_that_do(tmp_path: Path, make_store: Any) -> None:
    store = _sites(tmp_path / "s", make_store, g000={"site": None})
    with pytest.raises(ConfigError, match=r"--test site=d: no sample of .* has it. Values of 'site': b \(27\), a \(26\)"
                                          r", c \(18\), missing \(1\)\."):
        load_held_out(store, MORPHOLOGY, "site", "d")
    with pytest.raises(ConfigError, match=r"g000 \(1\), .* and 52 more\."):
        load_held_out(store, MORPHOLOGY, "id", "x")
    with pytest.raises(ConfigError, match=r"--test site=: no sample"):  # samples without a value are on neither side
        load_held_out(store, MORPHOLOGY, "site", "")
    with pytest.raises(StoreError, match=r"has no column 'sight'. Did you mean 'site'"):
        load_held_out(store, MORPHOLOGY, "sight", "b")


def test_a_site_of_one_class_is_refused(tmp_path: Path, make_store: Any) -> None:
    store = _sites(tmp_path / "s", make_store)
    with pytest.raises(DataError, match=r"class=spiral of .* has 0 labelled samples of 0 classes .*\(left out: "
                                        r"24 spiral \(no label in split=train without class=spiral\)"):
        load_held_out(store, MORPHOLOGY, "class", "spiral")


def test_another_store_is_the_test(tmp_path: Path, survey: Store, make_store: Any) -> None:
    classes = {name: ("elliptical", "edge-on", "spiral", "ring")[i % 4] for i, name in enumerate(OTHERS)}
    other = make_store(tmp_path / "o", OTHERS, classes=classes, splits={OTHERS[0]: "val", OTHERS[1]: "train"})
    task = TransferTask("t", "class")
    data, alone = load_across(survey, task, other), load_task(survey, task)
    assert np.array_equal(data.train, alone.train)
    assert (data.digest, data.classes) == (alone.digest, alone.classes)
    assert [other.ids[i] for i in data.test] == data.test_ids.tolist()
    assert {*data.test_ids} == {name for name in OTHERS if classes[name] != "ring"}
    assert [data.classes[c] for c in data.test_labels] == [classes[name] for name in data.test_ids]
    assert data.dropped == {"ring (no label in split=train)": 7}
    check_leak(survey, data, other)


def test_both_stores_need_the_columns_and_the_unit(tmp_path: Path, survey: Store, make_store: Any) -> None:
    unlabelled = make_store(tmp_path / "u", OTHERS, classes={})
    with pytest.raises(StoreError, match=r"reads column 'class', which .*u does not have"):
        load_across(survey, MORPHOLOGY, unlabelled)
    grouped = make_store(tmp_path / "g", OTHERS, columns={name: {"group": f"p{name}"} for name in OTHERS})
    with pytest.raises(DataError, match=r"its unit is 'group', which .*survey.zarr does not record, and the other"):
        load_across(survey, BY_GROUP, grouped)
    with pytest.raises(DataError, match=r"its unit is 'group', which .*survey.zarr does not record, and the other"):
        load_across(grouped, BY_GROUP, survey)
    assert load_across(grouped, MORPHOLOGY, survey).task.unit == "object"


def test_withdrawn_samples_are_on_neither_side(tmp_path: Path, make_store: Any) -> None:
    whole = load_held_out(_sites(tmp_path / "s", make_store), MORPHOLOGY, "site", "b")
    gone = [whole.test_ids[0], whole.train_ids[3]]
    remove(tmp_path / "s", gone, "blurred")
    data = load_held_out(Store(tmp_path / "s"), MORPHOLOGY, "site", "b")
    assert data.test_ids.tolist() == [name for name in whole.test_ids if name not in gone]
    assert data.train_ids.tolist() == [name for name in whole.train_ids if name not in gone]
