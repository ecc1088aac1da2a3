"""Sides: what makes samples of two of them the same thing, in which order it is asked, and with whom."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from sciencessl.store.reader import Store
from sciencessl.store.sides import HASHES, STORED_BYTES, Side, same_things, value_text


def test_values_are_compared_as_text() -> None:
    values = [1, 1.0, 1.5, "1", True, None, float("nan"), ""]
    assert [value_text(value) for value in values] == ["1", "1", "1.5", "1", "True", "", "", ""]


def test_sides_of_splits_hold_their_samples(survey: Store) -> None:
    side = Side.of_splits(survey, "train", "val")
    assert str(side) == f"split=train and val of {survey.path}"
    assert set(np.array(survey.ids)[side.index]) == {"a0", "a2", "a3", "c0", "c2"}
    assert set(side.texts("width")) == {"0", "2", "3", "10", "12"}


def test_groups_and_stored_bytes_tell_what_is_the_same(
    tmp_path: Path, make: Callable[..., Store], sample: Callable[..., object]
) -> None:
    rows = [[sample("a", "train", image=b"one", group="g"), sample("b", "train", image=b"two", group=""),
             sample("c", "test", image=b"two", group="h"), sample("d", "test", image=b"four", group="")],
            [sample("e", "test", image=b"five", group="g")]]
    store = make(tmp_path / "s.zarr", rows)
    pool, test = Side.of_splits(store, "train"), Side.of_splits(store, "test")
    names, others = np.array(store.ids)[test.index], np.array(store.ids)[pool.index]
    found = {by: {str(name): str(others[at]) for name, at in zip(names, match, strict=True) if at >= 0}
             for by, match in same_things(pool, test)}
    assert found == {"id": {}, "group": {"e": "a"}, STORED_BYTES: {"c": "b"}}
    everything = Side(store, np.arange(len(store)), "all")
    assert all((match >= 0).all() for by, match in same_things(everything, everything, ()) if by == "id")


@pytest.mark.parametrize("recorded", HASHES)
def test_recorded_hashes_spare_reading_the_bytes(
    recorded: str, tmp_path: Path, make: Callable[..., Store], sample: Callable[..., object]
) -> None:
    rows = [[sample("a", "train", **{recorded: "x"}), sample("b", "test", **{recorded: "x"}),
             sample("c", "test", **{recorded: None})]]
    store = make(tmp_path / "s.zarr", rows)
    (tmp_path / "s.zarr" / "fields" / "image" / "c" / "0" / "0").unlink()
    found = dict(same_things(Side.of_splits(store, "train"), Side.of_splits(store, "test")))
    assert list(found) == ["id", recorded]
    assert sorted(found[recorded].tolist()) == [-1, 0]
