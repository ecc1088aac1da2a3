"""Cheating is caught: each check passes on what we do, and fails on a cheat that is put in its place.

Labels are changed at the source, in the store: all that a budget did not draw, and all test labels. Whatever a fit then
does differently, it learned where it must not look.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from sciencessl.domains.galaxy.tasks import MORPHOLOGY
from sciencessl.errors import LeakError
from sciencessl.evaluate import finetune, kinds
from sciencessl.evaluate.encoders import Encoder, compute_embeddings, run_encoder
from sciencessl.evaluate.finetune import Labelled, Training
from sciencessl.evaluate.fits import Fit, run_fit, run_training
from sciencessl.evaluate.leak_check import check_leak
from sciencessl.evaluate.linear import held_out_losses, mean_over_classes
from sciencessl.evaluate.subsets import Subset, draw_subsets, parse_budget
from sciencessl.evaluate.tasks import TaskData, load_task
from sciencessl.spec import TransferTask
from sciencessl.store.reader import Store
from sciencessl.store.tables import write_table

NAMES = [f"g{i:03d}" for i in range(144)]
CLASSES = ("elliptical", "edge-on", "spiral")
BUDGET = {name for i, name in enumerate(NAMES) if i // 3 % 9 in (0, 1, 3, 4, 6)}
"""Drawn: 81 of the 96 galaxies of split=train."""

COLUMNS = ("a", "b", "c")
TASKS = {
    "class": MORPHOLOGY,
    "retrieval": TransferTask("retrieval", "class", kind="retrieval"),
    "multilabel": TransferTask("signs", kind="multilabel", columns=tuple(f"has_{name}" for name in COLUMNS)),
    "counts": TransferTask("votes", kind="counts", columns=tuple(f"said_{name}" for name in COLUMNS)),
}

Stores = Mapping[str, Store]
Trial = Callable[[Store], Fit]


def _features(name: str) -> np.ndarray:
    rng = np.random.default_rng(list(name.encode()))
    found: np.ndarray = np.eye(8)[int(name[1:]) % 3] + 0.8 * rng.normal(size=8)
    return found


@pytest.fixture(scope="module")
def stores(tmp_path_factory: pytest.TempPathFactory, make_store: Any) -> Stores:
    """A survey twice: `true`, and `turned` outside the budget: pool labels to one class, test labels to the next."""
    made = {}
    for kind in ("true", "turned"):
        labels, signs, votes = [], [], []
        for i, name in enumerate(NAMES):
            hidden, test = kind == "turned" and name not in BUDGET, i // 3 % 3 == 2
            labels.append(CLASSES[(i + (hidden and test)) % 3] if test or not hidden else CLASSES[0])
            present = _features(name)[:3] > 0.3
            signs.append((~present if hidden else present).astype(float))
            counts = np.round(np.exp(_features(name)[:3]) * 5)
            votes.append(np.roll(counts, 1) if hidden else counts)
        classes = dict(zip(NAMES, labels, strict=True))
        store = make_store(tmp_path_factory.mktemp(kind) / "s.zarr", NAMES, classes=classes)
        for prefix, values in (("has", signs), ("said", votes)):
            table = {f"{prefix}_{name}": column for name, column in zip(COLUMNS, np.transpose(values), strict=True)}
            write_table(store.path, prefix, pa.table({"id": NAMES, **table}))
        made[kind] = store
    return made


def _rows(data: TaskData) -> np.ndarray:
    return np.flatnonzero([name in BUDGET for name in data.train_ids])


def _head(kind: str) -> Trial:
    """The frozen head of a kind, or nearest neighbours, on features that stores share."""
    def fit(store: Store) -> Fit:
        data = load_task(store, TASKS["class" if kind == "knn" else kind])
        rows = _rows(data)
        train, test = (np.stack([_features(name) for name in ids]) for ids in (data.train_ids[rows], data.test_ids))
        if kind == "knn":
            return run_fit("knn", train, data.train_labels[rows], data.train_units[rows], test, data.test_labels, 3, 0)
        return kinds.frozen_fit(data, rows, train, test, 0)

    return fit


def _network(encoder: Encoder) -> Trial:
    """One step of fine-tuning, with its search of the rate."""
    def fit(store: Store) -> Fit:
        data = load_task(store, MORPHOLOGY)
        rows = _rows(data)[:36]
        index = data.train[rows]
        features = compute_embeddings(encoder, store, index, workers=0)
        labelled = Labelled(store, index, data.train_labels[rows], data.train_units[rows], features)
        return run_training(encoder.module, encoder.card, labelled, store, data.test[:12], data.test_labels[:12], 3,
                            Training(1, 0), 0)

    return fit


def is_blind(fit: Trial, stores: Stores) -> bool:
    """Whether a fit is the same to the last bit when labels that it must not read are turned."""
    true, turned = fit(stores["true"]), fit(stores["turned"])
    assert true.trials == turned.trials
    return true.chosen == turned.chosen and true.probabilities.tobytes() == turned.probabilities.tobytes()


@pytest.mark.parametrize("kind", ["class", "knn", "multilabel", "counts"])
def test_a_head_is_blind_to_labels_outside_its_budget(stores: Stores, kind: str) -> None:
    fits = [_head(kind)(store) for store in stores.values()]
    assert fits[0].trials > 1
    assert fits[0].metrics != fits[1].metrics
    assert is_blind(_head(kind), stores)


def test_a_search_is_of_the_budget_and_scored_on_the_test(stores: Stores) -> None:
    """Retrieval fits nothing: its outputs are scores, so test labels move them and labels outside the budget do not."""
    found = [_head("retrieval")(store) for store in stores.values()]
    assert found[0].chosen == found[1].chosen
    assert not np.array_equal(found[0].probabilities, found[1].probabilities)
    data = [load_task(store, TASKS["retrieval"]) for store in stores.values()]
    rows = _rows(data[0])
    assert (data[0].train_labels[rows] == data[1].train_labels[rows]).all()
    train, test = (np.stack([_features(name) for name in ids]) for ids in (data[0].train_ids[rows], data[0].test_ids))
    mixed = TaskData(**{**data[1].__dict__, "test_labels": data[0].test_labels})
    again = kinds.frozen_fit(mixed, rows, train, test, 0)
    assert again.probabilities.tobytes() == found[0].probabilities.tobytes()


def test_fine_tuning_is_blind_to_labels_outside_its_budget(stores: Stores, run: Path) -> None:
    assert is_blind(_network(run_encoder(run)), stores)


def _tuned_on_test(data: TaskData, rows: np.ndarray, train: np.ndarray, test: np.ndarray, seed: int) -> Fit:
    """A cheat: how many features to use is chosen by the test score."""
    found = [
        run_fit("logistic", train[:, :k], data.train_labels[rows], data.train_units[rows], test[:, :k],
                data.test_labels, 3, seed) for k in (1, 2, 8)
    ]
    return max(found, key=lambda fit: fit.metrics["balanced_accuracy"])


def _knows_the_pool(data: TaskData, rows: np.ndarray, train: np.ndarray, test: np.ndarray, seed: int) -> Fit:
    """A cheat: class frequencies are those of the whole pool, not of the budget."""
    labels = data.train_labels
    fit = run_fit("logistic", train, labels[rows], data.train_units[rows], test, data.test_labels, 3, seed)
    shares = fit.probabilities * np.bincount(labels, minlength=3).astype(np.float32)
    return Fit(shares / shares.sum(axis=1, keepdims=True), fit.n_labels, fit.trials, fit.chosen, fit.metrics)


@pytest.mark.parametrize("cheat", [_tuned_on_test, _knows_the_pool])
def test_a_head_that_peeks_is_caught(stores: Stores, monkeypatch: pytest.MonkeyPatch, cheat: Any) -> None:
    monkeypatch.setitem(kinds._FITS, "class", cheat)  # type: ignore[arg-type]
    assert not is_blind(_head("class"), stores)


def test_a_rate_that_is_tuned_on_test_is_caught(stores: Stores, run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def peeking(self: Any, rows: Labelled) -> dict[float, Any]:
        data, first = load_task(rows.store, MORPHOLOGY), self.classifier(rows)
        losses = {}
        for rate in finetune.LEARNING_RATES:
            scores = finetune._scores(self.train(rows, first, rate), self.card, rows.store, data.test[:12], 0)
            loss = mean_over_classes(*held_out_losses(scores, first.classes, data.test_labels[:12]))
            losses[rate] = finetune._Held(loss)
        return losses

    monkeypatch.setattr(finetune, "LEARNING_RATES", (0.0, 0.02))
    assert is_blind(_network(run_encoder(run)), stores)
    monkeypatch.setattr(finetune._Start, "search", peeking)
    assert not is_blind(_network(run_encoder(run)), stores)


Draw = Callable[..., dict[Any, Subset]]


def depends_on_the_run(draw: Draw, store: Store, other: Store) -> bool:
    """Whether a second call, or the same samples in other rows, are given other labels."""
    budgets = [parse_budget(text) for text in ("12", "5/class")]
    found = []
    for read in (store, store, other):
        data = load_task(read, MORPHOLOGY)
        drawn = draw(data.train_labels, data.train_units, budgets, 0, data.digest, data.task.name)
        found.append([sorted(data.train_ids[drawn[budget].index]) for budget in budgets])
    return not found[0] == found[1] == found[2]


def test_a_subset_that_depends_on_the_run_is_caught(tmp_path: Path, survey: Store, make_store: Any) -> None:
    permuted = make_store(tmp_path / "permuted.zarr", sorted(survey.ids, reverse=True), rows=3)
    assert permuted.ids != survey.ids
    session = np.random.default_rng(0)

    def by(rng: Callable[[int], np.random.Generator]) -> Draw:
        def draw(labels: np.ndarray, units: np.ndarray, budgets: Any, seed: int, *more: str) -> dict[Any, Subset]:
            order = rng(seed).permutation(len(labels))
            return {budget: Subset(order[: 12 + i], 0) for i, budget in enumerate(budgets)}
        return draw

    assert not depends_on_the_run(draw_subsets, survey, permuted)
    assert depends_on_the_run(by(np.random.default_rng), survey, permuted), "a draw of row numbers"
    assert depends_on_the_run(by(lambda seed: session), survey, permuted), "a draw that moves a generator of the run"


def test_a_split_by_tile_is_refused_where_the_unit_is_the_source_tile(tmp_path: Path, make_store: Any) -> None:
    names = [f"t{i:03d}" for i in range(72)]
    sources = {name: {"source_tile": f"slide{i // 6}"} for i, name in enumerate(names)}
    classes = {name: ("benign", "tumour")[i // 6 % 2] for i, name in enumerate(names)}
    task = TransferTask("tissue", "class", unit="source_tile")
    by_tile = {name: ("train", "train", "test")[i % 3] for i, name in enumerate(names)}
    store = make_store(tmp_path / "tiles.zarr", names, columns=sources, classes=classes, splits=by_tile)
    with pytest.raises(LeakError, match=r"24 of 24 test samples .* of the label pool: 24 by source_tile \(such as t"):
        check_leak(store, load_task(store, task), store)
    by_source = {name: ("train", "train", "test")[i // 12 % 3] for i, name in enumerate(names)}
    whole = make_store(tmp_path / "sources.zarr", names, columns=sources, classes=classes, splits=by_source)
    data = load_task(whole, task)
    assert not {*data.train_units} & {*data.test_units}
    assert check_leak(whole, data, whole).pool == ""
