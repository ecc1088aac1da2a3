from __future__ import annotations

import contextlib
import io
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from sciencessl import cli
from sciencessl.errors import ConfigError, DataError, RunError, StoreError
from sciencessl.evaluate import predict as module
from sciencessl.evaluate.embed import embed, read_embeddings
from sciencessl.evaluate.encoders import compute_embeddings, run_encoder
from sciencessl.evaluate.export import export
from sciencessl.evaluate.predict import PredictEstimate, PredictResult, estimate_text, predict, predict_text
from sciencessl.store.reader import Store
from sciencessl.store.tables import write_table
from sciencessl.train.folder import read_head, write_head

StoreFactory = Callable[..., Store]
NAMES = [f"g{i:03d}" for i in range(12)]


@pytest.fixture
def small(tmp_path: Path, make_store: StoreFactory) -> Store:
    """12 galaxies, 8 of them in split=train, with a number and a word in their rows and a table of redshifts."""
    columns = {name: {"mag_r": 14.5 + i, **({"site": "north"} if i % 2 else {})} for i, name in enumerate(NAMES)}
    store = make_store(tmp_path / "small.zarr", NAMES, columns=columns)
    rows = {"id": NAMES[3:], "redshift": [0.01 * i for i in range(3, 12)], "objid": list(range(3, 12))}
    write_table(store.path, "spectra", pa.table(rows))
    return Store(store.path)


def _predict(model: Path, store: Store, out: Path, **changes: Any) -> PredictResult:
    found = predict(model, store.path, out, **{"workers": 0, **changes})
    assert isinstance(found, PredictResult)
    return found


def _read(out: Path) -> pa.Table:
    return pa.concat_tables([pq.read_table(path) for path in sorted(out.glob("part-*.parquet"))])


def _changed(folder: Path, **changes: Any) -> Path:
    card, weight, bias = read_head(folder)
    write_head(folder, replace(card, **changes), weight, bias)
    return folder


def _scores(model: Path, store: Store) -> np.ndarray:
    features = compute_embeddings(run_encoder(model), store, np.arange(len(store)), workers=0)
    _, weight, bias = read_head(model)
    return features.astype(float) @ weight.astype(float).T + bias


def _softmax(scores: np.ndarray) -> np.ndarray:
    return np.stack([np.exp(row) / np.exp(row).sum() for row in scores])


def test_probabilities_are_the_softmax_of_scores_over_the_temperature(
    tmp_path: Path, model: Path, small: Store
) -> None:
    result = _predict(_changed(model, temperature=3.0), small, tmp_path / "out")
    table = _read(result.out)
    assert tuple(table.column_names) == result.columns == (
        "id", "split", "p_elliptical", "p_spiral", "predicted", "confidence",
    )  # fmt: skip
    assert table["id"].to_pylist() == small.ids
    expected = _softmax(_scores(model, small) / 3.0)
    found = np.stack([table[name].to_numpy() for name in ("p_elliptical", "p_spiral")], axis=1)
    np.testing.assert_allclose(found, expected, atol=1e-5)
    np.testing.assert_array_equal(table["confidence"].to_numpy(), found.max(axis=1))
    assert table["predicted"].to_pylist() == [("elliptical", "spiral")[k] for k in expected.argmax(axis=1)]
    assert [(c.name, c.samples) for c in result.classes] == [
        ("elliptical", int((expected[:, 0] > 0.5).sum())), ("spiral", int((expected[:, 1] > 0.5).sum())),
    ]  # fmt: skip
    np.testing.assert_allclose([c.mean for c in result.classes], expected.mean(axis=0), atol=1e-5)
    assert (result.samples, result.shards, result.computed, result.kind) == (12, 1, 12, "class")


