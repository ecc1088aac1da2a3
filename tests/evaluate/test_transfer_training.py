"""Arms that train networks, models that are kept, and encoders of others, through `transfer`."""

from __future__ import annotations

import dataclasses
import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
from scipy.special import softmax

from sciencessl.data.loader import Decoder
from sciencessl.domains.galaxy.tasks import MORPHOLOGY
from sciencessl.errors import ConfigError, DataError, RunError
from sciencessl.evaluate import finetune
from sciencessl.evaluate.embed import embed, read_embeddings
from sciencessl.evaluate.encoders import compute_embeddings, run_encoder
from sciencessl.evaluate.finetune import Labelled, Training
from sciencessl.evaluate.fits import run_training
from sciencessl.evaluate.marks import mark_encoder
from sciencessl.evaluate.plan import make_plan
from sciencessl.evaluate.results import Row, TransferEstimate, TransferResult
from sciencessl.evaluate.tables import estimate_text
from sciencessl.evaluate.tasks import load_task
from sciencessl.evaluate.transfer import transfer
from sciencessl.store.reader import Store
from sciencessl.train.folder import HEAD, HEAD_WEIGHTS, read_head, read_model

LABELS = ("12", "36")
ARMS = ("frozen", "finetune", "scratch", "random")
ARGUMENTS: dict[str, Any] = {
    "task": "morphology", "labels": LABELS, "subsets": 3, "random_encoders": 1, "workers": 0, "arms": ARMS,
    "max_steps": 1, "finetune_subsets": 2,
}


def _transfer(runs: list[Any], store: Store, out: Path, **changes: Any) -> TransferResult:
    found = transfer(runs, store.path, out, **{**ARGUMENTS, **changes})
    assert isinstance(found, TransferResult)
    return found


def _row(result: TransferResult, arm: str, budget: str) -> Row:
    return next(row for row in result.rows if (row.arm, row.budget) == (arm, budget))


def _probabilities(out: Path) -> set[bytes]:
    return {np.load(path)["probabilities"].tobytes() for path in (out / "fits").iterdir()}


