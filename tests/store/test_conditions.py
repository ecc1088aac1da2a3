"""Conditions on columns: what they choose, what they never choose, and what they say when they cannot be compared."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sciencessl import cli
from sciencessl.errors import ConfigError, StoreError
from sciencessl.store.conditions import Condition, meets, parse_condition
from sciencessl.store.reader import Store
from sciencessl.store.removals import remove, remove_text
from sciencessl.store.tables import REMOVALS, write_table

Make = Callable[..., Store]
SampleFactory = Callable[..., object]

NAN = float("nan")
PEN = [0.0, 0.1, 0.25, None, 0.5, NAN, 1.0]


@pytest.fixture
def tiles(tmp_path: Path, make: Make, sample: SampleFactory) -> Store:
    """Seven tiles in two rows, with columns of every kind."""
    splits = ("train", "train", "train", "val", "test", "train", "test")
    each = [
        sample(f"t{i}", splits[i], pen=pen, level=i, site="AB"[i % 2], passthrough=i > 3, serial=2**60 + i)
        for i, pen in enumerate(PEN)
    ]
    return make(tmp_path / "tiles.zarr", [each[:4], each[4:]])


def chosen(store: Store, *texts: str) -> list[str]:
    found = np.logical_or.reduce([meets(store, parse_condition(text)) for text in texts])
    return sorted(name for name, met in zip(store.ids, found, strict=True) if met)


@pytest.mark.parametrize(("text", "names"), [
    ("pen>0.25", ["t4", "t6"]), ("pen>=0.25", ["t2", "t4", "t6"]), ("pen<0.1", ["t0"]), ("pen <= 1e-1", ["t0", "t1"]),
    ("pen=0.5", ["t4"]), ("pen==0.5", ["t4"]), ("pen!=0.5", ["t0", "t1", "t2", "t6"]), ("pen<inf", ["t0", "t1", "t2",
     "t4", "t6"]),
    ("level>4", ["t5", "t6"]), ("level>4.5", ["t5", "t6"]), ("level=-1", []),
    ("site=B", ["t1", "t3", "t5"]), ("site != B", ["t0", "t2", "t4", "t6"]), ("site=C", []),
    ("passthrough=true", ["t4", "t5", "t6"]), ("passthrough!=True", ["t0", "t1", "t2", "t3"]),
    ("id=t3", ["t3"]), ("split=val", ["t3"]),
    (f"serial>{2**60 + 5}", ["t6"]),
])
def test_conditions_choose_what_they_say_and_nothing_without_a_value(
    tiles: Store, text: str, names: list[str]
) -> None:
    assert chosen(tiles, text) == names


@given(st.floats(-0.5, 1.5), st.sampled_from(["<", "<=", ">", ">=", "=", "!="]))
def test_a_condition_and_its_opposite_share_all_that_has_a_value(value: float, operator: str) -> None:
    opposite = {"<": ">=", ">=": "<", ">": "<=", "<=": ">", "=": "!=", "!=": "="}[operator]

    class Columns:
        def column(self, name: str) -> np.ndarray:
            return np.array([NAN if value is None else value for value in PEN])

    first, second = (
        meets(Columns(), Condition("", "pen", sign, repr(value))) for sign in (operator, opposite)  # type: ignore[arg-type]
    )
    assert not (first & second).any()
    assert (first | second).tolist() == [value is not None and value == value for value in PEN]


def test_columns_of_tables_serve_and_samples_without_a_row_meet_nothing(tiles: Store) -> None:
    write_table(tiles.path, "edited", pa.table({"id": ["t1", "t2"], "tissue_edited": [0.0, 1.0]}))
    assert chosen(Store(tiles.path), "tissue_edited<0.5") == ["t1"]
    assert chosen(Store(tiles.path), "tissue_edited!=7") == ["t1", "t2"]


@pytest.mark.parametrize("text", ["", "pen", "pen>", ">0.1", "pen 0.1", "pen~0.1", "=", "  >  "])
def test_what_is_no_condition_is_said_with_the_form(text: str) -> None:
    with pytest.raises(ConfigError, match=r"is no condition; expected COLUMN then one of < <= > >= = != then a value"):
        parse_condition(text)


@pytest.mark.parametrize(("text", "message"), [
    ("pen>much", "column 'pen' holds numbers; expected a number in place of 'much'"),
    ("pen=>0.1", "column 'pen' holds numbers; expected a number in place of '>0.1'"),
    ("pen>nan", "expected a number in place of 'nan'"),
    ("site>A", "column 'site' holds text, such as 'A'; expected = or !=, since text has no order"),
    ("passthrough>0", "column 'passthrough' holds true and false; expected = or != and true or false"),
    ("passthrough=1", "holds true and false"),
])
def test_what_cannot_be_compared_is_said(tiles: Store, text: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message) as caught:
        meets(tiles, parse_condition(text))
    assert f"--where {text!r}" in str(caught.value)


def test_an_unknown_column_is_named_with_the_closest(tiles: Store) -> None:
    with pytest.raises(StoreError, match=r"has no column 'pne'\. Did you mean 'pen'\? Columns: .*id, level"):
        meets(tiles, parse_condition("pne>0.1"))
    with pytest.raises(StoreError, match='has no column "__import__'):
        meets(tiles, parse_condition("__import__('os').remove('x')>0"))


def test_samples_that_meet_any_condition_are_withdrawn_with_it_as_the_reason(tiles: Store) -> None:
    found = remove(tiles.path, where=["pen>0.4", "site=B"])
    assert found.conditions == {"pen>0.4": 2, "site=B": 3}
    assert (found.removed, found.n_removed, found.n_samples, found.dry_run) == (5, 5, 2, False)
    assert found.withdrawn == {"train": 2, "val": 1, "test": 2}
    assert found.splits == {"train": 2, "val": 0, "test": 0}
    store = Store(tiles.path)
    assert sorted(store.ids[i] for i in store.present.all()) == ["t0", "t2"]
    assert set(store.table(REMOVALS).data["reason"].to_pylist()) == {"where pen>0.4 or site=B"}
    again = remove(tiles.path, ["t0"], where=["pen>0.4"], reason="ink")
    assert (again.removed, again.already, again.conditions) == (1, 2, {"pen>0.4": 0})


def test_a_dry_run_counts_the_same_and_writes_nothing(tiles: Store) -> None:
    planned = remove(tiles.path, where=["pen>0.4", "site=B"], dry_run=True)
    assert REMOVALS not in Store(tiles.path).tables
    assert remove_text(planned).splitlines() == [
        "pen>0.4: 2 samples", "site=B: 3 samples",
        f"5 samples would be withdrawn from {tiles.path}, of 7 (train 2 of 4, val 1 of 1, test 2 of 2); 5 in all",
        "left: 2 samples (train 2, val 0, test 0)", "nothing was written",
    ]
    done = remove(tiles.path, where=["pen>0.4", "site=B"])
    for name in ("removed", "already", "n_removed", "n_samples", "splits", "withdrawn", "conditions"):
        assert getattr(planned, name) == getattr(done, name)
    later = remove(tiles.path, where=["pen>=0"], dry_run=True)
    assert (later.removed, later.already, later.conditions, later.digest) == (2, 3, {"pen>=0": 2}, done.digest)


def test_conditions_that_nothing_meets_withdraw_nothing(tiles: Store) -> None:
    found = remove(tiles.path, where=["pen>7"])
    assert (found.removed, found.n_samples) == (0, 7)
    assert REMOVALS not in Store(tiles.path).tables
    with pytest.raises(ConfigError, match="needs a --reason"):
        remove(tiles.path, ["t0"], where=["pen>7"])
    with pytest.raises(ConfigError, match="holds numbers"):
        remove(tiles.path, where=["pen>0.4", "level=low"])
    assert REMOVALS not in Store(tiles.path).tables


def test_the_verb_takes_conditions(tiles: Store, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["store", "remove", str(tiles.path), "--where", "pen>0.4", "site=B"]
    assert cli.run([*words, "--dry-run", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["withdrawn"] == {"train": 2, "val": 1, "test": 2}
    assert cli.run([*words, "--reason", "ink"]) == 0
    assert "5 samples withdrawn from " in capsys.readouterr().out
    assert cli.run(["store", "remove", str(tiles.path), "--where", "pen"]) == 2
    assert "--where 'pen' is no condition" in capsys.readouterr().err
