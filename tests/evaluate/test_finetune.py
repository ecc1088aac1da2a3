from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from scipy.special import log_softmax, softmax
from torch import nn

from sciencessl.backbones.timm_backbones import build_backbone
from sciencessl.data.loader import Decoder
from sciencessl.errors import ConfigError, RunError
from sciencessl.evaluate import finetune
from sciencessl.evaluate.encoders import Encoder, compute_embeddings, run_encoder
from sciencessl.evaluate.finetune import (
    BATCH,
    FIXED_LEARNING_RATE,
    LEARNING_RATES,
    FittedNetwork,
    Labelled,
    Network,
    Training,
    fit_network,
    layer_groups,
    step_seconds,
)
from sciencessl.evaluate.fits import run_training
from sciencessl.evaluate.linear import FittedClassifier, fit_logistic, unit_folds
from sciencessl.evaluate.stages import stage_of
from sciencessl.store.reader import Store

Rows = Callable[[int], Labelled]


@pytest.fixture(scope="module")
def encoder(run: Path) -> Encoder:
    return run_encoder(run)


@pytest.fixture(scope="module")
def rows(survey: Store, encoder: Encoder) -> Rows:
    """The first n galaxies of split=train, three classes in turn, with their features."""
    index = survey.split("train").all()
    features = compute_embeddings(encoder, survey, index, workers=0)
    labels = np.array([int(survey.ids[i][1:]) % 3 for i in index])
    units = np.array([survey.ids[i] for i in index], dtype=object)
    return lambda n: Labelled(survey, index[:n], labels[:n], units[:n], features[:n])


def _fit(encoder: Encoder, rows: Labelled, training: Training, seed: int = 0) -> FittedNetwork:
    return fit_network(encoder.module, encoder.card, rows, training, seed)


def _zeros(classes: int, width: int) -> FittedClassifier:
    return FittedClassifier(np.arange(classes), np.zeros(width), np.ones(width), np.zeros((width, classes)),
                            np.zeros(classes), c=0.0)


def _state(module: nn.Module) -> dict[str, torch.Tensor]:
    return {name: value.clone() for name, value in module.state_dict().items()}


def test_stages_are_the_stem_then_stages_or_blocks() -> None:
    resnet = stage_of(build_backbone("test_resnet", 3, 0))
    assert {name.split(".")[0]: stage for name, stage in resnet.items()} == {
        "conv1": 0, "bn1": 0, "layer1": 1, "layer2": 2, "layer3": 3, "layer4": 4,
    }
    vit = stage_of(build_backbone("test_vit", 3, 0))
    assert (vit["pos_embed"], vit["blocks.0.norm1.weight"], vit["blocks.5.norm1.weight"]) == (0, 1, 6)
    assert vit["norm.weight"] == 6
    # A last norm alone is no stage: training "the last stage" would train nothing.
    convnext = stage_of(build_backbone("test_convnext", 3, 0))
    assert convnext["head.norm.weight"] == convnext["stages.3.blocks.0.conv_dw.weight"] == 4
    assert set(stage_of(nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2))).values()) == {0}


def test_learning_rates_fall_from_the_head_to_the_stem() -> None:
    module = build_backbone("test_resnet", 3, 0)
    network = Network(module, _zeros(3, 96), None)
    of = {id(p): (group["scale"], group["weight_decay"]) for group in layer_groups(network, 0.5)
          for p in group["params"]}
    named = {name: of[id(p)] for name, p in network.encoder.named_parameters()}
    assert len(of) == len(named) + 2
    assert of[id(network.weight)] == (1.0, 0.05)
    assert of[id(network.bias)] == (1.0, 0.0)
    assert named["layer4.0.conv1.weight"] == (0.5, 0.05)
    assert named["layer3.0.conv1.weight"] == (0.25, 0.05)
    assert named["layer1.0.bn1.weight"] == (0.0625, 0.0)
    assert named["conv1.0.weight"] == (0.03125, 0.05)
    assert {scale for scale, _ in (of[id(p)] for p in network.parameters())} == {2.0**-k for k in range(6)}


