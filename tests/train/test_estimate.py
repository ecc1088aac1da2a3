"""What is measured before the first step touches neither weights nor generators of the run."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from sciencessl.config import build_config
from sciencessl.domains.galaxy.views import GalaxyViews
from sciencessl.errors import ConfigError
from sciencessl.layers import Layer
from sciencessl.methods.byol import ByolOptions
from sciencessl.methods.labels_only import LabelsOnlyOptions
from sciencessl.train import estimate
from sciencessl.train.estimate import operations_per_image, probe_step, seconds_per_step, settle
from sciencessl.train.folder import read_metrics
from sciencessl.train.measure import Choice
from sciencessl.train.plan import Plan, make_identity, make_plan, sample_batch
from sciencessl.train.step import Wrapped


@pytest.fixture
def planned(tiny_store: Path, tiny_settings: dict[str, Any]) -> Plan:
    flags = {**tiny_settings, "data": str(tiny_store), "accumulate": 2}
    return make_plan(build_config([Layer("defaults", {})], ByolOptions, GalaxyViews, flags))


def snapshot(found: Plan) -> list[torch.Tensor]:
    modules = [found.method, *found.terms]
    return [value.clone() for module in modules for value in module.state_dict().values()]


def test_probing_leaves_weights_statistics_and_generators(planned: Plan) -> None:
    before, state = snapshot(planned), torch.get_rng_state()
    once = probe_step(planned)
    once(sample_batch(planned, 8))
    operations_per_image(planned)
    seconds_per_step_of = seconds_per_step(planned)
    assert seconds_per_step_of > 0
    assert all(torch.equal(a, b) for a, b in zip(before, snapshot(planned), strict=True))
    assert all(p.grad is None for p in planned.method.parameters())
    # The loader of torch draws its unused base seed; nothing of a run reads that generator.
    torch.set_rng_state(state)


@pytest.mark.parametrize("backbone", ["test_resnet", "regnety_002"])
def test_operations_are_those_of_eight_passes(
    backbone: str, tiny_store: Path, tiny_settings: dict[str, Any]
) -> None:
    """Two views forward, twice that backward but for the pixels, two views through the target; grouped or not."""
    from torch.utils.flop_counter import FlopCounterMode

    flags = {**tiny_settings, "data": str(tiny_store), "backbone": backbone, "labels": []}
    found = make_plan(build_config([], ByolOptions, GalaxyViews, flags))
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        found.method.encoder(torch.zeros(2, 3, 32, 32))
    assert operations_per_image(found) / (counter.get_total_flops() / 2) == pytest.approx(8, abs=0.4)


def test_a_batch_larger_than_the_split_can_be_sampled(planned: Plan) -> None:
    batch = sample_batch(planned, 50)
    assert len(batch) == 50
    assert np.array_equal(batch.index[:2], batch.index[48:])


def test_settling_resolves_everything_that_was_open(planned: Plan, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(estimate, "seconds_per_step", lambda plan: 0.5)
    monkeypatch.setattr(estimate, "cores", lambda: 64)
    run = planned.config.run
    compute = type(run.compute)()
    planned.config = type(planned.config)(
        type(run)(**{**vars(run), "steps": 0, "minutes": 1.0, "compute": compute}), planned.config.options,
        planned.config.views,
    )
    told: list[str] = []
    assert settle(planned, told.append) == 0.5
    run = planned.config.run
    assert (run.steps, run.minutes, run.epochs, run.slots) == (120, 0.0, 0.0, 8)
    assert run.compute.precision in ("float32", "bfloat16")
    assert run.compute.memory_format in ("contiguous", "channels_last")
    assert (run.compute.device, run.compute.workers) == ("cpu", 8)
    assert run.compute.threads == torch.get_num_threads()
    assert told[0].startswith("chose ")
    assert told[1] == "120 steps of 0.50 s fill 1 minutes (20.0 epochs)"


@pytest.mark.parametrize(("minutes", "seconds"), [(0.0, 2.0), (1.0, 2.0), (5.0, 9.0), (600.0, 15.0)])
def test_the_longer_a_run_the_longer_its_step_is_timed(
    minutes: float, seconds: float, planned: Plan, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[float] = []

    def repeat(function: Any, window: float, *rest: Any) -> tuple[int, float]:
        asked.append(window)
        return 4, 2.0

    monkeypatch.setattr(estimate, "_repeat", repeat)
    run = dataclasses.replace(planned.config.run, steps=0, minutes=minutes)
    planned.config = dataclasses.replace(planned.config, run=run)
    assert seconds_per_step(planned) == 0.5
    assert asked[-1] == pytest.approx(seconds)


def test_a_probe_is_laid_out_in_memory_as_the_run_is(planned: Plan, monkeypatch: pytest.MonkeyPatch) -> None:
    """Convolutions on images of one layout and weights of the other are slower by a third."""
    seen: list[bool] = []

    def step(wrapped: Wrapped, *rest: Any) -> None:
        kernels = [p for p in wrapped.network.parameters() if p.ndim == 4 and p.shape[1] > 1 and p.shape[2] > 1]
        seen.append(bool(kernels) and all(p.is_contiguous(memory_format=torch.channels_last) for p in kernels))

    monkeypatch.setattr(estimate, "train_step", step)
    for layout in ("contiguous", "channels_last"):
        compute = dataclasses.replace(planned.config.run.compute, memory_format=layout)
        planned.config = dataclasses.replace(
            planned.config, run=dataclasses.replace(planned.config.run, compute=compute)
        )
        probe_step(planned)(sample_batch(planned, 8))
    assert seen == [False, True]


def test_a_run_without_length_is_refused(planned: Plan) -> None:
    run = planned.config.run
    planned.config = type(planned.config)(
        type(run)(**{**vars(run), "steps": 0}), planned.config.options, planned.config.views
    )
    with pytest.raises(ConfigError, match="the run has no length"):
        settle(planned, lambda line: None)


def test_input_statistics_are_those_of_the_evaluation_views_of_train(planned: Plan) -> None:
    from sciencessl.data.loader import Decoder

    index = planned.store.split("train").all()
    view = planned.domain.views(planned.config.views)[1]
    samples = Decoder(planned.store, planned.domain.decode)(index)
    images = [view(sample, np.random.default_rng)[0].fields["image"] for sample in samples]
    pixels = np.concatenate([image.reshape(-1, 3) for image in images]) / 255.0
    np.testing.assert_allclose(planned.stats.mean, pixels.mean(0), rtol=1e-12)
    np.testing.assert_allclose(planned.stats.std, pixels.std(0), rtol=1e-12)


def test_a_run_is_told_apart_by_how_it_decodes(planned: Plan, monkeypatch: pytest.MonkeyPatch) -> None:
    decoding = make_identity(planned)["decoding"]
    train, evaluate = (view.least_px for view in planned.domain.views(planned.config.views))  # type: ignore[attr-defined]
    assert decoding.startswith("sciencessl.data.decode:decode, JPEGs from 524288 pixels on ")
    assert decoding.endswith(f" for {train} px in training and {evaluate} px in evaluation")
    monkeypatch.setattr("sciencessl.train.plan.WORTH_PIXELS", 2)
    assert make_identity(planned)["decoding"] != decoding
    views = dataclasses.replace(planned.config.views, evaluation_window=0.5)
    planned.config = dataclasses.replace(planned.config, views=views)
    assert "{'image': 64.0} px in evaluation" in make_identity(planned)["decoding"]


def timed(encoder: Any, shape: tuple[int, ...], *settings: Any) -> Choice:
    return Choice("float32", "contiguous", {"float32/contiguous": 4000.0, "bfloat16/contiguous": 1.0}, shape[0])


@pytest.mark.parametrize(
    ("changes", "rate"),
    [
        ({}, 4000.0),
        ({"views.small_views": 2}, 0.0),  # other work than that of two views
        ({"method": "labels_only", "views.large_views": 1}, 4000.0),
        ({"batch": 40}, 0.0),  # timed on fewer images than a step has
        ({"batch": 40, "accumulate": 2}, 4000.0),
    ],
    ids=str,
)
def test_the_encoders_own_speed_counts_where_it_was_timed_at_the_shape_of_a_step(
    changes: dict[str, Any], rate: float, tiny_store: Path, tiny_settings: dict[str, Any],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(estimate, "choose", timed)
    flags = {**tiny_settings, "data": str(tiny_store), **changes}
    options = LabelsOnlyOptions if "method" in changes else ByolOptions
    flags = {name: value for name, value in flags.items() if options is ByolOptions or "options." not in name}
    plan = make_plan(build_config([Layer("defaults", {})], options, GalaxyViews, flags))
    settle(plan, str)
    assert plan.supervised == rate


def test_a_run_tells_its_efficiency(tmp_path: Path, tiny_run: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(estimate, "choose", timed)
    tiny_run(tmp_path / "run", steps=2, labels=["class"])
    (row,) = read_metrics(tmp_path / "run")
    assert json.loads((tmp_path / "run" / "cost.json").read_text())["supervised_images_per_s"] == 4000.0
    assert row["efficiency"] == pytest.approx(row["images_per_s"] * 8 / 3 / 4000.0, abs=1e-3)
