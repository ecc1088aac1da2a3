from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from sciencessl.errors import RunError
from sciencessl.evaluate.classifier import read_classifier
from sciencessl.store.reader import Store
from sciencessl.train.folder import HEAD, HeadCard, read_head, read_model, write_head


def _softmax(scores: np.ndarray) -> np.ndarray:
    powers = np.exp(scores - scores.max(axis=1, keepdims=True))
    return powers / powers.sum(axis=1, keepdims=True)


def _changed(folder: Path, **changes: Any) -> Path:
    card, weight, bias = read_head(folder)
    write_head(folder, replace(card, **changes), weight, bias)
    return folder


@pytest.mark.parametrize(("kind", "columns"), [
    ("class", ("p_elliptical", "p_spiral")), ("counts", ("fraction_elliptical", "fraction_spiral")),
    ("multilabel", ("p_elliptical", "p_spiral")),
])  # fmt: skip
def test_scores_are_divided_by_the_temperature(kind: str, columns: tuple[str, ...], model: Path) -> None:
    _changed(model, kind=kind, temperature=2.5)
    saved = read_classifier(model)
    assert saved.columns == columns
    features = np.random.default_rng(0).normal(size=(9, saved.encoder.card.features)).astype(np.float32)
    scores = np.array([[sum(w * f for w, f in zip(row, sample, strict=True)) for row in saved.weight.astype(float)]
                       for sample in features.astype(float)]) + saved.bias
    expected = 1 / (1 + np.exp(-scores / 2.5)) if kind == "multilabel" else _softmax(scores / 2.5)
    found = saved.probabilities(features)
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, expected, atol=1e-6)


def test_a_temperature_above_one_makes_the_model_less_sure_of_the_same(model: Path) -> None:
    features = np.random.default_rng(1).normal(size=(20, read_model(model).features)).astype(np.float32)
    sure = read_classifier(model).probabilities(features)
    less = read_classifier(_changed(model, temperature=4.0)).probabilities(features)
    np.testing.assert_array_equal(sure.argmax(axis=1), less.argmax(axis=1))
    assert (less.max(axis=1) < sure.max(axis=1)).all()


def test_a_folder_of_models_is_no_model(model: Path, tmp_path: Path) -> None:
    for folder in (model.parent, model.parent.parent):
        with pytest.raises(RunError, match=f"{folder} is no model but holds 1; choose one: {model}"):
            read_classifier(folder)


def test_a_run_has_no_classifier(run: Path) -> None:
    with pytest.raises(RunError, match=r"has no classifier \(exported/head.json\); `sciencessl transfer` saves models"):
        read_classifier(run)


@pytest.mark.parametrize(("changes", "message"), [
    ({"kind": "counst"}, "no kind of task named 'counst'. Did you mean 'counts'"),
    ({"temperature": 0.0}, "temperature 0.0 must be finite and above 0; run the transfer again"),
    ({"temperature": float("inf")}, "temperature inf must be finite"),
    ({"classes": ("a", "b", "c")}, r"weights \(2, 512\) and biases \(2,\) must be \(3, 512\) and \(3,\), for 3 c"),
])  # fmt: skip
def test_a_classifier_that_cannot_be_used(changes: dict[str, Any], message: str, model: Path) -> None:
    width = read_model(model).features
    with pytest.raises(RunError, match=f"head.json cannot be used: {message.replace('512', str(width))}"):
        read_classifier(_changed(model, **changes))


def test_weights_that_are_not_finite(model: Path) -> None:
    card, weight, bias = read_head(model)
    write_head(model, card, np.where(weight == weight.max(), np.nan, weight), bias)
    with pytest.raises(RunError, match="some of its weights are not finite"):
        read_classifier(model)


def test_a_card_of_before_kinds_and_temperatures(model: Path, survey: Store) -> None:
    values = json.loads((model / HEAD).read_text())
    (model / HEAD).write_text(json.dumps({n: v for n, v in values.items() if n not in ("kind", "temperature")}))
    card: HeadCard = read_classifier(model).card
    assert (card.kind, card.temperature) == ("class", 1.0)
