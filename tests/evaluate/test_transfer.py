from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from sciencessl.domains.galaxy.tasks import MORPHOLOGY
from sciencessl.errors import ConfigError, LeakError, RunError
from sciencessl.evaluate import features as features_module
from sciencessl.evaluate.encoders import compute_embeddings, embed_together, random_encoder, run_encoder
from sciencessl.evaluate.features import FeatureCache
from sciencessl.evaluate.fits import run_fit, save_fit
from sciencessl.evaluate.folds import fold_data, load_whole
from sciencessl.evaluate.linear import fit_logistic
from sciencessl.evaluate.metrics import correct
from sciencessl.evaluate.results import Row, TransferEstimate, TransferResult, read_result
from sciencessl.evaluate.subsets import Budget, draw_subsets
from sciencessl.evaluate.tables import table_text
from sciencessl.evaluate.tasks import load_task
from sciencessl.evaluate.transfer import transfer
from sciencessl.store.reader import Store
from sciencessl.store.tables import write_table
from sciencessl.train.folder import CONFIG
from tests.evaluate.conftest import names_of

LABELS = ("12", "36", "all")
ARGUMENTS: dict[str, Any] = {"task": "morphology", "labels": LABELS, "subsets": 3, "random_encoders": 2, "workers": 0}
FITS = (3 + 3 + 1) * (1 + 1 + 2)  # subsets over budgets, times frozen, knn and two random encoders


@pytest.fixture(scope="module")
def second(tmp_path_factory: pytest.TempPathFactory, survey: Store, make_run: Any) -> Path:
    """A second run, of other weights."""
    return make_run(tmp_path_factory.mktemp("runs") / "second", survey, seed=5)


@pytest.fixture(scope="module")
def result(tmp_path_factory: pytest.TempPathFactory, survey: Store, run: Path, second: Path) -> TransferResult:
    """Both runs against random encoders."""
    return _transfer([run, second], survey, tmp_path_factory.mktemp("transfer") / "out")


def _transfer(runs: list[Path], store: Store, out: Path, **changes: Any) -> TransferResult:
    found = transfer(runs, store.path, out, **{**ARGUMENTS, **changes})
    assert isinstance(found, TransferResult)
    return found


def _row(result: TransferResult, encoder: str, arm: str, budget: str) -> Row:
    return next(row for row in result.rows if (row.encoder, row.arm, row.budget) == (encoder, arm, budget))


def _same_rows(one: TransferResult, two: TransferResult) -> bool:
    return json.dumps(one.to_json()["rows"]) == json.dumps(two.to_json()["rows"])


def test_every_arm_and_budget_has_a_row(result: TransferResult) -> None:
    curves = [("first", "frozen"), ("second", "frozen"), ("first", "knn"), ("second", "knn"), ("random", "random")]
    assert [(r.encoder, r.arm, r.budget) for r in result.rows] == [(*curve, b) for curve in curves for b in LABELS]
    assert result.fits == FITS + 2 * 7
    assert (result.n_pool, result.n_test, result.unit) == (96, 48, "object")
    for row in result.rows:
        assert row.subsets == (1 if row.budget == "all" else 3)
        assert row.encoders == (2 if row.arm == "random" else 1)
        assert row.n_labels == {"12": 12, "36": 36, "all": 96}[row.budget]
        assert row.low < row.score < row.high
        assert row.baseline == ("" if row.arm == "random" else "random")
        assert (row.difference is None) == (row.arm == "random")
    written = {path.name for path in result.out.iterdir()}
    assert written >= {"transfer.json", "table.csv", "curve.png", "subsets.parquet"}
    assert result.cost == {"first": {"images_seen": 8}, "second": {"images_seen": 8}}


def test_a_fit_can_be_done_again_from_what_was_written(result: TransferResult, survey: Store, run: Path) -> None:
    table = pq.read_table(result.out / "subsets.parquet").to_pylist()
    data = load_task(survey, MORPHOLOGY)
    place = {name: i for i, name in enumerate(survey.ids)}
    encoder = run_encoder(run)
    test = compute_embeddings(encoder, survey, data.test, workers=0)
    found = []
    for seed in range(3):
        rows = [row for row in table if row["budget"] == "36" and row["subset_seed"] == seed]
        assert len(rows) == 36
        train = compute_embeddings(encoder, survey, np.array([place[row["id"]] for row in rows]), workers=0)
        labels = np.array([result.classes.index(row["class"]) for row in rows])
        units = np.array([row["unit"] for row in rows], dtype=object)
        fit = run_fit("logistic", train, labels, units, test, data.test_labels, 3, seed)
        found.append(fit.metrics["balanced_accuracy"])
    assert _row(result, "first", "frozen", "36").score == pytest.approx(np.mean(found), abs=1e-9)


