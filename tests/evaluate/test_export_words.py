"""The README of an export: its code runs and gives the run's features; it says what pretraining saw."""

from __future__ import annotations

import re
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pytest
import torch

from sciencessl.data.loader import Decoder, EvaluationStream
from sciencessl.evaluate.encoders import compute_embeddings, run_encoder
from sciencessl.evaluate.export import export
from sciencessl.evaluate.export_words import card_sentences, readme
from sciencessl.registry import load_domain
from sciencessl.spec import InputStats
from sciencessl.store.reader import Store
from sciencessl.train.folder import ModelCard, StoreRecord, read_model
from sciencessl.views.to_input import standardise


def code_of(text: str) -> str:
    return "\n".join(re.findall(r"```python\n(.*?)```", text, re.DOTALL))


@pytest.fixture
def card(run: Path) -> ModelCard:
    return read_model(run)


def test_the_code_in_the_readme_gives_the_features_of_embed(
    survey: Store, run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    export(run, tmp_path / "out")
    monkeypatch.chdir(tmp_path)
    names: dict[str, Any] = {}
    exec(code_of((tmp_path / "out" / "README.md").read_text()), names)
    index = np.arange(6)
    domain = load_domain("galaxy")
    settings = domain.train_options(size=32)
    stream = EvaluationStream(Decoder(survey, domain.decode), index, domain.views, settings, ["image"])
    views = next(iter(stream)).views[0]["image"]
    with torch.inference_mode():
        found = names["encoder"](names["to_input"](views)).numpy()
    np.testing.assert_allclose(found, compute_embeddings(run_encoder(run), survey, index, workers=0), atol=1e-5)


@pytest.mark.parametrize("stretch", ["linear", "asinh", "log"])
def test_the_code_stretches_flux_and_mends_what_is_not_finite(
    card: ModelCard, stretch: Literal["linear", "asinh", "log"]
) -> None:
    stats = InputStats((0.1, 0.3), (0.5, 2.0), (0.02, 3.0), stretch)
    text = readme(replace(card, channels=("g", "r"), stats=stats), load_domain("galaxy"), "timm", "x")
    assert "do not use timm's own transform" in text
    names: dict[str, Any] = {}
    exec(code_of(text).partition("encoder = ")[0] + code_of(text).partition("pretrained=True).eval()\n")[2], names)
    flux = torch.randn((2, 2, 4, 4), generator=torch.Generator().manual_seed(0)) * 10
    flux[0, 0, 0, :3] = torch.tensor([float("nan"), float("inf"), -float("inf")])
    torch.testing.assert_close(names["to_input"](flux), standardise(flux, stats), rtol=0, atol=0)


def test_a_domain_with_its_own_input_is_not_given_the_wrong_code(card: ModelCard) -> None:
    text = readme(card, replace(load_domain("galaxy"), to_input="radio.input:to_input"), "timm", "x")
    assert "2. `radio.input:to_input` with the statistics" in text
    assert "def to_input" not in text


def test_the_evaluation_view_is_told_with_its_settings(card: ModelCard) -> None:
    domain = load_domain("galaxy")
    text = readme(card, domain, "timm", "x")
    assert f"- `evaluation_window` = {card.views['evaluation_window']}: Side of the centred window" in text
    assert "- `size` = 32: Side of a large view in pixels." in text
    assert "`area`" not in text
    # A function made from another has words of its own that are none of the views'.
    assert "partial" not in readme(card, replace(domain, views=partial(domain.views)), "timm", "x")


def test_it_is_told_from_which_size_on_photos_are_reduced(card: ModelCard) -> None:
    """The window of three quarters of a view of 32 pixels."""
    domain = load_domain("galaxy")
    text = readme(card, domain, "timm", "x")
    assert "JPEGs of 524,288 pixels or more are decoded at the smallest of 1/2, 1/4 and 1/8" in text
    assert "leaves the shorter side 42.67 pixels or more" in text
    assert "1/8" not in readme(card, replace(domain, decode="radio.files:decode"), "timm", "x")


def test_our_own_format_is_loaded_by_us(card: ModelCard) -> None:
    text = readme(card, load_domain("galaxy"), "sciencessl", "stars")
    assert "sciencessl embed stars --data STORE" in text
    assert "create_model" not in text


def test_what_pretraining_saw(card: ModelCard) -> None:
    plain = replace(card, images=12800, steps=100, stores=(StoreRecord("gz.zarr", "ab12"),))
    assert card_sentences(plain) == [
        "12,800 images, repeats counted, in 100 steps, from split=train of gz.zarr (digest ab12).", "No labels.",
    ]  # fmt: skip
    two = replace(plain, stores=(*plain.stores, StoreRecord("b.zarr", "cd34")), sampling="an epoch is 40 draws")
    assert card_sentences(two)[0].endswith("from split=train of gz.zarr (digest ab12) and b.zarr (digest cd34).")
    assert card_sentences(two)[2] == "An epoch is 40 draws."
    hybrid = replace(plain, label_rows={"bar": 1200, "round": 3}, label_note="simulated votes", init_from="old")
    assert card_sentences(hybrid)[1:] == [
        "Labels: bar (1,200 rows), round (3 rows). simulated votes.",
        "Weights to start from: old; what those saw is not told here.",
    ]
    assert card_sentences(replace(plain, label_columns=("class",)))[1] == "Labels: class."
