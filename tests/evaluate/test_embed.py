from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest

from sciencessl.errors import ConfigError, DataError, RunError, StoreError
from sciencessl.evaluate import embed as module
from sciencessl.evaluate.embed import embed, read_embeddings
from sciencessl.evaluate.encoders import compute_embeddings, run_encoder
from sciencessl.evaluate.shards import chosen_samples
from sciencessl.store.format import SPLITS
from sciencessl.store.reader import Store
from sciencessl.store.removals import remove


def test_shards_hold_every_sample_in_store_order(
    tmp_path: Path, survey: Store, run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "SHARD", 50)
    result = embed(run, survey.path, tmp_path / "out", workers=0)
    assert (result.samples, result.shards, result.computed) == (144, 3, 144)
    files = sorted(path.name for path in result.out.iterdir())
    assert files == ["embeddings.json", *(f"part-0000{i}.parquet" for i in range(3))]
    assert [pq.read_metadata(result.out / name).num_rows for name in files[1:]] == [50, 50, 44]
    ids, values = read_embeddings(result.out)
    assert ids == survey.ids
    expected = compute_embeddings(run_encoder(run), survey, np.arange(144), workers=0)
    np.testing.assert_allclose(values, expected, rtol=1e-5, atol=1e-6)
    splits = [s for name in files[1:] for s in pq.read_table(result.out / name)["split"].to_pylist()]
    assert splits == [SPLITS[code] for code in survey.split_codes()]


def test_one_split_in_half_precision(tmp_path: Path, survey: Store, run: Path) -> None:
    result = embed(run, survey.path, tmp_path / "out", split="test", dtype="float16", workers=0)
    ids, values = read_embeddings(result.out)
    index = survey.split("test").all()
    assert ids == [survey.ids[i] for i in index]
    assert values.dtype == np.float16
    expected = compute_embeddings(run_encoder(run), survey, index, workers=0)
    np.testing.assert_allclose(values, expected, rtol=2e-3, atol=1e-4)


def test_a_second_call_computes_what_is_missing(
    tmp_path: Path, survey: Store, run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "SHARD", 50)
    whole = embed(run, survey.path, tmp_path / "whole", workers=0)
    calls: list[int] = []

    def killed(*arguments: Any) -> np.ndarray:
        calls.append(len(arguments[2]))
        if len(calls) == 2:
            raise KeyboardInterrupt
        return compute_embeddings(*arguments)

    with monkeypatch.context() as patch:
        patch.setattr(module, "compute_embeddings", killed)
        with pytest.raises(KeyboardInterrupt):
            embed(run, survey.path, tmp_path / "out", workers=0)
    assert embed(run, survey.path, tmp_path / "out", workers=0).computed == 94
    assert embed(run, survey.path, tmp_path / "out", workers=0).computed == 0
    for path in whole.out.iterdir():
        assert path.read_bytes() == (tmp_path / "out" / path.name).read_bytes()


def test_a_loader_process_changes_nothing(
    tmp_path: Path, survey: Store, run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sciencessl.evaluate.encoders.ENOUGH_FOR_WORKERS", 0)
    here, there = (embed(run, survey.path, tmp_path / str(n), workers=n) for n in (0, 1))
    assert read_embeddings(here.out)[0] == read_embeddings(there.out)[0]
    np.testing.assert_array_equal(read_embeddings(here.out)[1], read_embeddings(there.out)[1])


def test_embeddings_of_something_else_are_kept(tmp_path: Path, survey: Store, run: Path, make_run: Any) -> None:
    out = tmp_path / "out"
    embed(run, survey.path, out, split="test", workers=0)
    other = make_run(tmp_path / "other", survey, seed=1)
    for arguments in ({"run": other, "split": "test"}, {"run": run, "split": "train"},
                      {"run": run, "split": "test", "dtype": "float16"}):
        with pytest.raises(RunError, match="holds embeddings of another encoder, store or split"):
            embed(data=survey.path, out=out, workers=0, **arguments)
    assert embed(other, survey.path, out, split="test", workers=0, overwrite=True).computed == 48
    assert json.loads((out / "embeddings.json").read_text())["samples"] == 48


def test_a_folder_of_other_things_is_refused_even_to_overwrite(tmp_path: Path, survey: Store, run: Path) -> None:
    (tmp_path / "thesis.tex").touch()
    for overwrite in (False, True):
        with pytest.raises(RunError, match="is not empty and holds no embeddings"):
            embed(run, survey.path, tmp_path, workers=0, overwrite=overwrite)
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.tex"]


def test_bad_input_leaves_no_folder(tmp_path: Path, survey: Store, run: Path) -> None:
    out = tmp_path / "out"
    with pytest.raises(ConfigError, match=r"no dtype of embeddings named 'float61'. Did you mean 'float16'"):
        embed(run, survey.path, out, dtype="float61")  # type: ignore[arg-type]
    with pytest.raises(StoreError, match="no split 'tset'"):
        embed(run, survey.path, out, split="tset")
    with pytest.raises(DataError, match="split=val holds no samples"):
        embed(run, survey.path, out, split="val")
    with pytest.raises(StoreError, match="is no store"):
        embed(run, tmp_path / "no.zarr", out)
    with pytest.raises(RunError, match="holds no embeddings; make them with `sciencessl embed`"):
        read_embeddings(out)
    assert not out.exists()


def test_values_that_half_precision_cannot_hold(
    tmp_path: Path, survey: Store, run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "compute_embeddings", lambda *a: np.full((len(a[2]), 4), 1e6, np.float32))
    with pytest.raises(DataError, match=r"embeddings reach 1e\+06, which is not a finite float16; use float32"):
        embed(run, survey.path, tmp_path / "out", dtype="float16")


def test_withdrawn_samples_are_not_embedded_and_make_another_folder(tmp_path: Path, survey: Store, run: Path) -> None:
    copy = Path(shutil.copytree(survey.path, tmp_path / "copy.zarr"))
    embed(run, copy, tmp_path / "out", split="test", workers=0)
    gone = survey.ids[int(survey.split("test").all()[0])]
    remove(copy, [gone], "blurred")
    with pytest.raises(RunError, match="holds embeddings of another encoder, store or split"):
        embed(run, copy, tmp_path / "out", split="test", workers=0)
    embed(run, copy, tmp_path / "new", split="test", workers=0)
    ids, _ = read_embeddings(tmp_path / "new")
    assert ids == [survey.ids[i] for i in survey.split("test").all()[1:]]
    assert len(chosen_samples(Store(copy), "all", "embed")) == len(survey) - 1
