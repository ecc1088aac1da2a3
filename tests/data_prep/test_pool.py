"""Worker processes: what they are asked they do, and when one dies another does it again."""

from __future__ import annotations

import os
import pickle
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from sciencessl.data_prep.pool import Processes, Stopped, WorkerDied
from sciencessl.errors import ConfigError, StoreError

CALLS = """
import os, signal, time
from pathlib import Path

def me(tell):
    return os.getpid(), os.environ["OMP_NUM_THREADS"]

def count(n, tell):
    for i in range(1, n + 1):
        time.sleep(0.3)
        tell(i)
    return n

def talk(tell):
    os.system("echo to stdout")
    print("more", flush=True)
    return "answer"

def complain(tell):
    raise StoreError("full")

def stumble(tell):
    return 1 / 0

def die(marker, times, tell):
    done = len(list(Path(marker).iterdir()))
    if done < times:
        (Path(marker) / str(done)).touch()
        os.kill(os.getpid(), signal.SIGSEGV)
    return done

def hold(marker, tell):
    Path(marker).write_text(str(os.getpid()))
    time.sleep(60)

def squeeze(tell):
    import resource
    used = int(Path("/proc/self/statm").read_text().split()[0]) * 4096
    resource.setrlimit(resource.RLIMIT_AS, (used + 2**25, -1))

def size(raw, tell):
    return len(raw)

def odd(tell):
    return lambda: None

class Picky(Exception):
    def __init__(self, what, why):
        super().__init__(f"{what}: {why}")

def pick(tell):
    raise Picky("apple", "green")

from sciencessl.errors import StoreError
"""


@pytest.fixture
def calls(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """A module that only this process's `sys.path` leads to, as it is with a script of a user's."""
    (tmp_path / "lib").mkdir()
    (tmp_path / "lib" / "asked_calls.py").write_text(CALLS)
    monkeypatch.syspath_prepend(tmp_path / "lib")
    import asked_calls

    yield asked_calls
    del sys.modules["asked_calls"]


@pytest.fixture
def pool() -> Iterator[Processes]:
    made = Processes(1)
    yield made
    made.close()


def test_calls_run_in_one_other_process_with_one_thread_and_answer_beside_what_they_print(
    pool: Processes, calls: Any, capfd: pytest.CaptureFixture[str]
) -> None:
    told: list[int] = []
    (first, threads), (second, _) = (pool.call(calls.me, (), 0) for _ in range(2))
    assert first == second != os.getpid()
    assert threads == "1"
    assert pool.call(calls.talk, (), 0) == "answer"
    assert capfd.readouterr() == ("", "to stdout\nmore\n")
    assert pool.call(calls.count, (3,), 0, told.append) == 3
    assert told
    assert told == sorted(set(told) & {1, 2, 3})
    with pytest.raises(StoreError, match=r"^full$"):
        pool.call(calls.complain, (), 0)
    with pytest.raises(ZeroDivisionError) as raised:
        pool.call(calls.stumble, (), 0)
    assert "in a worker process:\nTraceback" in raised.value.__notes__[0]
    with pytest.raises((AttributeError, pickle.PicklingError), match=r"pickle.*<lambda>"):
        pool.call(calls.odd, (), 0)
    with pytest.raises(RuntimeError, match=r"^Picky: apple: green\nin a worker process"):  # pickles, but not back
        pool.call(calls.pick, (), 0)
    assert pool.call(calls.me, (), 0)[0] == first
    with pytest.raises(ConfigError, match=r"cannot be sent to another process .*--workers 0"):
        pool.call(lambda tell: None, (), 0)


def test_a_call_that_does_not_fit_in_memory_ends_the_process_and_nobody_waits(pool: Processes, calls: Any) -> None:
    pool.call(calls.squeeze, (), 0)
    with pytest.raises(WorkerDied, match="ended with code 1"):
        pool.call(calls.size, (bytes(2**26),), 0)
    assert pool.call(calls.size, (b"123",), 0) == 3


@pytest.mark.parametrize(("retries", "times"), [(1, 1), (1, 2)])
def test_a_call_whose_process_dies_is_made_again_so_many_times(
    pool: Processes, calls: Any, tmp_path: Path, retries: int, times: int
) -> None:
    (tmp_path / "deaths").mkdir()
    if times <= retries:
        assert pool.call(calls.die, (tmp_path / "deaths", times), retries) == times
        return
    with pytest.raises(WorkerDied, match="was ended by SIGSEGV"):
        pool.call(calls.die, (tmp_path / "deaths", times), retries)
    assert len(list((tmp_path / "deaths").iterdir())) == 1 + retries


def test_stopping_ends_a_call_at_once(pool: Processes, calls: Any, tmp_path: Path) -> None:
    raised: list[BaseException] = []

    def hold() -> None:
        try:
            pool.call(calls.hold, (tmp_path / "pid",), 2)
        except Stopped as error:
            raised.append(error)

    thread = threading.Thread(target=hold)
    thread.start()
    pid = written_pid(tmp_path / "pid")
    pool.stop()
    thread.join(5)
    assert len(raised) == 1
    assert is_gone(pid)
    with pytest.raises(Stopped):
        pool.call(calls.me, (), 0)


STARTER = """
import sys
sys.path.insert(0, sys.argv[1])
import asked_calls
from sciencessl.data_prep.pool import Processes
Processes(1).call(asked_calls.hold, (sys.argv[2],), 0)
"""


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGTERM])
def test_workers_end_with_the_process_that_started_them(calls: Any, tmp_path: Path, how: signal.Signals) -> None:
    marker = tmp_path / "pid"
    starter = subprocess.Popen([sys.executable, "-c", STARTER, str(tmp_path / "lib"), str(marker)])
    worker = written_pid(marker)
    starter.send_signal(how)
    starter.wait(5)
    assert is_gone(worker)


def test_modules_in_the_current_folder_are_not_taken_for_those_of_python(
    tmp_path: Path, pool: Processes, calls: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("pickle", "signal", "queue", "types"):
        (tmp_path / f"{name}.py").write_text("raise SystemExit('mine')")
    monkeypatch.chdir(tmp_path)
    assert pool.call(calls.talk, (), 0) == "answer"


def test_a_worker_that_cannot_start_is_told_from_one_that_dies(
    monkeypatch: pytest.MonkeyPatch, pool: Processes
) -> None:
    monkeypatch.setattr(sys, "executable", "/bin/false")
    with pytest.raises(StoreError, match=r"could not start: /bin/false ended with code 1.*--workers 0"):
        pool.call(time.sleep, (0,), 5)


def written_pid(marker: Path) -> int:
    until = time.monotonic() + 30
    while not (marker.is_file() and marker.read_text()):
        assert time.monotonic() < until
        time.sleep(0.01)
    return int(marker.read_text())


def is_gone(pid: int, seconds: float = 5) -> bool:
    """Whether a process ends soon; one that nobody has collected yet has ended too."""
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        try:
            if Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z":
                return True
        except OSError:
            return True
        time.sleep(0.01)
    return False
