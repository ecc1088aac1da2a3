"""Listing what all places of a crawl hold, each once: the lists stay beside the store, and parts of places are read by
them."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from functools import lru_cache, partial
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from sciencessl.data_prep.crawl.containers import contents
from sciencessl.data_prep.crawl.record import Contents, Part, Place, sample_id
from sciencessl.data_prep.decode import Refused
from sciencessl.data_prep.pool import Engine, InProcess, Processes, WorkerDied, run_all
from sciencessl.data_prep.task import Tell, silent
from sciencessl.errors import StoreError
from sciencessl.machine import cores
from sciencessl.monitor.throughput import Progress
from sciencessl.store.files import clear_os_errors, parquet_bytes, write_atomic
from sciencessl.store.format import MIN_ROWS, canonical_json, digest
from sciencessl.store.writer import Refusal

FOLDER_SUFFIX = ".crawl"
PLACES_FILE = "places.csv"
LISTER = "1"
"""Of the code that lists: lists of another version are made anew."""
PART_IMAGES, PART_BYTES, LEAST_IMAGES = 1024, 64 * 2**20, 32
"""Most images of a part, and about the most bytes of their files: a row, half full as planned, holds two such parts
as they are. Small crawls have smaller parts, so that there are as many as a store has rows at least."""
PLACES_A_PROCESS = 8
"""Places that are listed in about the time that a process takes to start."""
_NOTE = b"sciencessl.listed"


@dataclass(frozen=True)
class Listed:
    """A place and what is known of it without reading its list.

    Attributes:
        place: The place.
        path: File with its list.
        images: How many images it holds.
        bytes: Of their files, where these are known.
        refused: What of it cannot be read.
    """

    place: Place
    path: Path
    images: int
    bytes: int
    refused: tuple[Refusal, ...] = ()


def crawl_folder(out: Path) -> Path:
    """Where the lists of a store's places are kept: `NAME.crawl` beside `NAME.zarr`."""
    return out.with_name(f"{out.name.removesuffix('.zarr')}{FOLDER_SUFFIX}")


def list_contents(places: Sequence[Place], folder: Path, workers: int | None) -> list[Listed]:
    """List the places that were not listed, or have changed; keep the lists of the others.

    Args:
        places: All of a crawl.
        folder: See `crawl_folder`.
        workers: Processes; None means one a core, fewer for few places, 0 this process.

    Returns:
        One for each place, in order. A place of which nothing can be read has a refusal and no images.

    Raises:
        StoreError: When the folder cannot be written.
    """
    files = [_list_file(folder, place) for place in places]
    found = [_read_listed(place, path) for place, path in zip(places, files, strict=True)]
    missing = [(place, path) for place, path, known in zip(places, files, found, strict=True) if known is None]
    with clear_os_errors(folder):
        if missing:
            (folder / "lists").mkdir(parents=True, exist_ok=True)
            _list_all(missing, workers)
            found = [known or _read_listed(place, path)
                     for known, place, path in zip(found, places, files, strict=True)]
        listed = [known for known in found if known is not None]
        if len(listed) < len(places):
            raise StoreError(f"{folder}: the list of {places[found.index(None)].name!r} cannot be read back; something "
                             "else writes there. Run the same command again.")
        _write_places(folder, listed)
    return listed


def _list_file(folder: Path, place: Place) -> Path:
    told = digest(canonical_json([LISTER, place.name, place.url, place.kind, place.size, place.stamp]))
    return folder / "lists" / f"{told}.parquet"