@pytest.mark.parametrize(("stages", "first"), [(0, 5), (1, 4), (2, 3), (5, 0), (None, 0)])
def test_only_the_chosen_stages_change(encoder: Encoder, rows: Rows, stages: int | None, first: int) -> None:
    before = _state(encoder.module)
    # A rate at which one step moves every weight.
    fitted = _fit(encoder, rows(12), Training(2, stages, 1.0))
    after = fitted.network.encoder.state_dict()
    stage = stage_of(encoder.module)
    of_module = {name.rpartition(".")[0]: number for name, number in stage.items()}
    for name, value in before.items():
        trained = of_module[name.rpartition(".")[0]] >= first
        # Statistics of batch norm follow the training images where weights are trained, and stay elsewhere.
        assert torch.equal(after[name], value) != trained, name
        assert torch.equal(encoder.module.state_dict()[name], value)
    logistic = fit_logistic(rows(12).features, rows(12).labels, rows(12).units, 0)  # type: ignore[arg-type]
    assert not np.array_equal(fitted.network.head().weight, logistic.head().weight)
    assert not any(parameter.requires_grad for parameter in fitted.network.parameters())


def test_parts_that_are_not_trained_stay_in_evaluation_mode() -> None:
    network = Network(build_backbone("test_resnet", 3, 0), _zeros(3, 96), 1).train()
    modes = {name: part.training for name, part in network.encoder.named_modules() if isinstance(part, nn.BatchNorm2d)}
    assert {name for name, training in modes.items() if training} == {n for n in modes if n.startswith("layer4")}
    assert not Network(build_backbone("test_vit", 3, 0), _zeros(3, 64), 0).train().encoder.training


def test_only_the_first_training_view_is_made_and_it_is_the_one_among_both(
    encoder: Encoder, rows: Rows, monkeypatch: pytest.MonkeyPatch
) -> None:
    start = finetune._Start(encoder.module, encoder.card, Training(1), 4, 0)
    alone = start._stream(rows(12), np.arange(12) % 3).batch(1)
    monkeypatch.setattr(finetune, "_first_view", lambda views, settings: views(settings))
    both = start._stream(rows(12), np.arange(12) % 3).batch(1)
    assert (len(alone.views), len(both.views)) == (1, 2)
    assert torch.equal(alone.views[0]["image"], both.views[0]["image"])
    assert finetune._first_view(lambda _: (len, len), None) == (len, len)  # type: ignore[arg-type, return-value]


def test_the_same_arguments_give_the_same_bits(encoder: Encoder, rows: Rows, survey: Store) -> None:
    torch.manual_seed(3)
    torch_before, numpy_before = torch.get_rng_state(), np.random.get_state()[1].copy()  # type: ignore[index, union-attr]
    test = survey.split("test").all()[:8]
    found = [_fit(encoder, rows(12), Training(2), seed).probabilities(survey, test, 3) for seed in (0, 0, 1)]
    assert torch.equal(torch_before, torch.get_rng_state())
    assert np.array_equal(numpy_before, np.random.get_state()[1])  # type: ignore[index, arg-type]
    torch.manual_seed(4)
    found.append(_fit(encoder, rows(12), Training(2), 0).probabilities(survey, test, 3))
    assert np.array_equal(found[0], found[1])
    assert np.array_equal(found[0], found[3])
    assert not np.allclose(found[0], found[2], atol=1e-4)


def test_a_network_starts_as_the_logistic_regression_on_frozen_features(encoder: Encoder, rows: Rows) -> None:
    labelled = rows(36)
    assert labelled.features is not None
    logistic = fit_logistic(labelled.features, labelled.labels, labelled.units, 0)
    network = Network(encoder.module, logistic, None).eval()
    scores = finetune._scores(network, encoder.card, labelled.store, labelled.index, 0)
    np.testing.assert_allclose(scores, logistic.logits(labelled.features), rtol=1e-3, atol=2e-3)
    head = network.head()
    np.testing.assert_allclose(labelled.features @ head.weight.T + head.bias, scores, rtol=1e-3, atol=2e-3)


