"""Writing shards as others write them, and reading them back."""

from __future__ import annotations

import io
import tarfile
from collections.abc import Iterable, Sequence
from pathlib import Path

from sciencessl.data_prep.crawl.containers import contents, records
from sciencessl.data_prep.crawl.listing import list_places
from sciencessl.data_prep.crawl.record import Place, Record

Members = Iterable[tuple[str, bytes]]
SAMPLES = [
    ("00000.jpg", b"first" * 300), ("00000.json", b'{"width": 3}'), ("00000.txt", b"a cat"),
    ("00001.jpg", b"second" * 200), ("00001.json", b'{"width": 4}'), ("00001.txt", b"a dog"),
    ("00002.jpg", b"third" * 100), ("00002.json", b'{"width": 5}'), ("00002.txt", b"a cow"),
]
"""Three samples of a shard as img2dataset writes it."""


def tar_bytes(members: Members, form: int = tarfile.USTAR_FORMAT) -> bytes:
    """A tar of regular files."""
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=form) as archive:
        for name, raw in members:
            info = tarfile.TarInfo(name)
            info.size = len(raw)
            archive.addfile(info, io.BytesIO(raw))
    return out.getvalue()


def place_of(path: str | Path) -> Place:
    """The one place that a path is."""
    (place,) = list_places([path]).places
    return place


def put(folder: Path, name: str, raw: bytes) -> Place:
    """A file in a folder, as a place."""
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(raw)
    return place_of(path)


def read(place: Place, wanted: Sequence[str] = ("all",)) -> dict[str, Record]:
    """Key -> record of all images."""
    found = list(records(place, contents(place).table, wanted))
    keyed = {record.key: record for record in found}
    assert len(keyed) == len(found)
    return keyed


def raws(place: Place) -> dict[str, bytes]:
    """Key -> bytes of all images that can be read."""
    return {key: record.raw for key, record in read(place).items() if record.refused is None}


def refusals(place: Place) -> dict[str, str]:
    """Id -> reason of what cannot be read, by the list."""
    return {entry.id: entry.reason for entry in contents(place).refused}