def test_votes_become_fractions_and_labels_presences(tmp_path: Path, model: Path, small: Store) -> None:
    scores = _scores(model, small) / 2.0
    votes = _predict(_changed(model, kind="counts", temperature=2.0), small, tmp_path / "votes")
    table = _read(votes.out)
    assert table.column_names == ["id", "split", "fraction_elliptical", "fraction_spiral"]
    np.testing.assert_allclose(table["fraction_spiral"].to_numpy(), _softmax(scores)[:, 1], atol=1e-5)
    assert sum(c.samples for c in votes.classes) == 12
    labels = _predict(_changed(model, kind="multilabel"), small, tmp_path / "labels")
    table, present = _read(labels.out), 1 / (1 + np.exp(-scores))
    assert table.column_names == ["id", "split", "p_elliptical", "p_spiral"]
    np.testing.assert_allclose(table["p_elliptical"].to_numpy(), present[:, 0], atol=1e-5)
    assert [c.samples for c in labels.classes] == (present > 0.5).sum(axis=0).tolist()
    for result, heading in ((votes, "answer      most likely  mean fraction"),
                            (labels, "label       p > 0.5  mean probability")):
        assert predict_text(result).splitlines()[0] == heading
        assert {c.labelled for c in result.classes} == {None}


def test_a_second_call_computes_the_shard_that_is_gone(
    tmp_path: Path, model: Path, small: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "SHARD", 5)
    first = _predict(model, small, tmp_path / "out", keep=["site", "redshift"])
    assert (first.shards, first.computed) == (3, 12)
    before = {path.name: path.read_bytes() for path in first.out.iterdir()}
    (first.out / "part-00001.parquet").unlink()
    asked: list[list[int]] = []

    def watched(*arguments: Any) -> np.ndarray:
        asked.append(arguments[2].tolist())
        return compute_embeddings(*arguments)

    monkeypatch.setattr(module, "compute_embeddings", watched)
    again = _predict(model, small, first.out, keep=["site", "redshift"])
    assert (again.computed, asked) == (5, [[5, 6, 7, 8, 9]])
    assert again.classes == first.classes
    assert {path.name: path.read_bytes() for path in first.out.iterdir()} == before
    assert len({pq.read_schema(path) for path in first.out.glob("part-*")}) == 1


def test_columns_of_rows_and_tables_are_carried_over(tmp_path: Path, model: Path, small: Store) -> None:
    result = _predict(model, small, tmp_path / "out", keep=["redshift", "mag_r", "site", "mag_r", "objid"])
    assert result.columns[-5:] == ("confidence", "redshift", "mag_r", "site", "objid")
    table = _read(result.out)
    place = [NAMES.index(name) for name in table["id"].to_pylist()]
    assert table["mag_r"].to_pylist() == [14.5 + i for i in place]
    assert table["site"].to_pylist() == ["north" if i % 2 else None for i in place]
    assert table["redshift"].to_pylist() == [0.01 * i if i >= 3 else None for i in place]
    assert table["objid"].to_pylist() == [i if i >= 3 else None for i in place]
    one = _predict(model, small, tmp_path / "test", keep=["all"], split="test")
    assert set(one.columns[6:]) == set(small.columns()) - {"id", "split"} >= {"class", "site", "objid"}
    table = _read(one.out)
    assert table["mag_r"].to_pylist() == [14.5 + NAMES.index(name) for name in table["id"].to_pylist()]
    assert set(table["split"].to_pylist()) == {"test"}


def test_columns_that_cannot_be_kept(tmp_path: Path, model: Path, small: Store) -> None:
    with pytest.raises(StoreError, match=r"has no column 'redshfit'. Did you mean 'redshift'\? Columns: class, id"):
        predict(model, small.path, tmp_path / "out", keep=["redshfit"])
    write_table(small.path, "earlier", pa.table({"id": NAMES, "p_spiral": [0.5] * 12}))
    for keep, name in ((["mag_r", "p_spiral"], "p_spiral"), (["all"], "p_spiral"), (["id"], "id")):
        with pytest.raises(ConfigError, match=f"--keep {name}: the predictions have a column {name!r} of their own"):
            predict(model, small.path, tmp_path / "out", keep=keep)
    assert not (tmp_path / "out").exists()


