"""Full disks and folders that may not be written: a clear error from the real file system, and whole rows only."""

from __future__ import annotations

import ctypes
import json
import os
import resource
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from sciencessl.data_prep.engine import PrepareSettings, prepare
from sciencessl.domains.web import SPEC
from sciencessl.errors import StoreError
from sciencessl.store.lock import only_writer
from sciencessl.store.reader import Store
from sciencessl.store.verify import verify

DROP_CAPABILITY, OVERRIDE_PERMISSIONS = 24, 1
"""PR_CAPBSET_DROP and CAP_DAC_OVERRIDE of Linux."""


@pytest.fixture
def photos(tmp_path: Path, encode: Any) -> Path:
    folder = tmp_path / "photos"
    folder.mkdir()
    for i in range(24):
        (folder / f"{i}.jpg").write_bytes(encode(i, size=(200, 200)))
    return folder


def run(photos: Path, out: Path, before: Callable[[], None]) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "sciencessl", "prepare", "web", str(photos), "--out", str(out), "--json", "--workers",
         "1"], preexec_fn=before, capture_output=True, text=True, check=False, timeout=120,
    )


def bound_by_permissions() -> None:
    """Make modes of folders hold for root too."""
    if os.geteuid() == 0:
        ctypes.CDLL(None).prctl(DROP_CAPABILITY, OVERRIDE_PERMISSIONS, 0, 0, 0)


def test_a_file_that_may_not_grow_is_named_and_whole_rows_are_kept(photos: Path, tmp_path: Path) -> None:
    out = tmp_path / "s.zarr"
    # Of files that may have 30 kB, those of most rows are larger: to whoever writes, it is a disk that is full.
    failed = run(photos, out, lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (30_000, 30_000)))
    assert (failed.returncode, failed.stdout) == (1, "")
    assert "error: cannot write" in failed.stderr
    assert "File too large. Rows with a receipt are complete and stay; make room" in failed.stderr
    with pytest.raises(StoreError, match="never sealed"):
        Store(out)
    kept = len(list(out.glob("receipts/*.json")))
    assert kept < 16
    again: Any = prepare(SPEC, [photos], out, PrepareSettings(workers=0))
    whole: Any = prepare(SPEC, [photos], tmp_path / "whole.zarr", PrepareSettings(workers=0))
    assert (again.rows_kept, again.manifest_digest) == (kept, whole.manifest_digest)
    assert verify(out) == []
    assert list(out.rglob("*.tmp")) == list(out.rglob("*.partial")) == []


def test_folders_that_may_not_be_written_are_named_unless_there_is_nothing_to_write(
    photos: Path, tmp_path: Path
) -> None:
    place = tmp_path / "place"
    place.mkdir()
    out = place / "s.zarr"
    place.chmod(0o555)
    failed = run(photos, out, bound_by_permissions)
    assert (failed.returncode, failed.stdout) == (1, "")
    assert f"error: cannot write {out}: [Errno 13] Permission denied" in failed.stderr
    place.chmod(0o755)
    finished: Any = prepare(SPEC, [photos], out, PrepareSettings(workers=0))
    for folder in (out, *(path for path in out.rglob("*") if path.is_dir()), place):
        folder.chmod(0o555)
    done = run(photos, out, bound_by_permissions)
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout)
    assert (told["nothing_to_do"], told["manifest_digest"]) == (True, finished.manifest_digest)
    for folder in (place, out, *(path for path in out.rglob("*") if path.is_dir())):
        folder.chmod(0o755)


def test_a_store_that_is_finished_is_not_locked(photos: Path, tmp_path: Path) -> None:
    out = tmp_path / "s.zarr"
    settings = PrepareSettings(workers=0)
    with only_writer(out), pytest.raises(StoreError, match="being written by another process"):
        prepare(SPEC, [photos], out, settings)
    assert not out.exists()
    prepare(SPEC, [photos], out, settings)
    with only_writer(out):
        assert prepare(SPEC, [photos], out, settings).nothing_to_do  # type: ignore[union-attr]
        with pytest.raises(StoreError, match="being written by another process"):
            prepare(SPEC, [photos], out, PrepareSettings(workers=0, overwrite=True))