@pytest.fixture(scope="module")
def one_rate() -> Iterator[None]:
    """One learning rate to try: the search itself is tested with the fits."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(finetune, "LEARNING_RATES", (1e-3,))
        yield


@pytest.fixture(scope="module")
def result(
    tmp_path_factory: pytest.TempPathFactory, survey: Store, run: Path, one_rate: None
) -> TransferResult:
    return _transfer([run], survey, tmp_path_factory.mktemp("training") / "out")


def test_training_arms_have_the_first_subsets(result: TransferResult) -> None:
    assert [(r.encoder, r.arm, r.budget, r.subsets) for r in result.rows] == [
        ("first", "frozen", "12", 3), ("first", "frozen", "36", 3),
        ("first", "finetune", "12", 2), ("first", "finetune", "36", 2),
        ("scratch", "scratch", "12", 2), ("scratch", "scratch", "36", 2),
        ("random", "random", "12", 3), ("random", "random", "36", 3),
    ]
    assert result.fits == 2 * (3 + 2 + 2 + 3)
    assert [row.saw for row in result.rows] == ["none"] * 8
    assert _row(result, "finetune", "12").trials == _row(result, "scratch", "12").trials == 1
    assert _row(result, "scratch", "36").trials == 1
    assert _row(result, "finetune", "36").trials > 1
    assert [(end.encoder, end.arm, end.baseline, end.primary) for end in result.endpoints] == [
        ("first", "frozen", "random", True), ("first", "finetune", "scratch", False),
    ]


def test_a_training_fit_can_be_done_again_from_what_was_written(
    result: TransferResult, survey: Store, run: Path
) -> None:
    """And its difference is paired with the random encoders on the same subsets."""
    table = pq.read_table(result.out / "subsets.parquet").to_pylist()
    data, encoder = load_task(survey, MORPHOLOGY), run_encoder(run)
    place = {name: i for i, name in enumerate(survey.ids)}
    found = []
    for seed in range(2):
        drawn = [row for row in table if row["budget"] == "12" and row["subset_seed"] == seed]
        index = np.array([place[row["id"]] for row in drawn])
        labels = np.array([result.classes.index(row["class"]) for row in drawn])
        rows = Labelled(survey, index, labels, np.array([row["unit"] for row in drawn]),
                        compute_embeddings(encoder, survey, index, workers=0))
        fit = run_training(encoder.module, encoder.card, rows, survey, data.test, data.test_labels, 3, Training(1),
                           seed)
        found.append(fit.metrics["balanced_accuracy"])
    assert _row(result, "finetune", "12").score == pytest.approx(np.mean(found), abs=1e-9)
    two = _transfer([run], survey, result.out.parent / "two", subsets=2, arms=("random", "frozen"))
    assert _row(result, "finetune", "12").difference == pytest.approx(
        np.mean(found) - _row(two, "random", "12").score, abs=1e-9
    )


def test_nothing_but_the_budgets_labels_reaches_a_fit(
    tmp_path: Path, result: TransferResult, survey: Store, run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Test labels and labels that no subset drew are turned into those of other classes: every bit stays."""
    def poisoned(*arguments: Any) -> Any:
        plan = make_plan(*arguments)
        drawn = np.unique(np.concatenate([subset.index for drawn in plan.subsets for subset in drawn.values()]))
        labels = (plan.data.train_labels + 1) % 3
        labels[drawn] = plan.data.train_labels[drawn]
        assert len(drawn) < len(labels)
        data = dataclasses.replace(plan.data, train_labels=labels, test_labels=(plan.data.test_labels + 1) % 3)
        part = dataclasses.replace(plan.parts[0], data=data)
        return dataclasses.replace(plan, data=data, parts=(part,))

    monkeypatch.setattr("sciencessl.evaluate.transfer.make_plan", poisoned)
    found = _transfer([run], survey, tmp_path / "out", arms=("finetune", "scratch"))
    assert _probabilities(found.out) <= _probabilities(result.out)
    for arm in ("finetune", "scratch"):
        assert [_row(found, arm, b).trials for b in LABELS] == [_row(result, arm, b).trials for b in LABELS]
        assert _row(found, arm, "36").metrics["nll"] != _row(result, arm, "36").metrics["nll"]


