"""What `store info` says: counts that are right, JSON values only, and a text without walls of vote columns."""

from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from sciencessl.data.mixing import mixing_score
from sciencessl.data.order import Order
from sciencessl.errors import StoreError
from sciencessl.spec import LabelSchema, Question
from sciencessl.store.info import MOST_VALUES, info, info_text
from sciencessl.store.reader import Store
from sciencessl.store.tables import write_table


def test_counts(survey: Store) -> None:
    found = info(survey.path)
    assert json.loads(json.dumps(found)) == found
    assert (found["domain"], found["format"], found["rows"]) == ("galaxy", "zpack/1", 3)
    assert found["n_samples"] == 7
    assert found["splits"] == {"train": 3, "val": 2, "test": 2}
    assert found["refused"] == {"corrupt": 1}
    assert found["manifest_digest"] == survey.digest
    assert found["fields"]["flux"]["channels"] == ["g", "r"]
    assert found["bytes"] == sum(file.stat().st_size for file in survey.path.rglob("*") if file.is_file())


def test_columns(survey: Store) -> None:
    columns = info(survey.path)["columns"]
    assert columns["width"] == {"in": "rows", "dtype": "int64", "range": [0.0, 12.0]}
    assert columns["group"] == {"in": "rows", "dtype": "text", "missing": 0, "values": {"h": 3, "g0": 2, "g1": 2}}
    assert columns["class"] == {
        "in": "labels", "dtype": "text", "missing": 5, "values": {"spiral": 1, "smooth": 1},
    }  # fmt: skip


def test_tables(survey: Store) -> None:
    table = info(survey.path)["tables"]["labels"]
    assert (table["rows"], table["derived_from"], table["note"]) == (2, {"class": ["votes"]}, "by hand")
    assert table["votes"] == table["questions"] == []


def test_questions_of_a_schema_that_a_table_has_no_column_of_are_not_told(survey: Store) -> None:
    schema = LabelSchema("two", (Question("bar-x1", ("yes", "no")), Question("bar-x2", ("yes", "no"))))
    votes = {column: np.arange(7) for column in ("bar-x2_yes", "bar-x2_no")}
    table = write_table(survey.path, "votes", pa.table({"id": survey.ids, **votes}), schema)
    assert table.questions == ["bar-x2"]
    assert info(survey.path)["tables"]["votes"]["questions"] == ["bar-x2"]


def test_text(survey: Store) -> None:
    schema = LabelSchema("shapes", (Question("shape-x1", ("smooth", "disc")), Question("arms-x1", ("yes", "no"))))
    votes = {column: np.arange(7) for column in schema.columns}
    write_table(survey.path, "votes", pa.table({"id": survey.ids, **votes}), schema, {"shape-x1_smooth": ["class"]},
                note="simulated: by a die")
    text = info_text(info(survey.path))
    lines = text.splitlines()
    assert lines[0].startswith(f"{survey.path}: 7 samples of domain galaxy, 0.")
    assert lines[1] == "splits:  train 3, val 2, test 2"
    assert lines[2] == "refused: 1 corrupt"
    assert "field flux: array, float32, channels g/r, 4x4" in lines
    assert "  width (rows): int64, 0 to 12" in lines
    assert "table votes: 7 rows, votes on shape-x1, arms-x1, derived from class [simulated]" in lines
    assert "shape-x1_smooth" not in text
    assert lines[-1] == f"manifest digest {survey.digest}"


def test_a_column_of_names_is_counted_not_listed(tmp_path: Path, make, sample) -> None:  # type: ignore[no-untyped-def]
    many = make(tmp_path / "m.zarr", [[sample(f"s{i}", note=f"n{i}") for i in range(MOST_VALUES + 1)]])
    column = info(many.path)["columns"]["note"]
    assert column["distinct"] == MOST_VALUES + 1
    assert "values" not in column
    assert f"  note (rows): text, {MOST_VALUES + 1} different" in info_text(info(many.path))


def test_values_that_are_not_finite_stay_out_of_the_range(tmp_path: Path, make, sample) -> None:  # type: ignore[no-untyped-def]
    values = [1.5, float("nan"), float("inf"), -2.0]
    store = make(tmp_path / "m.zarr", [[sample(f"s{i}", z=value) for i, value in enumerate(values)]])
    assert info(store.path)["columns"]["z"]["range"] == [-2.0, 1.5]
    json.dumps(info(store.path), allow_nan=False)


def test_mixing_is_scored_for_rows_groups_and_classes(tmp_path: Path, make, sample) -> None:  # type: ignore[no-untyped-def]
    count = 96
    kinds = np.arange(count) * 4 // count
    samples = [sample(f"s{i}", kind="abcd"[kinds[i]], group=f"g{i}", note="same") for i in range(count)]
    store = make(tmp_path / "m.zarr", [samples[:60], samples[60:]])
    found = info(store.path)["mixing"]
    assert found["batch"] == 16
    assert list(found["scores"]) == ["row", "group", "kind"]
    assert found["scores"]["group"]["score"] == pytest.approx(1)
    order, stored = Order(count, 0, 16), store.column("kind")
    assert found["scores"]["kind"] == mixing_score(order, np.array(["abcd".index(k) for k in stored]))._asdict()
    assert found["scores"]["row"] == mixing_score(order, (np.arange(count) >= 60).astype(int))._asdict()
    line = next(line for line in info_text(info(store.path)).splitlines() if line.startswith("mixing:"))
    assert re.match(r"mixing:  row \d\.\d\d ±\d\.\d\d, group 1\.00 ±0\.00, kind .* batches of 16 of split=train", line)


def test_a_small_store_is_scored_as_runs_mix_it(tmp_path: Path, make, sample) -> None:  # type: ignore[no-untyped-def]
    rows = [[sample(f"s{row}-{i}", kind="a", group=f"g{row}-{i}", note="same") for i in range(10)] for row in range(19)]
    found = info(make(tmp_path / "m.zarr", rows).path)["mixing"]
    assert found["batch"] == 32
    score, error = found["scores"]["row"].values()
    assert abs(score - 1) < max(4 * error, 0.5)


def test_a_store_of_a_few_samples_has_no_mixing_score(survey: Store) -> None:
    found = info(survey.path)
    assert found["mixing"] == {}
    assert "mixing" not in info_text(found)


def test_no_store(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match="is no store"):
        info(tmp_path / "nothing")
