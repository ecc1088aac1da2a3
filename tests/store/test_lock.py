"""Two prepares never write one store at once, and a kill never leaves it locked."""

from __future__ import annotations

import errno
import subprocess
import sys
from pathlib import Path

import pytest

from sciencessl.errors import StoreError
from sciencessl.store import lock
from sciencessl.store.lock import only_writer

HOLD = """
import sys
from pathlib import Path
from sciencessl.store.lock import only_writer
with only_writer(Path(sys.argv[1])):
    print("held", flush=True)
    sys.stdin.read()
"""


def test_a_second_writer_is_told_so_until_the_first_is_done(tmp_path: Path) -> None:
    out = tmp_path / "s.zarr"
    with only_writer(out):
        with pytest.raises(StoreError, match=r"s\.zarr is being written by another process\. Wait for it, or stop it"):
            only_writer(out).__enter__()
        with only_writer(tmp_path / "other.zarr"):
            pass
    with only_writer(out):
        pass
    assert list(tmp_path.iterdir()) == []


def test_a_kill_releases_the_lock_though_its_file_stays(tmp_path: Path) -> None:
    out = tmp_path / "new" / "s.zarr"
    holder = subprocess.Popen([sys.executable, "-c", HOLD, str(out)], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert holder.stdout is not None
    assert holder.stdout.readline() == b"held\n"
    with pytest.raises(StoreError, match="another process"):
        only_writer(out).__enter__()
    holder.kill()
    holder.wait()
    assert out.with_name(".s.zarr.lock").is_file()
    with only_writer(out):
        pass
    assert not out.with_name(".s.zarr.lock").exists()


def test_an_error_inside_releases_it(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="mine"), only_writer(tmp_path / "s.zarr"):
        raise ValueError("mine")
    with only_writer(tmp_path / "s.zarr"):
        pass


def test_a_place_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(StoreError, match=r"cannot write .*file/s\.zarr"):
        only_writer(tmp_path / "file" / "s.zarr").__enter__()


def test_a_link_to_a_store_has_the_lock_of_the_store(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "link.zarr").symlink_to(tmp_path / "real" / "s.zarr")
    with only_writer(tmp_path / "real" / "s.zarr"), pytest.raises(StoreError, match="another process"):
        only_writer(tmp_path / "link.zarr").__enter__()


@pytest.mark.parametrize("name", [".", "..", "a/.."])
def test_a_store_to_be_written_needs_a_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(StoreError, match=r"is no name for a store; give it one, such as NAME\.zarr"):
        only_writer(Path(name)).__enter__()


def test_shared_writers_keep_one_that_wants_the_store_alone_out_until_the_last_is_done(tmp_path: Path) -> None:
    out = tmp_path / "s.zarr"
    with only_writer(out), pytest.raises(StoreError, match="another process"):
        only_writer(out, shared=True).__enter__()
    with only_writer(out, shared=True):
        with only_writer(out, shared=True):
            pass
        with pytest.raises(StoreError, match="another process"):
            only_writer(out).__enter__()
    with only_writer(out):
        pass
    assert list(tmp_path.iterdir()) == []


def test_a_file_system_without_locks_is_written_without(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(lock.fcntl, "flock", refuse)
    with only_writer(tmp_path / "s.zarr"):
        assert (tmp_path / ".s.zarr.lock").is_file()
    monkeypatch.setattr(lock, "WITHOUT_LOCKS", ())
    with pytest.raises(StoreError, match="No locks available"):
        only_writer(tmp_path / "s.zarr").__enter__()
