"""Calls in another process: what ends it is refused, whoever stands beside it comes through, in order."""

from __future__ import annotations

import os
import pickle
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from sciencessl.data_prep import isolated
from sciencessl.data_prep.decode import Canonical, canonicalise
from sciencessl.data_prep.isolated import HERE, isolated_map
from sciencessl.data_prep.limits import Limits
from sciencessl.data_prep.refused import Refused
from sciencessl.errors import ConfigError, StoreError
from sciencessl.spec import FieldSpec

LIMITS = Limits(seconds=1.0, memory_mb=512)

CALLS = """
import ctypes, os, re, signal, sys, threading, time
from pathlib import Path
import numpy as np
from sciencessl.data_prep.decode import Canonical, canonicalise
from sciencessl.data_prep.refused import Refused

def do(word):
    if isinstance(word, bytes):
        word = word.decode()
    name, _, value = word.partition(" ")
    return globals()["do_" + name](value)

def do_say(value): return value
def do_pid(value): return os.getpid()
def do_loop_in_c(value): re.match("(a+)+$", "a" * 40 + "b")
def do_loop_in_numbers(value): 3 ** 10 ** 9
def do_loop(value):
    while True: pass
def do_allocate(value): return len(bytearray(10 * 2**30))
def do_numpy(value): return np.ones(10 * 2**27).sum()
def do_signal(value): os.kill(os.getpid(), getattr(signal, value))
def do_read_nothing(value): ctypes.string_at(0)
def do_abort(value): os.abort()
def do_exit(value): os._exit(int(value))
def do_leave(value): sys.exit(int(value))
def do_sleep(value): time.sleep(60)
def do_print(value):
    print("to stdout", flush=True)
    os.system("echo more")
    return "printed"
def do_odd(value): return lambda: None
def do_refuse(value): raise Refused("corrupt", value)
def do_stumble(value): return 1 / 0
def do_once(value):
    marker = Path(value)
    deaths = int(marker.read_text() or 0) if marker.exists() else 0
    if deaths < 2:
        marker.write_text(str(deaths + 1))
        os.kill(os.getpid(), signal.SIGKILL)
    return deaths
def do_modules(value): return [name for name in value.split(",") if name in sys.modules]
def do_core(value):
    import resource
    return resource.getrlimit(resource.RLIMIT_CORE)[0]
def do_hold(value):
    Path(value).write_text(str(os.getpid()))
    time.sleep(60)
"""


@pytest.fixture
def do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """A function of a module that only this process's `sys.path` leads to."""
    isolated.close()
    (tmp_path / "lib").mkdir()
    (tmp_path / "lib" / "isolated_calls.py").write_text(CALLS)
    monkeypatch.syspath_prepend(tmp_path / "lib")
    import isolated_calls

    yield isolated_calls.do
    del sys.modules["isolated_calls"]
    isolated.close()


def told(results: Iterator[Any]) -> list[Any]:
    return [(item.reason, item.detail) if isinstance(item, Refused) else item for item in results]


def test_what_ends_a_process_is_refused_and_its_neighbours_come_through_in_order(do: Any) -> None:
    # A defect elsewhere: one file that crashes a decoder ends the worker, or everything.
    crashed = "the process that read it was ended by {}"
    bad = {
        "read_nothing": ("crashed", crashed.format("SIGSEGV")),
        "abort": ("crashed", crashed.format("SIGABRT")),
        "leave 4": ("crashed", "the process that read it ended with code 4"),
        "exit 3": ("crashed", "the process that read it ended with code 3"),
        "allocate": ("too-large", "takes more than 512 MiB of memory"),
        "numpy": ("too-large", "takes more than 512 MiB of memory"),
        "refuse why": ("corrupt", "why"),
    }
    items = [word for i, name in enumerate(bad) for word in (name, f"say {i}")]
    expected = [result for i, name in enumerate(bad) for result in (bad[name], str(i))]
    assert told(isolated_map(do, items, LIMITS)) == expected