def test_differences_are_paired_by_subset_and_test_sample(result: TransferResult, survey: Store, run: Path) -> None:
    """The `all` budget by hand: one subset, logistic regression of the run against the mean of two random encoders."""
    data = load_task(survey, MORPHOLOGY)
    card = run_encoder(run).card
    variants = {
        variant: [random_encoder(card, number, variant) for number in range(2)]
        for variant in ("statistics", "branches")
    }
    losses = {}
    for variant, encoders in variants.items():
        pools = [compute_embeddings(e, survey, data.train, workers=0) for e in encoders]
        fits = [fit_logistic(pool, data.train_labels, data.train_units, 0) for pool in pools]
        losses[variant] = np.mean([min(fit.search.values()) for fit in fits])
    chosen = variants[min(losses, key=lambda name: float(losses[name]))]

    def hits(encoder: Any) -> np.ndarray:
        train, test = (compute_embeddings(encoder, survey, index, workers=0) for index in (data.train, data.test))
        fit = run_fit("logistic", train, data.train_labels, data.train_units, test, data.test_labels, 3, 0)
        right: np.ndarray = fit.probabilities.argmax(axis=1) == data.test_labels
        return right.astype(float)

    gap = hits(run_encoder(run)) - np.mean([hits(encoder) for encoder in chosen], axis=0)
    by_class = [gap[data.test_labels == c].mean() for c in range(3)]
    row = _row(result, "first", "frozen", "all")
    assert row.difference == pytest.approx(np.mean(by_class), abs=1e-9)
    random = _row(result, "random", "random", "all")
    assert row.score - random.score == pytest.approx(row.difference, abs=1e-9)
    assert result.notes[0].startswith("random: logistic regression on 2 test_resnet encoders, random weights with")


def test_arms_share_their_subsets_whatever_the_runs(
    tmp_path: Path, result: TransferResult, survey: Store, second: Path
) -> None:
    alone = _transfer([second], survey, tmp_path / "alone", arms=("knn",), random_encoders=1)
    assert (alone.out / "subsets.parquet").read_bytes() == (result.out / "subsets.parquet").read_bytes()
    assert _row(alone, "second", "knn", "12").score == _row(result, "second", "knn", "12").score
    assert _row(alone, "second", "knn", "12").difference is None
    assert alone.endpoints == ()


def test_the_order_of_a_store_changes_nothing(
    tmp_path: Path, result: TransferResult, survey: Store, make_store: Any, run: Path
) -> None:
    permuted = make_store(tmp_path / "permuted.zarr", sorted(survey.ids, reverse=True), rows=3)
    assert permuted.ids != survey.ids
    found = _transfer([run], permuted, tmp_path / "out", arms=("frozen",))

    def drawn(folder: Path) -> set[tuple[str, int, str]]:
        rows = pq.read_table(folder / "subsets.parquet").to_pylist()
        return {(row["budget"], row["subset_seed"], row["id"]) for row in rows}

    assert drawn(found.out) == drawn(result.out)


