"""Near embeddings: the threshold is measured on the store, and what is above it is connected."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from sciencessl.curate import near_embeddings as module
from sciencessl.errors import ConfigError, DataError
from sciencessl.store.dedup import TABLE, dedup
from sciencessl.store.reader import Store
from tests.store.test_dedup import groups, photo, png, sample, store_of


def embedded(folder: Path, store: Store, values: np.ndarray, digest: str = "") -> Path:
    folder.mkdir()
    lists = pa.FixedSizeListArray.from_arrays(pa.array(values.astype(np.float32).ravel()), values.shape[1])
    pq.write_table(pa.table({"id": store.ids, "embedding": lists}), folder / "part-00000.parquet")
    (folder / "embeddings.json").write_text(json.dumps({"store": digest or store.digest}))
    return folder


def test_near_embeddings_connect_what_hashes_do_not(tmp_path: Path) -> None:
    pytest.importorskip("faiss")
    rng = np.random.default_rng(0)
    path = store_of(tmp_path / "s.zarr", [sample(f"s{i}", png(photo(i, 16, 16))) for i in range(120)])
    store = Store(path)
    values = rng.normal(size=(120, 32))
    pair = [store.ids.index(name) for name in ("s3", "s7")]
    values[pair[0]] = values[pair[1]] + 0.1 * rng.normal(size=32)
    found = dedup(path, embeddings=embedded(tmp_path / "e", store, values))
    assert [{kept, *others} for kept, others in groups(path).items()] == [{"s3", "s7"}]
    assert found.levels["embedding"] == 1
    assert found.cosine is not None
    assert 0.4 <= found.cosine < 0.95, "measured on the null, not one of another network"
    rows = store.table(TABLE).data.to_pylist()
    assert [row["duplicate_by"] for row in rows if not row["duplicate_kept"]] == ["embedding"]
    assert min(row["duplicate_score"] for row in rows if not row["duplicate_kept"]) > 0.95
    assert dedup(path, by=(), embeddings=tmp_path / "e", cosine=0.999, dry_run=True).copies == 0
    with pytest.raises(DataError, match="holds embeddings of the store with digest other"):
        dedup(path, embeddings=embedded(tmp_path / "w", store, values, "other"))
    with pytest.raises(ConfigError, match="cosine 1; expected 0 to below 1"):
        dedup(path, embeddings=tmp_path / "e", cosine=1.0)


def test_too_few_embeddings_to_measure_on_ask_for_a_threshold(tmp_path: Path) -> None:
    pytest.importorskip("faiss")
    path = store_of(tmp_path / "s.zarr", [sample(f"s{i}", png(photo(i, 16, 16))) for i in range(5)])
    folder = embedded(tmp_path / "e", Store(path), np.eye(5))
    with pytest.raises(DataError, match=r"on 5 samples \(.* 100 are needed.* Give --cosine"):
        dedup(path, embeddings=folder, dry_run=True)
    assert dedup(path, embeddings=folder, cosine=0.9, dry_run=True).copies == 0


def test_many_embeddings_are_searched_in_lists(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("faiss")
    monkeypatch.setattr(module, "EXACT", 100)
    rng = np.random.default_rng(0)
    path = store_of(tmp_path / "s.zarr", [sample(f"s{i}", png(photo(i, 16, 16))) for i in range(300)])
    values = rng.normal(size=(300, 32))
    values[10:20] = values[30:40] + 0.05 * rng.normal(size=(10, 32))
    folder = embedded(tmp_path / "e", Store(path), values)
    threshold, blocks = module.near_embeddings(Store(path), folder, np.arange(300))
    found = [pair for one, other, _ in blocks for pair in zip(one.tolist(), other.tolist(), strict=True)]
    assert 0.4 < threshold < 0.97
    assert sorted(found) == [(10 + i, 30 + i) for i in range(10)]
