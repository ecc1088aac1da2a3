"""References: payloads that stay in tars and files are read there, checked, and copied as references."""

from __future__ import annotations

import json
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from sciencessl.errors import StoreError
from sciencessl.spec import FieldSpec
from sciencessl.store.compact import compact
from sciencessl.store.in_place import InPlace, Reference, write_root
from sciencessl.store.reader import Store
from sciencessl.store.removals import remove
from sciencessl.store.shuffle import shuffle
from sciencessl.store.verify import verify

FIELDS = {"image": FieldSpec("bytes", ("r", "g", "b"))}


@pytest.fixture
def laid(tmp_path: Path, make: Any, sample: Any) -> tuple[Store, dict[str, bytes]]:
    """A store of which every fourth payload is its own and the others lie in two files."""
    rng = np.random.default_rng(3)
    folder = tmp_path / "crawl" / "deep"
    folder.mkdir(parents=True)
    contents: dict[str, bytes] = {}
    rows: list[list[Any]] = [[], []]
    for number, name in enumerate(("a.tar", "b.tar")):
        parts = [rng.bytes(int(rng.integers(0, 700))) for _ in range(12)]
        (folder / name).write_bytes(b"".join(b"\0" * 512 + part for part in parts))
        at = 0
        for place, part in enumerate(parts):
            at += 512
            key = f"{name}/{place}"
            contents[key] = part
            reference = Reference.to(part, f"deep/{name}", at).pack()
            chosen = sample(key, image=part if place % 4 == 0 else reference)
            rows[(number + place) % 2].append(type(chosen)(key, "train", {"image": chosen.payload["image"]}, {}))
            at += len(part)
    store = make(tmp_path / "s.zarr", rows, FIELDS, index_only=True)
    write_root(store.path, str(tmp_path / "crawl"))
    return store, contents


def test_bytes_are_read_where_they_lie_in_any_order(laid: tuple[Store, dict[str, bytes]]) -> None:
    store, contents = laid
    order = np.random.default_rng(0).permutation(len(store))
    again = pickle.loads(pickle.dumps(store))
    assert again.payloads("image", order) == [contents[store.ids[i]] for i in order]
    assert again.consecutive("image", 0, len(store)) == [contents[name] for name in store.ids]
    assert again.payloads("image", []) == []


def test_neighbours_in_a_file_are_read_at_once(
    laid: tuple[Store, dict[str, bytes]], monkeypatch: pytest.MonkeyPatch
) -> None:
    store, contents = laid
    calls: list[tuple[str, int, int]] = []
    read = InPlace._bytes

    def counted(self: InPlace, file: str, offset: int, size: int) -> bytes:
        calls.append((file, offset, size))
        return read(self, file, offset, size)

    monkeypatch.setattr(InPlace, "_bytes", counted)
    assert store.consecutive("image", 0, len(store)) == [contents[name] for name in store.ids]
    assert sorted(file for file, _, _ in calls) == ["deep/a.tar", "deep/b.tar"]
    calls.clear()
    monkeypatch.setattr("sciencessl.store.in_place.GAP_BYTES", 0)
    assert store.consecutive("image", 0, len(store)) == [contents[name] for name in store.ids]
    assert len(calls) == 18  # a header lies between any two


def test_a_reference_packs_and_an_image_is_none() -> None:
    reference = Reference("a/ü b.tar", 2**40 + 1, 2**33, 2**32 - 1)
    assert Reference.unpack(reference.pack()) == reference
    assert Reference.unpack(b"") is None
    assert Reference.unpack(b"\xff\xd8\xff") is None


def test_a_file_that_was_changed_or_is_gone_is_told_by_name(laid: tuple[Store, dict[str, bytes]]) -> None:
    store, _ = laid
    path = store.path.parent / "crawl" / "deep" / "a.tar"
    raw = bytearray(path.read_bytes())
    path.write_bytes(raw[:-1])
    with pytest.raises(StoreError, match=r"deep/a.tar does not hold at byte [\d,]+ what it held when"):
        store.consecutive("image", 0, len(store))
    raw[1500:] = bytes(len(raw) - 1500)
    path.write_bytes(raw)
    with pytest.raises(StoreError, match=r"the file was changed. Prepare a store anew"):
        store.consecutive("image", 0, len(store))
    path.unlink()
    with pytest.raises(StoreError, match=r"a.tar cannot be read \(No such file.*write their folder into .*in_place.js"):
        store.consecutive("image", 0, len(store))


def test_files_that_moved_are_found_where_the_store_is_told(laid: tuple[Store, dict[str, bytes]]) -> None:
    store, contents = laid
    moved = store.path.parent / "elsewhere"
    (store.path.parent / "crawl").rename(moved)
    write_root(store.path, str(moved))
    assert Store(store.path).payloads("image", [0]) == [contents[store.ids[0]]]
    (store.path / "in_place.json").write_text(json.dumps({"folder": "x"}))
    with pytest.raises(StoreError, match=r'in_place.json does not say where .*it holds {"root": "FOLDER"}'):
        Store(store.path).payloads("image", [0])


def test_such_a_store_is_sound_and_its_copies_refer_to_the_same_bytes(
    laid: tuple[Store, dict[str, bytes]], tmp_path: Path
) -> None:
    store, contents = laid
    assert verify(store.path) == []
    remove(store.path, ids=[store.ids[3]], reason="test")
    shuffle(store.path, tmp_path / "shuffled.zarr")
    compact(store.path, tmp_path / "compact.zarr")
    for name in ("shuffled", "compact"):
        copy = Store(tmp_path / f"{name}.zarr")
        assert verify(copy.path) == []
        assert copy.consecutive("image", 0, len(copy)) == [contents[key] for key in copy.ids]
        assert len(copy) == len(store) - 1
        held = copy.consecutive("image", 0, len(copy), as_stored=True)
        assert sum(Reference.unpack(payload) is not None for payload in held) >= 17
    (store.path / "in_place.json").unlink()
    assert all("in_place.json does not say where" in damage.what for damage in verify(store.path))


def test_verify_reads_what_lies_outside_too(laid: tuple[Store, dict[str, bytes]]) -> None:
    store, _ = laid
    path = store.path.parent / "crawl" / "deep" / "a.tar"
    raw = bytearray(path.read_bytes())
    at = raw.index(next(part for name, part in laid[1].items() if name == "a.tar/1"))
    raw[at] ^= 1
    path.write_bytes(raw)
    damage = verify(store.path)
    assert [entry.where for entry in damage] == ["row 1"]
    assert "deep/a.tar does not hold at byte" in damage[0].what
    path.unlink()
    assert [entry.where for entry in verify(store.path)] == ["row 0", "row 1"]
