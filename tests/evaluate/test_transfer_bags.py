"""Few-label curves of slides: arms that pool, resume, folds, dry run, and the model that is kept."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest

from sciencessl.errors import ConfigError
from sciencessl.evaluate.classifier import read_classifier
from sciencessl.evaluate.encoders import compute_embeddings, run_encoder
from sciencessl.evaluate.fits import run_attention
from sciencessl.evaluate.plan import Request, make_plan
from sciencessl.evaluate.report_words import few_label_sentences
from sciencessl.evaluate.results import TransferEstimate, TransferResult, read_result
from sciencessl.evaluate.tables import table_text
from sciencessl.evaluate.transfer import transfer
from sciencessl.store.reader import Store
from tests.evaluate.slides import needle_features, slide_store, task_file


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory, make_store: Any) -> Store:
    return slide_store(make_store, tmp_path_factory.mktemp("slides") / "s.zarr")


@pytest.fixture(scope="module")
def task(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return task_file(tmp_path_factory.mktemp("task"))


@pytest.fixture(scope="module")
def features(tmp_path_factory: pytest.TempPathFactory, store: Store) -> Path:
    return needle_features(store, tmp_path_factory.mktemp("features") / "peaks.parquet")


@pytest.fixture(scope="module")
def result(tmp_path_factory: pytest.TempPathFactory, store: Store, task: Path, features: Path) -> TransferResult:
    return _transfer([features], store, task, tmp_path_factory.mktemp("transfer") / "out",
                     arms=("frozen", "max", "abmil"), labels=("20", "all"))


def _transfer(runs: list[Path], store: Store, task: Path, out: Path, **changes: Any) -> TransferResult:
    found = transfer(runs, store.path, out, **{"task": str(task), "subsets": 2, "random_encoders": 2, "workers": 0,
                                               "tell": lambda line: None, **changes})
    assert isinstance(found, TransferResult)
    return found


def test_one_tile_decides_which_maximum_and_attention_see_and_the_mean_does_not(result: TransferResult) -> None:
    score = {row.arm: row.score for row in result.rows if row.budget == "all"}
    assert score["abmil"] >= 0.8
    assert score["max"] >= 0.8
    assert score["frozen"] <= 0.75
    assert (result.n_pool, result.n_test, result.unit, result.kind) == (48, 16, "group", "bag")


def test_budgets_count_slides_and_draw_whole_patients(result: TransferResult) -> None:
    rows = pq.read_table(result.out / "subsets.parquet").to_pylist()
    drawn = {row["id"] for row in rows if row["budget"] == "20" and row["subset_seed"] == 0}
    assert len(drawn) == 20
    assert drawn == {f"s{int(name[1:]) // 2 * 2 + other:03d}" for name in drawn for other in (0, 1)}
    assert "whole units drawn: 20 labels of 10 units" in table_text(result)


def test_table_and_report_say_what_is_counted(result: TransferResult) -> None:
    text = table_text(result)
    assert "labels, budgets and scores are of bags (slide), not of their samples: 1,152 samples in 48 bags" \
        in " ".join(text.split())
    row = next(row for row in result.rows if row.arm == "abmil" and row.budget == "all")
    assert {"quadratic_kappa", "sensitivity_at_95"} <= row.metrics.keys()
    assert row.trials == 4
    said = few_label_sentences(read_result(result.out))
    assert said[0].startswith("Task diagnosis tells bags of normal and tumour apart.")
    assert any("gated attention over the frozen features of a bag" in sentence for sentence in said)
    assert next(detail for detail in result.details if detail.arm == "abmil").confusion


def test_a_second_call_does_nothing_and_a_cut_one_the_rest(
    result: TransferResult, store: Store, task: Path, features: Path
) -> None:
    ask: dict[str, Any] = {"arms": ("frozen", "max", "abmil"), "labels": ("20", "all")}
    again = _transfer([features], store, task, result.out, **ask)
    assert (result.fits, again.fits) == (9, 0)
    lost = sorted((result.out / "fits").glob("*.npz"))[::3]
    for path in lost:
        path.unlink()
    resumed = _transfer([features], store, task, result.out, **ask)
    assert resumed.fits == len(lost)
    assert resumed.rows == result.rows


def test_folds_by_patient(tmp_path: Path, store: Store, task: Path, features: Path) -> None:
    found = _transfer([features], store, task, tmp_path / "out", arms=("max", "abmil"), labels=("20",), subsets=1,
                      folds=3)
    assert found.n_test == 64
    assert "every labelled sample once, in 3 folds by group" in found.tested
    plan = make_plan(Request((features,), store.path, tmp_path / "new", str(task), folds=3, arms=("max",)))
    for part in plan.parts:
        assert not set(part.data.train_units) & set(part.data.test_units)


def test_kappa_is_a_primary_metric(tmp_path: Path, store: Store, features: Path) -> None:
    path = task_file(tmp_path, "column: diagnosis\nkind: bag\nordered: true\nmetric: quadratic_kappa\nbudgets: [all]\n")
    found = _transfer([features], store, path, tmp_path / "out", arms=("frozen",))
    (row,) = found.rows
    assert row.score == pytest.approx(row.metrics["quadratic_kappa"], abs=1e-6)
    assert row.low < row.score < row.high


def test_arms_of_bags(tmp_path: Path, store: Store, task: Path, features: Path) -> None:
    def plan(**changes: Any) -> Any:
        return make_plan(Request((features,), store.path, tmp_path, str(task), **changes))

    assert [curve.arm for curve in plan().curves] == ["frozen", "abmil"]
    with pytest.raises(ConfigError, match="arm 'mean': pooling by the mean is what --arms frozen does for bags"):
        plan(arms=("mean",))
    with pytest.raises(ConfigError, match=r"arm 'knn' is for kind 'class'\. Choose among --arms frozen max abmil ran"):
        plan(arms=("knn",))
    with pytest.raises(ConfigError, match=r"no architecture, .* arm 'random' needs; choose --arms frozen max abmil"):
        plan(arms=("random",))


@pytest.fixture(scope="module")
def kept(tmp_path_factory: pytest.TempPathFactory, store: Store, task: Path, make_run: Any) -> TransferResult:
    """Of an encoder that never learned, against random ones."""
    run = make_run(tmp_path_factory.mktemp("runs") / "first", store)
    return _transfer([run], store, task, tmp_path_factory.mktemp("kept") / "out", arms=("max", "abmil", "random"),
                     labels=("24",), subsets=1)


def test_random_encoders_are_pooled_by_the_mean(kept: TransferResult) -> None:
    assert {(row.arm, row.baseline) for row in kept.rows} == {("max", "random"), ("abmil", "random"), ("random", "")}
    note = next(note for note in kept.notes if note.startswith("random"))
    assert "logistic regression on the mean over each bag on 2 test_resnet encoders" in note


def test_a_model_that_is_kept_tells_what_its_fit_told(kept: TransferResult, store: Store, task: Path) -> None:
    plan = make_plan(Request((kept.out / "models" / "abmil-first",), store.path, kept.out / "again", str(task),
                             labels=("24",), subsets=1, arms=("abmil",)))
    data = plan.data
    rows = plan.parts[0].subsets[0][plan.budgets[0]].index
    assert data.train_bags is not None
    assert data.test_bags is not None
    for name, pooling in (("abmil-first", "attention"), ("max-first", "max")):
        model = read_classifier(kept.out / "models" / name)
        assert (model.card.kind, model.card.bag, model.card.pooling) == ("bag", "slide", pooling)
        samples, sizes = data.test_bags.of(data.test)
        values = np.split(compute_embeddings(model.encoder, store, samples, 0), np.cumsum(sizes)[:-1])
        for bag in values:
            assert model.weigh(bag).sum() == pytest.approx(1)
        told = model.probabilities(np.stack([model.pooled(bag) for bag in values]))
        assert told.shape == (16, 2)
        if pooling == "attention":
            train, train_sizes = data.train_bags.of(data.train[rows])
            from sciencessl.evaluate.abmil import BagFeatures

            encoder = run_encoder(kept.out / "models" / name)
            fit = run_attention(
                BagFeatures(compute_embeddings(encoder, store, train, 0), train_sizes), data.train_labels[rows],
                data.train_units[rows], BagFeatures(np.concatenate(values), sizes), data.test_labels, 2, 0,
            )
            np.testing.assert_allclose(told, fit.probabilities, atol=1e-4)


def test_a_dry_run_tells_the_cost_and_writes_nothing(tmp_path: Path, store: Store, task: Path, features: Path) -> None:
    found = transfer([features], store.path, tmp_path / "out", str(task), ("20", "all"), ("frozen", "abmil"), subsets=2,
                     dry_run=True, tell=lambda line: None)
    assert isinstance(found, TransferEstimate)
    hours = {arm.arm: arm.hours for arm in found.arms}
    assert hours["abmil"] > hours["frozen"] == 0
    assert found.fits == 6
    assert not (tmp_path / "out").exists()
