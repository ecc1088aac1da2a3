"""Loggers: the CSV table and the TensorBoard curves of a run say what metrics.jsonl says, also after a resume."""

from __future__ import annotations

import csv
import importlib.util
import sys
import types
import typing
from pathlib import Path
from typing import Any

import pytest
from lightning.pytorch import loggers

from sciencessl.errors import MissingExtraError
from sciencessl.monitor.logs import SERVICES, Logs, check_loggers
from sciencessl.setting_groups import LoggerName
from sciencessl.train.folder import read_metrics


def row_of(step: int, loss: float, **more: float) -> dict[str, Any]:
    return {"step": step, "images": 8 * step, "loss": loss, **more}


def fail(text: str) -> None:
    raise AssertionError(text)


def table(run: Path) -> list[dict[str, float]]:
    with (run / "logs" / "metrics.csv").open(newline="") as stream:
        return [{name: float(value) for name, value in row.items() if value} for row in csv.DictReader(stream)]


def curve(run: Path, name: str) -> list[tuple[int, float]]:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(run / "logs"))
    events.Reload()
    return [(event.step, event.value) for event in events.Scalars(name)]


def test_a_table_and_curves_hold_every_row_as_soon_as_it_is_written(tmp_path: Path) -> None:
    logs = Logs(tmp_path, 0, ("csv", "tensorboard"), fail)
    logs.write(row_of(2, 0.5))
    assert table(tmp_path) == [row_of(2, 0.5)]
    logs.write(row_of(4, 0.25, std=0.75))  # a column that comes later
    assert table(tmp_path) == [row_of(2, 0.5), row_of(4, 0.25, std=0.75)] == read_metrics(tmp_path)
    assert curve(tmp_path, "loss") == [(2, 0.5), (4, 0.25)]
    assert curve(tmp_path, "std") == [(4, 0.75)]
    logs.close()
    names = {path.name.partition(".")[0] for path in (tmp_path / "logs").iterdir()}
    assert names == {"metrics", "events"}


def test_rows_after_the_checkpoint_are_written_once(tmp_path: Path, recwarn: pytest.WarningsRecorder) -> None:
    logs = Logs(tmp_path, 0, ("csv", "tensorboard"), fail)
    for step in (2, 4, 6):
        logs.write(row_of(step, 1.0 / step))
    logs = Logs(tmp_path, 3, ("csv", "tensorboard"), fail)  # killed at 6, resumed from a checkpoint after step 3
    for step in (4, 6, 8):
        logs.write(row_of(step, 2.0 / step))
    logs.close()
    assert table(tmp_path) == read_metrics(tmp_path)
    assert [row["loss"] for row in table(tmp_path)] == [0.5, 0.5, 2 / 6, 0.25]
    assert curve(tmp_path, "loss") == [(2, 0.5), (4, 0.5), (6, pytest.approx(2 / 6)), (8, 0.25)]
    assert not [warning for warning in recwarn if "exists and is not empty" in str(warning.message)]


def test_without_loggers_there_is_only_the_file_of_metrics(tmp_path: Path) -> None:
    logs = Logs(tmp_path, 0, (), fail)
    logs.write(row_of(2, 0.5))
    logs.close()
    assert [path.name for path in tmp_path.iterdir()] == ["metrics.jsonl"]


def test_a_service_is_told_settings_and_rows_and_may_fail(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    told: list[Any] = []

    class Service:
        def __init__(self, save_dir: str) -> None:
            told.append(Path(save_dir))

        def log_hyperparams(self, values: Any) -> None:
            told.append(values)

        def log_metrics(self, values: Any, step: int) -> None:
            if step > 2:
                raise ConnectionError("no answer")
            told.append((step, values))

        def save(self) -> None:
            told.append("saved")

    monkeypatch.setattr("lightning.pytorch.loggers.MLFlowLogger", Service)
    monkeypatch.setitem(sys.modules, "mlflow", types.ModuleType("mlflow"))
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: object())
    (tmp_path / "config.yaml").write_text("batch: 8\n")
    warnings: list[str] = []
    logs = Logs(tmp_path, 0, ("mlflow", "csv"), warnings.append)
    logs.write(row_of(2, 0.5))
    assert told == [tmp_path / "logs", {"batch": 8}, (2, {"images": 16, "loss": 0.5}), "saved"]
    logs.write(row_of(4, 0.25))
    logs.write(row_of(6, 0.125))
    logs.close()
    assert warnings == ["logger mlflow failed and is left out from here on, metrics.jsonl goes on "
                        "(ConnectionError: no answer)"]
    assert [row["step"] for row in table(tmp_path)] == [2, 4, 6]


def test_a_missing_package_is_told_before_the_run(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    check_loggers(("csv",))
    with pytest.raises(MissingExtraError, match=r"log\.loggers names wandb, whose package wandb is not installed"):
        check_loggers(("csv", "wandb"))
    with pytest.raises(MissingExtraError, match="pip install tensorboard"):
        check_loggers(("tensorboard",))


def test_a_lightning_without_the_logger_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: object())
    monkeypatch.delattr("lightning.pytorch.loggers.CometLogger")
    with pytest.raises(MissingExtraError, match="has no CometLogger; update it"):
        check_loggers(("comet",))


def test_every_known_service_is_one_of_lightnings() -> None:
    assert set(typing.get_args(LoggerName)) == {"csv", "tensorboard", *SERVICES}
    assert all(hasattr(loggers, kind) for kind, _ in SERVICES.values())