def test_only_drawn_labels_and_test_samples_are_ever_embedded(
    tmp_path: Path, survey: Store, run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Anything outside the budget is poison: its embedding is NaN, its label is nobody's business."""
    read: list[int] = []

    def poisoned(encoders: Any, store: Store, index: np.ndarray, *more: Any) -> list[np.ndarray]:
        read.extend(index.tolist())
        return embed_together(encoders, store, index, 0)

    monkeypatch.setattr(features_module, "embed_together", poisoned)
    found = _transfer([run], survey, tmp_path / "out", labels=("12",), subsets=2)
    drawn = {row["id"] for row in pq.read_table(found.out / "subsets.parquet").to_pylist()}
    assert {survey.ids[i] for i in read} == drawn | {survey.ids[i] for i in survey.split("test").all()}
    assert len(drawn) < 25


def test_features_outside_a_budget_do_not_reach_its_fits(
    tmp_path: Path, survey: Store, run: Path, result: TransferResult, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With every embedding of a sample that the smallest budget did not draw made NaN, its fits are what they were."""
    table = pq.read_table(result.out / "subsets.parquet").to_pylist()
    place = {name: i for i, name in enumerate(survey.ids)}
    kept = {place[r["id"]] for r in table if r["budget"] == "12"} | set(survey.split("test").all().tolist())

    def poisoned(encoders: Any, store: Store, index: np.ndarray, *more: Any) -> list[np.ndarray]:
        found = embed_together(encoders, store, index, 0)
        for values in found:
            values[[i not in kept for i in index.tolist()]] = np.nan
        return found

    monkeypatch.setattr(features_module, "embed_together", poisoned)
    found = _transfer([run], survey, tmp_path / "out", labels=("12",), arms=("frozen", "knn"))
    for arm in ("frozen", "knn"):
        assert _row(found, "first", arm, "12").score == _row(result, "first", arm, "12").score
        assert _row(found, "first", arm, "12").trials == _row(result, "first", arm, "12").trials


def test_test_labels_move_scores_and_nothing_else(
    tmp_path: Path, survey: Store, run: Path, result: TransferResult, make_store: Any
) -> None:
    names = sorted(survey.ids)
    kinds = ("elliptical", "edge-on", "spiral")
    test = {survey.ids[i] for i in survey.split("test").all()}
    turned = {n: kinds[(int(n[1:]) + (n in test)) % 3] for n in names}
    poisoned = make_store(tmp_path / "poisoned.zarr", names, classes=turned)
    found = _transfer([run], poisoned, tmp_path / "out")
    for arm in ("frozen", "knn"):
        for budget in LABELS:
            mine, clean = _row(found, "first", arm, budget), _row(result, "first", arm, budget)
            assert mine.trials == clean.trials
            assert mine.n_labels == clean.n_labels
            assert mine.score != clean.score
    probabilities = [
        sorted(np.load(path)["probabilities"].tobytes() for path in (out / "fits").iterdir())
        for out in (found.out, result.out)
    ]
    assert set(probabilities[0]) <= set(probabilities[1])
    assert found.notes == result.notes


def test_a_second_call_does_nothing_again(
    tmp_path: Path, result: TransferResult, survey: Store, run: Path, second: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "out"
    shutil.copytree(result.out, out)

    def refuse(*arguments: Any) -> None:
        raise AssertionError("computed again")

    monkeypatch.setattr(features_module, "embed_together", refuse)
    monkeypatch.setattr("sciencessl.evaluate.fitter.save_fit", refuse)
    monkeypatch.setattr("sciencessl.evaluate.baseline.held_out_loss", refuse)
    again = _transfer([run, second], survey, out)
    assert again.fits == 0
    assert _same_rows(again, result)


def test_damaged_caches_are_made_again(
    tmp_path: Path, result: TransferResult, survey: Store, run: Path, second: Path
) -> None:
    out = tmp_path / "out"
    shutil.copytree(result.out, out)
    victims = sorted((out / "fits").iterdir())[:3]
    for path in victims:
        path.write_bytes(path.read_bytes()[:200])
    for path in (out / "features").iterdir():
        path.write_bytes(path.read_bytes()[:-100])
    (out / "transfer.json").write_text("{")
    again = _transfer([run, second], survey, out)
    assert again.fits == 3
    assert _same_rows(again, result)


def test_a_killed_transfer_continues(
    tmp_path: Path, result: TransferResult, survey: Store, run: Path, second: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    done: list[str] = []

    def killed(*arguments: Any) -> Any:
        if len(done) == 9:
            raise KeyboardInterrupt
        done.append(arguments[0])
        return save_fit(*arguments)

    with monkeypatch.context() as patch:
        patch.setattr("sciencessl.evaluate.fitter.save_fit", killed)
        with pytest.raises(KeyboardInterrupt):
            _transfer([run, second], survey, tmp_path / "out")
    assert not (tmp_path / "out" / "transfer.json").exists()
    again = _transfer([run, second], survey, tmp_path / "out")
    assert again.fits == FITS + 2 * 7 - 9
    assert _same_rows(again, result)


def test_a_dry_run_counts_and_writes_nothing(
    tmp_path: Path, result: TransferResult, survey: Store, run: Path, second: Path
) -> None:
    estimate = transfer([run], survey.path, tmp_path / "out", **ARGUMENTS, dry_run=True)
    assert isinstance(estimate, TransferEstimate)
    assert estimate.fits == FITS
    assert estimate.embeddings == 144 * (1 + 2 * 2)  # the run, and two variants of two random encoders
    assert (estimate.n_pool, estimate.n_test, estimate.resolution) == (96, 48, result.resolution)
    assert list(tmp_path.iterdir()) == []
    before = sorted(path.stat().st_mtime_ns for path in result.out.rglob("*"))
    known = transfer([run, second], survey.path, result.out, **ARGUMENTS, dry_run=True)
    assert isinstance(known, TransferEstimate)
    assert known.fits == known.embeddings == 0
    assert sorted(path.stat().st_mtime_ns for path in result.out.rglob("*")) == before


def test_more_budgets_reuse_what_is_there(tmp_path: Path, survey: Store, run: Path) -> None:
    first = _transfer([run], survey, tmp_path, labels=("12",), arms=("frozen",))
    more = _transfer([run], survey, tmp_path, labels=("12", "all"), arms=("frozen",))
    assert (first.fits, more.fits) == (3, 1)
    encoder = run_encoder(run)
    cache = FeatureCache(tmp_path / "features", survey)
    everything = np.arange(144)
    assert len(cache.missing(encoder, everything)) == 0
    shuffled = np.random.default_rng(0).permutation(everything)
    expected = compute_embeddings(encoder, survey, shuffled, workers=0)
    np.testing.assert_allclose(cache.get(encoder, shuffled), expected, rtol=1e-4, atol=1e-5)


def test_a_folder_with_another_table_is_refused(result: TransferResult, survey: Store, run: Path) -> None:
    with pytest.raises(RunError, match="holds a few-label table of task 'morphology' and not 'spiral-edge-on'; ch"):
        transfer([run], survey.path, result.out, task="spiral-edge-on", labels=("all",), workers=0)


def test_groups_are_drawn_and_resampled_whole(tmp_path: Path, make_store: Any, make_run: Any) -> None:
    names = [f"t{i:03d}" for i in range(144)]
    tiles = {name: {"group": f"tile{i // 3}", "source_tile": f"tile{i // 3}"} for i, name in enumerate(names)}
    classes = {name: ("benign", "tumour")[i // 3 % 2] for i, name in enumerate(names)}
    store = make_store(tmp_path / "tissue.zarr", names, domain="pathology", columns=tiles, classes=classes)
    run = make_run(tmp_path / "run", store)
    found = _transfer([run], store, tmp_path / "out", task="tissue", labels=("7 source_tiles", "12/class"),
                      arms=("frozen",))
    assert found.unit == "group"
    rows = pq.read_table(found.out / "subsets.parquet").to_pylist()
    for seed in range(3):
        drawn = [row for row in rows if row["subset_seed"] == seed and row["budget"] == "7 source_tiles"]
        assert len(drawn) == 21
        assert len({row["unit"] for row in drawn}) == 7
    assert found.rows[0].note == "whole units drawn: 21 labels of 7 units"
    # 16 test tiles, 8 of each class; their 48 samples would promise more.
    assert found.resolution == pytest.approx(1.95996 * np.sqrt(0.2 / 8 * 2) / 2, rel=1e-3)


def test_each_run_is_compared_with_its_own_architecture(
    tmp_path: Path, survey: Store, run: Path, make_run: Any
) -> None:
    wide = make_run(tmp_path / "wide", survey, backbone="test_efficientnet")
    large = make_run(tmp_path / "large", survey, views={"size": 40})
    found = _transfer([run, wide], survey, tmp_path / "two", arms=("frozen", "random"), labels=("12",), subsets=1)
    assert [(row.encoder, row.baseline) for row in found.rows] == [
        ("first", "random test_resnet"), ("wide", "random test_efficientnet"),
        ("random test_resnet", ""), ("random test_efficientnet", ""),
    ]
    assert [note.partition(":")[0] for note in found.notes] == ["random test_resnet", "random test_efficientnet"]
    sizes = _transfer([run, large], survey, tmp_path / "sizes", arms=("frozen", "random"), labels=("12",), subsets=1)
    assert [row.baseline for row in sizes.rows] == ["random like first", "random like large", "", ""]
    assert [(end.encoder, end.baseline) for end in sizes.endpoints] == [
        ("first", "random like first"), ("large", "random like large"), ("large", "first")
    ]
    assert max(map(len, table_text(sizes).splitlines())) <= 120


def test_the_written_table_reads_back(result: TransferResult) -> None:
    found = read_result(result.out)
    assert found == replace(result, marks=dict(result.marks))


def test_plain_accuracy_has_no_strata(
    tmp_path: Path, survey: Store, run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    task = replace(MORPHOLOGY, metric="accuracy")
    monkeypatch.setattr("sciencessl.evaluate.plan.find_store_task", lambda store, name: task)
    found = _transfer([run], survey, tmp_path, labels=("36",), arms=("frozen",))
    assert found.rows[0].metric == "accuracy"
    assert found.rows[0].score == pytest.approx(found.rows[0].metrics["accuracy"])


def test_folds_test_every_labelled_sample_and_keep_no_model(tmp_path: Path, survey: Store, run: Path) -> None:
    found = _transfer([run], survey, tmp_path / "out", labels=("12", "all"), arms=("frozen", "random"), subsets=2,
                      random_encoders=2, folds=3, repeats=2)
    assert (found.n_test, found.n_pool) == (144, 144)
    assert found.tested == "every labelled sample once, in 3 folds by object, dealt 2 times"
    assert found.fits == 3 * (2 * 3 * 2 + 2 * 3)  # one run and two random encoders; 12 labels twice, all labels once
    assert not (tmp_path / "out" / "models").exists()
    table = pq.read_table(tmp_path / "out" / "subsets.parquet").to_pylist()
    assert {row["fold"] for row in table} == set(range(6))
    row = _row(found, "first", "frozen", "12")
    assert np.sum(found.details[0].confusion) == pytest.approx(144)
    assert not [note for note in found.notes if "folds" in note]
    with pytest.raises(RunError, match=r"table tested on 'every .* 2 times' and not 'split=test'; choose ano"):
        _transfer([run], survey, tmp_path / "out")
    # By hand: each fold's fits score its own samples, and the classes are weighed alike over all of them.
    whole = load_whole(survey, MORPHOLOGY)
    right = np.zeros((2, 2, 144))
    encoder = run_encoder(run)
    for repeat in range(2):
        for data in fold_data(whole, 3, repeat):
            drawn = [draw_subsets(data.train_labels, data.train_units, [Budget("total", 12)], seed, data.digest,
                                  "morphology")[Budget("total", 12)].index for seed in range(2)]
            test = compute_embeddings(encoder, survey, data.test, 0)
            for seed, rows in enumerate(drawn):
                train = compute_embeddings(encoder, survey, data.train[rows], 0)
                fit = run_fit("logistic", train, data.train_labels[rows], data.train_units[rows], test,
                              data.test_labels, 3, seed)
                right[repeat, seed, np.searchsorted(whole.test, data.test)] = correct(
                    fit.probabilities, data.test_labels)
    labels = whole.test_labels
    assert row.score == pytest.approx(np.mean([right[..., labels == c].mean() for c in range(3)]), abs=1e-6)


def test_another_store_is_tested_on_whole(tmp_path: Path, survey: Store, run: Path, make_store: Any) -> None:
    other = make_store(tmp_path / "other.zarr", names_of(30, "h"))
    found = _transfer([run], survey, tmp_path / "out", labels=("12",), arms=("frozen", "random"), subsets=2,
                      random_encoders=2, test=str(other.path), by="split")
    assert (found.n_test, found.tested) == (30, f"all 30 labelled samples of {other.path}")
    assert [group.group for group in found.details[0].groups] == ["test", "train"]
    with pytest.raises(LeakError, match=r"96 of 144 test samples .* of the label pool: 96 by id .* would leak\."):
        _transfer([run], survey, tmp_path / "leak", test=str(survey.path))
    again = make_store(tmp_path / "again.zarr", names_of(30), side=44)
    with pytest.raises(LeakError, match=r"of 30 test samples of .*again\.zarr are the same thing as samples of the "
                                        r"label pool .*by id .*The test would leak\."):
        _transfer([run], survey, tmp_path / "leak", test=str(again.path))
    # Nothing but what shows the leak.
    assert [path.name for path in (tmp_path / "leak").iterdir()] == ["leak"]
    assert len((tmp_path / "leak/leak/remove.txt").read_text().split()) == 21


def test_what_a_reader_must_know_is_noted(tmp_path: Path, make_store: Any, make_run: Any) -> None:
    names = names_of(36)
    few = make_store(tmp_path / "few.zarr", names)
    run = make_run(tmp_path / "run", few)
    found = _transfer([run], few, tmp_path / "out", labels=("12",), arms=("frozen", "random"), subsets=2,
                      random_encoders=1, folds=3, draw="random")
    assert found.draw == "random"
    assert found.notes[0].startswith("random: logistic regression on one ")
    assert found.notes[0].endswith("; intervals say nothing of other random weights")
    assert found.notes[1] == "labels drawn at random, whatever their class, as they would come"
    assert found.notes[2].startswith("folds of only 36 units: the intervals are too narrow")
    assert read_result(found.out).draw == "random"


def test_runs_that_differ_in_seed_only_are_one_method(
    tmp_path: Path, survey: Store, make_run: Any, second: Path
) -> None:
    runs = [make_run(tmp_path / f"byol-{seed}", survey, seed=seed) for seed in (2, 1)]
    for seed, path in zip((2, 1), runs, strict=True):
        (path / CONFIG).write_text(f"method: byol\nseed: {seed}\nsteps: 1\noptim: {{base_lr: 0.1}}\n")
    found = _transfer([*runs, second], survey, tmp_path / "out", arms=("frozen", "random"), labels=("12",))
    assert found.members == {"byol": ("byol-1", "byol-2")}
    row, alone = _row(found, "byol", "frozen", "12"), _row(found, "second", "frozen", "12")
    assert (row.seeds, row.encoders, row.subsets, alone.seeds) == (2, 2, 3, 1)
    # The interval is that over seeds, subsets and units of the scores of both runs, which are those of each alone.
    single = [_transfer([path], survey, tmp_path / path.name / "few", arms=("frozen",), labels=("12",))
              for path in sorted(runs)]
    assert row.each == pytest.approx([one.rows[0].score for one in single], abs=1e-6)
    assert row.score == pytest.approx(np.mean(row.each), abs=1e-6)
    assert {*row.parts} == {"pretraining", "subsets", "units", "interactions"}
    assert found.endpoints[0].each == pytest.approx(np.array(row.each) - _row(found, "random", "random", "12").score,
                                                    abs=1e-6)
    assert "byol (2 seeds)" in table_text(found)
    assert "byol: 2 pretraining seeds, byol-1, byol-2" in table_text(found)


KINDS = {
    "multilabel": ("kind: multilabel\ncolumns: [round, flat]\nmetric: auroc\n", "auroc"),
    "counts": ("kind: counts\ncolumns: [bar, none]\n", "nll"),
    "retrieval": ("kind: retrieval\ncolumn: class\n", "mean_average_precision"),
}


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_of_task_has_its_curves(
    tmp_path: Path, make_store: Any, make_run: Any, kind: str
) -> None:
    names, rng = names_of(144), np.random.default_rng(0)
    store = make_store(tmp_path / "store.zarr", names)
    number = np.arange(144) % 3
    write_table(store.path, "more", pa.table({
        "id": names, "round": (number == 0).astype(np.int64), "flat": (number == 1).astype(np.int64),
        "bar": rng.poisson(1 + 6 * (number == 0)), "none": rng.poisson(2, 144) + 1, "night": np.arange(144) % 2,
    }))
    store = Store(store.path)
    text, metric = KINDS[kind]
    (tmp_path / "own.yaml").write_text(text)
    run = make_run(tmp_path / "run", store)
    found = _transfer([run], store, tmp_path / "out", task=str(tmp_path / "own.yaml"), labels=("24", "all"), arms=(),
                      by="night")
    assert (found.kind, found.metric, found.lower_is_better) == (kind, metric, kind == "counts")
    assert [row.arm for row in found.rows] == ["frozen", "frozen", "random", "random"]
    for row in found.rows:
        assert row.score == pytest.approx(row.metrics[metric], abs=1e-5)
        assert row.low < row.score < row.high
    assert [group.group for group in found.details[0].groups] == ["0", "1"]
    assert all(group.n == 24 for group in found.details[0].groups)
    assert "by night" in table_text(found)
    assert _transfer([run], store, tmp_path / "out", task=str(tmp_path / "own.yaml"), labels=("24", "all"),
                     arms=()).fits == 0
    assert read_result(found.out).rows == found.rows
    assert (tmp_path / "out" / "models").exists() == (kind != "retrieval")


def test_an_unknown_column_of_groups_is_refused(tmp_path: Path, survey: Store, run: Path) -> None:
    with pytest.raises(ConfigError, match=r"--by clas: .* has no such column\. Did you mean 'class'"):
        _transfer([run], survey, tmp_path / "out", by="clas")
