"""Sealing: nothing unfinished, repeated or empty is closed, and the digest covers content and nothing else."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from zarr.core.attributes import Attributes

from sciencessl.errors import DataError, StoreError
from sciencessl.store import format as zpack
from sciencessl.store import repeated
from sciencessl.store import seal as sealing
from sciencessl.store.index import IndexWriter
from sciencessl.store.reader import Store
from sciencessl.store.repeated import RepeatedKeys
from sciencessl.store.seal import read_columns, read_receipt, read_sidecar, required_receipt, seal
from sciencessl.store.verify import verify
from sciencessl.store.writer import PreparedSample, Refusal, create_store, write_row


def lay(path: Path, h: zpack.StoreHeader, rows: dict[int, list[PreparedSample]]) -> Path:
    create_store(path, h, 2_000)
    for number, samples in rows.items():
        write_row(path, h, number, samples, [Refusal("x", "corrupt")], "in")
    return path


def test_a_row_without_a_receipt_is_unfinished(tmp_path: Path, header: Any, sample: Any) -> None:
    h = header(rows=2)
    path = lay(tmp_path / "s", h, {0: [sample("a")]})
    with pytest.raises(StoreError, match=r"row 1 has no receipt\. If the store was never sealed, run the same"):
        seal(path, h)
    assert read_receipt(path, 1) is None
    with pytest.raises(StoreError, match="else the file was lost"):
        required_receipt(path, 1)


@pytest.mark.parametrize("rows", [{0: "aa", 1: "b"}, {0: "ab", 1: "cb"}])
def test_an_id_that_occurs_twice_is_refused(tmp_path: Path, header: Any, sample: Any, rows: dict[int, str]) -> None:
    h = header(rows=2)
    path = lay(tmp_path / "s", h, {row: [sample(name) for name in names] for row, names in rows.items()})
    with pytest.raises(DataError, match=r"1 ids occur more than once, such as \['[ab]'\]; ids must be unique"):
        seal(path, h)


def test_nothing_stored_lists_the_reasons(tmp_path: Path, header: Any) -> None:
    h = header(rows=2)
    create_store(tmp_path / "s", h, 100)
    write_row(tmp_path / "s", h, 0, [], [Refusal("a", "corrupt"), Refusal("b", "too small")], "in")
    write_row(tmp_path / "s", h, 1, [], [Refusal("c", "corrupt")], "in")
    with pytest.raises(DataError, match=r"every input was refused \(2 corrupt, 1 too small\)"):
        seal(tmp_path / "s", h)


def test_a_column_that_is_number_and_text_is_refused(tmp_path: Path, header: Any, sample: Any) -> None:
    h = header(rows=2)
    path = lay(tmp_path / "s", h, {0: [sample("a", x=1)], 1: [sample("b", x="one")]})
    with pytest.raises(DataError, match="row 1 holds a column of another type"):
        seal(path, h)


def test_payloads_that_are_gone_are_missed_before_sealing(tmp_path: Path, header: Any, sample: Any) -> None:
    h = header(rows=2)
    path = lay(tmp_path / "s", h, {0: [sample("a")], 1: [sample("b")]})
    (path / "fields/flux/c/1/0/0/0").unlink()
    with pytest.raises(StoreError, match="row 1 lacks its payloads of field 'flux'"):
        seal(path, h)


def test_a_row_of_other_settings_or_another_number_is_refused(tmp_path: Path, header: Any, sample: Any) -> None:
    h = header(rows=2)
    path = lay(tmp_path / "s", h, {0: [sample("a")], 1: [sample("b")]})
    receipt = required_receipt(path, 1)
    for wrong in (replace(receipt, config_digest="other"), replace(receipt, row=0)):
        (path / zpack.receipt_file(1)).write_bytes(wrong.to_bytes())
        with pytest.raises(StoreError, match="row 1 was prepared with other settings"):
            seal(path, h)


def test_sidecars_are_compared_before_they_are_parsed(tmp_path: Path, header: Any, sample: Any) -> None:
    path = lay(tmp_path / "s", header(), {0: [sample("a")]})
    file = path / zpack.rows_file(0)
    file.write_bytes(file.read_bytes() + b"x")
    with pytest.raises(StoreError, match=r"row 0 is damaged: rows/00000000.parquet is not the file"):
        read_columns(path, 0)
    file.unlink()
    with pytest.raises(StoreError, match=r"row 0 lacks its file rows/00000000.parquet"):
        read_sidecar(path, required_receipt(path, 0), zpack.rows_file(0))


@pytest.mark.parametrize("where", ["index", "listing", "attributes"])
def test_sealing_that_was_interrupted_is_repeated(
    tmp_path: Path, header: Any, sample: Any, monkeypatch: pytest.MonkeyPatch, where: str
) -> None:
    h = header(rows=2)
    rows = {0: [sample("a"), sample("b", "val")], 1: [sample("c")]}
    whole = seal(lay(tmp_path / "whole", h, rows), h)
    path = lay(tmp_path / "cut", h, rows)

    def killed(*_: Any) -> None:
        raise OSError("killed")

    with monkeypatch.context() as patch:
        places: dict[str, tuple[Any, str]] = {
            "index": (IndexWriter, "close"), "listing": (sealing, "write_atomic"), "attributes": (Attributes, "put"),
        }
        patch.setattr(*places[where], killed)
        with pytest.raises(OSError, match="killed"):
            seal(path, h)
    with pytest.raises(StoreError, match="never sealed"):
        Store(path)
    assert seal(path, h) == whole
    assert verify(path) == []


def test_a_sealed_store_is_left_as_it_is(survey: Store, header: Any) -> None:
    before = {f: f.stat().st_mtime_ns for f in survey.path.rglob("*")}
    opened = replace(survey.header, sealed=False, manifest_digest="")
    assert seal(survey.path, opened) == survey.header
    assert {f: f.stat().st_mtime_ns for f in survey.path.rglob("*")} == before
    with pytest.raises(StoreError, match="sealed already"):
        seal(survey.path, replace(opened, source="tiles"))


def test_temporary_files_of_killed_writers_go(tmp_path: Path, header: Any, sample: Any) -> None:
    h = header()
    path = lay(tmp_path / "s", h, {0: [sample("a")]})
    (path / "rows/.0.parquet.ab.tmp").write_bytes(b"x")
    (path / "fields/image/c/0/0.ab.partial").write_bytes(b"x")
    (path / "index/gone.offset/c").mkdir(parents=True)
    (path / "index/gone.offset/c/0").write_bytes(b"x")
    seal(path, h)
    assert not (path / "index/gone.offset/c/0").exists()
    assert not [f for f in path.rglob("*") if f.suffix in {".tmp", ".partial"}]
    assert verify(path) == []


def test_the_manifest_does_not_know_order_of_writing_or_place(tmp_path: Path, header: Any, sample: Any) -> None:
    h = header(rows=3)
    rows = {row: [sample(f"{row}{i}", width=i) for i in range(3)] for row in range(3)}
    first = seal(lay(tmp_path / "a", h, rows), h)
    mixed = {row: rows[row][::-1] for row in (2, 0, 1)}
    other = replace(h, plan_digest="another plan")
    assert seal(lay(tmp_path / "deep" / "b", other, mixed), other).manifest_digest == first.manifest_digest


def test_rows_written_by_threads_at_once_give_the_same_store(tmp_path: Path, header: Any, sample: Any) -> None:
    h = header(rows=8)
    rows = {row: [sample(f"{row}-{i}", width=i) for i in range(3)] for row in range(8)}
    first = seal(lay(tmp_path / "one", h, rows), h)
    path = lay(tmp_path / "many", h, {})
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(lambda row: write_row(path, h, row, rows[row], [], "in"), reversed(rows)))
    assert seal(path, h).manifest_digest == first.manifest_digest
    assert verify(path) == []


def test_the_manifest_knows_everything_else(tmp_path: Path, header: Any, sample: Any) -> None:
    image, flux = b"12345", np.zeros((2, 4, 4), "f4")
    other_flux = flux.copy()
    other_flux[1, 3, 3] = 1e-30
    samples = [
        sample("a", "train", image, flux, width=1),
        sample("b", "train", image, flux, width=1),
        sample("a", "val", image, flux, width=1),
        sample("a", "train", b"12344", flux, width=1),
        sample("a", "train", image, other_flux, width=1),
        sample("a", "train", image, flux, width=2),
        sample("a", "train", image, flux, wide=1),
        sample("a", "train", image, flux),
    ]
    digests = [seal(lay(tmp_path / str(i), header(), {0: [s]}), header()).manifest_digest
               for i, s in enumerate(samples)]
    changed = header(settings={"size": 5})
    digests.append(seal(lay(tmp_path / "settings", changed, {0: samples[:1]}), changed).manifest_digest)
    assert len(set(digests)) == len(samples) + 1


def test_keys_that_only_begin_alike_are_no_repetition(
    tmp_path: Path, header: Any, sample: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    h = header(rows=2)
    path = lay(tmp_path / "s", h, {0: [sample("a"), sample("b")], 1: [sample("c")]})
    # The index is the same whatever is suspected: a second look at the ids decides.
    monkeypatch.setattr(RepeatedKeys, "found", lambda _: np.array([2**63, 5], np.uint64))
    monkeypatch.setattr(sealing, "heads", lambda keys: np.full(len(keys), 5, np.uint64))
    seal(path, h)
    assert verify(path) == []


def test_more_repeated_ids_than_are_listed(
    tmp_path: Path, header: Any, sample: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    for module in (sealing, repeated):
        monkeypatch.setattr(module, "MOST_REPEATED", 2)
    h = header(rows=2)
    path = lay(tmp_path / "s", h, {row: [sample(name) for name in "abc"] for row in range(2)})
    with pytest.raises(DataError, match=r"2 or more ids occur more than once, such as \['[abc]', '[abc]'\]"):
        seal(path, h)


def test_what_sealing_needs_meanwhile_is_gone_afterwards(tmp_path: Path, header: Any, sample: Any) -> None:
    h = header(rows=2)
    path = lay(tmp_path / "s", h, {0: [sample("a")], 1: [sample("a", x=1)]})
    (path / sealing.SCRATCH).mkdir()
    (path / sealing.SCRATCH / "left").write_bytes(b"by a killed process")
    with pytest.raises(DataError, match="ids occur more than once"):
        seal(path, h)
    assert not (path / sealing.SCRATCH).exists()
    write_row(path, h, 1, [sample("b")], [], "in")
    seal(path, h)
    assert not (path / sealing.SCRATCH).exists()
    assert verify(path) == []


def test_a_receipt_that_counts_other_samples_than_its_sidecar_is_refused(
    tmp_path: Path, header: Any, sample: Any
) -> None:
    path = lay(tmp_path / "s", header(), {0: [sample("a")]})
    wrong = replace(required_receipt(path, 0), samples=2)
    (path / zpack.receipt_file(0)).write_bytes(wrong.to_bytes())
    with pytest.raises(StoreError, match="the receipts say 2 entries, the sidecars 1"):
        seal(path, header())
