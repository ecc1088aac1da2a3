from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from sciencessl.errors import DataError, RunError, StoreError
from sciencessl.evaluate.shards import ShardFolder, chosen_samples
from sciencessl.store.format import SPLITS
from sciencessl.store.reader import Store

CARD = {"by": "me", "names": ("a", "b"), "temperature": 1.1}


def _numbers(calls: list[list[int]]) -> Any:
    def compute(part: np.ndarray, advance: Any) -> dict[str, pa.Array]:
        calls.append(part.tolist())
        advance(len(part), len(part))
        return {"number": pa.array(part)}

    return compute


def _folder(out: Path, store: Store, size: int = 50) -> ShardFolder:
    return ShardFolder(out, "numbers", "maker", store, chosen_samples(store, "test", "number"), size)


def test_every_sample_of_the_split_is_in_one_shard_in_order(tmp_path: Path, survey: Store) -> None:
    shards, calls = _folder(tmp_path / "out", survey, 20), []
    shards.claim(CARD, overwrite=False)
    assert shards.fill("count", _numbers(calls)) == 48
    assert [len(call) for call in calls] == [20, 20, 8]
    assert sorted(path.name for path in shards.out.iterdir()) == [
        "numbers.json", "part-00000.parquet", "part-00001.parquet", "part-00002.parquet",
    ]  # fmt: skip
    table = pa.concat_tables([pq.read_table(path) for path, _ in shards.parts])
    assert table.column_names == ["id", "split", "number"]
    assert table["number"].to_pylist() == [i for i, code in enumerate(survey.split_codes()) if SPLITS[code] == "test"]
    assert table["id"].to_pylist() == [survey.ids[i] for i in table["number"].to_pylist()]
    assert set(table["split"].to_pylist()) == {"test"}


def test_what_is_there_is_not_computed_again(tmp_path: Path, survey: Store) -> None:
    shards, calls = _folder(tmp_path, survey, 20), []
    shards.claim(CARD, overwrite=False)
    shards.fill("count", _numbers([]))
    (tmp_path / "part-00001.parquet").unlink()
    assert shards.holds(CARD, overwrite=False)
    shards.claim(CARD, overwrite=True)
    assert shards.fill("count", _numbers(calls)) == 20
    assert calls == [shards.index[20:40].tolist()]


def test_shards_of_another_card_go_only_when_told_to(tmp_path: Path, survey: Store) -> None:
    shards = _folder(tmp_path, survey, 20)
    shards.claim(CARD, overwrite=False)
    shards.fill("count", _numbers([]))
    other = {**CARD, "by": "you"}
    with pytest.raises(RunError, match="holds numbers of another maker; choose another --out or pass --overwrite"):
        shards.claim(other, overwrite=False)
    assert len(list(tmp_path.glob("part-*"))) == 3
    assert not shards.holds(other, overwrite=True)
    assert len(list(tmp_path.glob("part-*"))) == 3
    shards.claim(other, overwrite=True)
    assert [path.name for path in tmp_path.iterdir()] == ["numbers.json"]
    assert json.loads((tmp_path / "numbers.json").read_text()) == {**other, "names": ["a", "b"]}


def test_other_files_and_torn_cards_are_not_ours(tmp_path: Path, survey: Store) -> None:
    (tmp_path / "thesis.tex").touch()
    for overwrite in (False, True):
        with pytest.raises(RunError, match="is not empty and holds no numbers; choose another --out"):
            _folder(tmp_path, survey).claim(CARD, overwrite)
        with pytest.raises(RunError, match=r"thesis\.tex is a file; --out names a folder"):
            _folder(tmp_path / "thesis.tex", survey).claim(CARD, overwrite)
    (tmp_path / "numbers.json").write_text("{")
    with pytest.raises(RunError, match="holds numbers of another maker"):
        _folder(tmp_path, survey).claim(CARD, overwrite=False)


def test_samples_of_a_split(survey: Store) -> None:
    np.testing.assert_array_equal(chosen_samples(survey, "all", "count"), np.arange(144))
    codes = survey.split_codes()
    np.testing.assert_array_equal(chosen_samples(survey, "train", "count"), np.flatnonzero(codes == 0))
    with pytest.raises(DataError, match="split=val holds no samples, so there is nothing to count"):
        chosen_samples(survey, "val", "count")
    with pytest.raises(StoreError, match="no split 'tset'"):
        chosen_samples(survey, "tset", "count")
