"""Parts of one store, written beside each other: each its own rows, none the seal."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from sciencessl.data_prep.engine import ArrayScript, PartReport, PrepareReport, PrepareSettings, prepare
from sciencessl.errors import ConfigError, StoreError
from sciencessl.store.lock import only_writer
from sciencessl.store.reader import Store
from sciencessl.store.verify import verify


def receipts(out: Path) -> list[int]:
    return sorted(int(path.stem) for path in (out / "receipts").glob("*.json"))


def test_parts_write_their_rows_and_what_is_left_is_written_and_sealed_at_the_end(
    make_spec: Any, galaxies: Any, tmp_path: Path
) -> None:
    folder, _ = galaxies(40)
    (folder / "images/3.jpg").write_bytes(b"\xff\xd8 broken")
    out, spec = tmp_path / "s.zarr", make_spec()

    def run(**settings: Any) -> Any:
        return prepare(spec, [folder], out, PrepareSettings(workers=0, **settings))

    with pytest.raises(StoreError, match=r"s\.zarr is not begun.*--engine slurm instead of --part"):
        run(part="0/3")
    assert not out.exists()
    assert isinstance(run(engine="slurm", slurm_tasks=3), ArrayScript)
    done = run(part="1/3")
    assert isinstance(done, PartReport)
    assert (done.rows_written, done.rows_kept) == (5, 0)
    assert receipts(out) == [1, 4, 7, 10, 13]
    again = run(part="1/3")
    assert (again.rows_written, again.rows_kept, again.refused) == (0, 5, done.refused)
    with only_writer(out, shared=True):  # another part
        others = [run(part=part) for part in ("0/3", "2/3")]
        with pytest.raises(StoreError, match="being written by another process"):
            run()
    assert [part.rows_written for part in others] == [6, 5]
    assert sum(part.refused.get("corrupt", 0) for part in [done, *others]) == 1
    assert "; refused 1 corrupt" in "".join(part.summary for part in [done, *others])
    with pytest.raises(StoreError, match="never sealed"):
        Store(out)
    (out / "receipts/00000007.json").unlink()  # as if a part had failed
    with only_writer(out), pytest.raises(StoreError, match="being written by another process"):
        run(part="0/3")
    report = run()
    assert isinstance(report, PrepareReport)
    assert (report.rows_written, report.rows_kept) == (1, 15)
    whole = prepare(spec, [folder], tmp_path / "whole.zarr", PrepareSettings(workers=0))
    assert report.manifest_digest == whole.manifest_digest  # type: ignore[union-attr]
    assert verify(out) == []
    assert (run(part="2/3").rows_kept, run(part="2/3").rows_written) == (5, 0)
    assert run(engine="slurm").nothing_to_do


@pytest.mark.parametrize(("settings", "message"), [
    ({"part": "3/3"}, "part is '3/3'; it must be I/N with I from 0 to N - 1"),
    ({"part": "-1/3"}, "part is '-1/3'"),
    ({"part": "1"}, "part is '1'"),
    ({"part": "1/3", "overwrite": True}, "without --overwrite"),
    ({"part": "1/3", "engine": "slurm"}, "without --engine slurm"),
    ({"engine": "pbs"}, "engine is 'pbs'; it must be one of local, slurm, ray"),
    ({"slurm_tasks": 0}, "slurm_tasks is 0; it must be 1 or more"),
    ({"slurm_options": "--a\nrm"}, "slurm_options is .*in one line"),
    ({"slurm_options": "cpu"}, "slurm_options is 'cpu'; .*the first starting with -"),
])
def test_settings_that_do_not_go_together(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        PrepareSettings(**settings)