def test_predictions_of_something_else_are_kept(tmp_path: Path, model: Path, small: Store) -> None:
    out = tmp_path / "out"
    _predict(model, small, out, keep=["redshift"])
    message = "holds predictions of another model, store, split or --keep; choose another --out or pass --overwrite"
    for changes in ({"keep": ["mag_r"]}, {"keep": ["redshift"], "split": "test"}):
        with pytest.raises(RunError, match=message):
            predict(model, small.path, out, **changes)
    write_table(small.path, "spectra", pa.table({"id": NAMES, "redshift": [0.5] * 12}))
    with pytest.raises(RunError, match=message):
        predict(model, small.path, out, keep=["redshift"])
    assert _predict(model, small, out, keep=["redshift"], overwrite=True).computed == 12
    assert set(_read(out)["redshift"].to_pylist()) == {0.5}
    card, weight, bias = read_head(model)
    write_head(model, card, weight + 1, bias)
    with pytest.raises(RunError, match=message):
        predict(model, small.path, out, keep=["redshift"], dry_run=True)


def test_the_card_tells_what_made_the_file(tmp_path: Path, model: Path, small: Store) -> None:
    result = _predict(_changed(model, temperature=1.5), small, tmp_path / "out", split="test", keep=["redshift"])
    card = json.loads((result.out / "predictions.json").read_text())
    assert card["head"]["temperature"] == 1.5
    assert (card["head"]["task"], card["head"]["classes"]) == ("morphology", ["elliptical", "spiral"])
    assert (card["encoder"], card["store"]) == (run_encoder(model).digest, small.digest)
    assert card["tables"] == {"spectra": small.table("spectra").digest}
    assert (card["split"], card["keep"], card["samples"]) == ("test", ["redshift"], 3)
    assert card["saw"] == list(result.saw)
    assert card["saw"][0] == (
        "The classifier learned from 36 labels of class (task morphology, arm frozen, budget 36, label subset 0; "
        "C=0.01 (fixed); temperature 1.5)."
    )
    assert card["saw"][1].startswith("The encoder (test_resnet, byol) learned from 8 images, repeats counted, in 1 ")
    assert card["saw"][1].endswith("No labels.")
    assert card["saw"][2].startswith("Fits weigh classes alike, so probabilities are those where classes are equally")


def test_labels_are_counted_where_the_store_has_them(
    tmp_path: Path, model: Path, small: Store, make_store: StoreFactory
) -> None:
    result = _predict(model, small, tmp_path / "out")
    assert [(c.name, c.labelled) for c in result.classes] == [("elliptical", 4), ("spiral", 4)]
    assert result.saw[-1].startswith("The labels that it learned from may be among those of these samples")
    text = predict_text(result)
    assert text.splitlines()[0] == "class       predicted  mean probability  labelled"
    assert "accura" not in text
    tested = _predict(model, small, tmp_path / "test", split="test")
    assert (sum(c.labelled or 0 for c in tested.classes), len(tested.saw)) == (2, 3)
    for name, classes in (("none", {}), ("other", dict.fromkeys(NAMES, "merger"))):
        store = make_store(tmp_path / f"{name}.zarr", NAMES, classes=classes)
        found = _predict(model, store, tmp_path / name)
        assert [c.labelled for c in found.classes] == [None, None]
        assert predict_text(found).splitlines()[0] == "class       predicted  mean probability"
        assert len(found.saw) == 3


def test_a_dry_run_counts_what_is_missing_and_writes_nothing(
    tmp_path: Path, model: Path, small: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "SHARD", 5)
    before = sorted(tmp_path.rglob("*"))
    estimate = predict(model, small.path, tmp_path / "out", keep=["site"], dry_run=True)
    assert isinstance(estimate, PredictEstimate)
    assert sorted(tmp_path.rglob("*")) == before
    assert (estimate.samples, estimate.shards, estimate.missing) == (12, 3, 12)
    assert estimate.seconds > 0
    done = _predict(model, small, tmp_path / "out", keep=["site"])
    assert estimate.columns == done.columns
    assert estimate_text(estimate) == (
        f"would write 12 predictions in 3 shards (12 to compute, about {estimate.seconds:.0f} s); columns id, split, "
        "p_elliptical, p_spiral, predicted, confidence, site"
    )
    (done.out / "part-00002.parquet").unlink()
    left = predict(model, small.path, done.out, keep=["site"], dry_run=True)
    assert isinstance(left, PredictEstimate)
    assert left.missing == 2
    assert not (done.out / "part-00002.parquet").exists()


