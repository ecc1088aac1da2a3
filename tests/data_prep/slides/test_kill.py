"""`prepare pathology` as a real process: killed, out of disk, twice at once. A second run ends the same."""

from __future__ import annotations

import random
import resource
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from sciencessl.preparation import prepare
from sciencessl.store.verify import verify
from tests.data_prep.slides.tiny_slides import tissue_picture, write_slide

SETTINGS = {"tile_px": 32, "workers": 0}


@pytest.fixture(scope="module")
def scans(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("scans")
    for number in range(6):
        write_slide(folder / f"s{number}.svs", tissue_picture(768, 640, number), 0.5, aperio=True)
    (folder / "broken.svs").write_bytes(b"II*\0nothing")
    return folder


@pytest.fixture(scope="module")
def whole(scans: Path, tmp_path_factory: pytest.TempPathFactory) -> str:
    return prepare("pathology", [scans], tmp_path_factory.mktemp("whole") / "t.zarr", SETTINGS).manifest_digest


def start(scans: Path, out: Path, limit_bytes: int = 0) -> subprocess.Popen[str]:
    def limit() -> None:
        if limit_bytes:
            resource.setrlimit(resource.RLIMIT_FSIZE, (limit_bytes, limit_bytes))

    return subprocess.Popen(
        [sys.executable, "-m", "sciencessl", "prepare", "pathology", str(scans), "--out", str(out), "--tile-px", "32",
         "--workers", "0"], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, preexec_fn=limit)


def wait_for(holds: Callable[[], bool], child: subprocess.Popen[str]) -> None:
    while child.poll() is None and not holds():
        time.sleep(0.001)


@pytest.mark.parametrize("moment", ["looking", "writing"])
def test_killed_it_goes_on_to_the_same_store(scans: Path, whole: str, tmp_path: Path, moment: str) -> None:
    out, folder = tmp_path / "t.zarr", tmp_path / "t.slides"
    child, least = start(scans, out), random.randrange(4)
    found = "scan/*.json" if moment == "looking" else "receipts/*.json"
    wait_for(lambda: len(list((folder if moment == "looking" else out).glob(found))) > least, child)
    time.sleep(random.uniform(0, 0.05))
    child.kill()
    child.communicate()
    done = prepare("pathology", [scans], out, SETTINGS)
    assert done.manifest_digest == whole
    assert verify(out) == []
    assert not list(folder.rglob("*.tmp"))


def test_a_disk_that_is_full_is_an_error_and_a_later_run_goes_on(scans: Path, whole: str, tmp_path: Path) -> None:
    out = tmp_path / "t.zarr"
    child = start(scans, out, limit_bytes=40_000)  # rows are larger than that, thumbnails too
    told = child.communicate(timeout=120)[0]
    assert child.returncode == 1, told
    assert "Traceback" not in told
    assert "large" in told or "space" in told, told
    assert prepare("pathology", [scans], out, SETTINGS).manifest_digest == whole


def test_two_at_once_do_not_mix(scans: Path, whole: str, tmp_path: Path) -> None:
    out = tmp_path / "t.zarr"
    both = [start(scans, out), start(scans, out)]
    told = [child.communicate(timeout=120)[0] for child in both]
    codes = sorted(child.returncode for child in both)
    # Who comes second finds the store locked, or finished already.
    assert codes in ([1, 3], [3, 3]), told
    assert all("Traceback" not in words for words in told), told
    assert prepare("pathology", [scans], out, SETTINGS).manifest_digest == whole
    assert verify(out) == []
