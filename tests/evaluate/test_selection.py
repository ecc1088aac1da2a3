"""What is chosen to be labelled: by a score, at random, and never what would spoil a test."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from sciencessl import cli
from sciencessl.errors import ConfigError, DataError, RunError
from sciencessl.evaluate.acquisition import expected_information, next_vote_entropy
from sciencessl.evaluate.members import member_concentrations
from sciencessl.evaluate.selection import Choice, Selection, select, selection_text
from sciencessl.store.reader import Store
from sciencessl.store.tables import write_table
from tests.evaluate.voted import SCHEMA, give_head

NAMES = [f"g{i:03d}" for i in range(60)]


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory, make_store: Callable[..., Store]) -> Store:
    """60 galaxies, 42 of them in split=train, without votes; do not change it."""
    columns = {name: {"ra": 10.0 + i, "dec": -5.0} for i, name in enumerate(NAMES)}
    return make_store(tmp_path_factory.mktemp("next") / "s.zarr", NAMES, columns=columns)


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory, store: Store, make_run: Any) -> list[Path]:
    folder = tmp_path_factory.mktemp("runs")
    return [give_head(make_run(folder / f"run{i}", store, seed=i), store, seed=i) for i in range(2)]


def choose(runs: list[Path], store: Store, out: Path, dry_run: bool = False, overwrite: bool = False,
           **changes: Any) -> Selection:
    values = {"n": 10, "volunteers": 10, "dropout_passes": 0, "png_px": 48, **changes}
    return select(runs, store.path, out, Choice(**values), dry_run, overwrite, workers=0)


def manifest(out: Path) -> list[dict[str, str]]:
    with (out / "subjects" / "manifest.csv").open(newline="") as stream:
        return list(csv.DictReader(stream))


def test_the_highest_scores_are_chosen_beside_a_random_part(tmp_path: Path, runs: list[Path], store: Store) -> None:
    found = choose(runs, store, tmp_path / "o")
    train = store.split("train").all()
    alpha = np.concatenate([a for _, a in member_concentrations(runs, store, train, workers=0)], axis=1)
    scores = dict(zip([store.ids[i] for i in train], expected_information(alpha, SCHEMA, 10).sum(axis=1), strict=True))
    random = [s.id for s in found.subjects if s.sampled_by == "random"]
    bald = [s.id for s in found.subjects if s.sampled_by == "bald"]
    assert (len(random), len(bald), found.candidates) == (2, 8, len(train))
    rest = sorted((name for name in scores if name not in random), key=lambda name: -scores[name])
    assert bald == rest[:8]
    for subject in found.subjects:
        assert subject.score == pytest.approx(scores[subject.id])
        assert sum(subject.questions.values()) == pytest.approx(subject.score)
    assert "10 subjects: 2 at random, 8 by bald" in selection_text(found)


def test_volunteers_see_neither_scores_nor_why_a_subject_was_chosen(
    tmp_path: Path, runs: list[Path], store: Store
) -> None:
    found = choose(runs, store, tmp_path / "o")
    rows = manifest(tmp_path / "o")
    assert list(rows[0]) == ["subject_id", "filename", "ra", "dec", "#sampled_by", "#selection", "#score"]
    assert [row["subject_id"] for row in rows] == [s.id for s in found.subjects]
    assert [row["#sampled_by"] for row in rows] == ["random"] * 2 + ["bald"] * 8
    assert all((tmp_path / "o" / "subjects" / row["filename"]).is_file() for row in rows)
    assert {path.name for path in (tmp_path / "o" / "subjects").glob("*.png")} == {row["filename"] for row in rows}
    kept = json.loads((tmp_path / "o" / "selection.json").read_text())
    assert (kept["store"], kept["score"], kept["seed"], kept["candidates"]) == (store.digest, "bald", 0, 42)
    assert list(kept["runs"]) == ["run0", "run1"]


def test_the_random_part_is_the_same_whatever_the_score(tmp_path: Path, runs: list[Path], store: Store) -> None:
    parts = [choose(runs if score != "random" else [], store, tmp_path / score, score=score, random_share=0.3)
             for score in ("bald", "entropy", "random")]
    first, second, third = ([s.id for s in part.subjects if s.sampled_by == "random"] for part in parts)
    assert len(first) == 3
    assert first == second == third[:3]
    assert len(third) == 10
    assert [s.id for s in choose([], store, tmp_path / "x", score="random", seed=1).subjects] != third
    assert {store.split_codes()[store.ids.index(name)] for name in third} == {0}


def test_entropy_is_another_score(tmp_path: Path, runs: list[Path], store: Store) -> None:
    found = choose(runs, store, tmp_path / "o", score="entropy", random_share=0.0, n=5)
    train = store.split("train").all()
    alpha = np.concatenate([a for _, a in member_concentrations(runs, store, train, workers=0)], axis=1)
    order = np.argsort(-next_vote_entropy(alpha, SCHEMA).sum(axis=1))[:5]
    assert [s.id for s in found.subjects] == [store.ids[train[i]] for i in order]
    assert any("no subject is drawn at random" in note for note in found.notes)


def test_a_second_call_keeps_the_choice_and_writes_what_is_missing(
    tmp_path: Path, runs: list[Path], store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = choose(runs, store, tmp_path / "o")
    text = (tmp_path / "o" / "selection.json").read_text()
    (tmp_path / "o" / "subjects" / "manifest.csv").unlink()
    (tmp_path / "o" / "subjects" / f"{first.subjects[3].id}.png").unlink()
    monkeypatch.setattr("sciencessl.evaluate.selection.member_concentrations", None)  # nothing is scored again
    second = choose(runs, store, tmp_path / "o")
    assert (first.pictures, second.pictures) == (10, 1)
    assert second.subjects == first.subjects
    assert (tmp_path / "o" / "selection.json").read_text() == text
    assert len(manifest(tmp_path / "o")) == 10


def test_another_selection_is_replaced_only_when_asked(tmp_path: Path, store: Store) -> None:
    choose([], store, tmp_path / "o", score="random", n=3)
    with pytest.raises(RunError, match=r"holds a selection of other runs, samples, votes or settings.*--overwrite"):
        choose([], store, tmp_path / "o", score="random", n=4)
    assert choose([], store, tmp_path / "o", score="random", n=4, overwrite=True).pictures == 4
    assert len(list((tmp_path / "o" / "subjects").glob("*.png"))) == 4
    (tmp_path / "o" / "selection.json").write_text("{")
    with pytest.raises(RunError, match="choose another --out, or pass --overwrite"):
        choose([], store, tmp_path / "o", score="random", n=4)
    (tmp_path / "x").mkdir()
    (tmp_path / "x" / "notes.txt").write_text("mine")
    with pytest.raises(RunError, match="exists and holds no selection, so it is left alone"):
        choose([], store, tmp_path / "x", score="random", n=4)


def test_samples_with_enough_votes_are_left_out_and_the_random_draw_says_whom_it_missed(
    tmp_path: Path, make_store: Callable[..., Store]
) -> None:
    own = make_store(tmp_path / "s.zarr", NAMES)
    free = choose([], own, tmp_path / "free", score="random", n=6)
    first, second = free.subjects[0].id, free.subjects[3].id
    votes = {column: [0.0, 0.0] for column in SCHEMA.columns} | {"smooth_yes": [1.0, 5.0]}
    write_table(own.path, "votes", pa.table({"id": [first, second], **votes}), SCHEMA)
    found = choose([], own, tmp_path / "o", score="random", n=6)
    assert (found.left_out, found.passed_over) == (2, (first, second))
    assert not {first, second} & {s.id for s in found.subjects}
    assert any("passed over 2 samples that have votes already" in note for note in found.notes)
    few = choose([], own, tmp_path / "few", score="random", n=6, enough_votes=5)
    assert (few.left_out, few.subjects[0].id) == (1, first)
    every = {column: [1.0] * 60 for column in SCHEMA.columns}
    write_table(own.path, "votes", pa.table({"id": NAMES, **every}), SCHEMA)
    with pytest.raises(DataError, match=r"split=train has 42 samples, and none with fewer than 1 votes: there is "):
        choose([], own, tmp_path / "all", score="random")


def test_fewer_samples_than_asked_for_are_all_taken(tmp_path: Path, runs: list[Path], store: Store) -> None:
    found = choose(runs, store, tmp_path / "o", n=100)
    assert sorted(s.id for s in found.subjects) == sorted(store.ids[i] for i in store.split("train").all())
    assert found.notes[0] == "42 samples are left to choose from, fewer than the 100 asked for"


def test_a_dry_run_writes_nothing(tmp_path: Path, runs: list[Path], store: Store) -> None:
    found = choose(runs, store, tmp_path / "o", dry_run=True, dropout_passes=3)
    assert (found.members, found.candidates, found.subjects) == (6, 42, ())
    assert "nothing was written" in selection_text(found)
    assert not (tmp_path / "o").exists()


def test_a_test_set_is_drawn_at_random_or_not_at_all(tmp_path: Path, store: Store) -> None:
    found = choose([], store, tmp_path / "o", score="random", split="test", n=5)
    assert {store.split_codes()[store.ids.index(s.id)] for s in found.subjects} == {2}
    with pytest.raises(ConfigError, match=r"--split test --score bald: what a model chose is no fair test"):
        Choice(split="test")


@pytest.mark.parametrize(("changes", "message"), [
    ({"n": 0}, r"--n is 0; it must be 1 or more"),
    ({"enough_votes": 0}, r"--enough-votes is 0"),
    ({"random_share": 1.2}, r"--random-share is 1.2; it must be from 0 to 1"),
    ({"score": "bold"}, r"--score: no score named 'bold'. Did you mean 'bald'\?"),
    ({"split": "all"}, r"--split: no split named 'all'"),
])
def test_choices_out_of_range(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        Choice(**changes)


def test_runs_and_scores_that_do_not_fit(tmp_path: Path, runs: list[Path], store: Store) -> None:
    with pytest.raises(ConfigError, match=r"one run without dropout is one member: every score is 0. Give several"):
        choose(runs[:1], store, tmp_path / "o")
    assert choose(runs[:1], store, tmp_path / "o", dropout_passes=2, n=3).members == 2
    with pytest.raises(ConfigError, match=r"--score bald needs finished runs that learned from votes; without"):
        choose([], store, tmp_path / "p")
    with pytest.raises(ConfigError, match="--score random asks no model, and 2 runs were given"):
        choose(runs, store, tmp_path / "p", score="random")


def test_the_verb(
    tmp_path: Path, runs: list[Path], store: Store, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["select", *map(str, runs), "--data", str(store.path), "--out", str(tmp_path / "o"), "--n", "5", "--png-px",
             "64", "--dropout-passes", "2"]
    assert cli.run([*words, "--json"]) == 0
    shown = json.loads(capsys.readouterr().out)
    assert (shown["members"], len(shown["subjects"]), shown["pictures"]) == (4, 5, 5)
    assert cli.run(words) == 0
    assert "0 pictures written" in capsys.readouterr().out
    assert cli.run([*words[:-2], "--split", "test"]) == 2
    assert "Draw labels for a test with --score random" in capsys.readouterr().err