def test_one_step_by_hand(encoder: Encoder, rows: Rows, monkeypatch: pytest.MonkeyPatch) -> None:
    """The head alone, from zeros: AdamW's first step is the learning rate times the sign of the balanced gradient."""
    kept: list[tuple[Any, torch.Tensor]] = []
    as_input = finetune.as_input

    def recorded(batch: Any, card: Any) -> torch.Tensor:
        kept.append((batch, as_input(batch, card)))
        return kept[-1][1]

    monkeypatch.setattr(finetune, "as_input", recorded)
    some = np.concatenate([np.flatnonzero(rows(30).labels == c)[:n] for c, n in enumerate((4, 3, 1))])
    labelled = replace(rows(30).take(some), features=None)
    counts = np.array([4, 3, 1])
    fitted = _fit(encoder, labelled, Training(1, 0))
    (batch, x), = kept
    assert len(x) == BATCH
    truth = {int(i): int(c) for i, c in zip(labelled.index, labelled.labels, strict=True)}
    target = np.array([truth[int(i)] for i in batch.index])
    assert np.array_equal(batch.labels["class"].numpy(), target)
    with torch.inference_mode():
        features = encoder.module(x).numpy().astype(np.float64)
    error = np.full((BATCH, 3), 1 / 3) - np.eye(3)[target]
    gradient = (error * (8 / (3 * counts))[target, None]).T @ features / BATCH
    expected = -FIXED_LEARNING_RATE * gradient / (np.abs(gradient) + 1e-8)
    np.testing.assert_allclose(fitted.network.head().weight, expected, rtol=1e-3, atol=1e-8)