def test_images_outside_the_budget_are_never_read(
    tmp_path: Path, survey: Store, run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    read: set[int] = set()
    decode = Decoder.decode

    def recorded(self: Decoder, index: np.ndarray, *others: Any) -> Any:
        read.update(index.tolist())
        return decode(self, index, *others)

    monkeypatch.setattr(Decoder, "decode", recorded)
    found = _transfer([run], survey, tmp_path / "out", labels=("12",), subsets=1, arms=("finetune", "scratch"))
    drawn = {row["id"] for row in pq.read_table(found.out / "subsets.parquet").to_pylist()}
    assert {survey.ids[i] for i in read} == drawn | {survey.ids[i] for i in survey.split("test").all()}


def test_a_killed_transfer_continues(
    tmp_path: Path, result: TransferResult, survey: Store, run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    arguments = {"arms": ("finetune", "scratch")}
    done: list[int] = []

    def killed(*more: Any) -> Any:
        if len(done) == 2:
            raise KeyboardInterrupt
        done.append(0)
        return run_training(*more)

    with monkeypatch.context() as patch:
        patch.setattr("sciencessl.evaluate.fitter.run_training", killed)
        with pytest.raises(KeyboardInterrupt):
            _transfer([run], survey, tmp_path / "out", **arguments)
    again = _transfer([run], survey, tmp_path / "out", **arguments)
    assert again.fits == 8 - 2
    assert _probabilities(again.out) <= _probabilities(result.out)
    assert _transfer([run], survey, tmp_path / "out", **arguments).fits == 0
    # Other settings are other fits.
    assert _transfer([run], survey, tmp_path / "out", **arguments, stages=1).fits == 4
    estimate = transfer([run], survey.path, tmp_path / "out", **{**ARGUMENTS, **arguments, "max_steps": 2},
                        dry_run=True)
    assert isinstance(estimate, TransferEstimate)
    assert estimate.fits == 8


def test_models_are_run_folders_with_a_classifier(
    tmp_path: Path, result: TransferResult, survey: Store, run: Path
) -> None:
    models = result.out / "models"
    assert sorted(path.name for path in models.iterdir()) == ["finetune-first", "frozen-first", "scratch"]
    stored = [np.load(path) for path in (result.out / "fits").iterdir()]
    ids = [survey.ids[i] for i in load_task(survey, MORPHOLOGY).test]
    for name, arm in (("frozen-first", "frozen"), ("finetune-first", "finetune"), ("scratch", "scratch")):
        embed(models / name, survey.path, tmp_path / name, split="test", workers=0)
        known, features = read_embeddings(tmp_path / name)
        features = features[[known.index(sample) for sample in ids]]
        head, weight, bias = read_head(models / name)
        assert (head.task, head.column, head.arm, head.budget, head.subset_seed, head.n_labels) == (
            "morphology", "class", arm, "36", 0, 36
        )
        assert head.classes == result.classes
        kept = np.load(result.out / "fits" / f"{head.fit}.npz")["probabilities"]
        np.testing.assert_allclose(softmax(features @ weight.T + bias, axis=1), kept, atol=2e-3)
    assert len(stored) == result.fits
    frozen, tuned, scratch = (read_model(models / name) for name in ("frozen-first", "finetune-first", "scratch"))
    assert frozen == read_model(run)
    assert (tuned.method, tuned.label_rows, tuned.init_from) == ("finetune", {"class": 36}, str(run.resolve()))
    assert (scratch.method, scratch.label_rows, scratch.init_from) == ("scratch", {"class": 36}, "")


def test_a_saved_model_says_what_it_saw(result: TransferResult, survey: Store) -> None:
    data = load_task(survey, MORPHOLOGY)
    levels = {path.name: mark_encoder(run_encoder(path), survey, data).level
              for path in (result.out / "models").iterdir()}
    assert levels == {"frozen-first": "none", "finetune-first": "own", "scratch": "own"}


def test_a_model_that_is_gone_or_torn_is_made_again(
    tmp_path: Path, result: TransferResult, survey: Store, run: Path
) -> None:
    out = tmp_path / "out"
    shutil.copytree(result.out, out)
    shutil.rmtree(out / "models" / "scratch")
    (out / "models" / "frozen-first" / HEAD).write_text("{")
    again = _transfer([run], survey, out)
    assert again.fits == 2
    assert json.dumps(again.to_json()["rows"]) == json.dumps(result.to_json()["rows"])
    for name in ("scratch", "frozen-first"):
        for file in (HEAD, HEAD_WEIGHTS, "exported/encoder.safetensors"):
            assert (out / "models" / name / file).read_bytes() == (result.out / "models" / name / file).read_bytes()


def test_models_follow_the_largest_budget(tmp_path: Path, survey: Store, run: Path) -> None:
    for labels, expected in ((("12",), "12"), (("12", "24"), "24")):
        _transfer([run], survey, tmp_path, labels=labels, arms=("frozen",))
        assert read_head(tmp_path / "models" / "frozen-first")[0].budget == expected
    with pytest.raises(RunError, match=r"has no classifier \(exported/head.json\)"):
        read_head(run)
    (tmp_path / "models" / "frozen-first" / HEAD_WEIGHTS).write_bytes(b"torn")
    with pytest.raises(RunError, match=r"head.json is damaged \(SafetensorError"):
        read_head(tmp_path / "models" / "frozen-first")


def test_each_architecture_is_trained_from_scratch_once(
    tmp_path: Path, survey: Store, run: Path, make_run: Any
) -> None:
    wide = make_run(tmp_path / "wide", survey, backbone="test_efficientnet")
    twin = make_run(tmp_path / "twin", survey, seed=4)
    found = _transfer([run, twin, wide], survey, tmp_path / "out", labels=("12",), subsets=1,
                      arms=("scratch", "random"))
    assert [(row.encoder, row.baseline) for row in found.rows] == [
        ("scratch test_resnet", "random test_resnet"), ("scratch test_efficientnet", "random test_efficientnet"),
        ("random test_resnet", ""), ("random test_efficientnet", ""),
    ]
    assert sorted(path.name for path in (found.out / "models").iterdir()) == [
        "scratch-test_efficientnet", "scratch-test_resnet"
    ]


def test_a_dry_run_estimates_each_arm_and_writes_nothing(tmp_path: Path, survey: Store, run: Path) -> None:
    many = {**ARGUMENTS, "max_steps": 1000}
    estimate = transfer([run], survey.path, tmp_path / "out", **many, dry_run=True)
    assert isinstance(estimate, TransferEstimate)
    assert [(arm.arm, arm.fits) for arm in estimate.arms] == [
        ("frozen", 6), ("finetune", 4), ("scratch", 4), ("random", 6)
    ]
    assert estimate.fits == 20
    hours = {arm.arm: arm.hours for arm in estimate.arms}
    assert hours["scratch"] > 20 * hours["frozen"] > 0
    assert list(tmp_path.iterdir()) == []
    text = estimate_text(estimate).splitlines()
    assert text[2] == f"finetune: 4 fits, about {hours['finetune']:.2g} hours"


def test_embeddings_of_ours_and_of_others_give_the_same_curve(
    tmp_path: Path, result: TransferResult, survey: Store, run: Path
) -> None:
    embed(run, survey.path, tmp_path / "theirs", workers=0)
    found = _transfer([tmp_path / "theirs", run], survey, tmp_path / "out", arms=("frozen", "knn", "random"))
    theirs, ours = ([row for row in found.rows if row.encoder == name] for name in ("theirs", "first"))
    assert [row.score for row in theirs] == [row.score for row in ours]
    assert {(row.saw, row.baseline, row.difference) for row in theirs} == {("unknown", "", None)}
    assert all(row.baseline == "random" for row in ours)
    assert found.marks["theirs"] == "Unknown: foreign weights, whose training data are not on record."
    assert [path.name for path in (found.out / "models").iterdir()] == ["frozen-first"]


def test_tables_take_part_where_features_are_enough(tmp_path: Path, survey: Store, run: Path) -> None:
    embed(run, survey.path, tmp_path / "theirs", workers=0)
    for arms, wrong in ((("frozen", "finetune"), "finetune"), (("random",), "random"), (("scratch",), "scratch")):
        with pytest.raises(ConfigError, match=f"theirs: features without an encoder have no weights to train and "
                                              f"no architecture, which arm '{wrong}' needs; choose --arms frozen knn"):
            _transfer([tmp_path / "theirs"], survey, tmp_path / "out", arms=arms)
    embed(run, survey.path, tmp_path / "tested", split="test", workers=0)
    with pytest.raises(DataError, match=r"tested has no features for .* samples that are needed, the first being 'g"):
        _transfer([tmp_path / "tested"], survey, tmp_path / "out", arms=("knn",))


def test_requests_that_cannot_be_met(tmp_path: Path, survey: Store, run: Path) -> None:
    with pytest.raises(ConfigError, match="stages=9, but the encoder has 5"):
        _transfer([run], survey, tmp_path, arms=("finetune",), stages=9)
    with pytest.raises(ConfigError, match="finetune_subsets=0"):
        _transfer([run], survey, tmp_path, finetune_subsets=0)
    with pytest.raises(ConfigError, match="max_steps=0 must be 1 or more"):
        _transfer([run], survey, tmp_path, max_steps=0)


def test_processes_side_by_side_compute_the_same_fits(tmp_path: Path, survey: Store, run: Path) -> None:
    arms = ("linear", "random")
    one = _transfer([run], survey, tmp_path / "one", arms=arms, labels=("12",))
    two = _transfer([run], survey, tmp_path / "two", arms=arms, labels=("12",), jobs=2)
    assert two.fits == one.fits
    for row, other in zip(one.rows, two.rows, strict=True):
        assert row.score == pytest.approx(other.score, abs=1e-6)
        assert row.metrics["nll"] == pytest.approx(other.metrics["nll"], rel=1e-3)
    assert {path.name for path in (tmp_path / "one" / "fits").iterdir()} == {
        path.name for path in (tmp_path / "two" / "fits").iterdir()}
    assert (tmp_path / "two" / "models" / "linear-first").is_dir()
    with pytest.raises(ConfigError, match="jobs=0: give the number of processes"):
        _transfer([run], survey, tmp_path / "two", jobs=0)
