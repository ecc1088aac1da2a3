"""What a ranking finds of one class."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from sklearn.metrics import average_precision_score

from sciencessl.errors import ConfigError
from sciencessl.evaluate.rediscovery import Wanted, found_by, rediscovery_lines, wanted_samples
from sciencessl.spec import TransferTask
from sciencessl.store.reader import Store
from sciencessl.store.tables import write_table


def wanted(positive: np.ndarray) -> Wanted:
    rows = np.arange(len(positive)) * 2  # every other sample has a label
    return Wanted(TransferTask("class", "class"), "ring", rows, positive, np.arange(len(positive)).astype(str))


def test_recall_and_average_precision_are_of_the_labelled_samples() -> None:
    rng = np.random.default_rng(0)
    positive = rng.random(50) < 0.2
    score = rng.normal(size=100)
    score[::2] += positive
    result = found_by(wanted(positive), {"byol": [score]}, 10, "Nothing.")
    (found,) = result.found
    own = score[::2]
    assert found.average_precision == pytest.approx(average_precision_score(positive, own))
    assert found.in_top == positive[np.argsort(-own)[:10]].sum()
    assert found.recall == pytest.approx(found.in_top / positive.sum())
    assert found.low < found.average_precision < found.high
    assert result.chance == positive.mean()
    assert (result.chance_recall, result.difference) == (0.2, None)


def test_the_stronger_variant_of_random_encoders_is_the_baseline() -> None:
    rng = np.random.default_rng(2)
    positive = rng.random(60) < 0.3
    score = {name: [rng.normal(size=120) for _ in range(count)]
             for name, count in (("byol", 1), ("random statistics", 3), ("random branches", 3))}
    for each in (*score["byol"], *score["random branches"]):
        each[::2] += 2 * positive
    result = found_by(wanted(positive), score, 5, "Nothing.")
    assert (result.variant, [found.encoders for found in result.found]) == ("branches", [1, 3])
    own, random = (found.average_precision for found in result.found)
    assert result.difference == pytest.approx(own - random)
    assert "byol" in rediscovery_lines(result)[1]
    assert "random (3 encoders)" in rediscovery_lines(result)[2]


def test_equal_scores_count_as_a_random_order() -> None:
    positive = np.arange(40) < 10
    result = found_by(wanted(positive), {"flat": [np.zeros(80)]}, 8, "")
    (found,) = result.found
    assert found.in_top == pytest.approx(2)
    assert found.average_precision == pytest.approx(result.chance)


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory, make_store: Any) -> Store:
    return make_store(tmp_path_factory.mktemp("found") / "s.zarr", [f"g{i:03d}" for i in range(30)])


def test_a_class_is_named_by_a_column_or_a_task(store: Store) -> None:
    index = np.arange(30)
    by_column = wanted_samples(store, index, "class=spiral", index.astype(str))
    assert (int(by_column.positive.sum()), len(by_column.labelled)) == (10, 30)
    by_task = wanted_samples(store, index, "spiral-edge-on=spiral", index.astype(str))
    assert (int(by_task.positive.sum()), len(by_task.labelled)) == (10, 20)


def test_labels_that_a_score_chose_are_not_used(tmp_path: Path, make_store: Any) -> None:
    names = [f"g{i:03d}" for i in range(12)]
    store = make_store(tmp_path / "s.zarr", names, classes={})
    kinds = ["merger" if i < 6 else "other" for i in range(12)]
    how = ["bald" if i % 2 else "random" for i in range(12)]
    write_table(store.path, "kinds", pa.table({"id": names, "kind": kinds, "sampled_by": how}))
    found = wanted_samples(store, np.arange(12), "kind=merger", np.arange(12).astype(str))
    assert {store.ids[i] for i in found.labelled} == set(names[::2])


@pytest.mark.parametrize(("find", "words"), [
    ("class", "expected COLUMN=VALUE or TASK=CLASS"),
    ("class=merger", r"no ranked sample is 'merger'. Classes and their samples: \w+(-\w+)? 10, "),
    ("clas=merger", r"has no column 'clas'. Did you mean 'class'\? As a task: no task named 'clas'"),
])
def test_what_cannot_be_found_is_said(store: Store, find: str, words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        wanted_samples(store, np.arange(30), find, np.arange(30).astype(str))
