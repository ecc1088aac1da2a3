"""Embeddings on disk, a file at a time."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from sciencessl.errors import DataError, RunError
from sciencessl.evaluate.embedded import EmbeddedFolder, read_folder, read_rows
from sciencessl.evaluate.encoders import random_encoder, run_encoder
from sciencessl.evaluate.feature_table import FeatureTable
from sciencessl.store.reader import Store


def write_part(folder: Path, number: int, ids: Sequence[str], values: np.ndarray, column: str = "embedding") -> None:
    folder.mkdir(exist_ok=True)
    lists = pa.FixedSizeListArray.from_arrays(pa.array(values.astype(np.float16).ravel()), values.shape[1])
    pq.write_table(pa.table({"id": list(ids), column: lists}), folder / f"part-{number:05d}.parquet")


@pytest.fixture
def values(survey: Store) -> np.ndarray:
    return np.arange(2 * len(survey), dtype=np.float32).reshape(-1, 2)


@pytest.fixture
def folder(tmp_path: Path, survey: Store, values: np.ndarray) -> Path:
    """All of the survey in two files, in another order than the store's, and a sample of another store."""
    order = np.random.default_rng(0).permutation(len(survey))
    for number, rows in enumerate((order[:50], order[50:])):
        names = [*(survey.ids[i] for i in rows), f"stranger {number}"]
        write_part(tmp_path / "emb", number, names, np.concatenate([values[rows], [[-1, -1]]]))
    return tmp_path / "emb"


def test_embeddings_go_by_id_whatever_their_order(folder: Path, survey: Store, values: np.ndarray) -> None:
    index = np.array([3, 7, 20, 99, 140])
    found = read_folder(folder, survey, index)
    assert found.pick(np.array([4, 0, 2])).tolist() == values[[140, 3, 20]].tolist()
    assert found.centre() == pytest.approx(values[index].mean(axis=0))
    places = np.concatenate([place for place, _ in found.blocks()])
    assert sorted(places.tolist()) == [0, 1, 2, 3, 4]


def test_a_table_in_memory_is_one_part(survey: Store, values: np.ndarray) -> None:
    table = FeatureTable(Path("t"), {name: i for i, name in enumerate(survey.ids)}, values)
    ((place, read),) = read_rows(table, survey, np.array([5, 9])).blocks()
    assert (place.tolist(), read.tolist()) == ([0, 1], values[[5, 9]].tolist())


def test_missing_and_damaged_embeddings_are_named(folder: Path, survey: Store) -> None:
    index = np.arange(len(survey))
    with pytest.raises(DataError, match=r"part-00000.parquet has no lists 'other' .*Embed again"):
        list(read_folder(folder, survey, index, "other").blocks())
    (folder / "part-00001.parquet").write_bytes(b"PAR1 torn")
    with pytest.raises(DataError, match=r"part-00001.parquet cannot be read"):
        read_folder(folder, survey, index)
    (folder / "part-00001.parquet").unlink()
    with pytest.raises(DataError, match=r"has no embedding of 94 of the 144 samples that are needed, the first .*'g"):
        read_folder(folder, survey, index)


def test_several_encoders_share_a_folder_that_a_second_call_finds_full(
    tmp_path: Path, survey: Store, run: Path
) -> None:
    encoder, index = run_encoder(run), np.arange(0, 40, 2)
    folder = EmbeddedFolder(tmp_path / "two", [encoder, random_encoder(encoder.card, 0, "branches")], survey, index)
    assert folder.missing(overwrite=False) == 20
    first, second = folder.fill("embed", overwrite=False)
    assert folder.missing(overwrite=False) == 0
    alone = EmbeddedFolder(tmp_path / "one", [encoder], survey, index).fill("embed", overwrite=False)[0]
    assert first.pick(np.arange(20)) == pytest.approx(alone.pick(np.arange(20)), abs=1e-5)
    assert not np.allclose(first.pick(np.arange(20)), second.pick(np.arange(20)))
    with pytest.raises(RunError, match="holds embeddings of another encoder, store or samples"):
        EmbeddedFolder(tmp_path / "two", [encoder], survey, index).fill("embed", overwrite=False)


def test_an_embedding_that_is_not_finite_is_refused(tmp_path: Path, survey: Store, values: Any) -> None:
    values[3, 1] = np.inf
    write_part(tmp_path / "emb", 0, survey.ids, values)
    with pytest.raises(DataError, match="1 embeddings are not finite"):
        read_folder(tmp_path / "emb", survey, np.arange(len(survey))).centre()
