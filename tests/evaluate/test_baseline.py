from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from sciencessl.domains.galaxy.tasks import MORPHOLOGY
from sciencessl.evaluate.baseline import Choice, choose_variant, kept_choice
from sciencessl.evaluate.linear import fit_logistic
from sciencessl.evaluate.tasks import TaskData, load_task
from sciencessl.evaluate.votes import fit_votes
from sciencessl.spec import TransferTask
from sciencessl.store.reader import Store


@dataclass
class Fake:
    """An encoder by name, whose features are the classes under noise."""

    digest: str


class FakeCache:
    def __init__(self, folder: Path, store: Store, data: TaskData, noise: dict[str, float]) -> None:
        self.folder, self.store, self.data, self.noise = folder, store, data, noise
        self.asked: list[int] = []

    def fill(self, encoders: Any, index: np.ndarray) -> None:
        self.asked += index.tolist()

    def get(self, encoder: Fake, index: np.ndarray) -> np.ndarray:
        rng = np.random.default_rng(list(encoder.digest.encode()))
        known = np.eye(3)[self.data.train_labels]
        everything = known + self.noise[encoder.digest] * rng.normal(size=known.shape)
        rows = np.searchsorted(self.data.train, index)
        return np.asarray(everything[rows])


@pytest.mark.parametrize("better", ["statistics", "branches"])
def test_the_variant_with_the_smaller_loss_is_chosen(tmp_path: Path, survey: Store, better: str) -> None:
    data = load_task(survey, MORPHOLOGY)
    variants: Any = {name: [Fake(f"{name}{i}") for i in range(2)] for name in ("statistics", "branches")}
    noise = {e.digest: 0.5 if name == better else 2.0 for name, group in variants.items() for e in group}
    cache: Any = FakeCache(tmp_path, survey, data, noise)
    rows = np.arange(0, 96, 2)
    assert kept_choice(variants, cache, data, rows) is None
    choice = choose_variant(variants, cache, data, rows)
    assert choice.variant == better
    assert set(cache.asked) == set(data.train[rows].tolist())
    labels, units = data.train_labels[rows], data.train_units[rows]
    fits = [fit_logistic(cache.get(e, data.train[rows]), labels, units, 0) for e in variants[better]]
    assert choice.losses[better] == pytest.approx(np.mean([min(fit.search.values()) for fit in fits]))
    assert "the stronger of two by cross-validated log loss on 48 training labels" in choice.note
    assert kept_choice(variants, cache, data, rows) == choice
    assert kept_choice(variants, cache, data, rows[1:]) is None


def test_with_few_labels_it_is_the_default(tmp_path: Path, survey: Store) -> None:
    data = load_task(survey, MORPHOLOGY)
    variants: Any = {name: [Fake(name)] for name in ("statistics", "branches")}
    cache: Any = FakeCache(tmp_path, survey, data, {"statistics": 9.0, "branches": 0.1})
    choice = choose_variant(variants, cache, data, np.arange(12))
    assert choice == Choice("statistics", {}, 12, "log loss")
    assert choice.note == "random weights with batch-norm statistics of unlabelled training images"
    next(tmp_path.iterdir()).write_text("{")
    assert kept_choice(variants, cache, data, np.arange(12)) is None


@pytest.mark.parametrize("better", ["statistics", "branches"])
def test_votes_choose_by_their_own_loss(tmp_path: Path, survey: Store, better: str) -> None:
    data = load_task(survey, MORPHOLOGY)
    votes = np.eye(3)[data.train_labels] * 4 + 1
    task = TransferTask("v", kind="counts", columns=("a", "b", "c"))
    data = replace(data, task=task, classes=task.columns, train_targets=votes, test_targets=np.ones((48, 3)))
    variants: Any = {name: [Fake(f"{name}{i}") for i in range(2)] for name in ("statistics", "branches")}
    noise = {e.digest: 0.3 if name == better else 2.0 for name, group in variants.items() for e in group}
    cache: Any = FakeCache(tmp_path, survey, data, noise)
    rows = np.arange(0, 96, 2)
    choice = choose_variant(variants, cache, data, rows)
    assert choice.variant == better
    fits = [fit_votes(cache.get(e, data.train[rows]), votes[rows], data.train_units[rows], 0) for e in variants[better]]
    assert choice.losses[better] == pytest.approx(np.mean([min(fit.search.values()) for fit in fits]))
    assert "by cross-validated log loss per vote on 48 training labels" in choice.note
    # The same labels asked as another kind are another question.
    assert kept_choice(variants, cache, replace(data, task=MORPHOLOGY), rows) is None
