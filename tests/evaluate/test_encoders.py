from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from torch import nn

from sciencessl.backbones.timm_backbones import build_backbone, switch_on
from sciencessl.data import decode as decoding
from sciencessl.data.decode import decode
from sciencessl.data.loader import BatchStream, Decoder, ViewRandomness
from sciencessl.data.order import Order
from sciencessl.domains.galaxy import SPEC
from sciencessl.domains.galaxy.views import GalaxyViews
from sciencessl.errors import ConfigError, DataError, RunError
from sciencessl.evaluate.encoders import (
    Encoder,
    check_input,
    compute_embeddings,
    embed_together,
    evaluation_stream,
    random_encoder,
    run_encoder,
    scratch_encoder,
    take_statistics,
)
from sciencessl.samples import Sample
from sciencessl.spec import FieldSpec, View
from sciencessl.store.format import StoreHeader
from sciencessl.store.reader import Store
from sciencessl.store.seal import seal
from sciencessl.store.writer import PreparedSample, create_store, write_row
from sciencessl.train.folder import MODEL, WEIGHTS, read_model
from sciencessl.train.inputs import input_stats
from sciencessl.views.to_input import fit_stats, standardise


def model_input(encoder: Encoder, store: Store, index: np.ndarray) -> torch.Tensor:
    """Evaluation views made one by one, without the loader."""
    view = SPEC.views(GalaxyViews(size=32))[1]
    spec = store.header.fields["image"]
    images = []
    for i, payload in zip(index, store.payloads("image", index), strict=True):
        made = view(Sample({"image": decode(payload, spec)}, index=int(i)), lambda _: np.random.default_rng(0))
        images.append(made[0].fields["image"].transpose(2, 0, 1))
    return standardise(torch.from_numpy(np.stack(images)), encoder.card.stats)


def test_embeddings_are_a_direct_forward_of_the_evaluation_view(survey: Store, run: Path) -> None:
    encoder = run_encoder(run)
    index = np.array([100, 3, 41, 3])
    found = compute_embeddings(encoder, survey, index, workers=0)
    with torch.inference_mode():
        expected = encoder.module(model_input(encoder, survey, index)).numpy()
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)
    assert not np.allclose(found[0], found[2], rtol=1e-3)
    assert compute_embeddings(encoder, survey, index[:0], workers=0).shape == (0, encoder.card.features)