def test_a_loop_is_ended_by_its_processor_time_even_inside_a_library(do: Any) -> None:
    slow = ("too-slow", "not done after 0.1 s of processor time")
    items = ["say a", "loop", "say b", "loop_in_c", "say c", "loop_in_numbers", "say d"]
    assert told(isolated_map(do, items, Limits(0.1, 512))) == ["a", slow, "b", slow, "c", slow, "d"]


def test_a_small_file_that_takes_its_decoder_long_is_stopped() -> None:
    # A defect elsewhere: a JPEG of many passes over a large image holds a decoder for minutes.
    raw = bytes(cv2.imencode(".jpg", np.full((3000, 3000, 3), 200, np.uint8), [cv2.IMWRITE_JPEG_PROGRESSIVE, 1])[1])
    last = raw.rindex(b"\xff\xda")
    slow = raw[:last] + raw[last:-2] * 150 + raw[-2:]
    assert len(slow) < 200_000
    small = bytes(cv2.imencode(".png", np.zeros((20, 30, 3), np.uint8))[1])
    work = partial(canonicalise, field=FieldSpec("bytes", ("r", "g", "b")), options=Canonical())
    first, second, third = isolated_map(work, [small, slow, small], Limits(0.3, 512))
    assert isinstance(second, Refused)
    assert (second.reason, second.detail) == ("too-slow", "not done after 0.3 s of processor time")
    assert first == third == canonicalise(small, FieldSpec("bytes", ("r", "g", "b")), Canonical())


