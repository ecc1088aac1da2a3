"""What lies at the output decides: a store is gone on with, overwritten as a whole, or left alone."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from sciencessl.data_prep import begin
from sciencessl.data_prep.engine import PrepareReport, PrepareSettings, prepare
from sciencessl.errors import StoreError
from sciencessl.spec import DomainSpec

Make = Callable[..., DomainSpec]
Galaxies = Callable[..., tuple[Path, list[dict[str, Any]]]]


def run(spec: DomainSpec, source: Path, out: Path, **settings: Any) -> PrepareReport:
    report = prepare(spec, [source], out, PrepareSettings(workers=0, **settings))
    assert isinstance(report, PrepareReport)
    return report


def test_folder_that_is_no_store_is_left_alone(make_spec: Make, galaxies: Galaxies, tmp_path: Path) -> None:
    folder, _ = galaxies(3)
    for overwrite in (False, True):
        with pytest.raises(StoreError, match="is no store, so it is left alone"):
            run(make_spec(), folder, folder, overwrite=overwrite)
    (tmp_path / "file").write_text("x")
    with pytest.raises(StoreError, match="is no store"):
        run(make_spec(), folder, tmp_path / "file", overwrite=True)
    (tmp_path / "empty.zarr").mkdir()
    assert run(make_spec(), folder, tmp_path / "empty.zarr").n_samples == 3


def test_overwrite_takes_damaged_and_begun_stores(make_spec: Make, galaxies: Galaxies, tmp_path: Path) -> None:
    folder, _ = galaxies(3)
    out = tmp_path / "s.zarr"
    run(make_spec(), folder, out)
    header = (out / "zarr.json").read_text()
    (out / "zarr.json").write_text(header.replace('"places"', '"placed"'))
    with pytest.raises(StoreError, match="does not match its own digest"):
        run(make_spec(), folder, out)
    assert run(make_spec(), folder, out, overwrite=True).rows_written == 3


def test_a_kill_while_an_overwritten_store_is_deleted_leaves_one_to_go_on_with(
    make_spec: Make, galaxies: Galaxies, tmp_path: Path, monkeypatch: Any
) -> None:
    folder, _ = galaxies(3)
    out = tmp_path / "s.zarr"
    whole = run(make_spec(), folder, out).manifest_digest

    def killed(path: Path, *_: object, **__: object) -> None:
        if (path / "index").exists():  # after its first file, as it happens the one that says what it is
            (path / "zarr.json").unlink()
            raise KeyboardInterrupt

    monkeypatch.setattr(begin.shutil, "rmtree", killed)
    with pytest.raises(KeyboardInterrupt):
        run(make_spec(), folder, out, overwrite=True)
    monkeypatch.undo()
    assert run(make_spec(), folder, out).manifest_digest == whole
    assert sorted(path.name for path in tmp_path.iterdir()) == ["data", "s.zarr"]
