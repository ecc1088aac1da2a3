"""Predictions of slides by a saved model: one for each slide, attention for each tile, maps, resume."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pyarrow.parquet as pq
import pytest

from sciencessl.errors import DataError, RunError, StoreError
from sciencessl.evaluate.bags import group_bags
from sciencessl.evaluate.classifier import read_classifier
from sciencessl.evaluate.encoders import compute_embeddings
from sciencessl.evaluate.predict import PredictEstimate, PredictResult, predict, predict_text
from sciencessl.evaluate.predict_bags import whole_bags
from sciencessl.store.reader import Store
from sciencessl.train.folder import HeadCard, read_model, read_whole_head, write_head
from tests.evaluate.slides import slide_store

SIZES = (1, 3, 7, 12)


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory, make_store: Any) -> Store:
    return slide_store(make_store, tmp_path_factory.mktemp("slides") / "s.zarr", tiles=SIZES, placed=True)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory, store: Store, make_run: Any) -> Path:
    """An untrained encoder below attention with random weights."""
    path = make_run(tmp_path_factory.mktemp("models") / "abmil-first", store)
    width, rng = read_model(path).features, np.random.default_rng(0)
    card = HeadCard("diagnosis", "diagnosis", ("normal", "tumour"), "abmil", "all", 0, 48, "100 steps", "a fit",
                    "bag", bag="slide", pooling="attention")

    def drawn(*shape: int) -> np.ndarray:
        return rng.normal(size=shape).astype(np.float32)

    write_head(path, card, drawn(2, width), drawn(2), tanh=drawn(4, width), tanh_bias=drawn(4), gate=drawn(4, width),
               gate_bias=drawn(4), score=drawn(4))
    return path


@pytest.fixture(scope="module")
def result(tmp_path_factory: pytest.TempPathFactory, store: Store, model: Path) -> PredictResult:
    return _predict(model, store, tmp_path_factory.mktemp("predicted") / "out")


def _predict(model: Path, store: Store, out: Path, **changes: Any) -> PredictResult:
    found = predict(model, store.path, out, **{"workers": 0, **changes})
    assert isinstance(found, PredictResult)
    return found


def test_each_slide_is_told_once_from_all_its_tiles(result: PredictResult, store: Store, model: Path) -> None:
    told = {row["slide"]: row for row in pq.read_table(result.out / "bags.parquet").to_pylist()}
    saved, slides = read_classifier(model), store.column("slide")
    assert {name: row["samples"] for name, row in told.items()} == {f"s{i:03d}": n for i, n in enumerate(SIZES)}
    for name, row in told.items():
        features = compute_embeddings(saved.encoder, store, np.flatnonzero(slides == name), 0)
        (expected,) = saved.probabilities(saved.pooled(features)[None])
        np.testing.assert_allclose([row["p_normal"], row["p_tumour"]], expected, atol=1e-5)
        assert row["predicted"] == ("normal", "tumour")[expected.argmax()]
    assert (result.bags, result.maps, result.samples) == (4, 4, 23)
    assert sum(found.samples for found in result.classes) == 4
    assert [found.labelled for found in result.classes] == [2, 2]


def test_attention_of_the_tiles_of_a_slide_adds_up_to_one(result: PredictResult, store: Store) -> None:
    rows = pq.read_table(result.out / "part-00000.parquet").to_pylist()
    assert {row["id"] for row in rows} == set(store.ids)
    slide_of = dict(zip(store.ids, store.column("slide"), strict=True))
    shares: dict[str, list[float]] = {}
    for row in rows:
        assert row["slide"] == slide_of[row["id"]]
        shares.setdefault(row["slide"], []).append(row["attention"])
    assert {name: len(values) for name, values in shares.items()} == {f"s{i:03d}": n for i, n in enumerate(SIZES)}
    for values in shares.values():
        assert sum(values) == pytest.approx(1)
    assert shares["s000"] == [1.0]


def test_maps_lie_where_the_tiles_do(result: PredictResult, store: Store) -> None:
    rows = {row["id"]: row for row in pq.read_table(result.out / "part-00000.parquet").to_pylist()}
    found = json.loads((result.out / "maps" / "s003.geojson").read_text(encoding="utf-8"))
    assert found["type"] == "FeatureCollection"
    corner = {name: (x, y) for name, x, y in zip(store.ids, store.column("x_px"), store.column("y_px"), strict=True)}
    expected = {corner[name]: row["attention"] for name, row in rows.items() if row["slide"] == "s003"}
    assert len(found["features"]) == 12
    for feature in found["features"]:
        (ring,) = feature["geometry"]["coordinates"]
        assert ring[0] == ring[-1]
        assert np.ptp(ring, axis=0).tolist() == [64, 64]
        measured = feature["properties"]["measurements"]
        assert feature["properties"]["objectType"] == "tile"
        assert measured["attention"] == pytest.approx(expected[tuple(ring[0])], rel=1e-5)
        assert measured["attention x tiles"] == pytest.approx(12 * measured["attention"], rel=1e-4)
    for number in range(4):
        image = cv2.imread(str(result.out / "maps" / f"s{number:03d}.png"))
        assert image is not None
        assert image.std() > 1


def test_a_call_that_was_cut_goes_on_and_one_that_is_done_does_nothing(
    result: PredictResult, store: Store, model: Path
) -> None:
    kept = (result.out / "part-00000.parquet").read_bytes()
    map_of = result.out / "maps" / "s002.png"
    map_of.unlink()
    assert _predict(model, store, result.out).computed == 0
    assert map_of.is_file()
    (result.out / "part-00000.parquet").unlink()
    assert _predict(model, store, result.out).computed == 23
    assert (result.out / "part-00000.parquet").read_bytes() == kept


def test_predictions_of_another_model_stay_apart(tmp_path: Path, store: Store, model: Path, make_run: Any) -> None:
    changed = make_run(tmp_path / "other", store)
    card, stored = read_whole_head(model)
    weight, bias = stored.pop("weight"), stored.pop("bias")
    write_head(changed, card, weight, bias, **{**stored, "score": stored["score"] + 1})
    out = _predict(model, store, tmp_path / "out").out
    (out / "maps" / "gone.png").write_bytes(b"")
    with pytest.raises(RunError, match="holds predictions of another model"):
        _predict(changed, store, out)
    assert (out / "maps" / "gone.png").is_file()
    _predict(changed, store, out, overwrite=True)
    assert not (out / "maps" / "gone.png").exists()


def test_text_says_what_there_is(result: PredictResult, store: Store, model: Path, tmp_path: Path) -> None:
    text = predict_text(result)
    assert "predicted bags" in text
    assert f"4 bags in {result.out / 'bags.parquet'}" in text
    assert "4 maps of attention (PNG, and GeoJSON for QuPath)" in text
    found = predict(model, store.path, tmp_path / "out", dry_run=True, keep=["all"])
    assert isinstance(found, PredictEstimate)
    assert {"slide", "attention", "x_px"} <= {*found.columns}
    assert found.samples == 23


def test_without_places_there_are_no_maps(tmp_path: Path, make_store: Any, model: Path) -> None:
    store = slide_store(make_store, tmp_path / "s.zarr", slides=4, tiles=2)
    found = _predict(model, store, tmp_path / "out")
    assert (found.bags, found.maps) == (4, 0)
    assert not (found.out / "maps").exists()


def test_a_store_without_slides_is_refused(tmp_path: Path, make_store: Any, model: Path) -> None:
    names = [f"t{i}" for i in range(4)]
    plain = make_store(tmp_path / "plain", names, domain="pathology", side=8)
    with pytest.raises(StoreError, match=r"no column 'slide', which names the bags of abmil-first.*--keep slide"):
        _predict(model, plain, tmp_path / "out")
    blank = make_store(tmp_path / "blank", names, domain="pathology", side=8,
                       columns={name: {"slide": ""} for name in names})
    with pytest.raises(DataError, match="none of 4 samples has a value in 'slide'"):
        _predict(model, blank, tmp_path / "out")


@pytest.mark.parametrize(
    ("changes", "arrays", "message"),
    [
        ({"pooling": "median"}, {}, "pool by mean, max or attention, not 'median'"),
        ({"bag": ""}, {}, "must name a column as bag, not ''"),
        ({}, {"score": np.zeros(3, np.float32)}, r"its attention .* must be .*'score': \(3,\)"),
        ({}, {"score": np.full(4, np.nan, np.float32)}, "finite numbers; run the transfer again"),
    ],
)
def test_damage_is_named(
    tmp_path: Path, store: Store, model: Path, make_run: Any, changes: Any, arrays: Any, message: str
) -> None:
    broken = make_run(tmp_path / "broken", store)
    card, stored = read_whole_head(model)
    weight, bias = stored.pop("weight"), stored.pop("bias")
    write_head(broken, replace(card, **changes), weight, bias, **{**stored, **arrays})
    with pytest.raises(RunError, match=message):
        read_classifier(broken)


def test_shares_of_a_mean_and_of_a_maximum(model: Path) -> None:
    saved = replace(read_classifier(model), attention=None)
    values = np.array([[1.0, 5.0], [3.0, 5.0], [2.0, 0.0]])
    mean = replace(saved, card=replace(saved.card, pooling="mean"))
    np.testing.assert_allclose(mean.weigh(values), 1 / 3)
    np.testing.assert_allclose(mean.pooled(values), [2, 10 / 3])
    highest = replace(saved, card=replace(saved.card, pooling="max"))
    np.testing.assert_allclose(highest.weigh(values), [0.25, 0.75, 0])  # the tie of the second feature is divided
    np.testing.assert_allclose(highest.pooled(values), [3, 5])


def test_shards_hold_whole_bags() -> None:
    names = np.repeat(np.array(list("abcde"), dtype=object), [3, 1, 5, 2, 2])
    bags = group_bags(names, np.arange(13))
    assert whole_bags(bags, 4) == (0, 4, 9)
    assert whole_bags(bags, 100) == (0,)
