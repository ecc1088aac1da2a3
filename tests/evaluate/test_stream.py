"""Slides through an encoder without a store: the same embeddings, resumed by shard, bad slides told."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest

from sciencessl import cli
from sciencessl.errors import ConfigError, RunError
from sciencessl.evaluate import stream as module
from sciencessl.evaluate.embed import embed, read_embeddings
from sciencessl.evaluate.encoders import compute_embeddings, run_encoder
from sciencessl.evaluate.feature_table import read_feature_table
from sciencessl.preparation import prepare
from sciencessl.store.reader import Store
from tests.data_prep.slides.tiny_slides import tissue_picture, write_slide

pytest.importorskip("tifffile")

SETTINGS: dict[str, Any] = {"tile_px": 64, "min_tissue": 0.3, "workers": 0, "test_fraction": 0.4}


@pytest.fixture(scope="module")
def scans(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three slides that are read and one that nobody can."""
    folder = tmp_path_factory.mktemp("stream") / "slides"
    folder.mkdir()
    for number in range(3):
        write_slide(folder / f"s{number}.svs", tissue_picture(320, 256, number), 0.5, aperio=True)
    (folder / "torn.svs").write_bytes((folder / "s0.svs").read_bytes()[:3000])
    return folder


@pytest.fixture(scope="module")
def stored(scans: Path) -> Store:
    return Store(prepare("pathology", [scans], scans.parent / "jpeg.zarr", SETTINGS).out)


@pytest.fixture(scope="module")
def encoder(scans: Path, stored: Store, make_run: Any) -> Path:
    run: Path = make_run(scans.parent / "run", stored)
    return run


def plan_file(folder: Path, scans: Path, **settings: Any) -> Path:
    path = folder / "plan.yaml"
    told = {name.replace("_", "-"): value for name, value in {**SETTINGS, **settings}.items()}
    path.write_text(json.dumps({"domain": "pathology", "sources": [str(scans)], "settings": told}), encoding="utf-8")
    return path


def by_rows(run: Path, store: Store) -> tuple[list[str], np.ndarray]:
    """Embeddings of a store, a row at a time: the batches that a stream has."""
    counts = [table.num_rows for table in store.row_tables()]
    ends = np.cumsum(counts)
    parts = [np.arange(end - count, end) for end, count in zip(ends, counts, strict=True) if count]
    values = [compute_embeddings(run_encoder(run), store, part, workers=0) for part in parts]
    return store.ids, np.concatenate(values)


@pytest.mark.parametrize("settings", [
    {}, {"encoding": "png"}, {"encoding": "raw"}, {"mpp": 0.8, "exact_mpp": True},
], ids=["passthrough", "png", "raw", "resampled-jpeg"])
def test_embeddings_equal_those_of_a_store_bit_for_bit(
    tmp_path: Path, scans: Path, make_run: Any, settings: dict[str, Any]
) -> None:
    words = {**settings, "mpp": str(settings["mpp"])} if "mpp" in settings else settings
    store = Store(prepare("pathology", [scans], tmp_path / "s.zarr", {**SETTINGS, **words}).out)
    assert all(store.column("passthrough")) == (not settings)
    run = make_run(tmp_path / "run", store)
    result = embed(run, plan_file(tmp_path, scans, **settings), tmp_path / "out")
    ids, values = read_embeddings(tmp_path / "out")
    expected_ids, expected = by_rows(run, store)
    assert (ids, result.samples) == (expected_ids, len(store.ids))
    assert np.array_equal(values, expected)
    assert not list(tmp_path.glob("out/**/*.zarr"))


def test_shards_say_split_and_place_and_serve_as_features(
    tmp_path: Path, scans: Path, stored: Store, encoder: Path
) -> None:
    pytest.importorskip("h5py")
    result = embed(encoder, plan_file(tmp_path, scans), tmp_path / "out", format="h5")
    table = read_feature_table(tmp_path / "out")
    assert len(table.place) == len(stored.ids)
    files = sorted((tmp_path / "out").glob("part-*.parquet"))
    told = [row for file in files for row in pq.read_table(file).drop(["embedding"]).to_pylist()]
    for name in ("split", "slide", "x_px", "y_px", "field_px_x", "mpp", "slide_mpp_x", "width"):
        assert [row[name] for row in told] == list(stored.column(name))
    assert result.slides == 3
    slides = read_feature_table(tmp_path / "out" / "h5")
    assert np.array_equal(slides.rows(stored.ids), table.rows(stored.ids))


