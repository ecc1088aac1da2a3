"""Cross-validation over units, for tasks whose units are too few for one test split.

All labelled samples are dealt into K folds by whole units, and each fold is the test of a task whose pool is the rest.
The scores of the K tests, put together in store order, are one score for each sample: what `hierarchical_interval`
takes. For fixed K they obey a central limit theorem around the accuracy of the K classifiers (Bayle et al. 2020, arXiv
2007.12671), but the pools of a deal overlap, which the interval does not account for. Measured on nearest class means
of clustered Gaussians, an interval that says 95 % covers the expected accuracy on fresh units in 92 to 95 % of cases
from 60 units on, in 91 to 94 % with 30 units, and in 85 to 91 % with 16: the less, the more units differ. A held-out
test of 16 units covers 92 %. More repeats average the luck of the deal; they add no units.
"""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np

from sciencessl.dealing import deal_units
from sciencessl.errors import ConfigError, DataError
from sciencessl.evaluate.subsets import priorities, unit_strata
from sciencessl.evaluate.task_labels import OBJECT
from sciencessl.evaluate.tasks import TaskData, digest_of, label_strata, load_sides
from sciencessl.spec import TransferTask
from sciencessl.store.reader import Store
from sciencessl.store.sides import Side, value_text

ENOUGH = 60
"""Units from which intervals over folds cover what they say, within the error of the simulation."""


def few_units_note(units: int) -> str:
    """What a reader must know of intervals over the folds of so many units; empty from `ENOUGH` on."""
    if units >= ENOUGH:
        return ""
    return (
        f"folds of only {units} units: the intervals are too narrow, for the pools of a deal overlap; one that says "
        f"95 % covers 91 to 94 % with 30 units, 85 to 91 % with 16, and about what it says from {ENOUGH} on"
    )


def load_whole(store: Store, task: TransferTask) -> TaskData:
    """The task with all its labelled samples of split=train and split=test on both sides: what folds are made of.

    Unlike `load_task` it asks nothing of the splits, so that a store with few units need not have both. Where the
    task's unit is the object but the store records groups of several samples, the group is the unit: folds would leak.

    Raises:
        As `load_sides`.
    """
    side = Side.of_splits(store, "train", "test")
    if task.unit == OBJECT and "group" in store.columns():
        groups = [name for name in side.texts("group") if name]
        task = replace(task, unit="group") if len(set(groups)) < len(groups) else task
    return load_sides(task, side, side)


def pooled(data: TaskData) -> TaskData:
    """The task with all its samples on both sides, in store order: what tables of folded scores are made for.

    Args:
        data: Of one store; pool and test may share samples.
    """
    index, first = np.unique(np.concatenate([data.train, data.test]), return_index=True)
    labels, units, ids = (
        np.concatenate(sides)[first]
        for sides in ((data.train_labels, data.test_labels), (data.train_units, data.test_units),
                      (data.train_ids, data.test_ids))
    )
    targets = None
    if data.train_targets is not None and data.test_targets is not None:
        targets = np.concatenate([data.train_targets, data.test_targets])[first]
        labels = label_strata(data.task.kind, targets, targets)
    whole = replace(data, test=index, test_labels=labels, test_units=units, test_targets=targets, test_ids=ids)
    return _with_pool(whole, np.ones(len(index), dtype=bool))


def fold_data(data: TaskData, folds: int, repeat: int) -> list[TaskData]:
    """Deal all samples of a task into folds by whole units; the k-th result is tested on fold k, its pool is the rest.

    The deal is a pure function of the labels (their digest), of the task's name, `folds`, `repeat` and the names of the
    units: neither the run nor the order of rows nor the store's splits enter. Units are dealt class by class in the
    order of a keyed hash, one fold after the other, so that folds differ by one unit at most, in all and in each class
    (a unit with several classes stands for its rarest). Every class must be in every pool, so each needs as many units
    as there are folds; where kinds have several columns, any labels will do.

    Args:
        data: From `load_whole`, or of one store with units that keep together what must not be divided.
        folds: K, 2 or more.
        repeat: Number of the deal, 0 or more; each is a new one.

    Returns:
        K tasks. Their tests together are `pooled(data).test`, each sample once.

    Raises:
        ConfigError: For too few folds, a negative repeat, or more folds than units of the smallest class.
        DataError: When a class is missing from a pool because its units hold rarer classes too.
    """
    whole = pooled(data)
    names, unit_of = np.unique(whole.test_units.astype(str), return_inverse=True)
    _check(whole, unit_of, folds, repeat)
    strata = unit_strata(unit_of, np.unique(whole.test_labels, return_inverse=True)[1])
    order = np.lexsort((priorities(names, json.dumps([whole.digest, whole.task.name, folds, repeat])), strata))
    fold = np.empty(len(names), dtype=np.int64)
    fold[order] = np.arange(len(names)) % folds
    return [_one_fold(whole, fold[unit_of] == k) for k in range(folds)]


