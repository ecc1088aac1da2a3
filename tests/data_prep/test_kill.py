"""`prepare` as a real process with workers, killed at any moment: nobody writes on, and a second run ends the same."""

from __future__ import annotations

import contextlib
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from sciencessl.data_prep.engine import PrepareReport, PrepareSettings, prepare
from sciencessl.domains.web import SPEC
from sciencessl.errors import StoreError
from sciencessl.store.reader import Store
from sciencessl.store.verify import verify

RESIZE_PX = 100


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Photos that take long enough to prepare that a kill falls into rows, too."""
    folder = tmp_path_factory.mktemp("photos")
    noise = np.random.default_rng(0).integers(0, 256, (700, 900, 3), dtype=np.uint8)
    for i in range(48):
        Image.fromarray(np.roll(noise, 7 * i, axis=1)).save(folder / f"{i}.jpg")
    return folder


def start(photos: Path, out: Path, stderr: int = subprocess.DEVNULL) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        [sys.executable, "-m", "sciencessl", "prepare", "web", str(photos), "--out", str(out), "--workers", "2",
         "--resize-px", str(RESIZE_PX)], stdout=subprocess.DEVNULL, stderr=stderr, start_new_session=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # ignored where tests run in the background
    )


def finish(photos: Path, out: Path) -> PrepareReport:
    report = prepare(SPEC, [photos], out, PrepareSettings(resize_px=RESIZE_PX, workers=0))
    assert isinstance(report, PrepareReport)
    return report


def wait_for(holds: Callable[[], bool], child: subprocess.Popen[bytes]) -> None:
    while child.poll() is None and not holds():
        time.sleep(0.0005)


def children(pid: int) -> list[int]:
    found: list[int] = []
    for path in Path(f"/proc/{pid}/task").glob("*/children"):
        with contextlib.suppress(OSError):
            found += map(int, path.read_text().split())
    return found


def require_gone(pids: list[int]) -> None:
    until = time.monotonic() + 10
    for pid in pids:
        # One that nobody has collected yet, state Z, has ended too.
        while _state(pid) not in ("", "Z"):
            assert time.monotonic() < until, f"worker {pid} lives on"
            time.sleep(0.005)


def _state(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return ""


def kill_and_finish(photos: Path, out: Path, moment: Callable[[subprocess.Popen[bytes]], None]) -> dict[str, Any]:
    """Kill a `prepare` at a moment, and return what was found before it was run again, and its digest after."""
    child = start(photos, out)
    try:
        moment(child)
        workers = children(child.pid)
    finally:
        child.kill()
        child.wait()
    require_gone(workers)
    found = {
        "killed": child.returncode < 0, "workers": len(workers), "rows": len(list(out.glob("receipts/*.json"))),
        "index": (out / "index").exists(),
    }
    try:
        Store(out)
        found["sealed"] = True
    except StoreError:
        found["sealed"] = False
    found["digest"] = finish(photos, out).manifest_digest
    assert verify(out) == []
    return found


def test_killed_at_a_random_moment_it_goes_on_to_the_same_store_and_its_workers_end(
    photos: Path, tmp_path: Path
) -> None:
    whole = finish(photos, tmp_path / "whole.zarr").manifest_digest
    out, rows = tmp_path / "s.zarr", random.randrange(8)

    def moment(child: subprocess.Popen[bytes]) -> None:
        wait_for(lambda: len(list(out.glob("receipts/*.json"))) > rows, child)
        time.sleep(random.uniform(0, 0.03))

    found = kill_and_finish(photos, out, moment)
    assert (found["killed"], found["workers"], found["sealed"]) == (True, 2, False)
    assert found["rows"] > rows
    assert found["digest"] == whole


@pytest.mark.parametrize("hang", [False, True])
def test_interrupting_ends_it_and_its_workers_even_if_they_hang_with_a_word(
    photos: Path, tmp_path: Path, hang: bool
) -> None:
    out = tmp_path / "s.zarr"
    child = start(photos, out, subprocess.PIPE)
    try:
        # Workers that start are interrupted, too, and have nothing to say to it.
        wait_for(lambda: bool(list(out.glob("receipts/*.json")) if hang else children(child.pid)), child)
        workers = children(child.pid)
        for pid in workers if hang else ():
            os.kill(pid, signal.SIGSTOP)
        os.killpg(child.pid, signal.SIGINT)
        told = child.communicate(timeout=20)[1].decode()
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(child.pid, signal.SIGKILL)
    assert (child.returncode, len(workers) > 0) == (130, True), told
    assert told == "interrupted; the same command goes on where it stopped (pretrain: add --resume)\n"
    require_gone(workers)


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_killed_at_20_moments_spread_over_the_whole_run(photos: Path, tmp_path: Path) -> None:
    digest = finish(photos, tmp_path / "whole.zarr").manifest_digest
    results = []
    for number in range(20):
        out = tmp_path / f"{number}.zarr"

        def moment(child: subprocess.Popen[bytes], out: Path = out, number: int = number) -> None:
            if number < 16:  # by rows and not by time, which other work on the machine changes
                wait_for(lambda: out.exists() and len(list(out.glob("receipts/*.json"))) >= number, child)
                time.sleep(random.uniform(0, 0.05))
            else:  # in the seal, which is short: from when the index appears
                wait_for((out / "index").exists, child)
                time.sleep(0.003 * (number - 16))

        results.append(kill_and_finish(photos, out, moment))
    assert [found["digest"] for found in results] == [digest] * 20, results
    killed = [found for found in results if found["killed"]]
    assert len(killed) >= 14, results
    assert any(found["rows"] == 0 for found in killed), results
    assert len({found["rows"] for found in killed}) >= 8, results
    assert any(found["index"] and not found["sealed"] for found in killed), results
