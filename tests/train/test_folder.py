"""The run folder: metrics that survive a crash, and the card of a model."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from torch import nn

from sciencessl.errors import RunError
from sciencessl.spec import InputStats
from sciencessl.train.folder import (
    METRICS,
    MODEL,
    MetricsFile,
    ModelCard,
    StoreRecord,
    begin,
    occupied,
    read_metrics,
    read_model,
    series,
    write_model,
)

CARD = ModelCard(
    domain="galaxy", method="byol", backbone="test_resnet", field="image", channels=("r", "g"), features=4,
    stats=InputStats((0.1, 0.2), (1.0, 2.0), (255.0, 3.5), "asinh"), views={"size": 32, "area": [0.3, 0.8]}, steps=7,
    images=56, seed=3, stores=(StoreRecord("a.zarr", "d", {"labels": "e"}),), label_columns=("class",),
    label_note="by hand", init_from="", label_rows={"class": 12},
)


def test_a_card_is_read_as_it_was_written(tmp_path: Path) -> None:
    write_model(tmp_path, CARD, nn.Linear(2, 3))
    assert read_model(tmp_path) == CARD
    assert sorted(path.name for path in (tmp_path / "exported").iterdir()) == ["encoder.safetensors", "model.json"]


def test_a_card_from_when_a_run_had_one_store_is_read_too(tmp_path: Path) -> None:
    write_model(tmp_path, CARD, nn.Linear(2, 3))
    values = json.loads((tmp_path / MODEL).read_text())
    (record,) = values.pop("stores")
    del values["sampling"]
    values |= {"store": record["path"], "store_digest": record["digest"], "table_digests": record["tables"]}
    (tmp_path / MODEL).write_text(json.dumps(values))
    assert read_model(tmp_path) == CARD
    (tmp_path / MODEL).write_text(json.dumps({**values, "store": "", "store_digest": ""}))
    assert read_model(tmp_path).stores == ()


def test_a_folder_without_a_model_says_what_it_is(tmp_path: Path) -> None:
    with pytest.raises(RunError, match="It is no run"):
        read_model(tmp_path)
    (tmp_path / "config.yaml").write_text("")
    with pytest.raises(RunError, match="did not finish: continue it with `sciencessl pretrain --resume`"):
        read_model(tmp_path)


def test_metrics_of_steps_to_come_and_a_torn_line_are_dropped(tmp_path: Path) -> None:
    file = MetricsFile(tmp_path, 0)
    for step in (1, 2, 3):
        file.write({"step": step, "loss": 0.5 * step})
    with (tmp_path / METRICS).open("a") as stream:
        stream.write('{"step": 4, "lo')
    assert [row["step"] for row in read_metrics(tmp_path)] == [1, 2, 3]
    MetricsFile(tmp_path, 2).write({"step": 3, "loss": 9.0, "std": None})
    assert series(read_metrics(tmp_path), "loss") == ([1, 2, 3], [0.5, 1.0, 9.0])
    assert series(read_metrics(tmp_path), "std") == ([], [])
    assert all(json.loads(line) for line in (tmp_path / METRICS).read_text().splitlines())


def test_a_folder_is_begun_once(tmp_path: Path) -> None:
    run = tmp_path / "deep" / "run"
    begin(run, overwrite=False)
    begin(run, overwrite=False)
    (run / "config.yaml").write_text("batch: 2")
    with pytest.raises(RunError, match="exists and is not empty"):
        begin(run, overwrite=False)
    begin(run, overwrite=True)
    assert list(run.iterdir()) == []


def test_a_run_that_is_going_on_keeps_others_out(tmp_path: Path) -> None:
    run = tmp_path / "run"
    begin(run, overwrite=False)
    with occupied(run):
        with pytest.raises(RunError, match=r"run is in use: another process trains in it\. Wait"), occupied(run):
            pass
        (run / "config.yaml").touch()
        with pytest.raises(RunError, match="is in use"):
            begin(run, overwrite=True)
        assert (run / "config.yaml").exists()
    begin(run, overwrite=True)
    with occupied(run):
        assert not any(run.iterdir())