def test_waiting_is_no_processor_time_and_is_ended_by_the_clock(do: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(isolated, "LEAST_HANG_SECONDS", 0.3)
    monkeypatch.setattr(isolated, "HANG_TIMES", 0)
    results = told(isolated_map(do, ["say a", "sleep", "say b"], LIMITS))
    assert results == ["a", ("too-slow", "not done after 0.3 s, without using the processor"), "b"]


def test_ending_the_process_from_outside_changes_nothing(do: Any, tmp_path: Path) -> None:
    items = [f"once {tmp_path / 'deaths'}", "say a"]
    assert told(isolated_map(do, items, LIMITS)) == [2, "a"]
    (pid,) = isolated_map(do, ["pid"], LIMITS)
    os.kill(pid, signal.SIGKILL)  # while nothing is asked of it
    assert told(isolated_map(do, ["say b"], LIMITS)) == ["b"]
    assert list(isolated_map(do, ["pid"], LIMITS)) != [pid]


def test_killed_again_and_again_the_results_are_the_same(do: Any) -> None:
    stop = threading.Event()

    def kill() -> None:
        while not stop.wait(0.05):
            for child in list(isolated._kept.values()):
                child._child.kill()

    words = [f"say {i}" for i in range(400)]
    thread = threading.Thread(target=kill)
    thread.start()
    try:
        until = time.monotonic() + 0.7
        while time.monotonic() < until:
            assert list(isolated_map(do, words, LIMITS)) == [str(i) for i in range(400)]
    finally:
        stop.set()
        thread.join()


def test_one_process_is_kept_and_is_a_small_one(do: Any) -> None:
    first = list(isolated_map(do, ["pid"] * 40, LIMITS))
    assert set(first) == set(isolated_map(do, ["pid"], Limits(2, 1024)))
    assert len(set(first)) == 1
    assert first[0] != os.getpid()
    unwanted = "torch,pyarrow,zarr,lightning,sciencessl.store.writer"
    assert list(isolated_map(do, [f"modules numpy,cv2,{unwanted}"], LIMITS)) == [["numpy", "cv2"]]
    assert list(isolated_map(do, ["core"], LIMITS)) == [0]  # no image of the memory of each that crashes


def test_without_a_limit_of_time_calls_are_made_here(do: Any) -> None:
    assert told(isolated_map(do, ["pid", "refuse it"], HERE)) == [os.getpid(), ("corrupt", "it")]


@pytest.mark.parametrize("limits", [HERE, LIMITS])
def test_what_is_refused_already_keeps_its_place(do: Any, limits: Limits) -> None:
    items = [Refused("missing-file", "1"), "say a", Refused("missing-file", "2"), Refused("missing-file", "3")]
    expected = [("missing-file", "1"), "a", ("missing-file", "2"), ("missing-file", "3")]
    assert told(isolated_map(do, items, limits)) == expected
    assert list(isolated_map(do, [], limits)) == []


def test_no_more_than_a_batch_is_taken_ahead(do: Any) -> None:
    taken = []

    def items(size: int) -> Iterator[bytes]:
        for i in range(200):
            taken.append(i)
            yield b"say x".ljust(size)

    next(isolated_map(do, items(5), LIMITS))
    assert len(taken) == isolated.BATCH_ITEMS
    taken.clear()
    next(isolated_map(do, items(100_000), LIMITS))
    assert len(taken) == 3  # of more than 256 KiB together
    taken.clear()
    next(isolated_map(do, items(5), HERE))
    assert len(taken) == 1


def test_bugs_are_raised_here_with_their_trace_and_the_process_goes_on(
    do: Any, capfd: pytest.CaptureFixture[str]
) -> None:
    (pid,) = isolated_map(do, ["pid"], LIMITS)
    with pytest.raises(ZeroDivisionError) as raised:
        list(isolated_map(do, ["say a", "stumble"], LIMITS))
    assert "in a worker process:\nTraceback" in raised.value.__notes__[0]
    with pytest.raises((AttributeError, TypeError, pickle.PicklingError), match="pickle"):
        list(isolated_map(do, ["odd"], LIMITS))
    assert list(isolated_map(do, ["print"], LIMITS)) == ["printed"]
    assert capfd.readouterr() == ("", "to stdout\nmore\n")
    assert list(isolated_map(do, ["pid"], LIMITS)) == [pid]
    with pytest.raises(ConfigError, match="cannot be sent to another process"):
        list(isolated_map(lambda word: word, ["a"], LIMITS))


def test_threads_take_turns(do: Any) -> None:
    found: dict[str, list[Any]] = {}

    def ask(name: str) -> None:
        found[name] = list(isolated_map(do, [f"say {name}{i}" for i in range(100)], LIMITS))

    threads = [threading.Thread(target=ask, args=(name,)) for name in "abc"]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == {name: [f"{name}{i}" for i in range(100)] for name in "abc"}


def test_closing_leaves_no_process_and_no_open_file(do: Any) -> None:
    before = len(os.listdir("/proc/self/fd"))
    (pid,) = isolated_map(do, ["pid"], LIMITS)
    list(isolated_map(do, ["exit 1", "say a"], LIMITS))
    isolated.close()
    isolated.close()
    assert not Path(f"/proc/{pid}").exists()  # collected, too
    children = [Path(f"/proc/self/task/{task}/children") for task in os.listdir("/proc/self/task")]
    assert [path.read_text() for path in children if path.exists() and path.read_text()] == []
    assert len(os.listdir("/proc/self/fd")) == before


STARTER = """
import sys
sys.path.insert(0, sys.argv[1])
from isolated_calls import do
from sciencessl.data_prep.isolated import isolated_map
from sciencessl.data_prep.limits import Limits
from sciencessl.data_prep.refused import Refused
list(isolated_map(do, ["hold " + sys.argv[2]], Limits(5, 512)))
"""


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGTERM])
def test_it_ends_with_the_process_that_started_it(do: Any, tmp_path: Path, how: signal.Signals) -> None:
    marker = tmp_path / "pid"
    starter = subprocess.Popen([sys.executable, "-c", STARTER, str(tmp_path / "lib"), str(marker)])
    until = time.monotonic() + 60
    while not (marker.is_file() and marker.read_text()):
        assert time.monotonic() < until
        time.sleep(0.01)
    starter.send_signal(how)
    starter.wait(10)
    stat = Path(f"/proc/{marker.read_text()}/stat")
    until = time.monotonic() + 10
    while stat.exists() and stat.read_text().rpartition(")")[2].split()[0] != "Z":
        assert time.monotonic() < until
        time.sleep(0.01)


def test_a_process_that_cannot_start_is_an_error(do: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "executable", "/bin/false")
    with pytest.raises(StoreError, match="could not start"):
        list(isolated_map(do, ["say a"], LIMITS))
