from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from sciencessl.errors import DataError, MissingExtraError
from sciencessl.evaluate.embed import embed, read_embeddings
from sciencessl.evaluate.feature_table import is_feature_table, read_feature_table
from sciencessl.store.reader import Store

IDS = ["g2", "g0", "g1"]
VALUES = np.array([[2.0, 20.0], [0.0, 0.5], [1.0, 10.0]])


def _lists(values: np.ndarray) -> pa.Array:
    return pa.FixedSizeListArray.from_arrays(pa.array(values.ravel()), values.shape[1])


def _write(path: Path, **columns: Any) -> Path:
    pq.write_table(pa.table({"id": IDS, **columns}), path)
    return path


def test_lists_and_columns_are_the_same_table(tmp_path: Path) -> None:
    one = read_feature_table(_write(tmp_path / "lists.parquet", split=["train"] * 3, feature=_lists(VALUES)))
    ragged = read_feature_table(_write(tmp_path / "variable.parquet", feature=VALUES.tolist()))
    # A class that is a whole number is no feature.
    two = read_feature_table(_write(tmp_path / "wide.parquet", f0=VALUES[:, 0], label=[7, 8, 9], f1=VALUES[:, 1]))
    for table in (one, ragged, two):
        assert np.array_equal(table.rows(["g0", "g2", "g0"]), VALUES[[1, 0, 1]])
        assert table.values.dtype == np.float32
    assert one.digest == two.digest
    other = read_feature_table(_write(tmp_path / "other.parquet", feature=_lists(VALUES + 1)))
    assert other.digest != one.digest


def test_what_embed_wrote_is_a_table(
    tmp_path: Path, survey: Store, run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sciencessl.evaluate.embed.SHARD", 50)
    embed(run, survey.path, tmp_path / "emb", dtype="float16", workers=0)
    ids, values = read_embeddings(tmp_path / "emb")
    assert is_feature_table(tmp_path / "emb")
    assert not is_feature_table(run)
    table = read_feature_table(tmp_path / "emb")
    assert np.array_equal(table.rows(ids), values.astype(np.float32))


def test_missing_samples_are_counted_and_the_first_is_named(tmp_path: Path) -> None:
    table = read_feature_table(_write(tmp_path / "t.parquet", feature=_lists(VALUES)))
    with pytest.raises(DataError, match=r"t.parquet has no features for 2 of the 3 samples that are needed, the first "
                                        r"being 'g7' \(its own ids look like 'g2'\)"):
        table.rows(["g1", "g7", "g9"])


def test_tables_of_another_layout(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"nothing.parquet does not exist"):
        read_feature_table(tmp_path / "nothing.parquet")
    (tmp_path / "torn.parquet").write_bytes(b"PAR1")
    with pytest.raises(DataError, match=r"torn.parquet cannot be read as Parquet"):
        read_feature_table(tmp_path / "torn.parquet")
    pq.write_table(pa.table({"name": IDS, "f0": VALUES[:, 0]}), tmp_path / "nameless.parquet")
    with pytest.raises(DataError, match="has no column 'id' of sample ids; it has name, f0"):
        read_feature_table(tmp_path / "nameless.parquet")
    with pytest.raises(DataError, match="has 0 columns of lists and 0 of floating-point numbers"):
        read_feature_table(_write(tmp_path / "whole.parquet", label=[1, 2, 3]))
    with pytest.raises(DataError, match="has 2 columns of lists and 0 of floating-point numbers beside 'id'; expected"):
        read_feature_table(_write(tmp_path / "both.parquet", a=_lists(VALUES), b=_lists(VALUES)))
    with pytest.raises(DataError, match="the lists of column 'a' differ in length"):
        read_feature_table(_write(tmp_path / "ragged.parquet", a=[[1.0], [1.0, 2.0], [1.0]]))
    pq.write_table(pa.table({"id": ["a", "b", "a"], "f0": VALUES[:, 0]}), tmp_path / "twice.parquet")
    with pytest.raises(DataError, match="id 'a' occurs more than once"):
        read_feature_table(tmp_path / "twice.parquet")


def test_hdf5_without_its_library(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "t.h5").touch()
    monkeypatch.setitem(sys.modules, "h5py", None)
    assert is_feature_table(tmp_path / "t.h5")
    with pytest.raises(MissingExtraError, match=r"t.h5 is HDF5, which h5py reads: pip install h5py"):
        read_feature_table(tmp_path / "t.h5")


def test_hdf5(tmp_path: Path) -> None:
    h5py = pytest.importorskip("h5py")

    def write(name: str, **datasets: Any) -> Path:
        with h5py.File(tmp_path / name, "w") as stored:
            for key, values in datasets.items():
                stored.create_dataset(key, data=values)
        return tmp_path / name

    table = read_feature_table(write("t.h5", id=IDS, features=VALUES, label=[1, 2, 3]))
    assert np.array_equal(table.rows(["g0", "g2"]), VALUES[[1, 0]])
    with pytest.raises(DataError, match=r"holds datasets features, id; expected 'id' of N ids and one dataset"):
        read_feature_table(write("short.h5", id=IDS[:2], features=VALUES))
    (tmp_path / "torn.hdf5").write_bytes(b"x")
    with pytest.raises(DataError, match="cannot be read as HDF5"):
        read_feature_table(tmp_path / "torn.hdf5")
