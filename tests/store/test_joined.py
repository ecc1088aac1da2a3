"""Joined stores: every sample is the one of its own store, and stores that do not fit are refused."""

from __future__ import annotations

import pickle
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from sciencessl.errors import StoreError
from sciencessl.store.joined import JoinedStores
from sciencessl.store.reader import Store
from sciencessl.store.tables import write_table
from sciencessl.store.writer import PreparedSample

Make = Callable[..., Store]


@pytest.fixture
def pair(tmp_path: Path, survey: Store, make: Make, sample: Callable[..., object]) -> JoinedStores:
    other = make(tmp_path / "other.zarr", [[sample(f"d{i}", ("train", "train", "test")[i]) for i in range(3)]])
    return JoinedStores([survey, other])


def test_samples_count_through_the_stores(pair: JoinedStores) -> None:
    first, second = pair.stores
    assert len(pair) == len(first) + len(second) == 10
    assert pair.starts.tolist() == [0, 7, 10]
    assert pair.digests == (first.digest, second.digest)
    index = np.array([8, 0, 6, 7, 3, 9, 0])
    expected = [(second, 1), (first, 0), (first, 6), (second, 0), (first, 3), (second, 2), (first, 0)]
    for joined in (pair, pickle.loads(pickle.dumps(pair))):
        assert joined.payloads("image", index) == [store.payloads("image", [i])[0] for store, i in expected]
        keys = np.concatenate([store.keys(np.array([i])) for store, i in expected])
        assert np.array_equal(joined.keys(index), keys)


def test_consecutive_samples_cross_from_store_to_store(pair: JoinedStores) -> None:
    for first in range(11):
        for stop in range(first, 11):
            assert pair.consecutive("image", first, stop) == pair.payloads("image", np.arange(first, stop))
    with pytest.raises(StoreError, match="samples 4 to 11 of 2 joined stores, expected a range within 0 to 10"):
        pair.consecutive("image", 4, 11)


def test_splits_are_those_of_the_stores_in_their_order(pair: JoinedStores) -> None:
    first, second = pair.stores
    for name in ("train", "val", "test"):
        expected = np.concatenate([first.split(name).all(), second.split(name).all() + 7])
        assert np.array_equal(pair.split(name).all(), expected)
    assert len(pair.split("train")) == 5


def test_nothing_outside_is_read(pair: JoinedStores) -> None:
    assert pair.payloads("image", np.array([], np.int64)) == []
    for wrong in (-1, 10):
        with pytest.raises(StoreError, match="sample index outside 0 to 9 of 2 joined stores"):
            pair.payloads("image", [wrong])


def test_stores_of_other_fields_are_refused(tmp_path: Path, survey: Store, make: Make) -> None:
    fields = {"image": survey.header.fields["image"]}
    other = make(tmp_path / "o.zarr", [[PreparedSample("e0", "train", {"image": b"e"}, {})]], fields=fields)
    with pytest.raises(StoreError, match=r"o\.zarr does not go with .*: it has no field .* Prepare them with the same"):
        JoinedStores([survey, other])
    with pytest.raises(StoreError, match=r"does not go with .*o\.zarr: it has a field \w+ besides\. Stores of one"):
        JoinedStores([other, survey])
    fields["image"] = replace(fields["image"], channels=("g", "r", "z"))
    third = make(tmp_path / "t.zarr", [[PreparedSample("f0", "train", {"image": b"f"}, {})]], fields=fields)
    with pytest.raises(StoreError, match=r"its field image has channels \('g', 'r', 'z'\), not \("):
        JoinedStores([other, third])
    with pytest.raises(StoreError, match="no stores to join"):
        JoinedStores([])


def test_a_column_has_gaps_where_a_store_lacks_it(pair: JoinedStores) -> None:
    for k, store in enumerate(pair.stores):
        ids = store.ids
        write_table(store.path, "both", pa.table({"id": ids, "kind": pa.array([1, *[None] * k, 2][: len(ids)] +
                                                                             [1] * (len(ids) - 2 - k))}))
    write_table(pair.stores[1].path, "one", pa.table({"id": pair.stores[1].ids, "x": [0.5] * 3, "t": ["a"] * 3}))
    kinds = pair.column("kind")
    assert kinds.dtype == np.float64  # of whole numbers and of floats for a gap
    assert np.isnan(kinds[8])
    assert np.array_equal(kinds[:7], pair.stores[0].column("kind"))
    np.testing.assert_array_equal(pair.column("x"), [np.nan] * 7 + [0.5] * 3)
    assert pair.column("t").tolist() == [None] * 7 + ["a"] * 3
    with pytest.raises(StoreError, match="has no column 'y'"):
        pair.column("y")
    assert pair.sizes("train") == [len(store.split("train")) for store in pair.stores]