def test_one_split_reads_no_other(tmp_path: Path, scans: Path, stored: Store, encoder: Path) -> None:
    names = {split: [stored.ids[i] for i in stored.split(split).all()] for split in ("train", "test")}
    assert min(map(len, names.values())) > 0
    for split, expected in names.items():
        result = embed(encoder, plan_file(tmp_path, scans), tmp_path / split, split=split)
        assert sorted(read_embeddings(tmp_path / split)[0]) == sorted(expected)
        assert sum(result.refused.values()) == 1


def test_a_cut_run_goes_on_and_a_changed_slide_is_noticed(
    tmp_path: Path, scans: Path, encoder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plan = plan_file(tmp_path, scans)
    whole = embed(encoder, plan, tmp_path / "whole")
    calls: list[int] = []

    def killed(*arguments: Any, **named: Any) -> np.ndarray:
        calls.append(1)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return compute_embeddings(*arguments, **named)

    with monkeypatch.context() as patch:
        patch.setattr(module, "compute_embeddings", killed)
        with pytest.raises(KeyboardInterrupt):
            embed(encoder, plan, tmp_path / "out")
    first = len(pq.read_table(tmp_path / "out" / "part-00000.parquet"))
    again = embed(encoder, plan, tmp_path / "out")
    assert (again.computed, again.samples) == (whole.samples - first, whole.samples)
    assert embed(encoder, plan, tmp_path / "out").computed == 0
    for path in (tmp_path / "whole").iterdir():
        assert path.read_bytes() == (tmp_path / "out" / path.name).read_bytes()
    with pytest.raises(RunError, match=r"holds embeddings of another encoder, plan \(or files\) or split"):
        embed(encoder, plan_file(tmp_path, scans, min_tissue=0.6), tmp_path / "out")


def test_the_command_line_tells_what_was_refused(
    tmp_path: Path, scans: Path, encoder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    plan = plan_file(tmp_path, scans)
    assert cli.run(["embed", str(encoder), "--data", str(plan), "--out", str(tmp_path / "out")]) == 3
    said = capsys.readouterr().out
    assert "refused: 1 " in said
    assert "slides: 4 (3 ready, 1 " in said
    assert "refused.csv" in said
    with (tmp_path / "out" / "refused.csv").open(newline="") as stream:
        rows = list(csv.DictReader(stream))
    assert [row["id"] for row in rows] == ["torn"]
    assert str(scans) not in rows[0]["detail"]


def test_plans_that_are_none(tmp_path: Path, scans: Path, encoder: Path) -> None:
    def wrong(text: str, match: str, error: type[Exception] = ConfigError, run: str | Path = encoder) -> None:
        (tmp_path / "p.yaml").write_text(text, encoding="utf-8")
        with pytest.raises(error, match=match):
            embed(run, tmp_path / "p.yaml", tmp_path / "out")

    good = f"domain: pathology\nsources: {scans}\n"
    wrong("domain: pathology", r"a plan has `domain: NAME`, `sources: \[FOLDER, ...\]`")
    wrong(good + "setings: {}", r"no key 'setings'. Did you mean 'settings'\? Keys: domain, sources, settings")
    wrong(good + "settings: {tile-pix: 3}", r"p.yaml: prepare has no setting --tile-pix. Did you mean 'tile-px'")
    wrong(good + "settings: {tile-px: wide}", r"p.yaml: .*tile_px.*wide")
    wrong(good + "settings: {overwrite: true}", "setting overwrite is about writing a store, and a plan")
    wrong(good, "takes its bins from a whole store", run="baseline:colour-histogram")
    with pytest.raises(ConfigError, match=r"no.yaml: there is no such plan"):
        embed(encoder, tmp_path / "no.yaml", tmp_path / "out")
    assert not (tmp_path / "out").exists()