def _list_all(missing: Sequence[tuple[Place, Path]], workers: int | None) -> None:
    count = min(cores(), 1 + len(missing) // PLACES_A_PROCESS) if workers is None else min(workers, len(missing))
    bar = Progress(len(missing), unit="place", title="list")
    engine: Engine = Processes(count) if count else InProcess()
    try:
        with closing(engine):
            run_all(engine, [partial(_one, engine, place, path) for place, path in missing], bar.update)
    finally:
        bar.close()


def _one(engine: Engine, place: Place, path: Path) -> None:
    try:
        engine.call(list_place, (place, path), 1)
    except WorkerDied as died:
        _write(path, nothing("crashed", f"each process that listed it {died}", place))


def list_place(place: Place, path: Path, tell: Tell = silent) -> None:
    """List one place and keep the list.

    Raises:
        OSError: When the list cannot be written.
    """
    try:
        found = contents(place)
    except Refused as refused:
        found = nothing(refused.reason, refused.detail, place)
    _write(path, found)


def nothing(reason: str, detail: str, place: Place) -> Contents:
    """The contents of a place of which nothing can be read: one refusal under its name."""
    empty = pa.table({"key": pa.array([], pa.string()), "offset": pa.array([], pa.int64()),
                      "size": pa.array([], pa.int64())})
    return Contents(empty, (Refusal(place.name, reason, detail),))


def _write(path: Path, found: Contents) -> None:
    sizes = found.table["size"].to_numpy()
    told = {"images": len(sizes), "bytes": int(sizes[sizes > 0].sum()),
            "refused": [[entry.id, entry.reason, entry.detail] for entry in found.refused]}
    write_atomic(path, parquet_bytes(found.table.replace_schema_metadata({_NOTE: canonical_json(told)})))


def _read_listed(place: Place, path: Path) -> Listed | None:
    import json

    try:
        told = json.loads(pq.read_schema(path).metadata[_NOTE])
        refused = tuple(Refusal(*entry) for entry in told["refused"])
        return Listed(place, path, int(told["images"]), int(told["bytes"]), refused)
    except (OSError, pa.ArrowException, KeyError, TypeError, ValueError):
        return None  # none yet, or damaged


def _write_places(folder: Path, listed: Sequence[Listed]) -> None:
    text = io.StringIO()
    rows = csv.writer(text, lineterminator="\n")
    rows.writerow(["place", "kind", "images", "bytes", "refused", "first_refusal"])
    for entry in listed:
        first = f"{entry.refused[0].reason}: {entry.refused[0].detail}" if entry.refused else ""
        rows.writerow([entry.place.name, entry.place.kind, entry.images, entry.bytes, len(entry.refused), first])
    raw = text.getvalue().encode()
    path = folder / PLACES_FILE
    if not path.is_file() or path.read_bytes() != raw:
        write_atomic(path, raw)


def all_parts(listed: Sequence[Listed]) -> Iterator[tuple[Part, int]]:
    """The parts of all places, with the bytes of their images' files."""
    images = sum(entry.images for entry in listed)
    most = min(PART_IMAGES, max(LEAST_IMAGES, -(-images // MIN_ROWS)))
    for entry in listed:
        if entry.images:
            yield from _parts(entry, most)


def _parts(listed: Listed, most: int) -> Iterator[tuple[Part, int]]:
    sizes = np.maximum(pq.read_table(listed.path, columns=["size"])["size"].to_numpy(), 0)
    ends = np.cumsum(sizes)
    bounds = [0]
    while bounds[-1] < listed.images:
        first = bounds[-1]
        before = int(ends[first - 1]) if first else 0
        full = int(np.searchsorted(ends, before + PART_BYTES, side="right"))
        bounds.append(min(listed.images, first + most, max(full, first + 1)))
    place = replace(listed.place, files=None)  # a group's files are in the list
    for first, stop in pairwise(bounds):
        yield Part(place, str(listed.path), first, stop), int(sizes[first:stop].sum())


def rows_of(part: Part) -> pa.Table:
    """The rows of a part in the list of its place.

    Raises:
        StoreError: When the list is gone or was changed.
    """
    rows = _list(part.listed).slice(part.first, part.stop - part.first)
    if len(rows) != part.stop - part.first:
        raise StoreError(f"{part.listed} does not list what it did; run the same `sciencessl prepare` again.")
    return rows


@lru_cache(maxsize=4)
def _list(path: str) -> pa.Table:
    try:
        return pq.read_table(path)
    except (OSError, pa.ArrowException) as error:
        raise StoreError(f"{path} cannot be read ({str(error).splitlines()[0]}); run the same `sciencessl prepare` "
                         "again, which lists the crawl anew. Every machine that prepares has to see it.") from error


@dataclass(frozen=True)
class CrawlIds(Sequence[str]):
    """Ids of the images of a part, read when they are asked for.

    Attributes:
        part: The part.
    """

    part: Part

    def __len__(self) -> int:
        return self.part.stop - self.part.first

    def __getitem__(self, index: Any) -> Any:
        keys = rows_of(self.part)["key"]
        if isinstance(index, slice):
            return [sample_id(self.part.place, key) for key in keys.to_pylist()[index]]
        return sample_id(self.part.place, keys[range(len(self))[index]].as_py())

    def __iter__(self) -> Iterator[str]:
        return (sample_id(self.part.place, key) for key in rows_of(self.part)["key"].to_pylist())