def test_what_cannot_be_predicted(
    tmp_path: Path, model: Path, run: Path, small: Store, make_run: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "out"
    with pytest.raises(RunError, match=r"has no classifier \(exported/head.json\)"):
        predict(run, small.path, out)
    with pytest.raises(RunError, match="nothing-here has no classifier"):
        predict(tmp_path / "nothing-here", small.path, out)
    with pytest.raises(DataError, match="split=val holds no samples, so there is nothing to predict"):
        predict(model, small.path, out, split="val")
    with pytest.raises(StoreError, match="is no store"):
        predict(model, tmp_path / "no.zarr", out)
    grizy = make_run(tmp_path / "grizy", small, channels=tuple("gri"))
    write_head(grizy, *read_head(model))
    with pytest.raises(DataError, match=r"grizy was trained on field 'image' with channels \['g', 'r', 'i'\]"):
        predict(grizy, small.path, out)
    assert not out.exists()

    def broken(*arguments: Any) -> np.ndarray:
        values = compute_embeddings(*arguments)
        values[[2, 5], 0] = np.inf
        return values

    monkeypatch.setattr(module, "compute_embeddings", broken)
    with pytest.raises(DataError, match=f"features of 2 of 12 samples .* not finite, the first of id '{small.ids[2]}'"):
        predict(_changed(model, kind="multilabel"), small.path, out, workers=0)
    assert not list(out.glob("part-*"))


def test_embed_and_export_take_the_same_folder(tmp_path: Path, model: Path, small: Store) -> None:
    embed(model, small.path, tmp_path / "embedded", workers=0)
    ids, features = read_embeddings(tmp_path / "embedded")
    _, weight, bias = read_head(model)
    table = _read(_predict(model, small, tmp_path / "out").out)
    assert ids == table["id"].to_pylist()
    expected = _softmax(features.astype(float) @ weight.T + bias)
    np.testing.assert_allclose(table["p_spiral"].to_numpy(), expected[:, 1], atol=1e-5)
    assert export(model, tmp_path / "exported").format == "timm"


def _call(*arguments: object) -> tuple[int, str, str]:
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        code = cli.run([str(argument) for argument in arguments])
    return code, out.getvalue(), err.getvalue()


def test_the_command_prints_one_json_object_or_a_table(tmp_path: Path, model: Path, small: Store) -> None:
    words = ["predict", model, "--data", small.path, "--out", tmp_path / "out", "--keep", "redshift", "site"]
    code, out, _ = _call(*words, "--dry-run", "--json")
    assert (code, json.loads(out)["missing"]) == (0, 12)
    code, out, err = _call(*words, "--json")
    found = json.loads(out)
    assert code == 0, err
    assert (found["samples"], found["computed"], found["out"]) == (12, 12, str(tmp_path / "out"))
    assert found["columns"] == _read(tmp_path / "out").column_names
    assert [entry["name"] for entry in found["classes"]] == ["elliptical", "spiral"]
    code, out, _ = _call(*words)
    lines = out.splitlines()
    assert code == 0
    assert [line.split()[0] for line in lines[1:3]] == ["elliptical", "spiral"]
    assert lines[-1].startswith("12 predictions in 1 shards (0 computed now, ")
    assert max(map(len, lines[:-1])) <= 120
    code, out, err = _call(*words[:-1], "sight")
    assert (code, out) == (1, "")
    assert "has no column 'sight'. Did you mean 'site'?" in err
