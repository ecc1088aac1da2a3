"""What `prepare --dry-run` says of workers and array tasks, also where reading an input ends the process."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from sciencessl.data_prep import estimate as estimating
from sciencessl.data_prep.engine import PrepareEstimate, PrepareSettings, prepare
from sciencessl.data_prep.estimate import worker_count
from sciencessl.data_prep.source import Input, Task


def rows(number: int, inputs: int, size: int) -> list[Task]:
    entry = Input("a", "a", size, 1, "train", {}, None)
    return [Task(row, (entry,) * inputs) for row in range(number)]


@pytest.mark.parametrize(("number", "inputs", "size", "workers"), [
    (16, 1, 10, 1),  # a small store: starting a second process takes longer than its inputs
    (16, 31, 10, 1),
    (16, 32, 10, 2),  # 512 inputs
    (16, 1, 2**20, 1),
    (16, 3, 2**20, 3),  # 48 MB
    (16, 1000, 10, 8),
    (3, 8000, 10, 3),
])
def test_there_are_as_many_workers_as_are_worth_their_start(
    number: int, inputs: int, size: int, workers: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(estimating, "cores", lambda: 8)
    tasks = rows(number, inputs, size)
    assert worker_count(PrepareSettings(), tasks) == workers
    assert worker_count(PrepareSettings(workers=5), tasks) == min(5, number)
    assert worker_count(PrepareSettings(workers=0), tasks) == 0


def test_time_is_shared_among_workers_and_array_tasks(
    make_spec: Any, galaxies: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, _ = galaxies(64)
    found = estimating._Tried(3.0, 320, {"corrupt": 1})
    monkeypatch.setattr(estimating, "_try", lambda *_: found)

    def ask(**settings: Any) -> tuple[Any, ...]:
        result = prepare(make_spec(), [folder], tmp_path / "s.zarr", PrepareSettings(**settings), dry_run=True)
        assert isinstance(result, PrepareEstimate)
        assert (result.bytes, result.tried, result.refused) == (640, 32, {"corrupt": 1})
        return result.engine, result.array_tasks, result.workers, result.seconds, result.scratch_bytes

    assert ask(workers=0) == ("local", 1, 0, 6.0, 40)
    assert ask(workers=3) == ("local", 1, 3, 2.0, 120)
    assert ask(engine="slurm", slurm_tasks=3) == ("slurm", 3, 1, 2.0, 120)
    assert ask(engine="slurm", slurm_tasks=2, workers=3) == ("slurm", 2, 3, 1.0, 240)
    assert ask(engine="ray", workers=6) == ("ray", 1, 6, 1.0, 240)


def test_an_input_that_ends_its_process_does_not_end_the_estimate(
    deadly: str, make_spec: Any, write_images: Any, tmp_path: Path
) -> None:
    spec = make_spec(sources={"images": deadly})
    folder = write_images([*(f"{i}.jpg" for i in range(9)), "once.jpg"])
    tried_twice = prepare(spec, [folder], tmp_path / "s.zarr", PrepareSettings(), dry_run=True)
    assert (folder / "already").exists()
    assert tried_twice.refused == {}  # type: ignore[union-attr]
    (folder / "already").unlink()
    (folder / "once.jpg").rename(folder / "kills.jpg")
    found = prepare(spec, [folder], tmp_path / "s.zarr", PrepareSettings(), dry_run=True)
    assert isinstance(found, PrepareEstimate)
    assert (found.refused, found.tried) == ({"crashed": 1}, 10)
    assert found.bytes == sum(path.stat().st_size for path in folder.iterdir() if path.name != "kills.jpg")