def site_folds(data: TaskData, store: Store, folds: int, column: str) -> list[TaskData]:
    """Folds that no value of a column straddles, such as the hospital that slides are from: site-preserved folds.

    Models tell sites apart by stain and scanner; with a site on both sides, what a site looks like passes for what its
    patients have (Howard et al. 2021). Sites are dealt so that folds have shares of each class that are as even as
    whole sites allow (`deal_units`); where classes have several columns, shares of samples alone. There is one such
    deal: it depends on names and labels only. Labels are drawn, and intervals are, by the task's unit as ever.

    Args:
        data: From `load_whole`.
        store: Its store.
        folds: K, 2 or more.
        column: Of the store.

    Returns:
        K tasks, as from `fold_data`.

    Raises:
        ConfigError: For fewer than two folds, or more folds than sites.
        DataError: When a sample has no site, a unit lies in two, or a class lies in one site alone.
    """
    whole = pooled(data)
    sites = np.array([value_text(value) for value in store.column(column)[whole.test].tolist()], dtype=str)
    names, site_of = np.unique(sites, return_inverse=True)
    _check_sites(whole, sites, names, folds, column)
    classes, class_of = np.unique(whole.test_labels, return_inverse=True)
    several = whole.test_targets is not None
    counts = np.zeros((len(names), 1 if several else len(classes)), np.int64)
    np.add.at(counts, (site_of, np.zeros_like(class_of) if several else class_of), 1)
    fold = deal_units(counts, np.full(folds, 1 / folds), priorities(names, json.dumps([whole.task.name, folds])))
    return [_one_fold(whole, fold[site_of] == k) for k in range(folds)]


def _check_sites(whole: TaskData, sites: np.ndarray, names: np.ndarray, folds: int, column: str) -> None:
    if folds < 2:
        raise ConfigError(f"folds: got {folds} folds; give 2 or more.")
    if len(names) < folds:
        raise ConfigError(f"folds by {column!r}: there are {len(names)} different values, too few for {folds} folds of "
                          f"whole ones; ask for {max(2, len(names))} at most, or leave --folds-by out.")
    lacking = int((sites == "").sum())
    if lacking:
        raise DataError(f"folds by {column!r}: {lacking:,} labelled samples have no value; give every one of them one.")
    pairs = np.unique(np.stack([whole.test_units.astype(str), sites]), axis=1)
    units, count = np.unique(pairs[0], return_counts=True)
    if (count > 1).any():
        raise DataError(f"folds by {column!r}: {int((count > 1).sum())} units ({whole.task.unit}) lie in several of "
                        f"them, such as {str(units[count > 1][0])!r}, and would be on both sides of a test.")
    for number in np.unique(whole.test_labels) if whole.test_targets is None else ():
        only = np.unique(sites[whole.test_labels == number])
        if len(only) == 1:
            raise DataError(f"folds by {column!r}: all samples of class {whole.classes[number]!r} are of "
                            f"{str(only[0])!r}; where that is tested nobody could learn the class. Leave the class "
                            "out, or --folds-by.")


def _check(whole: TaskData, unit_of: np.ndarray, folds: int, repeat: int) -> None:
    if folds < 2 or repeat < 0:
        raise ConfigError(f"folds: got {folds} folds and repeat number {repeat}; give 2 or more, and 0 or more.")
    fewest, of_what = len(np.unique(unit_of)), "in all"
    if whole.test_targets is None:
        pairs = np.unique(np.stack([whole.test_labels, unit_of]), axis=1)
        counts = np.bincount(pairs[0], minlength=len(whole.classes))
        fewest, of_what = int(counts.min()), f"of class {whole.classes[int(counts.argmin())]!r}"
    if folds > fewest:
        raise ConfigError(
            f"folds: task {whole.task.name!r} has {fewest} units ({whole.task.unit}) {of_what}, too few for {folds} "
            f"folds; {f'ask for {fewest} at most' if fewest > 1 else 'label more units'}."
        )


def _one_fold(whole: TaskData, tested: np.ndarray) -> TaskData:
    made = _with_pool(whole, ~tested)
    labels, targets, lacking = whole.test_labels[tested], None, set[int]()
    if whole.test_targets is None:
        lacking = {*range(len(whole.classes))} - {*made.train_labels.tolist()}
    else:
        targets = whole.test_targets[tested]
        labels = label_strata(whole.task.kind, targets, made.train_targets)
    if lacking:
        raise DataError(
            f"folds: task {whole.task.name!r}: without the units of one fold no sample of class "
            f"{whole.classes[min(lacking)]!r} is left to learn from; ask for other --folds."
        )
    return replace(
        made, test=whole.test[tested], test_labels=labels, test_units=whole.test_units[tested], test_targets=targets,
        test_ids=whole.test_ids[tested],
    )


def _with_pool(whole: TaskData, rows: np.ndarray) -> TaskData:
    """The task with some of its test samples as pool."""
    targets = None if whole.test_targets is None else whole.test_targets[rows]
    labels = whole.test_labels[rows] if targets is None else label_strata(whole.task.kind, targets, targets)
    ids = whole.test_ids[rows]
    return replace(
        whole, train=whole.test[rows], train_labels=labels, train_units=whole.test_units[rows], train_targets=targets,
        train_ids=ids, digest=digest_of(whole.classes, ids, labels, targets),
    )
