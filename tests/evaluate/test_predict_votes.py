"""`predict` of runs that learned from votes: columns, shards that resume, and the comparison with stored votes."""

from __future__ import annotations

import contextlib
import csv
import io
import json
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from sciencessl import cli
from sciencessl.errors import ConfigError, DataError, RunError
from sciencessl.evaluate import predict_votes as module
from sciencessl.evaluate.members import member_concentrations, read_members
from sciencessl.evaluate.posterior import asked, expected_fractions, mixture_quantiles
from sciencessl.evaluate.posterior_columns import PosteriorSettings
from sciencessl.evaluate.predict import PredictEstimate
from sciencessl.evaluate.predict_votes import PosteriorResult, posteriors_text, predict_votes
from sciencessl.store.reader import Store
from sciencessl.store.tables import write_table
from sciencessl.train.vote_head import read_vote_head, write_vote_head
from tests.evaluate.voted import SCHEMA, give_head, give_votes

StoreFactory = Callable[..., Store]
NAMES = [f"g{i:03d}" for i in range(30)]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("voted")


@pytest.fixture(scope="module")
def runs(folder: Path, survey: Store, make_run: Any) -> list[Path]:
    """Two runs of one input."""
    return [give_head(make_run(folder / f"run{i}", survey, seed=i), survey, seed=i) for i in range(2)]


@pytest.fixture(scope="module")
def voted(folder: Path, runs: list[Path], make_store: StoreFactory) -> Store:
    """30 galaxies of another store, 9 of them in split=test, with votes."""
    return give_votes(make_store(folder / "voted.zarr", NAMES), runs)


