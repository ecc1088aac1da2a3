"""Statistics of model input: of evaluation views of train, by the stretch that a run chose, without bad pixels."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pytest

from sciencessl.domains.galaxy import SPEC
from sciencessl.domains.galaxy.views import GalaxyViews
from sciencessl.spec import FieldSpec
from sciencessl.store.format import StoreHeader
from sciencessl.store.reader import Store
from sciencessl.store.seal import seal
from sciencessl.store.writer import PreparedSample, create_store, write_row
from sciencessl.train.inputs import input_stats

SIDE = 24
WHOLE = GalaxyViews(size=SIDE, evaluation_window=1.0)


def build(path: Path, images: Sequence[np.ndarray], masks: Sequence[np.ndarray] = ()) -> Store:
    fields = {"image": FieldSpec("array", ("g", "r"), "float32", shape=(SIDE, SIDE))}
    if len(masks):
        fields["image.mask"] = FieldSpec("array", ("g", "r"), "int32", shape=(SIDE, SIDE), primary=False)
    header = StoreHeader("galaxy", "survey", fields, 1, len(images), {}, "plan", "config")
    create_store(path, header, 500_000)
    samples = [
        PreparedSample(f"s{i}", "train", {"image": image} | ({"image.mask": masks[i]} if len(masks) else {}), {})
        for i, image in enumerate(images)
    ]
    write_row(path, header, 0, samples, [], "inputs")
    seal(path, header)
    return Store(path)


@pytest.fixture
def flux() -> np.ndarray:
    return np.random.default_rng(0).normal(0.3, [[[0.1]], [[2.0]]], (5, 2, SIDE, SIDE)).astype(np.float32)


@pytest.mark.parametrize("stretch", ["asinh", "linear", "log"])
def test_the_views_say_how_flux_is_stretched(
    tmp_path: Path, flux: np.ndarray, stretch: Literal["asinh", "linear", "log"]
) -> None:
    found = input_stats(build(tmp_path / "a.zarr", flux), SPEC, dataclasses.replace(WHOLE, stretch=stretch))
    assert found.stretch == stretch
    x = np.moveaxis(flux, 1, 3).reshape(-1, 2) / found.scale
    y = {"linear": x, "asinh": np.arcsinh(x), "log": np.sign(x) * np.log1p(abs(x))}[stretch]
    assert found.mean == pytest.approx(y.mean(axis=0), abs=1e-5)
    assert found.std == pytest.approx(y.std(axis=0), rel=1e-5)


def test_the_domain_says_it_where_the_views_do_not(tmp_path: Path, flux: np.ndarray) -> None:
    @dataclass(frozen=True)
    class Plain:
        size: int = SIDE

    def views(settings: Any) -> Any:
        return SPEC.views(WHOLE)

    domain = dataclasses.replace(SPEC, train_options=Plain, views=views, stretch="linear")
    assert input_stats(build(tmp_path / "a.zarr", flux), domain, Plain()).stretch == "linear"


def test_masked_pixels_take_no_part(tmp_path: Path, flux: np.ndarray) -> None:
    masks = np.zeros(flux.shape, np.int32)
    # From the edge on: a view of the same size moves no pixel, and neighbours of others may be lost with them.
    masks[:, :, :, :5] = [4, 1, 2, 8, 2**30]
    hot = np.where(masks > 0, np.float32(1e5), flux)
    found = input_stats(build(tmp_path / "a.zarr", hot, masks), SPEC, WHOLE)
    missing = input_stats(build(tmp_path / "b.zarr", np.where(masks > 0, np.float32(np.nan), flux)), SPEC, WHOLE)
    assert found == missing
    assert max(found.scale) < 10
