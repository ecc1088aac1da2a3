"""Folds deal whole units, depend on labels and names only, and their interval covers as far as the docstring says."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import norm

from sciencessl.domains.galaxy.tasks import MORPHOLOGY
from sciencessl.errors import ConfigError, DataError
from sciencessl.evaluate.folds import few_units_note, fold_data, load_whole, pooled, site_folds
from sciencessl.evaluate.statistics import hierarchical_interval
from sciencessl.evaluate.subsets import label_digest
from sciencessl.evaluate.tasks import TaskData, load_task
from sciencessl.spec import TransferTask
from sciencessl.store.reader import Store
from sciencessl.store.tables import write_table

NAMES = [f"g{i:03d}" for i in range(36)]


def task_data(
    labels: np.ndarray, units: np.ndarray, targets: np.ndarray | None = None, kind: str = "class"
) -> TaskData:
    """Two thirds of the rows as pool and the rest as test, as a store would give them."""
    n = len(labels)
    test = np.arange(n) % 3 == 2
    columns = ("a", "b", "c")
    task = TransferTask("t", "" if targets is not None else "x", unit="tile", kind=kind,  # type: ignore[arg-type]
                        columns=columns if targets is not None else ())
    ids = np.array([f"s{i}" for i in range(n)], dtype=object)
    classes = columns if targets is not None else tuple("abcdefgh"[: int(labels.max()) + 1])
    sides = [(np.flatnonzero(rows), labels[rows], units[rows]) for rows in (~test, test)]
    parts = [None if targets is None else targets[rows] for rows in (~test, test)]
    return TaskData(task, classes, *sides[0], *sides[1], "", {}, *parts, ids[~test], ids[test])


def dealt(data: TaskData, folds: int, repeat: int) -> dict[str, int]:
    """Id -> its fold."""
    return {name: k for k, fold in enumerate(fold_data(data, folds, repeat)) for name in fold.test_ids}


@settings(max_examples=40, deadline=None)
@given(
    sizes=st.lists(st.integers(5, 12), min_size=2, max_size=4), unit_size=st.integers(1, 4), folds=st.integers(2, 5),
    repeat=st.integers(0, 3),
)
def test_each_sample_is_tested_once_and_units_stay_whole(
    sizes: list[int], unit_size: int, folds: int, repeat: int
) -> None:
    of_unit = np.repeat(np.arange(len(sizes)), sizes)
    labels, units = np.repeat(of_unit, unit_size), np.repeat(np.arange(len(of_unit)), unit_size).astype(str)
    data = task_data(labels, units)
    found = fold_data(data, folds, repeat)
    assert sorted(np.concatenate([fold.test for fold in found]).tolist()) == list(range(len(labels)))
    per_class = np.array([
        np.bincount(labels[fold.test], minlength=len(sizes)) // unit_size for fold in found
    ])
    assert (np.ptp(per_class, axis=0) <= 1).all()
    assert np.ptp(per_class.sum(axis=1)) <= 1
    for fold in found:
        assert not {*fold.train_units} & {*fold.test_units}
        assert np.array_equal(np.union1d(fold.train, fold.test), np.arange(len(labels)))
        assert (np.diff(fold.train) > 0).all()
        assert (np.diff(fold.test) > 0).all()
        for side, side_labels, names in ((fold.train, fold.train_labels, fold.train_units),
                                         (fold.test, fold.test_labels, fold.test_units)):
            assert np.array_equal(side_labels, labels[side])
            assert np.array_equal(names, units[side])
        assert fold.digest == label_digest(fold.train_ids, [fold.classes[c] for c in fold.train_labels])


def test_neither_rows_nor_splits_matter_and_repeats_labels_and_names_do() -> None:
    rng = np.random.default_rng(0)
    of_unit = np.repeat([0, 1, 2], [9, 7, 6])
    labels, units = np.repeat(of_unit, 3), np.repeat([f"u{i}" for i in range(22)], 3)
    data = task_data(labels, units)
    base = dealt(data, 4, 0)
    order = rng.permutation(len(labels))
    place = np.argsort(order)
    moved = replace(
        data, **{side: place[getattr(data, side)][p] for side in ("train", "test")
                 if (p := np.argsort(place[getattr(data, side)])) is not None},
        **{f"{side}_{what}": getattr(data, f"{side}_{what}")[np.argsort(place[getattr(data, side)])]
           for side in ("train", "test") for what in ("labels", "units", "ids")},
    )
    assert moved.train_ids.tolist() != data.train_ids.tolist()
    assert dealt(moved, 4, 0) == base
    assert dealt(pooled(data), 4, 0) == base
    assert dealt(replace(data, task=replace(data.task, name="other")), 4, 0) != base
    assert dealt(task_data(np.where(labels == 2, 1, labels), units), 4, 0) != base
    assert dealt(task_data(labels, np.char.add("x", units)), 4, 0) != base
    deals = [dealt(data, 4, repeat) for repeat in range(4)]
    assert all(deals[i] != deals[j] for i in range(4) for j in range(i))


def test_a_unit_of_several_classes_stands_for_its_rarest() -> None:
    # Ten tiles of class a, four of which hold one sample of class b: one in each fold.
    units, labels = np.repeat(np.arange(10), 4).astype(str), np.zeros(40, dtype=int)
    labels[[0, 4, 8, 12]] = 1
    for repeat in range(5):
        found = fold_data(task_data(labels, units), 4, repeat)
        assert [int((fold.test_labels == 1).sum()) for fold in found] == [1] * 4


def test_pooled_is_everything_in_store_order_on_both_sides(survey: Store) -> None:
    data = load_task(survey, MORPHOLOGY)
    whole = pooled(data)
    assert np.array_equal(whole.test, np.arange(144))
    assert np.array_equal(whole.train, whole.test)
    assert whole.test_ids.tolist() == survey.ids
    assert {c: [whole.classes[i] for i in whole.test_labels].count(c) for c in whole.classes} == dict.fromkeys(
        whole.classes, 48)
    loaded = load_whole(survey, MORPHOLOGY)
    assert (loaded.digest, loaded.classes, loaded.task) == (whole.digest, whole.classes, whole.task)
    assert np.array_equal(loaded.test, whole.test)
    assert np.array_equal(pooled(whole).train_labels, whole.train_labels)


def test_targets_are_dealt_with_their_samples_and_strata_are_those_of_the_pool() -> None:
    rng = np.random.default_rng(1)
    targets = (rng.random((60, 3)) < [0.6, 0.3, 0.2]).astype(float)
    targets[::7, 1] = np.nan
    units = (np.arange(60) // 3).astype(str)
    data = task_data(np.zeros(60, dtype=int), units, targets, "multilabel")
    for fold in fold_data(data, 5, 0):
        assert fold.train_targets is not None
        np.testing.assert_array_equal(fold.test_targets, targets[fold.test])
        np.testing.assert_array_equal(fold.train_targets, targets[fold.train])
        counts = np.nansum(fold.train_targets, axis=0)
        for row, stratum in zip(fold.train_targets, fold.train_labels, strict=True):
            present = np.flatnonzero(row == 1)
            assert stratum == (3 if not len(present) else present[np.argmin(counts[present])])
        assert fold.digest == label_digest(fold.train_ids, fold.train_targets.tolist())
    votes = task_data(np.zeros(60, dtype=int), units, rng.poisson(3.0, (60, 3)).astype(float), "counts")
    assert {name for fold in fold_data(votes, 20, 0) for name in fold.test_ids} == {f"s{i}" for i in range(60)}
    with pytest.raises(ConfigError, match=r"has 20 units \(tile\) in all, too few for 21 folds; ask for 20 at most"):
        fold_data(votes, 21, 0)


def test_intervals_over_few_units_come_with_a_warning() -> None:
    assert few_units_note(60) == ""
    assert few_units_note(59).startswith("folds of only 59 units: the intervals are too narrow")


def test_too_few_units_or_folds() -> None:
    labels, units = np.repeat([0, 1], [8, 3]), np.arange(11).astype(str)
    data = task_data(labels, units)
    with pytest.raises(ConfigError, match=r"has 3 units \(tile\) of class 'b', too few for 4 folds; ask for 3 at most"):
        fold_data(data, 4, 0)
    with pytest.raises(ConfigError, match=r"1 units \(tile\) of class 'b', too few for 2 folds; label more units"):
        fold_data(task_data(labels[:9], units[:9]), 2, 0)
    with pytest.raises(ConfigError, match="got 1 folds and repeat number 0; give 2 or more, and 0 or more"):
        fold_data(data, 1, 0)
    with pytest.raises(ConfigError, match="got 2 folds and repeat number -1"):
        fold_data(data, 2, -1)


def test_a_class_that_a_deal_would_leave_without_a_label_is_refused() -> None:
    # Class c is in two tiles only, each of which stands for a rarer class: both may come to lie in one fold.
    units = np.repeat(np.arange(8), 2).astype(str)
    labels = np.array([0, 0, 0, 0, 0, 0, 0, 0, 1, 2, 1, 1, 3, 2, 3, 3])
    data, refused = task_data(labels, units), []
    for repeat in range(20):
        try:
            found = fold_data(data, 2, repeat)
        except DataError:
            refused.append(repeat)
        else:
            assert all({*fold.train_labels} == {0, 1, 2, 3} for fold in found)
    assert 0 < len(refused) < 20
    with pytest.raises(DataError, match="no sample of class 'c' is left to learn from; ask for other --folds"):
        fold_data(data, 2, refused[0])


def test_a_store_without_a_test_split_is_folded(tmp_path: Path, make_store: Any) -> None:
    store = make_store(tmp_path / "s", NAMES, splits=dict.fromkeys(NAMES, "train"))
    with pytest.raises(DataError, match="split=test of"):
        load_task(store, MORPHOLOGY)
    data = load_whole(store, MORPHOLOGY)
    assert len(fold_data(data, 3, 0)[0].test) == 12
    assert data.task.unit == "object"


def test_groups_are_the_units_of_folds_where_they_hold_several_samples(tmp_path: Path, make_store: Any) -> None:
    tiles = {name: {"group": f"tile{i // 4}"} for i, name in enumerate(NAMES)}
    data = load_whole(make_store(tmp_path / "s", NAMES, columns=tiles), MORPHOLOGY)
    assert data.task.unit == "group"
    assert all(not {*fold.train_units} & {*fold.test_units} for fold in fold_data(data, 3, 0))
    alone = make_store(tmp_path / "t", NAMES, columns={name: {"group": name} for name in NAMES})
    assert load_whole(alone, MORPHOLOGY).task.unit == "object"


def test_values_left_out_are_counted_once(tmp_path: Path, make_store: Any) -> None:
    classes = {name: ("spiral", "edge-on", "merger")[i % 3] for i, name in enumerate(NAMES)}
    store = make_store(tmp_path / "s", NAMES, classes=classes)
    assert load_whole(store, MORPHOLOGY).dropped == load_task(store, MORPHOLOGY).dropped == {"merger": 12}
    write_table(store.path, "labels", pa.table({"id": NAMES, "class": ["spiral"] * 36}))
    with pytest.raises(DataError, match=r"split=train and test of .* 36 labelled samples of 1 classes"):
        load_whole(store, MORPHOLOGY)


def coverage(units_per_class: int, unit_sd: float, repeats: int = 1000) -> float:
    """Share of intervals over folded scores that hold the expected accuracy on fresh units, of nearest class means.

    Units of 1 to 5 samples of one class, whose features are the class mean, an effect of the unit and noise: three
    dimensions, class means 1.5 noise widths apart. The accuracy of each fold's classifier on fresh units is exact.
    """
    of_unit = np.repeat([0, 1], units_per_class)
    unit = np.repeat(np.arange(len(of_unit)), 1 + np.arange(len(of_unit)) % 5)
    labels, rng = of_unit[unit], np.random.default_rng(0)
    tests = [fold.test for fold in fold_data(task_data(labels, unit.astype(str)), 5, 0)]
    centres, accuracies, intervals = np.array([[0.0, 0, 0], [1.5, 0, 0]]), [], []
    for _ in range(repeats):
        x = centres[labels] + unit_sd * rng.normal(size=(len(of_unit), 3))[unit] + rng.normal(size=(len(unit), 3))
        scores = np.empty(len(unit))
        for test in tests:
            pool = np.delete(np.arange(len(unit)), test)
            means = np.stack([x[pool][labels[pool] == c].mean(axis=0) for c in (0, 1)])
            weight, middle = means[1] - means[0], means.mean(axis=0)
            scores[test] = ((x[test] - middle) @ weight > 0) == labels[test]
            margin = (centres - middle) @ weight / (np.linalg.norm(weight) * np.hypot(unit_sd, 1))
            accuracies.append((norm.cdf(margin[1]) + norm.cdf(-margin[0])) / 2)
        intervals.append(hierarchical_interval(scores, unit, labels))
    truth = np.mean(accuracies)
    return float(np.mean([interval.low <= truth <= interval.high for interval in intervals]))


@pytest.mark.parametrize("units_per_class", [30, 100])
def test_the_interval_of_folded_scores_covers_fresh_units(units_per_class: int) -> None:
    assert 0.93 < coverage(units_per_class, 0.5) < 0.97


def test_with_sixteen_units_it_covers_less_as_the_docstring_says() -> None:
    assert 0.86 < coverage(8, 0.5) < 0.92
    assert 0.81 < coverage(8, 1.0) < 0.88


class Sites:
    """Stands for a store that knows where samples are from."""

    def __init__(self, sites: list[Any]) -> None:
        self.sites = np.array(sites, dtype=object)

    def column(self, name: str) -> np.ndarray:
        assert name == "site"
        return self.sites


def by_site(data: TaskData, sites: list[Any], folds: int) -> list[TaskData]:
    return site_folds(data, Sites(sites), folds, "site")  # type: ignore[arg-type]


def test_sites_stay_whole_and_classes_spread_evenly() -> None:
    # A defect elsewhere: folds of a cohort in which sites straddle, so that stain tells the class.
    per_site = {"a": (8, 2), "b": (2, 8), "c": (5, 5), "d": (6, 4), "e": (4, 6), "f": (5, 5)}
    sites = [site for site, counts in per_site.items() for _ in range(sum(counts))]
    labels = np.array([label for counts in per_site.values() for label in (0, 1) for _ in range(counts[label])])
    data = task_data(labels, np.arange(60).astype(str))
    found = by_site(data, sites, 3)
    assert [np.bincount(fold.test_labels).tolist() for fold in found] == [[10, 10]] * 3
    for fold in found:
        assert not {sites[i] for i in fold.train} & {sites[i] for i in fold.test}
    assert sorted(np.concatenate([fold.test for fold in found]).tolist()) == list(range(60))


def test_the_deal_by_sites_does_not_depend_on_their_order() -> None:
    sites = [f"s{i % 7}" for i in range(70)]
    labels = np.array([(i * i) % 3 % 2 for i in range(70)])
    data = task_data(labels, np.arange(70).astype(str))
    first = {name: k for k, fold in enumerate(by_site(data, sites, 3)) for name in fold.test_ids}
    turned = replace(data, train_units=data.train_units + "x", test_units=data.test_units + "x")
    assert {name: k for k, fold in enumerate(by_site(turned, sites, 3)) for name in fold.test_ids} == first


def test_sites_that_cannot_be_folds_say_why() -> None:
    labels = np.arange(12) % 2
    data = task_data(labels, np.arange(12).astype(str))
    halves = ["x", "x", "y", "y"] * 3
    with pytest.raises(ConfigError, match="2 different values, too few for 3 folds of whole ones; ask for 2"):
        by_site(data, halves, 3)
    with pytest.raises(ConfigError, match="got 1 folds; give 2 or more"):
        by_site(data, halves, 1)
    with pytest.raises(DataError, match="1 labelled samples have no value"):
        by_site(data, [None, *halves[1:]], 2)
    with pytest.raises(DataError, match=r"all samples of class 'a' are of 'x'; where that is tested nobody could"):
        by_site(data, ["x", "y"] * 6, 2)
    shared = task_data(labels, (np.arange(12) // 3).astype(str))
    with pytest.raises(DataError, match=r"4 units \(tile\) lie in several of them, such as '0', and would be on both"):
        by_site(shared, ["x", "x", "y"] * 4, 2)


def test_pathology_tasks_draw_and_resample_patients() -> None:
    from sciencessl.domains.pathology import SPEC

    assert {task.unit for task in SPEC.tasks} == {"group"}
