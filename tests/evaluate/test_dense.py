"""Segmentation: a toy is learned, frozen weights stay, ignored pixels teach nothing."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from sciencessl.backbones.timm_backbones import build_backbone
from sciencessl.evaluate import dense
from sciencessl.evaluate.dense import Segmented, masked_loss, run_dense
from sciencessl.evaluate.dense_masks import read_masks
from sciencessl.evaluate.encoders import fresh_module
from sciencessl.evaluate.finetune import Training
from sciencessl.evaluate.fits import Fit
from sciencessl.evaluate.tasks import TaskData, load_task
from sciencessl.spec import TransferTask
from sciencessl.store.reader import Store
from tests.evaluate.discs import disc_card, disc_store

TASK = TransferTask("discs", "mask", kind="dense")


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    return disc_store(tmp_path_factory.mktemp("dense") / "discs.zarr")


@pytest.fixture(autouse=True)
def one_rate(monkeypatch: pytest.MonkeyPatch) -> None:
    """No search: it is tested by itself."""
    monkeypatch.setattr(dense, "few_units", lambda labels, units: True)


def _sides(store: Store) -> tuple[TaskData, Segmented, Segmented]:
    data = load_task(store, TASK)
    train, test = (
        Segmented(store, index, read_masks(store, TASK, data.classes, index), labels, units)
        for index, labels, units in ((data.train, data.train_labels, data.train_units),
                                     (data.test, data.test_labels, data.test_units))
    )
    return data, train, test


def _fit(store: Store, training: Training, seed: int = 0) -> Fit:
    _, train, test = _sides(store)
    return run_dense(fresh_module(disc_card(), 0), disc_card(), train, test, training, seed)


def test_tuning_learns_discs_and_a_frozen_encoder_is_above_chance(store: Store) -> None:
    data = _sides(store)[0]
    chance = float(next(iter(dense.segmentation_notes(data))).split("mean IoU ")[1].split(",")[0])
    tuned, frozen = _fit(store, Training(40)), _fit(store, Training(40).head_only)
    assert tuned.metrics["mean_iou"] > 0.8
    assert frozen.metrics["mean_iou"] > chance + 0.1
    assert tuned.probabilities.shape == (len(data.test), 6)
    assert tuned.chosen == "learning rate 0.002 (fixed), 40 steps, all stages"
    judged = tuned.probabilities.reshape(-1, 3, 2)[:, [0, 2]].sum(axis=(1, 2))
    assert (judged == 48 * 48).all()


def test_a_fit_is_a_pure_function_of_its_arguments(store: Store) -> None:
    one, two, other = (_fit(store, Training(2), seed).probabilities for seed in (0, 0, 1))
    assert np.array_equal(one, two)
    assert not np.array_equal(one, other)


def test_a_frozen_encoder_stays_as_it_is_norms_included(store: Store) -> None:
    _, train, _ = _sides(store)
    encoder = build_backbone("test_resnet", 3, 0)
    network = dense._Start(encoder, disc_card(), Training(2).head_only, 0, 0).train(train, 1e-2)
    for name, value in network.encoder.state_dict().items():
        assert torch.equal(value, encoder.state_dict()[name]), name
    head = network.head.state_dict()
    assert head["1.num_batches_tracked"] == 2


def test_rates_are_chosen_on_a_held_out_fold(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dense, "few_units", lambda labels, units: False)
    monkeypatch.setattr(dense, "LEARNING_RATES", (1e-9, 5e-3))
    fit = _fit(store, Training(6))
    assert fit.trials == 2
    assert fit.chosen == "learning rate 0.005, 6 steps, all stages"


def test_ignored_pixels_have_no_part_in_the_loss() -> None:
    scores = torch.randn(2, 3, 4, 4, requires_grad=True)
    mask = torch.randint(0, 3, (2, 4, 4))
    mask[:, 2:] = 255
    loss = masked_loss(scores, mask)
    judged = scores[:, :, :2].permute(0, 2, 3, 1).reshape(-1, 3)
    own = torch.nn.functional.cross_entropy(judged, mask[:, :2].reshape(-1))
    assert float(loss.detach()) == pytest.approx(float(own.detach()), rel=1e-6)
    loss.backward()
    assert scores.grad is not None
    assert not scores.grad[:, :, 2:].any()
    # A defect elsewhere: a batch without a judged pixel divides by zero, and the weights are gone.
    assert float(masked_loss(scores, torch.full((2, 4, 4), 255)).detach()) == 0


def test_scores_are_enlarged_bilinearly() -> None:
    scores = torch.tensor([[[[0.0, 1.0], [0.0, 1.0]]]])
    assert dense.enlarged(scores, 4)[0, 0, 0].tolist() == pytest.approx([0.0, 0.25, 0.75, 1.0])


def test_a_step_is_timed(store: Store, tmp_path: Path) -> None:
    _, train, _ = _sides(store)
    assert 0 < dense.step_seconds(fresh_module(disc_card(), 0), disc_card(), train, Training(300)) < 60
