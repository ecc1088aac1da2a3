"""Tasks that a store has labels for."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from sciencessl.errors import ConfigError, StoreError
from sciencessl.evaluate.encoders import run_encoder
from sciencessl.evaluate.marks import mark_encoder
from sciencessl.evaluate.store_tasks import find_store_task, store_tasks
from sciencessl.evaluate.tasks import class_names, load_task
from sciencessl.evaluate.transfer import transfer
from sciencessl.spec import LabelSchema, Question
from sciencessl.store.reader import Store
from sciencessl.store.sides import Side
from sciencessl.store.tables import write_table

NAMES = [f"g{i:03d}" for i in range(72)]
SCHEMA = LabelSchema("mine", (
    Question("shape-x", ("round", "disk", "junk")), Question("ring", ("yes", "no"), ("shape-x_disk",)),
))  # fmt: skip


@pytest.fixture(scope="module")
def voted(tmp_path_factory: pytest.TempPathFactory, make_store: Any) -> Store:
    """Twenty votes on the shape of each galaxy; on rings 20 for even ones, 4 for the others, more yes on each third."""
    store = make_store(tmp_path_factory.mktemp("tasks") / "s.zarr", NAMES)
    number = np.arange(len(NAMES))
    votes = {
        "shape-x_round": np.where(number % 3 == 0, 12, 5), "shape-x_disk": np.where(number % 3 == 0, 5, 12),
        "shape-x_junk": np.full(len(NAMES), 3),
        "ring_yes": np.where(number % 2 == 0, np.where(number % 3 == 0, 11, 10), 4),
        "ring_no": np.where(number % 2 == 0, np.where(number % 3 == 0, 9, 10), 0),
    }
    write_table(store.path, "votes", pa.table({"id": NAMES, **votes}), schema=SCHEMA)
    return Store(store.path)


def test_a_store_offers_tasks_of_its_domain_and_of_every_question(voted: Store, survey: Store) -> None:
    assert [task.name for task in store_tasks(voted)] == [
        "morphology", "spiral-edge-on", "rings", "votes:shape-x", "class:shape-x", "votes:ring", "class:ring",
    ]
    assert [task.name for task in store_tasks(survey)] == ["morphology", "spiral-edge-on"]


def test_a_question_is_found_with_its_campaign_and_without(voted: Store) -> None:
    for name in ("votes:shape-x", "votes:shape"):
        task = find_store_task(voted, name)
        assert (task.name, task.kind, task.metric) == ("votes:shape-x", "counts", "nll")
        assert task.columns == ("shape-x_round", "shape-x_disk", "shape-x_junk")
    task = find_store_task(voted, "class:shape")
    assert (task.kind, set(task.classes.values())) == ("class", {"round", "disk", "junk"})


def test_a_class_of_votes_is_the_answer_with_more_than_half_of_them(voted: Store) -> None:
    data = load_task(voted, find_store_task(voted, "class:shape"))
    assert data.classes == ("disk", "round")
    for i, label in zip(data.train, data.train_labels, strict=True):
        assert data.classes[label] == ("disk" if int(voted.ids[i][1:]) % 3 else "round")


def test_a_ring_has_more_than_half_of_ten_votes_or_more(voted: Store) -> None:
    data = load_task(voted, find_store_task(voted, "rings"))
    found = {voted.ids[i]: data.classes[c] for i, c in [*zip(data.train, data.train_labels, strict=True),
                                                        *zip(data.test, data.test_labels, strict=True)]}
    # Half of the votes are not more than half: no ring, and no sample lost.
    assert found == {name: "no ring" if int(name[1:]) % 3 else "ring" for name in NAMES[::2]}
    assert data.dropped == {"fewer than 10 votes": 36}


def test_ties_are_dropped_and_counted_where_no_class_is_given_for_them(voted: Store) -> None:
    every = Side.of_splits(voted, "train", "test")
    found = class_names(find_store_task(voted, "class:ring"), every)
    assert found.dropped == {"no majority": 24, "fewer than 10 votes": 36}
    assert {*found.names.tolist()} == {"yes", ""}


def test_another_share_and_least_number_of_votes_make_other_classes(voted: Store) -> None:
    task = replace(find_store_task(voted, "class:ring"), above=0.4, least_votes=4)
    found = class_names(task, Side.of_splits(voted, "train", "test"))
    assert not found.dropped
    assert {*found.names.tolist()} == {"yes"}


def test_what_the_store_has_is_said_where_it_lacks_the_votes(voted: Store, survey: Store) -> None:
    with pytest.raises(StoreError, match=r"task 'rings' reads column 'ring_yes'") as found:
        find_store_task(survey, "rings")
    assert found.value.__notes__ == ["Tasks that the store has columns for: morphology, spiral-edge-on."]
    with pytest.raises(ConfigError, match=r"votes:bar: .* has no votes on any question. Tasks .*: morphology, spiral-"):
        find_store_task(survey, "votes:bar")
    with pytest.raises(ConfigError, match=r"--task votes:shap, .*no question 'shap'. Did you mean .*: shape-x, ring"):
        find_store_task(voted, "votes:shap")
    with pytest.raises(ConfigError, match=r"no task named 'shape-x'. Did you mean .*votes:shape-x"):
        find_store_task(voted, "shape-x")


def test_without_any_label_the_error_says_how_to_get_some(tmp_path: Path, make_store: Any) -> None:
    store = make_store(tmp_path / "s.zarr", NAMES[:9], classes={})
    with pytest.raises(ConfigError, match=r"columns for none of the tasks of its domain, and no votes. Add"):
        find_store_task(store, "")


def test_runs_that_learned_from_the_votes_have_seen_the_classes_made_of_them(
    tmp_path: Path, voted: Store, make_run: Any
) -> None:
    run = make_run(tmp_path / "hybrid", voted, label_columns=("ring_yes", "ring_no"), label_rows={"ring": 36})
    data = load_task(voted, find_store_task(voted, "rings"))
    assert mark_encoder(run_encoder(run), voted, data).level == "own"


def test_votes_on_a_question_have_a_curve_and_chance(tmp_path: Path, voted: Store, run: Path) -> None:
    found = transfer([run], voted.path, tmp_path / "out", task="votes:shape", labels=("all",), arms=("frozen",))
    assert (found.metric, found.lower_is_better, found.task) == ("nll", True, "votes:shape-x")
    (chance,) = [note for note in found.notes if note.startswith("chance: nll")]
    votes = np.stack([voted.column(name) for name in found.classes], axis=1)
    train, test = votes[voted.split("train").all()], votes[voted.split("test").all()]
    share = train.sum(axis=0) / train.sum()
    assert f"nll {-(test * np.log(share)).sum() / test.sum():.3f}," in chance
