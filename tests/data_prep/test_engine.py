"""`prepare` as a whole: stores that say what the files said, once; resumed after a kill; refused with a reason."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from sciencessl.data_prep import engine
from sciencessl.data_prep import task as tasks
from sciencessl.data_prep.engine import PrepareEstimate, PrepareReport, PrepareSettings, prepare
from sciencessl.errors import ConfigError, DataError, StoreError
from sciencessl.spec import DomainSpec, LabelSchema, Question
from sciencessl.store.reader import Store
from sciencessl.store.verify import verify

Make = Callable[..., DomainSpec]
Write = Callable[..., Path]
Galaxies = Callable[..., tuple[Path, list[dict[str, Any]]]]


def run(spec: DomainSpec, source: Path | str | list[Path], out: Path, **settings: Any) -> PrepareReport:
    sources = source if isinstance(source, list) else [source]
    report = prepare(spec, sources, out, PrepareSettings(**{"workers": 0, **settings}))
    assert isinstance(report, PrepareReport)
    return report


def times(folder: Path) -> dict[str, int]:
    return {str(path): path.stat().st_mtime_ns for path in folder.rglob("*")}


def test_catalogue_to_store(make_spec: Make, galaxies: Galaxies, tmp_path: Path) -> None:
    folder, rows = galaxies(40)
    (folder / "images/3.jpg").write_bytes(b"\xff\xd8 broken")
    (folder / "images/4.jpg").unlink()
    seen: list[tuple[int, int]] = []
    report = prepare(
        make_spec(), [folder], tmp_path / "s.zarr", PrepareSettings(keep=("mag",), test_fraction=0.5, workers=0),
        progress=lambda done, total: seen.append((done, total)),
    )
    assert isinstance(report, PrepareReport)
    assert (report.n_samples, report.refused) == (38, {"corrupt": 1, "missing-file": 1})
    assert (report.rows_written, report.rows_kept, report.nothing_to_do) == (16, 0, False)
    assert sum(report.splits.values()) == 38
    assert report.splits["test"] > 5
    assert seen[-1] == (40, 40)
    assert report.refusals_file is not None
    lines = report.refusals_file.read_text().splitlines()
    assert lines[0] == "id,reason,detail"
    assert sorted(line.split(",")[:2] for line in lines[1:]) == [
        ["587722952767439453", "corrupt"], ["587722952767439454", "missing-file"]
    ]
    store = Store(report.out)
    assert (store.digest, report.bytes) == (report.manifest_digest, sum(map(len, store.payloads("image", range(38)))))
    assert verify(report.out) == []
    known = {str(row["objid"]): row for row in rows}
    classes, mag, files = store.column("class"), store.column("mag"), store.column("file")
    votes = store.table("labels").counts(store.ids, ["shape-r1_smooth", "shape-r1_disc"])
    for i, identifier in enumerate(store.ids):
        row = known[identifier]
        assert (classes[i], mag[i], files[i]) == (row["class"], row["mag"], row["file"])
        assert votes[i].tolist() == [row["shape-r1_smooth"], row["shape-r1_disc"]]
        assert store.payloads("image", [i])[0] == (folder / row["file"]).read_bytes()
    assert store.table("labels").schema == make_spec().labels["rings"]


def test_second_run_touches_no_file(make_spec: Make, galaxies: Galaxies, tmp_path: Path) -> None:
    folder, _ = galaxies(20)
    (folder / "images/3.jpg").write_bytes(b"\xff\xd8 broken")
    first = run(make_spec(), folder, tmp_path / "s.zarr")
    before = times(tmp_path / "s.zarr")
    second = run(make_spec(), folder, tmp_path / "s.zarr")
    assert second.nothing_to_do
    assert (second.manifest_digest, second.refused, second.rows_kept) == (first.manifest_digest, first.refused, 16)
    assert times(tmp_path / "s.zarr") == before


def test_digest_does_not_depend_on_workers_or_place(make_spec: Make, galaxies: Galaxies, tmp_path: Path) -> None:
    folder, _ = galaxies(20)
    digests = set()
    for workers in (0, 2):
        digests.add(run(make_spec(), folder, tmp_path / str(workers) / "s.zarr", workers=workers).manifest_digest)
    moved = folder.rename(tmp_path / "moved")
    digests.add(run(make_spec(), moved, tmp_path / "m.zarr").manifest_digest)
    assert len(digests) == 1


KILLED = """
import os, signal, sys
from pathlib import Path
from sciencessl.data_prep.engine import PrepareSettings, prepare
from sciencessl.domains.web import SPEC
from sciencessl.store import writer