def test_an_epoch_shows_every_row_once_and_no_other(
    encoder: Encoder, rows: Rows, monkeypatch: pytest.MonkeyPatch
) -> None:
    read: list[int] = []
    decode = Decoder.decode

    def recorded(self: Decoder, index: np.ndarray, *others: Any) -> Any:
        read.extend(index.tolist())
        return decode(self, index, *others)

    monkeypatch.setattr(Decoder, "decode", recorded)
    labelled = rows(16)
    _fit(encoder, labelled, Training(2))
    assert sorted(read) == sorted(labelled.index.tolist() * (2 * BATCH // 16))


def test_rates_are_tried_with_half_the_steps(encoder: Encoder, rows: Rows, monkeypatch: pytest.MonkeyPatch) -> None:
    taken: list[int] = []
    real = finetune._Start.train

    def counted(self: Any, *arguments: Any) -> Any:
        taken.append(self.training.max_steps)
        return real(self, *arguments)

    monkeypatch.setattr(finetune._Start, "train", counted)
    _fit(encoder, rows(33), Training(4, 0))
    assert taken == [2] * len(LEARNING_RATES) + [4]
    assert Training(1).trial.max_steps == 1


def test_rates_are_fixed_for_few_labels_and_searched_for_more(encoder: Encoder, rows: Rows) -> None:
    few, more = _fit(encoder, rows(30), Training(1, 0)), _fit(encoder, rows(33), Training(1, 0))
    assert (few.rate, few.trials, few.search) == (FIXED_LEARNING_RATE, 1, {})
    assert tuple(more.search) == LEARNING_RATES
    assert more.rate == min(LEARNING_RATES, key=lambda rate: more.search[rate])
    labelled = rows(33)
    assert labelled.features is not None
    first = fit_logistic(labelled.features, labelled.labels, labelled.units, 0)
    assert more.trials == len(LEARNING_RATES) + first.trials
    assert _fit(encoder, replace(labelled, features=None), Training(1, 0)).trials == len(LEARNING_RATES)
    # Units count, not rows.
    grouped = replace(labelled, units=np.arange(33) // 3)
    assert _fit(encoder, grouped, Training(1, 0)).search == {}


def test_a_rate_is_judged_on_a_fold_that_took_no_part(
    encoder: Encoder, rows: Rows, monkeypatch: pytest.MonkeyPatch
) -> None:
    """At rate 0 with the head alone, the loss is that of a logistic regression on the other folds, by NumPy."""
    monkeypatch.setattr(finetune, "LEARNING_RATES", (0.0,))
    labelled = rows(48)
    assert labelled.features is not None
    kept, held = unit_folds(labelled.labels, labelled.units, 2)[0]
    logistic = fit_logistic(labelled.features[kept], labelled.labels[kept], labelled.units[kept], 2)
    logs = log_softmax(logistic.logits(labelled.features[held]), axis=1)
    truth = labelled.labels[held]
    expected = np.mean([-logs[truth == c, c].mean() for c in range(3)])
    assert _fit(encoder, labelled, Training(1, 0), 2).search[0.0] == pytest.approx(expected, rel=1e-3)


def test_test_labels_change_scores_and_nothing_else(encoder: Encoder, rows: Rows, survey: Store) -> None:
    test = survey.split("test").all()[:12]
    truth = np.arange(12) % 3
    arguments = (encoder.module, encoder.card, rows(33))
    clean = run_training(*arguments, survey, test, truth, 3, Training(1), 0)
    turned = run_training(*arguments, survey, test[:6], (truth[:6] + 1) % 3, 3, Training(1), 0)
    assert (clean.chosen, clean.trials) == (turned.chosen, turned.trials)
    np.testing.assert_allclose(turned.probabilities, clean.probabilities[:6], atol=1e-5)
    assert clean.metrics["nll"] != turned.metrics["nll"]
    assert clean.chosen.endswith(", 1 steps, all stages")


def test_what_a_fit_keeps_gives_its_probabilities(encoder: Encoder, rows: Rows, survey: Store) -> None:
    test = survey.split("test").all()[:12]
    two = rows(12).take(np.flatnonzero(rows(12).labels > 0))
    fit = run_training(encoder.module, encoder.card, two, survey, test, np.arange(12) % 3, 3, Training(2), 0)
    assert (fit.probabilities[:, 0] == 0).all()
    assert fit.head is not None
    assert fit.encoder is not None
    assert fit.head.classes.tolist() == [1, 2]
    features = compute_embeddings(replace(encoder, module=fit.encoder), survey, test, workers=0)
    expected = softmax(features @ fit.head.weight.T + fit.head.bias, axis=1)
    np.testing.assert_allclose(fit.probabilities[:, 1:], expected, atol=1e-3)
    assert fit.chosen == f"learning rate {FIXED_LEARNING_RATE:g} (fixed), 2 steps, all stages"


def test_training_learns(encoder: Encoder, rows: Rows, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(finetune, "FIXED_LEARNING_RATE", 5e-3)
    labelled = replace(rows(12), features=None)
    fitted = _fit(encoder, labelled, Training(20).from_scratch)
    right = fitted.probabilities(labelled.store, labelled.index, 3)[np.arange(12), labelled.labels]
    assert -np.log(right).mean() < np.log(3) - 0.2


def test_bad_settings(encoder: Encoder, rows: Rows) -> None:
    with pytest.raises(ConfigError, match="max_steps=0 must be 1 or more"):
        Training(0)
    with pytest.raises(ConfigError, match="stages=-1 0 or more"):
        Training(1, -1)
    with pytest.raises(ConfigError, match="stages=6, but the encoder has 5; ask for 5 at most"):
        _fit(encoder, rows(12), Training(1, 6))
    assert Training(7, 2, 0.5).from_scratch == Training(7, None, 1.0)


def test_weights_that_break_down_are_an_error(encoder: Encoder, rows: Rows) -> None:
    broken = build_backbone("test_resnet", 3, 0)
    with torch.no_grad():
        next(broken.parameters()).fill_(torch.nan)
    with pytest.raises(RunError, match="training a test_resnet on 12 labels left weights that are not finite"):
        fit_network(broken, encoder.card, rows(12), Training(1), 0)


def test_a_step_is_timed(encoder: Encoder, rows: Rows) -> None:
    before = _state(encoder.module)
    assert 0 < step_seconds(encoder.module, encoder.card, rows(12), Training()) < 60
    assert all(torch.equal(value, before[name]) for name, value in encoder.module.state_dict().items())
