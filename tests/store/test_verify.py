"""`store verify` finds whatever is not what was sealed, in any file of the store."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import replace
from fnmatch import fnmatch
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import zarr

from sciencessl.errors import StoreError
from sciencessl.store.reader import Store
from sciencessl.store.seal import read_columns
from sciencessl.store.tables import write_table
from sciencessl.store.verify import Damage, row_payloads, verify
from sciencessl.store.writer import create_store


def files(store: Path) -> list[Path]:
    return sorted(path for path in store.rglob("*") if path.is_file())


def found_or_refused(path: Path) -> bool:
    try:
        return bool(verify(path))
    except StoreError:
        return True


def test_a_sound_store_has_no_damage_and_each_row_is_reported(survey: Store) -> None:
    steps: list[tuple[int, int]] = []
    assert verify(str(survey.path), lambda done, rows: steps.append((done, rows))) == []
    assert steps == [(1, 3), (2, 3), (3, 3)]


def test_an_open_store_is_not_verified(tmp_path: Path, header: Any) -> None:
    create_store(tmp_path / "s", header(), 100)
    with pytest.raises(StoreError, match="never sealed"):
        verify(tmp_path / "s")


@pytest.mark.parametrize("seed", range(3))
def test_one_flipped_bit_in_any_file_is_found(survey: Store, seed: int) -> None:
    rng = np.random.default_rng(seed)
    missed = []
    for file in files(survey.path):
        raw = file.read_bytes()
        position, bit = int(rng.integers(len(raw))), int(rng.integers(8))
        changed = bytearray(raw)
        changed[position] ^= 1 << bit
        file.write_bytes(bytes(changed))
        if not found_or_refused(survey.path):
            missed.append((file.relative_to(survey.path).as_posix(), position, bit))
        file.write_bytes(raw)
    assert missed == []
    assert verify(survey.path) == []


def readings(path: Path) -> dict[str, object]:
    """Everything that can be asked of `survey`, piece by piece, and its answer or the first words of the error."""
    store = Store(path)
    asked: dict[str, Callable[[], object]] = {
        **{f"{name} {i}": partial(store.payloads, name, [i]) for name in store.header.fields for i in range(7)},
        **{f"{name} {i} alone": partial(store.consecutive, name, i, i + 1)
           for name in store.header.fields for i in range(7)},
        **{f"columns {row}": partial(read_columns, path, row) for row in range(3)},
        "columns": lambda: store.rows, "refused": store.refusals,
        "keys": lambda: store.keys(np.arange(7)).tolist(), "train": lambda: store.split("train").all().tolist(),
        "labels": lambda: store.table("labels").data, "tables": lambda: store.tables,
    }
    found: dict[str, object] = {}
    for name, ask in asked.items():
        try:
            found[name] = repr(ask())
        except StoreError as error:
            found[name] = error
    return found


def spoilt(name: str) -> list[str]:
    """What a damaged file of `survey` must make unreadable: patterns of the names of `readings`."""
    folder, _, rest = name.partition("/")
    samples = {"0": "[0-3]", "2": "[4-6]"}
    if folder == "fields" and "/c/" in rest:
        field, _, row, *_ = rest.split("/")
        return [f"{field} {samples[row]}*"]
    row = rest[7:8]
    whole = {
        "fields/image/zarr.json": ["image *"], "fields/flux/zarr.json": ["flux *"],
        f"rows/0000000{row}.parquet": [f"columns {row}", "columns"],
        f"receipts/0000000{row}.json": [f"columns {row}", "columns", "refused"],
        f"refused/0000000{row}.parquet": ["refused"],
    }
    if folder == "index" and "/" in rest:
        return {"image.offset": ["image *"], "key": ["keys"], "split_first": ["train"],
                "row_first": ["image *", "flux *", "keys"]}[rest.split("/")[0]]
    return ["labels"] if folder == "tables" else whole.get(name, [])


def test_one_flipped_byte_in_each_file_is_refused_and_all_else_is_read(survey: Store) -> None:
    sound, rng = readings(survey.path), np.random.default_rng(0)
    assert not any(isinstance(answer, StoreError) for answer in sound.values())
    names = sorted(file.relative_to(survey.path).as_posix() for file in files(survey.path))
    assert {name.split("/")[0] for name in names} == {
        "zarr.json", "fields", "index", "rows", "refused", "receipts", "tables"}
    for name in names:
        raw = (survey.path / name).read_bytes()
        changed = bytearray(raw)
        # Of a shard, a byte that some sample needs: its table of chunks, at the end.
        changed[len(raw) - 3 if "/c/" in name else rng.integers(len(raw))] ^= 0xFF
        (survey.path / name).write_bytes(bytes(changed))
        if name == "zarr.json":
            with pytest.raises(StoreError, match=r"zarr\.json"):
                Store(survey.path)
        else:
            assert verify(survey.path), name
            found = readings(survey.path)
            errors = {asked for asked, answer in found.items() if isinstance(answer, StoreError)}
            assert errors == {asked for asked in sound if any(fnmatch(asked, p) for p in spoilt(name))}, name
            assert {asked: found[asked] for asked in sound if asked not in errors} == {
                asked: answer for asked, answer in sound.items() if asked not in errors}, name
            assert all(str(survey.path) in str(found[asked]) for asked in errors), name
        (survey.path / name).write_bytes(raw)
    assert readings(survey.path) == sound


def test_one_flipped_bit_at_any_place_of_the_root_is_found(survey: Store) -> None:
    root = survey.path / "zarr.json"
    raw = root.read_bytes()
    # The attributes, which carry their own digest, are sampled; what zarr added is tried byte by byte.
    added = raw.rindex(b"}", 0, raw.rindex(b"}"))
    missed = []
    for position in [*range(0, added, 29), *range(added, len(raw))]:
        changed = bytearray(raw)
        changed[position] ^= 1 << position % 7
        root.write_bytes(bytes(changed))
        if not found_or_refused(survey.path):
            missed.append(position)
    assert missed == []


@pytest.mark.parametrize("harm", ["missing", "empty", "shorter", "longer"])
def test_files_that_are_gone_or_of_another_length_are_found(survey: Store, harm: str) -> None:
    missed = []
    for file in files(survey.path):
        raw = file.read_bytes()
        changed = {"missing": None, "empty": b"", "shorter": raw[:-1], "longer": raw + b"\x00"}[harm]
        if changed is None:
            file.unlink()
        else:
            file.write_bytes(changed)
        if not found_or_refused(survey.path):
            missed.append(file.relative_to(survey.path).as_posix())
        file.write_bytes(raw)
    assert missed == []


@pytest.mark.parametrize("name", [
    "rows/00000009.parquet", "receipts/note.txt", "fields/image/c/9/0", "index/more", "tables/labels/ab.parquet",
    "tables/lost/ab.parquet",
])
def test_a_file_that_does_not_belong_is_named(survey: Store, name: str) -> None:
    (survey.path / name).parent.mkdir(parents=True, exist_ok=True)
    (survey.path / name).write_bytes(b"x")
    assert [damage.where for damage in verify(survey.path)] == [name]


def test_a_payload_of_an_empty_row_does_not_belong(survey: Store) -> None:
    (survey.path / "fields/image/c/1").mkdir()
    shutil.copy(survey.path / "fields/image/c/0/0", survey.path / "fields/image/c/1/0")
    what = "holds payloads, but the row has none of this field"
    assert verify(survey.path) == [Damage("fields/image/c/1/0", what)]


def test_hidden_files_of_a_file_browser_do_no_harm(survey: Store) -> None:
    (survey.path / "rows" / ".DS_Store").write_bytes(b"x")
    assert verify(survey.path) == []


def test_all_damage_is_listed_with_its_row(survey: Store) -> None:
    (survey.path / "rows/00000000.parquet").unlink()
    (survey.path / "fields/flux/c/2/0/0/0").unlink()
    places = [damage.where for damage in verify(survey.path)]
    assert places == ["rows/00000000.parquet", "row 0", "row 2", "index"]


def test_a_sound_payload_of_another_store_is_found(tmp_path: Path, make: Any, sample: Any) -> None:
    ours = make(tmp_path / "ours.zarr", [[sample("a", image=b"spiral")]])
    other = make(tmp_path / "other.zarr", [[sample("a", image=b"smooth")]])
    shutil.copy(other.path / "fields/image/c/0/0", ours.path / "fields/image/c/0/0")
    assert verify(ours.path) == [Damage("row 0", "its samples do not match its receipt")]


def test_a_manifest_that_does_not_follow_from_the_rows_is_found(survey: Store) -> None:
    forged = replace(survey.header, manifest_digest="0" * 32)
    zarr.open_group(survey.path, mode="r+").attrs.put(forged.to_attributes())
    assert verify(survey.path) == [Damage("zarr.json", "the manifest digest does not follow from the rows")]


@pytest.mark.parametrize("name", ["row_first", "split_first", "key", "image.offset"])
def test_an_index_that_does_not_follow_from_the_rows_is_found(survey: Store, name: str) -> None:
    array = zarr.open_array(survey.path / "index" / name, mode="r+")
    values = array[...]
    values[2] ^= values.dtype.type(1)
    array[...] = values
    found = verify(survey.path)
    assert Damage(f"index/{name}", "does not follow from the rows") in found
    assert {damage.where for damage in found if "/c/" not in damage.where} == {f"index/{name}"}


def test_tables_may_come_and_go(survey: Store) -> None:
    write_table(survey.path, "more", pa.table({"id": ["a0"], "x": [1]}))
    assert verify(survey.path) == []
    shutil.rmtree(survey.path / "tables")
    assert verify(survey.path) == []


def test_a_row_is_read_whole(survey: Store) -> None:
    for name in survey.header.fields:
        tables = list(survey.row_tables())
        whole = [part for row, table in enumerate(tables) for part in row_payloads(survey, name, row, table)]
        for found, expected in zip(whole, survey.payloads(name, range(7)), strict=True):
            assert found.tobytes() == (expected if isinstance(expected, bytes) else expected.tobytes())