@pytest.fixture(autouse=True)
def quickly(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Only the tests that look at the figure render it."""
    if "figure" not in request.node.name:
        monkeypatch.setattr(module, "save_figure", lambda figure, path: path.write_bytes(b"figure"))


def _predict(runs: list[Path], store: Store, out: Path, split: str = "all", keep: Any = (), overwrite: bool = False,
             **settings: Any) -> PosteriorResult:
    found = predict_votes(runs, store.path, out, split, PosteriorSettings(**settings), keep, overwrite=overwrite,
                          workers=0)
    assert isinstance(found, PosteriorResult)
    return found


def _read(out: Path) -> pa.Table:
    return pa.concat_tables([pq.read_table(path) for path in sorted(out.glob("part-*.parquet"))])


def _alpha(runs: list[Path], store: Store, **changes: Any) -> np.ndarray:
    parts = member_concentrations(runs, store, np.arange(len(store)), workers=0, **changes)
    return np.concatenate([alpha for _, alpha in parts], axis=1)


def _stack(table: pa.Table, end: str) -> np.ndarray:
    return np.stack([table[f"{column}_{end}"].to_numpy() for column in SCHEMA.columns], axis=1)


def test_columns_are_the_posterior_of_all_runs_together(tmp_path: Path, runs: list[Path], voted: Store) -> None:
    result = _predict(runs, voted, tmp_path / "out", concentrations=True)
    table, alpha = _read(result.out), _alpha(runs, voted)
    assert tuple(table.column_names) == result.columns
    assert result.columns[:8] == (
        "id", "split", "smooth_proportion-asked", "smooth_yes_fraction", "smooth_yes_90pc-lower",
        "smooth_yes_90pc-upper", "smooth_yes_concentrations", "smooth_disk_fraction",
    )  # fmt: skip
    assert table["id"].to_pylist() == voted.ids
    np.testing.assert_allclose(_stack(table, "fraction"), expected_fractions(alpha, SCHEMA.groups), atol=1e-6)
    lower, upper = mixture_quantiles(alpha, SCHEMA.groups, (0.05, 0.95))
    np.testing.assert_allclose(_stack(table, "90pc-lower"), lower, atol=1e-6)
    np.testing.assert_allclose(_stack(table, "90pc-upper"), upper, atol=1e-6)
    likely = np.stack([table[f"{q.name}_proportion-asked"].to_numpy() for q in SCHEMA.questions], axis=1)
    np.testing.assert_allclose(likely, asked(alpha, SCHEMA), atol=1e-6)
    # A defect elsewhere: members' values as JSON text in a cell.
    assert pa.types.is_fixed_size_list(table.schema.field("smooth_yes_concentrations").type)
    found = np.array(table["arms_more_concentrations"].to_pylist())
    np.testing.assert_allclose(found, alpha[:, :, -1].T, rtol=1e-6)
    assert (result.members, result.samples, result.shards) == (2, 30, 1)


def test_levels_are_in_the_name_and_friendly_tables_leave_out_what_is_not_asked(
    tmp_path: Path, runs: list[Path], voted: Store
) -> None:
    plain = _read(_predict(runs[:1], voted, tmp_path / "plain", level=0.683).out)
    friendly = _read(_predict(runs[:1], voted, tmp_path / "friendly", level=0.683, friendly=True).out)
    assert plain.column_names == friendly.column_names
    assert "edge_yes_68.3pc-upper" in plain.column_names
    likely = plain["edge_proportion-asked"].to_numpy()
    assert 0 < (likely < 0.5).sum() < len(likely)
    for end in ("fraction", "68.3pc-lower", "68.3pc-upper"):
        before, after = (table[f"edge_no_{end}"].to_numpy() for table in (plain, friendly))
        np.testing.assert_array_equal(after, np.where(likely < 0.5, np.float32(np.nan), before))
    assert plain["smooth_yes_fraction"].equals(friendly["smooth_yes_fraction"])


def test_passes_are_thinned_heads_that_depend_on_nothing_but_seed_and_pass(
    runs: list[Path], voted: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    alpha = _alpha(runs, voted, dropout_passes=3, seed=5)
    assert alpha.shape == (6, 30, 8)
    assert len(np.unique(alpha[:, 0, 0])) == 6
    monkeypatch.setattr("sciencessl.evaluate.members.CHUNK", 7)
    monkeypatch.setattr("sciencessl.evaluate.members.PART", 11)
    np.testing.assert_allclose(_alpha(runs, voted, dropout_passes=3, seed=5), alpha, rtol=1e-4)
    np.testing.assert_allclose(_alpha(runs[1:], voted, dropout_passes=2, seed=5), alpha[3:5], rtol=1e-4)
    assert (_alpha(runs[:1], voted, dropout_passes=1, seed=6) != alpha[:1]).all()
    parts = [part for part, _ in member_concentrations(runs, voted, np.arange(29, -1, -1), workers=0)]
    np.testing.assert_array_equal(np.concatenate(parts), np.arange(29, -1, -1))
    assert max(map(len, parts)) == 7


def test_many_passes_average_to_the_logits_without_dropout(runs: list[Path], voted: Store) -> None:
    def logits(alpha: np.ndarray) -> np.ndarray:
        return np.log((alpha - 1) / (101 - alpha))

    alpha = logits(_alpha(runs[:1], voted, dropout_passes=600))
    error = alpha.std(axis=0) / np.sqrt(600)
    assert (np.abs(alpha.mean(axis=0) - logits(_alpha(runs[:1], voted))[0]) < 5 * error).all()
    assert error.min() > 0


def test_a_second_call_computes_the_shard_that_is_gone(
    tmp_path: Path, runs: list[Path], voted: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    # A defect elsewhere: all passes over all galaxies in memory at once. Here a shard is, and what is done stays.
    monkeypatch.setattr(module, "SHARD", 8)
    first = _predict(runs, voted, tmp_path / "out", keep=["class"])
    assert (first.shards, first.computed, first.columns[-1]) == (4, 30, "class")
    before = {path.name: path.read_bytes() for path in first.out.iterdir()}
    (first.out / "part-00001.parquet").unlink()
    (first.out / "calibration-00002.safetensors").write_bytes(b"torn")
    asked_for: list[int] = []

    def watched(members: Any, store: Any, part: np.ndarray, *rest: Any) -> Any:
        asked_for.extend(part.tolist())
        return member_concentrations(members, store, part, *rest)

    monkeypatch.setattr(module, "member_concentrations", watched)
    again = _predict(runs, voted, first.out, keep=["class"])
    assert (again.computed, asked_for) == (16, list(range(8, 24)))
    assert {path.name: path.read_bytes() for path in first.out.iterdir()} == before
    assert again.calibration == first.calibration
    whole = _predict(runs, voted, tmp_path / "shards", keep=["class"]).calibration
    monkeypatch.setattr(module, "SHARD", 100)
    one = _predict(runs, voted, tmp_path / "one", keep=["class"]).calibration
    for a, b in zip(whole, one, strict=True):
        assert (a.samples, a.nll) == (b.samples, pytest.approx(b.nll))


def test_votes_drawn_from_the_posterior_are_covered_as_often_as_it_says(
    tmp_path: Path, runs: list[Path], make_store: StoreFactory
) -> None:
    names = [f"g{i:03d}" for i in range(400)]
    store = give_votes(make_store(tmp_path / "many.zarr", names, splits=dict.fromkeys(names, "test")), runs, seed=3)
    result = _predict(runs, store, tmp_path / "out")
    assert (result.judged, [found.question for found in result.calibration]) == ("test", ["smooth", "edge", "arms"])
    for found in result.calibration:
        for level in (0.5, 0.9):
            assert abs(found.coverage[level] - level) < 4 * found.coverage_error(level)
        assert found.nll < found.baseline_nll
        for answer in found.answers:
            assert answer.expected == pytest.approx(answer.observed, abs=0.06)
            assert answer.rmse < answer.baseline_rmse
    # Members that disagree: each by itself claims to know more than it does.
    alone = _predict(runs[:1], store, tmp_path / "alone")
    assert all(one.nll > both.nll for one, both in zip(alone.calibration, result.calibration, strict=True))


def test_report_and_figure_lie_beside_the_shards(tmp_path: Path, runs: list[Path], voted: Store) -> None:
    result = _predict(runs, voted, tmp_path / "out")
    content = json.loads((result.out / "calibration.json").read_text())
    assert (content["split"], content["level"]) == ("test", 0.9)
    assert content["samples"] == sum(1 for name, split in zip(voted.ids, _read(result.out)["split"].to_pylist(),
                                                              strict=True) if split == "test")
    lines = list(csv.DictReader(io.StringIO((result.out / "calibration.csv").read_text())))
    assert [line["column"] for line in lines] == list(SCHEMA.columns)
    assert float(lines[0]["rmse"]) == result.calibration[0].answers[0].rmse
    assert float(lines[-1]["coverage_90pc"]) == result.calibration[-1].answers[-1].coverage[0.9]
    assert (result.out / "calibration.png").read_bytes().startswith(b"\x89PNG")
    card = json.loads((result.out / "posteriors.json").read_text())
    assert [member["run"] for member in card["members"]] == ["run0", "run1"]
    assert card["settings"]["level"] == 0.9


def test_a_store_without_votes_has_no_report(tmp_path: Path, runs: list[Path], survey: Store) -> None:
    result = _predict(runs[:1], survey, tmp_path / "out", split="test")
    assert (result.calibration, result.judged) == ((), "")
    assert result.saw[-1] == "The store has no votes on these questions, so calibration is not known."
    assert not list(result.out.glob("calibration.*"))
    assert posteriors_text(result).splitlines()[0].split() == ["question", "asked", "leading", "answer", "fraction"]


def test_votes_that_a_head_learned_from_are_called_so(
    tmp_path: Path, runs: list[Path], voted: Store, make_run: Any
) -> None:
    own = give_head(make_run(tmp_path / "own", voted), voted)
    assert _predict([own], voted, tmp_path / "a").saw[-1] == (
        "None of these samples was in split=train of a run that is judged by them."
    )
    assert _predict([own], voted, tmp_path / "b", split="train").saw[-1] == (
        "This is no fair test: samples of split=train were in split=train of own, which may have learned from these "
        "votes."
    )
    gone = give_head(make_run(tmp_path / "gone", voted, init_from="/nowhere"), voted)
    assert "Whether gone learned from these samples is unknown" in _predict([gone], voted, tmp_path / "c").saw[-1]


def test_samples_that_a_score_chose_are_told(
    tmp_path: Path, runs: list[Path], make_store: StoreFactory
) -> None:
    store = give_votes(make_store(tmp_path / "chosen.zarr", NAMES), runs)
    test = {store.ids[i] for i in store.split("test").all()}
    how = ["bald" if name in test and number % 2 else "random" for number, name in enumerate(store.ids)]
    votes = store.table("votes")
    write_table(store.path, "votes", votes.data.append_column("sampled_by", pa.array(how)), schema=votes.schema,
                overwrite=True)
    said = " ".join(_predict(runs[:1], Store(store.path), tmp_path / "out").saw)
    assert f"{how.count('bald')} of {len(test)} of these samples were chosen by bald, not at random" in said


def test_a_question_that_friendly_tables_mask_everywhere_has_no_leading_answer(
    tmp_path: Path, runs: list[Path], voted: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sciencessl.evaluate.posterior_columns.FRIENDLY", 1.0)
    result = _predict(runs, voted, tmp_path / "out", friendly=True)
    assert [question.leading != "" for question in result.questions] == [True, False, False]
    assert posteriors_text(result).splitlines()[2].split()[2:4] == ["(all", "masked)"]


def test_a_question_without_its_parents_is_told(tmp_path: Path, survey: Store, make_run: Any, voted: Store) -> None:
    run = give_head(make_run(tmp_path / "part", survey), survey, schema=SCHEMA.only(["arms"]))
    write_vote_head(run, replace(read_vote_head(run), left_out={"arms": ("edge_no",)}))
    result = _predict([run], voted, tmp_path / "out")
    assert [line for line in result.saw if line.startswith("arms")] == [
        "arms is asked after edge_no, which the run did not learn: its proportion-asked is among those who gave such "
        "an answer."
    ]
    assert [found.question for found in result.calibration] == ["arms"]


def test_posteriors_of_something_else_are_kept(tmp_path: Path, runs: list[Path], voted: Store) -> None:
    out = tmp_path / "out"
    _predict(runs, voted, out)
    message = "holds posteriors of another run, store, split, votes or setting; choose another --out or pass"
    for changes in ({"split": "test"}, {"level": 0.5}, {"dropout_passes": 2}, {"friendly": True}):
        with pytest.raises(RunError, match=message):
            _predict(runs, voted, out, **changes)
    with pytest.raises(RunError, match=message):
        _predict(runs[:1], voted, out)
    assert _predict(runs[:1], voted, out, overwrite=True).computed == 30


def test_members_that_do_not_belong_together(
    tmp_path: Path, runs: list[Path], survey: Store, run: Path, voted: Store, make_run: Any
) -> None:
    with pytest.raises(ConfigError, match="there is no member; give one run or more"):
        read_members([])
    with pytest.raises(ConfigError, match="run0 is given twice, or as a copy; each run counts once"):
        read_members([runs[0], runs[1], runs[0]])
    other = give_head(make_run(tmp_path / "other", survey), survey, schema=SCHEMA.only(["smooth", "edge"]))
    with pytest.raises(ConfigError, match="other answers the questions smooth, edge, and the first run smooth, edge,"):
        read_members([runs[0], other])
    loose = replace(SCHEMA, questions=(*SCHEMA.questions[:2], replace(SCHEMA.questions[2], after=("edge_yes",))))
    with pytest.raises(ConfigError, match="loose answers arms with other answers, or after other answers"):
        read_members([runs[0], give_head(make_run(tmp_path / "loose", survey), survey, schema=loose)])
    with pytest.raises(RunError, match=r"first has no head for votes .* The run learned from no labels"):
        read_members([run])
    bands = make_run(tmp_path / "bands", survey, channels=tuple("gri"))
    write_vote_head(bands, read_vote_head(runs[0]))
    with pytest.raises(DataError, match=r"bands was trained on field 'image' with channels \['g', 'r', 'i'\]"):
        predict_votes([bands], voted.path, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_settings_and_columns_that_cannot_be(tmp_path: Path, runs: list[Path], voted: Store) -> None:
    for level in (0.0, 1.0, 90.0):
        with pytest.raises(ConfigError, match=f"--level {level}: give the probability that intervals hold, such as 0"):
            PosteriorSettings(level=level)
    with pytest.raises(ConfigError, match="--dropout-passes -1: give 1 or more; 0 leaves dropout out"):
        PosteriorSettings(dropout_passes=-1)
    write_table(voted.path, "earlier", pa.table({"id": NAMES, "edge_no_fraction": [0.5] * 30}))
    with pytest.raises(ConfigError, match="--keep edge_no_fraction: the predictions have a column"):
        predict_votes(runs, voted.path, tmp_path / "out", keep=["edge_no_fraction"])


def test_votes_of_another_spelling_are_not_compared(
    tmp_path: Path, runs: list[Path], make_store: StoreFactory
) -> None:
    store = make_store(tmp_path / "other.zarr", NAMES)
    questions = (replace(SCHEMA.questions[0], answers=("yes", "disk")), SCHEMA.questions[1])
    schema = replace(SCHEMA, questions=questions)
    write_table(store.path, "votes", pa.table({"id": NAMES, **{c: [2] * 30 for c in schema.columns}}), schema=schema)
    assert [found.question for found in _predict(runs, Store(store.path), tmp_path / "o").calibration] == ["edge"]


def _call(*arguments: object) -> tuple[int, str, str]:
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        code = cli.run([str(argument) for argument in arguments])
    return code, out.getvalue(), err.getvalue()


def test_the_command_takes_several_runs(tmp_path: Path, runs: list[Path], voted: Store, model: Path) -> None:
    words = ["predict", *runs, "--data", voted.path, "--out", tmp_path / "out", "--level", "0.8"]
    code, out, err = _call(*words, "--dry-run")
    assert (code, err) == (0, "")
    assert re.match(r"would write 30 predictions in 1 shards \(30 to compute, about \d+ s\); columns id, split, s", out)
    assert not (tmp_path / "out").exists()
    code, out, err = _call(*words, "--json")
    found = json.loads(out)
    assert (code, found["members"], found["judged"], found["computed"]) == (0, 2, "test", 30), err
    assert found["calibration"][0]["answers"][0]["coverage"]["0.8"] > 0
    code, out, _ = _call(*words)
    assert code == 0
    lines = out.splitlines()
    assert lines[0].split() == ["question", "asked", "leading", "answer", "fraction", "voted", "nll", "baseline",
                                "coverage", "of", "80", "%"]
    assert lines[1].startswith("smooth    1.000")
    assert lines[-1].startswith("30 posteriors of 2 members in 1 shards (0 computed now, ")
    assert max(map(len, lines[:-1])) <= 120
    estimate = predict_votes(runs, voted.path, tmp_path / "out", settings=PosteriorSettings(level=0.8), dry_run=True)
    assert isinstance(estimate, PredictEstimate)
    assert estimate.missing == 0
    code, out, err = _call("predict", model, runs[0], "--data", voted.path, "--out", tmp_path / "no")
    assert code != 0
    assert "is a model that transfer saved; such models are predicted with one by one" in err
    (tmp_path / "begun").mkdir()
    (tmp_path / "begun" / "config.yaml").write_text("")
    code, out, err = _call("predict", tmp_path / "begun", "--data", voted.path, "--out", tmp_path / "no")
    assert "The run did not finish: continue it" in err
    code, out, err = _call("predict", model, "--data", voted.path, "--out", tmp_path / "no", "--friendly")
    assert "--friendly is for runs that learned from votes" in err