def test_large_photos_are_decoded_alike_in_statistics_embeddings_and_training(
    tmp_path: Path, make_run: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Stamps of 160 px stand for photos: evaluation at 32 px needs 43 px, training 60 px."""
    monkeypatch.setattr(decoding, "WORTH_PIXELS", 160 * 160)
    store, settings, index = noise_store(tmp_path / "photos.zarr"), GalaxyViews(size=32), np.arange(6)
    train, evaluate = SPEC.views(settings)

    def direct(view: View, least_px: float) -> np.ndarray:
        """View 0 of each sample, made without the loader."""
        made = []
        for payload, key in zip(store.payloads("image", index), store.keys(index), strict=True):
            image = decode(payload, SPEC.fields["image"], least_px)
            random = ViewRandomness(0, 0, int.from_bytes(key.tobytes(), "little"))
            made.append(view(Sample({"image": image}), random)[0].fields["image"])
        return np.stack(made)

    shown = direct(evaluate, 32 / 0.75)
    assert not np.array_equal(shown, direct(evaluate, np.inf))
    assert input_stats(store, SPEC, settings) == fit_stats(shown, 3)
    card = read_model(make_run(tmp_path / "run", store))
    batch = next(iter(evaluation_stream(card, store, index)))
    np.testing.assert_array_equal(batch.views[0]["image"].numpy().transpose(0, 2, 3, 1), shown)

    order = Order(6, 0, 6, slots=1)
    stream = BatchStream(Decoder(store, SPEC.decode), order, store.split("train"), SPEC.views, settings, {}, ["image"])
    trained = direct(train, 59.94)
    assert not np.array_equal(trained, direct(train, np.inf))
    views = stream.make(index, np.zeros(6, np.int64)).views[0]["image"]
    np.testing.assert_array_equal(views.numpy().transpose(0, 2, 3, 1), trained)


def noise_store(path: Path) -> Store:
    """Six training samples of blurred noise, as JPEG."""
    header = StoreHeader("galaxy", "images", SPEC.fields, 1, 6, {}, "plan", "config")
    create_store(path, header, 60_000)
    samples = []
    for number in range(6):
        noise = np.random.default_rng(number).normal(120, 200, (160, 160, 3)).astype(np.float32)
        pixels = cv2.GaussianBlur(noise, (0, 0), 1.5).clip(0, 255).astype(np.uint8)
        samples.append(PreparedSample(f"p{number}", "train", {"image": cv2.imencode(".jpg", pixels)[1].tobytes()}, {}))
    write_row(path, header, 0, samples, [], "inputs")
    seal(path, header)
    return Store(path)


def test_together_is_the_same_as_one_by_one(survey: Store, run: Path) -> None:
    first = run_encoder(run)
    encoders = [first, random_encoder(first.card, 0), random_encoder(first.card, 0, "branches")]
    index = np.arange(20, 60)
    together = embed_together(encoders, survey, index, workers=0)
    for encoder, values in zip(encoders, together, strict=True):
        np.testing.assert_array_equal(values, compute_embeddings(encoder, survey, index, workers=0))
    other = replace(first, card=replace(first.card, views={**first.card.views, "size": 40}))
    with pytest.raises(ConfigError, match="do not have one input"):
        embed_together([first, other], survey, index)


def test_a_random_encoder_is_a_function_of_its_number(run: Path) -> None:
    card = run_encoder(run).card
    before = torch.get_rng_state()
    one, again, two = random_encoder(card, 1), random_encoder(card, 1), random_encoder(card, 2)
    assert torch.equal(before, torch.get_rng_state())
    assert one.digest == again.digest
    assert len({one.digest, two.digest, random_encoder(card, 1, "branches").digest, run_encoder(run).digest}) == 4
    weights = [next(e.module.parameters()) for e in (one, again, two)]
    assert torch.equal(weights[0], weights[1])
    assert not torch.equal(weights[0], weights[2])
    assert (one.card.method, one.card.stores, one.card.steps) == ("random", (), 0)
    with pytest.raises(ConfigError, match=r"no variant of random encoders named 'branch'. Did you mean 'branches'"):
        random_encoder(card, 0, "branch")


def test_runs_that_differ_in_how_many_views_they_compared_share_their_input(run: Path) -> None:
    encoder = run_encoder(run)

    def seen(**views: object) -> str:
        return replace(encoder, card=replace(encoder.card, views={**encoder.card.views, **views})).input

    for changed in ({"large_views": 3}, {"instances": 4, "small_views": 0}, {"small_views": 4, "small_size": 16}):
        assert seen(**changed) == encoder.input
    assert seen(plain=True) != encoder.input
    assert seen(size=48) != encoder.input


def test_encoders_that_never_learned_have_the_norms_of_the_run_or_batch_norm_in_place_of_none(run: Path) -> None:
    card = run_encoder(run).card
    cards = {norm: replace(card, norm=norm) for norm in ("batch", "group_ws", "none")}
    for make in (lambda card: random_encoder(card, 0), lambda card: scratch_encoder(card, "scratch")):
        found = {norm: make(card) for norm, card in cards.items()}
        assert {norm: e.card.norm for norm, e in found.items()} == {
            "batch": "batch", "group_ws": "group_ws", "none": "batch",
        }  # fmt: skip
        kinds = {norm: {type(layer) for layer in e.module.modules()} for norm, e in found.items()}
        assert nn.BatchNorm2d in kinds["none"] == kinds["batch"]
        assert nn.GroupNorm in kinds["group_ws"] - kinds["batch"]
        assert found["none"].digest == found["batch"].digest != found["group_ws"].digest


def test_branches_are_switched_on_and_nothing_else_changes() -> None:
    model = build_backbone("regnety_002", 3, 0)
    before = {name: value.clone() for name, value in model.named_parameters()}
    switch_on(model)
    changed = {name for name, value in model.named_parameters() if not torch.equal(value, before[name])}
    assert changed == {name for name in before if name.endswith("conv3.bn.weight")}
    assert all(bool((dict(model.named_parameters())[name] == 1).all()) for name in changed)
    assert all(bool((before[name] == 0).all()) for name in changed)


def test_layer_scales_are_switched_on() -> None:
    class Block(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.gamma = nn.Parameter(torch.full((4,), 1e-6))
            self.token = nn.Parameter(torch.full((1, 1, 4), 1e-6))
            self.norm = nn.LayerNorm(4)
            self.layer = nn.Linear(4, 4)

    block = switch_on(Block())
    assert bool((block.gamma == 1).all())
    assert bool((block.token == 1e-6).all())
    assert bool((block.norm.bias == 0).all())
    assert bool((block.norm.weight == 1).all())


def test_statistics_are_those_of_training_images(survey: Store, run: Path) -> None:
    encoder = random_encoder(run_encoder(run).card, 0)
    split = survey.split("train").all()
    take_statistics([encoder], survey)
    layers = list(encoder.module.modules())
    convolution = next(layer for layer in layers if isinstance(layer, nn.Conv2d))
    norm: Any = next(layer for layer in layers if isinstance(layer, nn.BatchNorm2d))
    with torch.inference_mode():
        values = convolution(model_input(encoder, survey, split))
    np.testing.assert_allclose(norm.running_mean, values.mean((0, 2, 3)), atol=1e-5)
    np.testing.assert_allclose(norm.running_var, values.var((0, 2, 3)), rtol=1e-4)
    assert not any(layer.training for layer in encoder.module.modules())
    # A second pass starts anew, so that it changes nothing.
    kept = norm.running_mean.clone()
    take_statistics([encoder], survey)
    assert torch.equal(norm.running_mean, kept)


def test_a_run_without_statistics_to_take_is_left_alone(survey: Store, run: Path) -> None:
    encoder = run_encoder(run)
    before = {name: value.clone() for name, value in encoder.module.state_dict().items()}
    compute_embeddings(encoder, survey, np.arange(8), workers=0)
    assert all(torch.equal(value, before[name]) for name, value in encoder.module.state_dict().items())


def test_runs_that_cannot_be_read(tmp_path: Path, survey: Store, run: Path, make_run: Any) -> None:
    with pytest.raises(RunError, match="has no exported model"):
        run_encoder(tmp_path / "nothing")
    (tmp_path / "begun").mkdir()
    (tmp_path / "begun" / "config.yaml").touch()
    with pytest.raises(RunError, match="The run did not finish: continue it with `sciencessl pretrain --resume`"):
        run_encoder(tmp_path / "begun")

    torn = tmp_path / "torn"
    shutil.copytree(run, torn)
    (torn / WEIGHTS).write_bytes((run / WEIGHTS).read_bytes()[:1000])
    with pytest.raises(DataError, match="cannot be read"):
        run_encoder(torn)
    (torn / MODEL).write_text((run / MODEL).read_text()[:-40])
    with pytest.raises(RunError, match=r"model.json is damaged"):
        run_encoder(torn)

    mixed = make_run(tmp_path / "mixed", survey, backbone="test_efficientnet")
    shutil.copy(run / WEIGHTS, mixed / WEIGHTS)
    with pytest.raises(DataError, match="does not fit backbone 'test_efficientnet' with 3 channels"):
        run_encoder(mixed)


def test_a_store_of_other_channels(survey: Store, run: Path) -> None:
    encoder = run_encoder(run)
    check_input(encoder, survey)
    store = Store(survey.path)
    store.header = replace(store.header, fields={"image": FieldSpec("bytes", ("g", "r"))})
    with pytest.raises(DataError, match=r"first was trained on field 'image' with channels \['r', 'g', 'b'\]; .* has "
                                        r"\{'image': \['g', 'r'\]\}"):
        compute_embeddings(encoder, store, np.arange(3), workers=0)


def test_view_settings_of_another_version(tmp_path: Path, survey: Store, make_run: Any) -> None:
    encoder = run_encoder(make_run(tmp_path / "old", survey, views={"size": 32, "twirl": 1}))
    with pytest.raises(RunError, match="a run was trained with view settings that domain 'galaxy' does not have"):
        compute_embeddings(encoder, survey, np.arange(3), workers=0)