real, left = writer.write_atomic, [int(sys.argv[3])]

def dying(path, raw):
    # At the worst moment: pixels and columns of the row are on disk, its receipt is not.
    if path.parent.name == "receipts":
        left[0] -= 1
        if left[0] < 0:
            os.kill(os.getpid(), signal.SIGKILL)
    real(path, raw)

writer.write_atomic = dying
prepare(SPEC, [sys.argv[1]], Path(sys.argv[2]), PrepareSettings(workers=0))
"""


@pytest.mark.parametrize("rows", [0, 5, 15])
def test_killed_run_goes_on_to_the_same_digest(write_images: Write, tmp_path: Path, rows: int) -> None:
    from sciencessl.domains.web import SPEC

    folder = write_images([f"{name}/{i}.jpg" for name in "ab" for i in range(12)])
    whole = run(SPEC, folder, tmp_path / "whole.zarr")
    out = tmp_path / "killed.zarr"
    script = tmp_path / "killed.py"
    script.write_text(KILLED)
    died = subprocess.run([sys.executable, str(script), str(folder), str(out), str(rows)], check=False, timeout=120)
    assert died.returncode == -signal.SIGKILL
    with pytest.raises(StoreError, match="never sealed"):
        Store(out)
    resumed = run(SPEC, folder, out)
    assert (resumed.rows_kept, resumed.rows_written) == (rows, 16 - rows)
    assert resumed.manifest_digest == whole.manifest_digest
    assert verify(out) == []


def test_kill_before_the_seal(make_spec: Make, galaxies: Galaxies, tmp_path: Path, monkeypatch: Any) -> None:
    folder, _ = galaxies(20)
    out = tmp_path / "s.zarr"

    def killed(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(engine, "seal", killed)
    with pytest.raises(KeyboardInterrupt):
        run(make_spec(), folder, out)
    monkeypatch.undo()
    report = run(make_spec(), folder, out)
    assert (report.rows_kept, report.rows_written) == (16, 0)
    assert verify(out) == []


def test_rows_with_changed_files_are_written_again_before_the_seal(
    make_spec: Make, galaxies: Galaxies, tmp_path: Path, monkeypatch: Any, encode: Any
) -> None:
    folder, _ = galaxies(20)
    out = tmp_path / "s.zarr"

    def stopped(*_: object) -> None:
        raise StoreError("stop")

    monkeypatch.setattr(engine, "seal", stopped)
    with pytest.raises(StoreError, match="stop"):
        run(make_spec(), folder, out)
    monkeypatch.undo()
    same_size = encode(99)
    (folder / "images/5.jpg").write_bytes(same_size)
    report = run(make_spec(), folder, out)
    assert 1 <= report.rows_written <= 2
    store = Store(out)
    assert store.payloads("image", [store.ids.index("587722952767439455")])[0] == same_size
    assert verify(out) == []


def test_sealed_store_with_changed_files(make_spec: Make, galaxies: Galaxies, tmp_path: Path) -> None:
    folder, _ = galaxies(20)
    (folder / "images/3.jpg").write_bytes(b"\xff\xd8 broken")
    out = tmp_path / "s.zarr"
    first = run(make_spec(), folder, out)
    os.utime(folder / "images/5.jpg", ns=(1, 1))
    with pytest.raises(StoreError, match=r"sealed, but files of 1 of its 16 rows .*modification time.*--verify-i"):
        run(make_spec(), folder, out)
    assert run(make_spec(), folder, out, verify_inputs=True).nothing_to_do
    raw = bytearray((folder / "images/5.jpg").read_bytes())
    raw[-10] ^= 1
    (folder / "images/5.jpg").write_bytes(raw)
    os.utime(folder / "images/5.jpg", ns=(1, 1))
    with pytest.raises(StoreError, match="other contents"):
        run(make_spec(), folder, out, verify_inputs=True)
    again = run(make_spec(), folder, out, overwrite=True)
    assert again.rows_written == 16
    assert again.manifest_digest != first.manifest_digest


def test_comparing_contents_with_a_damaged_record_of_them_says_which_row(
    make_spec: Make, galaxies: Galaxies, tmp_path: Path
) -> None:
    folder, _ = galaxies(40)
    run(make_spec(), folder, tmp_path / "s.zarr")
    sidecar = tmp_path / "s.zarr/rows/00000003.parquet"
    raw = bytearray(sidecar.read_bytes())
    raw[20] ^= 1
    sidecar.write_bytes(raw)
    with pytest.raises(StoreError, match=r"row 3 is damaged: rows/00000003.parquet is not the file that was committed"):
        run(make_spec(), folder, tmp_path / "s.zarr", verify_inputs=True)


def test_refused_files_that_were_mended_are_seen_by_content(
    make_spec: Make, galaxies: Galaxies, tmp_path: Path, encode: Any
) -> None:
    folder, _ = galaxies(20)
    (folder / "images/3.jpg").write_bytes(b"\xff\xd8 broken")
    run(make_spec(), folder, tmp_path / "s.zarr")
    (folder / "images/3.jpg").write_bytes(encode())
    with pytest.raises(StoreError, match="files of 1 of its 16 rows have other contents"):
        run(make_spec(), folder, tmp_path / "s.zarr", verify_inputs=True)


def test_other_plans_are_named(make_spec: Make, galaxies: Galaxies, tmp_path: Path, write_csv: Any) -> None:
    folder, rows = galaxies(20)
    out = tmp_path / "s.zarr"
    run(make_spec(), folder, out)
    with pytest.raises(StoreError, match=r"resize_px was None, is 10\. Choose another --out, or pass --overwrite"):
        run(make_spec(), folder, out, resize_px=10)
    with pytest.raises(StoreError, match=r"split was .*'test': 0\.2.*, is .*'test': 0\.4"):
        run(make_spec(), folder, out, test_fraction=0.4)
    with pytest.raises(StoreError, match="domain 'toy' instead of 'other'"):
        run(make_spec(name="other"), folder, out)
    write_csv(folder / "catalogue.csv", [*rows[3:], {**rows[0], "objid": 1}])
    with pytest.raises(StoreError, match="1 ids added; 3 ids removed"):
        run(make_spec(), folder, out)
    write_csv(folder / "catalogue.csv", [{**row, "split": "train"} for row in rows])
    with pytest.raises(StoreError, match="split was"):
        run(make_spec(), folder, out)
    assert len(Store(out)) == 20


def test_other_labels_rewrite_the_table_and_no_row(
    make_spec: Make, galaxies: Galaxies, tmp_path: Path
) -> None:
    folder, rows = galaxies(20, bar=lambda i: "yes" if i else "")
    out = tmp_path / "s.zarr"
    first = run(make_spec(), folder, out)
    before = times(out / "rows") | times(out / "receipts") | times(out / "fields")
    second = run(make_spec(), folder, out, label=("bar",))
    assert second.manifest_digest == first.manifest_digest
    assert times(out / "rows") | times(out / "receipts") | times(out / "fields") == before
    store = Store(out)
    assert "class" not in store.columns()
    assert dict(zip(store.ids, store.column("bar"), strict=True))[str(rows[0]["objid"])] is None


def test_unwritable_places(make_spec: Make, galaxies: Galaxies, tmp_path: Path) -> None:
    folder, _ = galaxies(3)
    (tmp_path / "file").write_text("x")
    with pytest.raises(StoreError, match=r"cannot write .*s\.zarr: \[Errno \d+\] File exists"):
        run(make_spec(), folder, tmp_path / "file" / "s.zarr")


def test_full_disk_keeps_whole_rows_only(
    make_spec: Make, galaxies: Galaxies, tmp_path: Path, monkeypatch: Any
) -> None:
    folder, _ = galaxies(20)
    out = tmp_path / "s.zarr"
    whole = run(make_spec(), folder, tmp_path / "whole.zarr").manifest_digest
    real, left = tasks.write_row, [6]

    def full(*arguments: Any) -> Any:
        left[0] -= 1
        if left[0] < 0:
            raise OSError(28, "No space left on device")
        return real(*arguments)

    monkeypatch.setattr(tasks, "write_row", full)
    with pytest.raises(StoreError, match=r"No space left on device.*run the same command"):
        run(make_spec(), folder, out)
    monkeypatch.undo()
    report = run(make_spec(), folder, out)
    assert report.rows_kept == 6
    assert report.manifest_digest == whole


def test_nothing_but_bad_files(make_spec: Make, tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    for i in range(3):
        (tmp_path / "in" / f"{i}.jpg").write_text("no")
    with pytest.raises(DataError, match=r"every input was refused \(3 not-an-image\)"):
        run(make_spec(), tmp_path / "in", tmp_path / "s.zarr")


def test_dry_run_estimates_and_writes_nothing(make_spec: Make, galaxies: Galaxies, tmp_path: Path) -> None:
    folder, _ = galaxies(64)
    out = tmp_path / "s.zarr"
    estimate = prepare(make_spec(), [folder], out, PrepareSettings(workers=2), dry_run=True)
    assert isinstance(estimate, PrepareEstimate)
    assert (estimate.n_samples, estimate.tried, estimate.rows, estimate.refused) == (64, 32, 16, {})
    assert "id from column 'objid'" in estimate.guessed
    assert estimate.seconds > 0
    assert list(tmp_path.iterdir()) == [folder]
    stored = run(make_spec(), folder, out).bytes
    assert abs(estimate.bytes - stored) < 0.1 * stored
    assert estimate.scratch_bytes == pytest.approx(estimate.bytes / 8, abs=1)


def test_schema_files_go_through_the_loader(make_spec: Make, galaxies: Galaxies, tmp_path: Path) -> None:
    folder, _ = galaxies(5, mine_a=lambda i: 1, mine_b=lambda i: 2)
    mine = LabelSchema("mine", (Question("mine", ("a", "b")),))
    asked: list[str] = []

    def load(name: str) -> LabelSchema:
        asked.append(name)
        return mine

    settings = PrepareSettings(schema="my.yaml", workers=0)
    prepare(make_spec(), [folder], tmp_path / "s.zarr", settings, schema_loader=load)
    assert asked == ["my.yaml"]
    assert Store(tmp_path / "s.zarr").table("labels").schema == mine
    with pytest.raises(ConfigError, match="reads no schema files"):
        prepare(make_spec(), [folder], tmp_path / "t.zarr", settings)


def test_domain_adds_its_tables_after_sealing(make_spec: Make, galaxies: Galaxies, tmp_path: Path) -> None:
    folder, _ = galaxies(5)
    called: list[tuple[bool, object]] = []
    spec = make_spec(after_prepare=lambda path, options: called.append((Store(path).header.sealed, options)))
    prepare(spec, [folder], tmp_path / "s.zarr", PrepareSettings(workers=0), domain_options="options")
    assert called == [(True, "options")]
    with pytest.raises(ConfigError, match="names no source"):
        run(make_spec(sources={}), folder, tmp_path / "t.zarr")


def test_stamps_make_an_array_store(make_spec: Make, tmp_path: Path) -> None:
    fits = pytest.importorskip("astropy.io.fits")
    values = np.random.default_rng(0).normal(size=(20, 5, 12, 12)).astype(np.float32)
    values[3, 0, 0, 0] = np.nan
    (tmp_path / "in").mkdir()
    for i, stamp in enumerate(values):
        fits.PrimaryHDU(stamp).writeto(tmp_path / "in" / f"{i}.fits")
    report = run(make_spec(), tmp_path / "in", tmp_path / "s.zarr")
    store = Store(report.out)
    assert store.header.fields["image"].channels == ("band0", "band1", "band2", "band3", "band4")
    for identifier, stamp in zip(store.ids, store.payloads("image", range(20)), strict=True):
        np.testing.assert_array_equal(stamp, values[int(identifier)])
    assert verify(report.out) == []
    assert run(make_spec(), tmp_path / "in", tmp_path / "s.zarr").nothing_to_do


def test_tissue_tiles_split_by_source(shared_data: Path, make_spec: Make, tmp_path: Path) -> None:
    folder = shared_data / "pathology/lc25000_lung"
    files = sorted((folder / "lung_aca").glob("*.jpeg"))[:60]
    report = run(make_spec(), files, tmp_path / "s.zarr", catalogue=str(folder / "catalogue.csv"), test_fraction=0.4)
    store = Store(report.out)
    assert report.n_samples == 60
    groups = {split: set(store.column("source_tile")[store.split(split).all()]) for split in ("train", "test")}
    assert groups["train"]
    assert groups["test"]
    assert not groups["train"] & groups["test"]
    assert set(store.column("class")) == {"lung_aca"}


def test_clothing_by_glob(shared_data: Path, make_spec: Make, tmp_path: Path) -> None:
    report = run(make_spec(), f"{shared_data}/web/clothing/*/s*/*[0-5].jpg", tmp_path / "s.zarr")
    store = Store(report.out)
    assert report.splits["train"] > 0
    assert report.splits["test"] > 0
    assert set(store.column("class")) <= {"shirt", "shoes", "shorts", "skirt"}
    assert all(f"/{c}/" in f for c, f in zip(store.column("class"), store.column("file"), strict=True))


def test_hostile_folder(shared_data: Path, make_spec: Make, tmp_path: Path) -> None:
    report = run(make_spec(), shared_data / "web/hostile", tmp_path / "s.zarr")
    assert report.n_samples > 400
    assert report.n_samples + sum(report.refused.values()) == 538
    assert verify(report.out) == []
