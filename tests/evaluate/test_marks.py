from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from sciencessl.domains.galaxy.tasks import MORPHOLOGY
from sciencessl.evaluate.encoders import random_encoder, run_encoder
from sciencessl.evaluate.folds import fold_data
from sciencessl.evaluate.marks import mark_encoder
from sciencessl.evaluate.seen import Mark
from sciencessl.evaluate.tasks import load_task
from sciencessl.evaluate.tested_on import load_across, load_held_out
from sciencessl.spec import TransferTask
from sciencessl.store.reader import Store
from sciencessl.store.removals import remove
from sciencessl.store.tables import write_table
from sciencessl.train.folder import StoreRecord

NAMES = [f"g{i:03d}" for i in range(36)]
ANSWERS = ("smooth-or-featured_smooth", "smooth-or-featured_featured")
VOTED = {"label_columns": ANSWERS, "label_rows": {"smooth-or-featured": 24},
         "label_note": "simulated votes on real images: {seed: 0}"}


@pytest.fixture
def store(tmp_path: Path, make_store: Any) -> Store:
    """A store whose votes were simulated from the task's column."""
    made: Store = make_store(tmp_path / "survey.zarr", NAMES)
    votes = pa.table({"id": NAMES, **{answer: [1.0] * 36 for answer in ANSWERS}})
    write_table(made.path, "votes", votes, derived_from=dict.fromkeys(ANSWERS, ("class",)))
    return made


def _mark(run: Path, store: Store) -> Mark:
    return mark_encoder(run_encoder(run), store, load_task(store, MORPHOLOGY))


def test_pixels_of_the_training_split_alone_are_nothing(tmp_path: Path, store: Store, make_run: Any) -> None:
    mark = _mark(make_run(tmp_path / "run", store), store)
    assert mark == Mark("none", "Neither test samples nor related labels were seen in pretraining.")
    random = random_encoder(run_encoder(tmp_path / "run").card, 0)
    assert random.card.label_columns == ()


def test_votes_simulated_from_the_tasks_column_are_related(tmp_path: Path, store: Store, make_run: Any) -> None:
    mark = _mark(make_run(tmp_path / "run", store, **VOTED), store)
    assert mark.level == "related"
    assert mark.sentence == (
        "Related labels were seen in pretraining: smooth-or-featured (24 labelled samples). "
        "They are simulated votes on real images."
    )


def test_votes_without_a_recorded_link_are_named_as_such(tmp_path: Path, store: Store, make_run: Any) -> None:
    write_table(store.path, "votes", pa.table({"id": NAMES, ANSWERS[0]: [1.0] * 36}))
    mark = _mark(make_run(tmp_path / "run", store, **VOTED), store)
    assert mark.level == "related"
    assert mark.sentence.startswith(
        "Labels with no recorded link to the task were seen in pretraining: smooth-or-featured (24 labelled samples)."
    )


def test_the_tasks_own_column(tmp_path: Path, store: Store, make_run: Any) -> None:
    changes = {"label_columns": ("class",), "label_rows": {"class": 1024}}
    mark = _mark(make_run(tmp_path / "run", store, **changes), store)
    assert mark.level == "own"
    assert mark.sentence == "The task's own labels were seen in pretraining: class (1,024 labelled samples)."


def test_what_an_ancestor_saw_counts(tmp_path: Path, store: Store, make_run: Any) -> None:
    oldest = make_run(tmp_path / "oldest", store, **VOTED)
    middle = make_run(tmp_path / "middle", store, init_from=str(oldest))
    mark = _mark(make_run(tmp_path / "run", store, init_from=str(middle)), store)
    assert mark.level == "related"
    assert "smooth-or-featured (24 labelled samples)" in mark.sentence
    shutil.rmtree(oldest)
    assert _mark(tmp_path / "run", store).level == "unknown"


def test_weights_from_a_file_are_foreign(tmp_path: Path, store: Store, make_run: Any) -> None:
    mark = _mark(make_run(tmp_path / "run", store, init_from="/weights/imagenet.safetensors"), store)
    assert mark.level == "unknown"
    assert mark.sentence == "Unknown: foreign weights, whose training data are not on record."


