"""Tasks on Ray: the same store, whatever happens to the processes that write it."""

from __future__ import annotations

import socket
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from sciencessl.data_prep.engine import PrepareReport, PrepareSettings, prepare
from sciencessl.data_prep.on_ray import OnRay
from sciencessl.errors import ConfigError, MissingExtraError, StoreError


def test_a_process_killed_midway_is_replaced_and_the_store_is_the_same(
    deadly: str, make_spec: Any, write_images: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    ray = pytest.importorskip("ray", reason="Ray is not installed; pip install 'sciencessl[cluster]'")
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    folder = write_images([*(f"{i}.jpg" for i in range(20)), "once.jpg"])
    spec = make_spec(sources={"images": deadly})
    seen: list[int] = []
    report = prepare(spec, [folder], tmp_path / "ray.zarr", PrepareSettings(engine="ray", workers=2),
                     progress=lambda done, total: seen.append(done))
    assert isinstance(report, PrepareReport)
    assert (folder / "already").exists()
    assert (report.rows_written, report.refused, seen[-1]) == (16, {}, 21)
    assert not ray.is_initialized()
    out, err = capfd.readouterr()
    assert out == ""
    assert "INFO" not in err
    here = prepare(spec, [folder], tmp_path / "here.zarr", PrepareSettings(workers=0))
    assert report.manifest_digest == here.manifest_digest  # type: ignore[union-attr]


def test_without_ray_the_error_says_how_to_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(MissingExtraError, match=r"--engine ray needs Ray.*pip install 'sciencessl\[cluster\]'"):
        OnRay(2)


@pytest.mark.parametrize("address", ["127.0.0.1:{}", "ray://localhost:{}"])
def test_a_cluster_where_nobody_listens_is_told_at_once(address: str, monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))  # and does not listen
        where = address.format(taken.getsockname()[1])
        monkeypatch.setenv("RAY_ADDRESS", where)
        monkeypatch.setitem(sys.modules, "ray", SimpleNamespace(is_initialized=lambda: False))
        with pytest.raises(StoreError, match=f"RAY_ADDRESS='{where}' cannot be reached: .*refused"):
            OnRay(1)


def test_ray_does_not_run_in_this_process() -> None:
    with pytest.raises(ConfigError, match=r"--workers is 0, and --engine ray .*1 or more"):
        OnRay(0)
