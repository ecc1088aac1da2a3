"""Rows that end the process which writes them: tried again, then read input by input; the one to blame is refused."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from sciencessl.data_prep.engine import PrepareReport, PrepareSettings, prepare
from sciencessl.data_prep.pool import InProcess, WorkerDied
from sciencessl.data_prep.source import Input, Task
from sciencessl.data_prep.task import prepare_row, read_alone
from sciencessl.data_prep.write import commit_row, write_rows
from sciencessl.errors import StoreError
from sciencessl.store.reader import Store

Call = tuple[Any, Sequence[Any], int]


class Fake:
    """An engine that runs nothing and dies by rule: (function, arguments) -> how many of its tries die."""

    workers = 2

    def __init__(self, deaths: Callable[[Any, Sequence[Any]], int]) -> None:
        self.deaths = deaths
        self.calls: list[Call] = []
        self.stopped = False

    def call(self, function: Any, arguments: Sequence[Any], retries: int, tell: Any = None) -> None:
        self.calls.append((function, arguments, retries))
        if self.deaths(function, arguments) > retries:
            raise WorkerDied("was ended by SIGSEGV")

    def stop(self) -> None:
        self.stopped = True

    def close(self) -> None:
        raise AssertionError("whoever made it closes it")


def task_of(*names: str, row: int = 3) -> Task:
    return Task(row, tuple(Input(name, name, 1, 1, "train", {}, None) for name in names))


HEADER: Any = "header"
SOURCE: Any = "source"
OUT = Path("s.zarr")


def test_a_row_has_three_tries_and_no_input_is_read_by_itself_before() -> None:
    engine = Fake(lambda *_: 2)
    commit_row(engine, OUT, HEADER, task_of("a", "b"), SOURCE)
    assert engine.calls == [(prepare_row, (OUT, HEADER, task_of("a", "b"), SOURCE), 2)]


def test_inputs_that_end_two_processes_by_themselves_are_refused_with_how_they_did() -> None:
    def deaths(function: Any, arguments: Sequence[Any]) -> int:
        if function is read_alone:
            return {"b": 2, "c": 1}.get(arguments[1].id, 0)
        return 0 if len(arguments) == 5 else 9

    engine = Fake(deaths)
    task = task_of("a", "b", "c")
    commit_row(engine, OUT, HEADER, task, SOURCE)
    assert [call[1][1].id for call in engine.calls if call[0] is read_alone] == ["a", "b", "c"]
    crashed = {"b": "each process that read it was ended by SIGSEGV"}
    assert engine.calls[-1] == (prepare_row, (OUT, HEADER, task, SOURCE, crashed), 2)


def test_a_row_that_dies_without_an_input_to_blame_is_an_error_that_says_so() -> None:
    engine = Fake(lambda function, _: 3 if function is prepare_row else 0)
    with pytest.raises(StoreError, match=r"row 3 of 2 inputs .* was ended by SIGSEGV, though no input .*--workers"):
        commit_row(engine, OUT, HEADER, task_of("a", "b"), SOURCE)


def test_the_first_row_that_fails_stops_the_engine_and_is_told() -> None:
    def deaths(function: Any, arguments: Sequence[Any]) -> int:
        return 3 if function is prepare_row and arguments[2].row == 1 else 0

    engine = Fake(deaths)
    source: Any = type("S", (), {"for_tasks": lambda self: self})()
    with pytest.raises(StoreError, match="row 1 of 1 inputs"):
        write_rows(engine, OUT, HEADER, [task_of("a", row=row) for row in range(5)], source)
    assert engine.stopped


def test_progress_counts_a_row_in_hand_once(monkeypatch: pytest.MonkeyPatch) -> None:
    class Teller(InProcess):
        def call(self, function: Any, arguments: Any, retries: int, tell: Any = None) -> None:
            for done in (1, 2, 1, 2):  # its process died after 2, and another one starts at 1
                tell(done)

    seen: list[tuple[int, int]] = []
    source: Any = type("S", (), {"for_tasks": lambda self: self})()
    write_rows(Teller(), OUT, HEADER, [task_of("a", "b", row=row) for row in range(2)], source,
               lambda done, total: seen.append((done, total)), already=3, total=7)
    assert [done for done, _ in seen] == [4, 5, 4, 5, 5, 6, 7, 6, 7, 7]
    assert {total for _, total in seen} == {7}


def test_inputs_that_kill_cost_themselves_and_nothing_else(
    deadly: str, make_spec: Any, write_images: Any, tmp_path: Path
) -> None:
    folder = write_images([*(f"{i}.jpg" for i in range(40)), "once.jpg", "kills.jpg"])
    spec = make_spec(sources={"images": deadly})
    whole = prepare(spec, [folder], tmp_path / "s.zarr", PrepareSettings(workers=2))
    assert isinstance(whole, PrepareReport)
    assert whole.refused == {"crashed": 1}
    assert whole.n_samples == 41
    (refused,) = Store(whole.out).refusals().to_pylist()
    assert (refused["id"], refused["reason"]) == ("kills", "crashed")
    assert refused["detail"] == "each process that read it was ended by SIGSEGV"
    assert (folder / "already").exists()
    # Comparing contents does not read it in this process, which would end.
    again = prepare(spec, [folder], whole.out, PrepareSettings(verify_inputs=True))
    assert isinstance(again, PrepareReport)
    assert (again.nothing_to_do, again.manifest_digest) == (True, whole.manifest_digest)