def test_another_store_that_trains_on_test_samples(
    tmp_path: Path, store: Store, make_store: Any, make_run: Any
) -> None:
    everything = make_store(tmp_path / "all.zarr", NAMES, splits=dict.fromkeys(NAMES, "train"), side=44)
    assert everything.digest != store.digest
    mark = _mark(make_run(tmp_path / "run", everything), store)
    assert (mark.level, mark.transductive) == ("transductive", True)
    assert mark.sentence == "Test samples were seen in pretraining, without labels."
    apart = make_store(tmp_path / "apart.zarr", [f"h{i:03d}" for i in range(36)])
    assert _mark(make_run(tmp_path / "far", apart), store).level == "none"
    same = make_store(tmp_path / "same.zarr", NAMES, side=44)
    assert _mark(make_run(tmp_path / "near", same), store).level == "none"


def test_what_derives_from_what_is_read_in_the_runs_store_too(
    tmp_path: Path, store: Store, make_store: Any, make_run: Any
) -> None:
    plain = make_store(tmp_path / "plain.zarr", NAMES, side=44)
    assert _mark(make_run(tmp_path / "run", store, **VOTED), plain).level == "related"


def test_a_training_store_that_is_gone(tmp_path: Path, store: Store, make_store: Any, make_run: Any) -> None:
    other = make_store(tmp_path / "other.zarr", NAMES, side=44)
    plain, voted = make_run(tmp_path / "plain", other), make_run(tmp_path / "voted", other, **VOTED)
    shutil.move(other.path, tmp_path / "elsewhere.zarr")
    mark = _mark(plain, store)
    assert mark.level == "unknown"
    assert mark.sentence.startswith("Whether test samples were seen is unknown: the training store")
    # Labels are on record in the run itself: the stronger statement stands.
    known = _mark(voted, store)
    assert known.level == "related"
    assert "smooth-or-featured (24 labelled samples)" in known.sentence
    assert "is gone or has changed" in known.sentence


def test_another_store_in_the_place_of_the_training_store(
    tmp_path: Path, store: Store, make_store: Any, make_run: Any
) -> None:
    other = make_store(tmp_path / "other.zarr", NAMES, side=44)
    run = make_run(tmp_path / "run", other)
    shutil.rmtree(other.path)
    make_store(tmp_path / "other.zarr", NAMES[:30], side=44)
    assert _mark(run, store).level == "unknown"


def test_a_task_on_answer_columns_is_own(tmp_path: Path, store: Store, make_run: Any) -> None:
    run = make_run(tmp_path / "run", store, **VOTED)
    data = load_task(store, MORPHOLOGY)
    for column in ANSWERS:
        one = replace(data, task=replace(data.task, column=column))
        assert mark_encoder(run_encoder(run), store, one).columns == (column,)
    votes = replace(data, task=TransferTask("votes", kind="counts", columns=("other", ANSWERS[1])))
    mark = mark_encoder(run_encoder(run), store, votes)
    assert (mark.level, mark.columns) == ("own", ANSWERS[1:])


def test_labels_related_to_one_of_several_columns(tmp_path: Path, store: Store, make_run: Any) -> None:
    run = make_run(tmp_path / "run", store, label_columns=("class",), label_rows={"class": 24})
    task = TransferTask("votes", kind="multilabel", columns=("other", ANSWERS[1]))
    mark = mark_encoder(run_encoder(run), store, replace(load_task(store, MORPHOLOGY), task=task))
    assert (mark.level, mark.columns) == ("related", ("class",))
    assert mark.sentence.startswith("Related labels were seen in pretraining: class (24 labelled samples).")


def test_a_model_that_learned_the_task_from_foreign_weights_is_own(
    tmp_path: Path, store: Store, make_run: Any
) -> None:
    changes = {"label_columns": ("class",), "label_rows": {"class": 12}, "init_from": "timm:resnet18@w.safetensors"}
    mark = _mark(make_run(tmp_path / "run", store, **changes), store)
    assert mark.level == "own"
    assert mark.sentence == (
        "The task's own labels were seen in pretraining: class (12 labelled samples). What the foreign weights that it "
        "started from saw is not on record."
    )


