"""Bags: which samples belong together, what they are called, and what pools them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from sciencessl.errors import ConfigError, DataError, LeakError, StoreError
from sciencessl.evaluate.bags import all_samples, group_bags, pool, pooled
from sciencessl.evaluate.folds import fold_data, load_whole
from sciencessl.evaluate.leak_check import check_leak
from sciencessl.evaluate.task_files import read_task
from sciencessl.evaluate.tasks import load_task
from sciencessl.spec import TransferTask
from sciencessl.store.reader import Store
from tests.evaluate.slides import slide_store, task_file

DIAGNOSIS = TransferTask("diagnosis", "diagnosis", kind="bag")


@pytest.fixture(scope="module")
def slides(tmp_path_factory: pytest.TempPathFactory, make_store: Any) -> Store:
    return slide_store(make_store, tmp_path_factory.mktemp("slides") / "s.zarr", slides=32, tiles=3)


def test_samples_are_grouped_whatever_their_order() -> None:
    names = np.array(["b", "a", "b", "c", "a", "b"], dtype=object)
    bags = group_bags(names, np.array([2, 3, 5, 7, 11, 13]))
    assert bags.names.tolist() == ["b", "a", "c"]
    assert bags.first.tolist() == [2, 3, 7]
    samples, sizes = bags.of(np.array([7, 2]))
    assert (samples.tolist(), sizes.tolist()) == ([7, 2, 5, 13], [1, 3])
    assert bags.names_of(np.array([7, 2])).tolist() == ["c", "b"]
    assert all_samples(bags, bags.first).tolist() == [2, 5, 13, 3, 11, 7]
    assert all_samples(None, np.array([4, 1])).tolist() == [4, 1]


def test_pooling_is_that_of_numpy_on_each_bag() -> None:
    values = np.random.default_rng(0).normal(size=(9, 4)).astype(np.float32)
    sizes = np.array([1, 5, 3])
    parts = np.split(values.astype(float), [1, 6])
    np.testing.assert_allclose(pool(values, sizes, "mean"), [part.mean(axis=0) for part in parts])
    np.testing.assert_array_equal(pool(values, sizes, "max"), [part.max(axis=0) for part in parts])
    bags = group_bags(np.array(list("abbbbbccc"), dtype=object), np.arange(9))
    np.testing.assert_allclose(pooled(values.__getitem__, bags, np.array([6, 0]), "max"),
                               [parts[2].max(axis=0), parts[0][0]])
    np.testing.assert_array_equal(pooled(values.__getitem__, None, np.array([6, 0])), values[[6, 0]])


def test_the_mean_over_ten_thousand_tiles_is_exact() -> None:
    # A running sum in single precision would lose digits.
    values = np.full((10_000, 2), 1000.1, np.float32)
    assert pool(values, np.array([10_000]), "mean")[0] == pytest.approx(float(np.float32(1000.1)), rel=1e-12)


def test_a_row_of_the_task_is_a_slide_and_its_unit_the_patient(slides: Store) -> None:
    data = load_task(slides, DIAGNOSIS)
    assert data.task.unit == "group"
    assert (len(data.train), len(data.test)) == (24, 8)
    assert (len(data.pool_samples), len(data.test_samples)) == (72, 24)
    assert sorted(data.train_ids) == [f"s{i:03d}" for i in range(32) if i // 4 % 4 != 3]
    names = slides.column("slide")
    for first, name, label, unit in zip(data.train, data.train_ids, data.train_labels, data.train_units, strict=True):
        assert names[first] == name
        assert data.classes[label] == ("normal", "tumour")[int(name[1:]) // 2 % 2]
        assert unit == f"p{int(name[1:]) // 2:03d}"
    assert set(data.pool_samples) == set(slides.split("train").all())


def test_slides_of_a_patient_stay_in_one_fold(slides: Store) -> None:
    data = load_whole(slides, DIAGNOSIS)
    for repeat in range(2):
        folds = fold_data(data, 4, repeat)
        tested = np.concatenate([fold.test_ids for fold in folds])
        assert sorted(tested) == [f"s{i:03d}" for i in range(32)]
        for fold in folds:
            assert not set(fold.train_units) & set(fold.test_units)
            assert not set(fold.pool_samples) & set(fold.test_samples)
            assert len(fold.test_samples) == 3 * len(fold.test)


def test_a_label_that_differs_within_a_slide_is_refused(tmp_path: Path, make_store: Any) -> None:
    store = slide_store(make_store, tmp_path / "s", 32, 3, {"t0001": "tumour", "t0003": None})
    with pytest.raises(DataError, match=r"2 of 24 bags \(slide\) of split=train of .* differ in 'diagnosis'; s003 has "
                                        r"no value \(1\), tumour \(2\)\. A bag has one label: give all its samples"):
        load_task(store, DIAGNOSIS)


def test_a_bag_of_two_units_is_refused(slides: Store) -> None:
    task = TransferTask("t", "diagnosis", kind="bag", bag="group", unit="slide")
    with pytest.raises(DataError, match=r"12 of 12 bags \(group\).* differ in 'slide'.* A bag has one unit"):
        load_task(slides, task)


def test_a_slide_in_train_and_test_is_a_leak(tmp_path: Path, make_store: Any) -> None:
    columns = {f"t{i:04d}": {"slide": f"s{i // 2 if i < 40 else i % 20}", "group": f"p{i}"} for i in range(60)}
    splits = {name: "train" if int(name[1:]) < 40 else "test" for name in columns}
    kinds = {name: "ab"[int(name[1:]) % 40 // 2 % 2 if int(name[1:]) < 40 else int(name[1:]) % 20 % 2]
             for name in columns}
    store = make_store(tmp_path / "s", list(columns), domain="pathology", side=8, splits=splits, columns=columns,
                       classes=kinds)
    data = load_task(store, TransferTask("t", "class", kind="bag", unit="slide"))
    # A defect elsewhere: tiles of one slide on both sides of a split by tile.
    with pytest.raises(LeakError, match="by slide"):
        check_leak(store, data, store)


def test_bags_by_a_column_that_is_not_there_are_an_error(slides: Store) -> None:
    with pytest.raises(StoreError, match=r"reads column 'slid', which .* Did you mean 'slide'"):
        load_task(slides, TransferTask("t", "diagnosis", kind="bag", bag="slid"))
    with pytest.raises(ConfigError, match="bag '' and budgets"):
        TransferTask("t", "diagnosis", kind="bag", bag="")


def test_a_task_file_of_bags(tmp_path: Path) -> None:
    task = read_task(task_file(tmp_path))
    assert (task.kind, task.bag, task.unit, task.ordered) == ("bag", "slide", "group", True)
    assert TransferTask("t", "x").unit == "object"