def test_folds_and_held_out_values_test_on_samples_of_split_train(
    tmp_path: Path, make_store: Any, make_run: Any
) -> None:
    sites = {name: {"site": "test" if (i // 3) % 3 == 2 else "ab"[i // 3 % 3]} for i, name in enumerate(NAMES)}
    survey = make_store(tmp_path / "s", NAMES, columns=sites)
    encoder = run_encoder(make_run(tmp_path / "run", survey))
    folds = fold_data(load_task(survey, MORPHOLOGY), 4, 0)
    assert {mark_encoder(encoder, survey, fold).level for fold in folds} == {"transductive"}
    assert mark_encoder(encoder, survey, load_held_out(survey, MORPHOLOGY, "site", "a")).transductive
    # The site that coincides with split=test was never seen.
    assert mark_encoder(encoder, survey, load_held_out(survey, MORPHOLOGY, "site", "test")).level == "none"


def test_another_store_is_looked_up_sample_by_sample(
    tmp_path: Path, store: Store, make_store: Any, make_run: Any
) -> None:
    others = [f"h{i:03d}" for i in range(36)]
    apart = make_store(tmp_path / "apart.zarr", others)
    data = load_across(store, MORPHOLOGY, apart)
    own, far = run_encoder(make_run(tmp_path / "own", store)), run_encoder(make_run(tmp_path / "far", apart))
    assert mark_encoder(own, store, data, apart).level == "none"
    assert mark_encoder(far, store, data, apart).level == "transductive"
    # Tested on what was split=train of the first store, read from a third one.
    again = make_store(tmp_path / "again.zarr", [name for name in NAMES if int(name[1:]) // 3 % 3 != 2], side=44)
    assert mark_encoder(own, apart, load_across(apart, MORPHOLOGY, again), again).level == "transductive"
    # Equal contents under other ids, which a preparer recorded.
    hashes = {name: {"pixel_hash": f"x{name[1:]}"} for name in (*NAMES, *others)}
    first, second = make_store(tmp_path / "h1.zarr", NAMES, columns=hashes), make_store(
        tmp_path / "h2.zarr", others, columns=hashes)
    seen = run_encoder(make_run(tmp_path / "seen", second))
    assert mark_encoder(seen, first, load_task(first, MORPHOLOGY), first).level == "none"  # test is test in both
    turned = make_store(tmp_path / "h3.zarr", others, columns={
        name: {"pixel_hash": f"x{(int(name[1:]) + 3) % 36:03d}"} for name in others})
    seen = run_encoder(make_run(tmp_path / "turned", turned))
    assert mark_encoder(seen, first, load_task(first, MORPHOLOGY), first).level == "transductive"
    # The pool's own store is the training store even where it was moved since.
    shutil.move(store.path, tmp_path / "moved.zarr")
    moved = Store(tmp_path / "moved.zarr")
    assert mark_encoder(own, moved, data, apart).level == "none"


def test_doubles_under_other_ids_count_as_seen(tmp_path: Path, make_store: Any, make_run: Any) -> None:
    """As recorded contents tell: the training store has the picture of one test sample under another id."""
    def hashed(path: Path, first: str, change: dict[str, str]) -> Store:
        names = [f"{first}{i:03d}" for i in range(36)]
        columns = {name: {"pixel_hash": change.get(name, f"hash of {name}")} for name in names}
        made: Store = make_store(path, names, columns=columns)
        return made

    survey = hashed(tmp_path / "survey.zarr", "g", {})
    data = load_task(survey, MORPHOLOGY)
    double = f"hash of {survey.ids[data.test[0]]}"
    for name, change, level in (("apart", {}, "none"), ("double", {"h000": double}, "transductive"),
                                ("tested", {"h006": double}, "none")):
        other = hashed(tmp_path / f"{name}.zarr", "h", change)
        run = make_run(tmp_path / name, other)
        assert mark_encoder(run_encoder(run), survey, data).level == level


def test_a_column_that_samples_were_drawn_by_is_seen(tmp_path: Path, store: Store, make_run: Any) -> None:
    drawn = {"label_columns": ("class",), "label_rows": {"class": 24}, "sampling": "an epoch is 24 draws"}
    assert _mark(make_run(tmp_path / "drawn", store, **drawn), store).level == "own"


def test_test_samples_are_looked_for_in_every_training_store(
    tmp_path: Path, store: Store, make_store: Any, make_run: Any
) -> None:
    apart = make_store(tmp_path / "apart.zarr", [f"h{i:03d}" for i in range(36)])
    all_train = make_store(tmp_path / "all.zarr", NAMES, splits=dict.fromkeys(NAMES, "train"))
    records = {name: StoreRecord(str(found.path), found.digest) for name, found in
               (("own", store), ("apart", apart), ("all", all_train))}
    gone = StoreRecord(str(tmp_path / "gone.zarr"), "abc")
    for names, level in ((("own", "apart"), "none"), (("apart", "all"), "transductive")):
        run = make_run(tmp_path / "-".join(names), store, stores=tuple(records[name] for name in names))
        assert _mark(run, store).level == level
    mark = _mark(make_run(tmp_path / "lost", store, stores=(records["own"], gone)), store)
    assert mark.level == "unknown"
    assert "the training store " + gone.path + " is gone" in mark.sentence
    mark = _mark(make_run(tmp_path / "enough", store, stores=(gone, records["all"])), store)
    assert mark.level == "transductive"


def test_what_was_withdrawn_after_a_run_was_seen_and_what_was_before_was_not(
    tmp_path: Path, store: Store, make_store: Any, make_run: Any
) -> None:
    # Another store tests on one sample that was in split=train here.
    shared = make_store(tmp_path / "other.zarr", [NAMES[0], *(f"h{i:03d}" for i in range(35))], side=44)
    data = load_across(store, MORPHOLOGY, shared)
    before = run_encoder(make_run(tmp_path / "before", store))
    remove(store.path, [NAMES[0]], "leaks into the test")
    left = Store(store.path)
    record = StoreRecord(str(left.path), left.digest, left.table_digests())
    after = run_encoder(make_run(tmp_path / "after", left, stores=(record,)))
    assert mark_encoder(before, left, data, shared).level == "transductive"
    assert mark_encoder(after, left, data, shared).level == "none"


def test_probes_are_told_but_are_no_labels(tmp_path: Path, store: Store, make_run: Any) -> None:
    plain = _mark(make_run(tmp_path / "plain", store), store)
    mark = _mark(make_run(tmp_path / "probed", store, probe_columns=("class",)), store)
    assert (mark.level, mark.probed, mark.shown) == (plain.level, True, f"{plain.level}, probed")
    assert mark.sentence == (
        f"{plain.sentence} Online probes told how well class could be read off while it trained: no gradient came of "
        "them, but the run may have been chosen by them."
    )
    # Votes that were computed from the class tell of it too, and so does a run that started from a probed one.
    votes = _mark(make_run(tmp_path / "votes", store, probe_columns=ANSWERS[:1]), store)
    assert votes.shown == f"{plain.level}, probed"
    later = _mark(make_run(tmp_path / "later", store, init_from=str(tmp_path / "probed")), store)
    assert later.probed
    other = _mark(make_run(tmp_path / "other", store, probe_columns=("magnitude",)), store)
    assert (other.sentence, other.shown) == (plain.sentence, plain.level)


def test_labels_that_a_score_chose_are_named_in_the_mark(tmp_path: Path, store: Store, make_run: Any) -> None:
    note = "labels, 15 of 20 of samples that bald chose, not a random draw; simulated votes on real images: {seed: 0}"
    mark = _mark(make_run(tmp_path / "run", store, **{**VOTED, "label_note": note}), store)
    assert mark.sentence.endswith("They are labels, 15 of 20 of samples that bald chose, not a random draw; "
                                  "simulated votes on real images.")
