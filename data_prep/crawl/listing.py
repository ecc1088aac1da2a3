"""Finding what holds images: shards, archives, tables and loose files, on a disk or in an object store."""

from __future__ import annotations

import glob
import os
import posixpath
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import pyarrow as pa

from sciencessl.data_prep.crawl import tables
from sciencessl.data_prep.crawl.forward import stamp_of
from sciencessl.data_prep.crawl.loose import LISTED, Grouped, group_place
from sciencessl.data_prep.crawl.members import IMAGES, SIDECARS, is_image
from sciencessl.data_prep.crawl.record import FILES, SUFFIXES, Place, stem_of
from sciencessl.data_prep.decode import Refused
from sciencessl.data_prep.listing import CATALOGUE_NAMES, expand, file_ref, files_below, has_suffix, is_hidden
from sciencessl.errors import DataError
from sciencessl.store.remote import client, is_remote, object_path, reached

LOOSE = tuple(f".{suffix}" for suffix in (*IMAGES, *SIDECARS))
NOT_READ = {
    ".tfrecord": "TFRecord files are not read; let img2dataset write webdataset, parquet or files",
    ".zst": "what zstd compressed is not read; unpack it", ".rar": "RAR archives are not read; unpack them",
    ".7z": "7z archives are not read; unpack them", ".csv": "lists of addresses must be downloaded first, such as by "
    "img2dataset",
}
"""Suffix of what people have -> what to do with it."""
_OURS = re.compile(r"(?:^|/)[^/]+(?:\.zarr/|\.crawl/lists/)")
"""Stores and lists of crawls, which may be written into the folder that is read."""


@dataclass(frozen=True)
class Places:
    """What was found.

    Attributes:
        places: In order of their names, which are unique.
        root: What relative names start from.
        searched: The sources in words.
        others: Suffix -> how many files were passed over; metadata beside shards is among them.
    """

    places: tuple[Place, ...]
    root: str
    searched: str
    others: Mapping[str, int]

    @property
    def passed_over(self) -> str:
        """`12 other files (.json 10, .md 2)`, or nothing."""
        total = sum(self.others.values())
        each = ", ".join(f"{suffix} {count:,}" for suffix, count in sorted(self.others.items()))
        return f"{total:,} other file{'s' if total != 1 else ''} ({each})" if total else ""


class _File(NamedTuple):
    path: str
    size: int
    stamp: int


def list_places(sources: Sequence[str | Path]) -> Places:
    """List every place that holds images, by names alone.

    Folders are searched with their sub-folders; hidden names and stores are skipped, links followed once. A Parquet
    file beside a tar or folder of the same name is its metadata, as img2dataset writes it.

    Args:
        sources: Folders, files and globs, or URLs of an object store (`s3://BUCKET/PREFIX`, globs too).

    Raises:
        DataError: When a source does not exist, nothing is found, two places would give the same ids, or folders of
            this machine and of object stores come together.
        OutOfReachError, MissingExtraError: When an object store does not answer.
    """
    if not sources:
        raise DataError("no source was given; name a folder, a file, a glob or the URL of an object store.")
    searched = ", ".join(str(source) for source in sources)
    root, files = _found([str(source) for source in sources], searched)
    shards = _shards(files)
    loose = {_text(name): name for name in files if name not in shards and has_suffix(name, LOOSE)}
    grouped = Grouped(list(loose))
    folders = set(_folders(name for name in loose if name not in grouped.lone))
    metadata = _metadata(shards, folders)
    others = Counter(_suffix(name) for name in files if name in metadata)
    others.update(_suffix(name) for name in files if name not in shards and not has_suffix(name, LOOSE))
    others.update(_suffix(name) for name in grouped.lone)
    places = [place for name, place in shards.items() if name not in metadata]
    _check_apart(places, folders)
    places += _groups(grouped, loose, files, root)
    _check_text(places)
    if not places:
        raise DataError(_nothing(searched, others))
    return Places(tuple(sorted(places, key=lambda place: place.name)), root, searched, others)


def kinds_in(sources: Sequence[str | Path]) -> set[str]:
    """Kinds of the places that `list_places` would find, of all that is there. A Parquet table beside loose images or
    archives counts only where it holds images, since it may as well be their catalogue.

    Raises:
        DataError: When a source does not exist.
        OutOfReachError, MissingExtraError: When an object store does not answer.
    """
    _, files = _found([str(source) for source in sources], ", ".join(map(str, sources)))
    shards = _shards(files)
    kinds = {place.kind for place in shards.values() if place.kind != "parquet"}
    kinds |= {FILES} if any(is_image(_text(name)) for name in files) else set()
    tables_there = [place for place in shards.values() if place.kind == "parquet"]
    return kinds | {"parquet"} if tables_there and (not kinds or _has_images(tables_there[0])) else kinds


def _shards(files: Mapping[str, _File]) -> dict[str, Place]:
    return {name: Place(_text(name), file.path, SUFFIXES[kind], file.size, file.stamp)
            for name, file in files.items() if (kind := _kind(name))}


def _found(sources: Sequence[str], searched: str) -> tuple[str, dict[str, _File]]:
    """The shared root, and relative name -> file."""
    if web := [source for source in sources if source.startswith(("http://", "https://"))]:
        raise DataError(f"{web[0]}: a web server does not list its files; download them, or give the bucket's own "
                        "address (s3://..., gs://...).")
    remote = [is_remote(source) and is_remote(object_path(source)) for source in sources]
    if all(remote):
        return _in_store(sources)
    if any(remote):
        raise DataError(f"{searched}: files of this machine and of an object store cannot go into one store; prepare "
                        "each, or copy one to the other.")
    return _on_disk([str(object_path(source)) if is_remote(source) else source for source in sources])


def _on_disk(sources: Sequence[str]) -> tuple[str, dict[str, _File]]:
    expanded = [expand(source) for source in sources]
    root = os.path.commonpath([top.parent if top.is_file() else top for top, _ in expanded])
    found: dict[str, _File] = {}
    for path in (path for _, picked in expanded for path in picked):
        for file in files_below(path) if path.is_dir() else [str(path)]:
            name = file[len(root.rstrip(os.sep)) + 1 :].replace(os.sep, "/")
            if not _OURS.search(name):
                found[name] = _on_this_disk(file)
    return root, found


def _on_this_disk(path: str) -> _File:
    try:
        ref = file_ref(path)
    except OSError:
        # A link to nothing, or a file that vanishes: listed, so that it is refused by name when it is read.
        return _File(path, 0, 0)
    return _File(path, ref.size, ref.stamp)


def _in_store(urls: Sequence[str]) -> tuple[str, dict[str, _File]]:
    schemes = {url.partition("://")[0] for url in urls}
    if len(schemes) > 1:
        raise DataError(f"{', '.join(urls)}: one store is prepared from one object store; prepare each.")
    tops: list[str] = []
    found: dict[str, _File] = {}
    for url in urls:
        top, objects = _objects(url)
        tops.append(top)
        found.update(objects)
    root = posixpath.commonpath([f"/{top.strip('/')}" for top in tops]).strip("/")
    inside = len(f"{root}/") if root else 0
    return f"{schemes.pop()}://{root}", {name.strip("/")[inside:]: file for name, file in found.items()}


def _objects(url: str) -> tuple[str, dict[str, _File]]:
    """The folder that a URL means, and the objects below it by their whole names."""
    path = object_path(url)
    with reached(path):
        system, name = client(path)
        if glob.has_magic(name):
            told = system.glob(name, detail=True)
            before = name.split("/")
            top = "/".join(before[: next(i for i, part in enumerate(before) if glob.has_magic(part))])
        else:
            told = system.find(name, detail=True)
            top = posixpath.dirname(name) if list(told) == [name] else name
        files = {
            found: _File(system.unstrip_protocol(found), int(info["size"] or 0), stamp_of(info))
            for found, info in sorted(told.items())
            if info["type"] == "file" and not found.endswith("/")
            and not any(map(is_hidden, found[len(top) :].split("/")))
        }
    if not files:
        raise DataError(f"{url}: there is nothing of that name; check bucket and prefix, and quote globs.")
    return top, files


def _kind(name: str) -> str:
    """The suffix of a shard or table; empty for other files, catalogues among them."""
    return "" if posixpath.basename(name).lower() in CATALOGUE_NAMES else name[len(stem_of(name)) :].lower()


def _text(name: str) -> str:
    """A name as text that tables can hold."""
    return os.fsencode(name).decode("utf-8", "backslashreplace")


def _suffix(name: str) -> str:
    return posixpath.splitext(_text(name))[1].lower() or "no suffix"


def _folders(names: Iterable[str]) -> Iterator[str]:
    """All folders that files lie in."""
    seen: set[str] = set()
    for folder in map(posixpath.dirname, names):
        while folder and folder not in seen:
            seen.add(folder)
            yield folder
            folder = posixpath.dirname(folder)


def _metadata(shards: Mapping[str, Place], folders: set[str]) -> set[str]:
    """Names of Parquet files that tell about a shard or folder of the same name, as img2dataset writes them.

    Those of one folder were written alike, so one of them is looked into.
    """
    named = folders | {stem_of(place.name) for place in shards.values() if place.kind != "parquet"}
    looked: dict[str, bool] = {}
    found = set()
    for name, place in shards.items():
        folder = posixpath.dirname(name)
        if place.kind != "parquet" or stem_of(place.name) not in named:
            continue
        if folder not in looked:
            looked[folder] = _has_images(place)
        if not looked[folder]:
            found.add(name)
    return found


def _has_images(place: Place) -> bool:
    try:
        return tables.has_images(place)
    except Refused:
        return False
    except DataError:
        return True  # several columns might hold them; which, is asked when they are listed


def _check_apart(places: Sequence[Place], folders: set[str]) -> None:
    """Raises DataError when ids of two places would begin alike."""
    stems: dict[str, str] = dict.fromkeys({*folders, *_folders(place.name for place in places)}, "")
    for place in places:
        stem = stem_of(place.name)
        if (other := stems.get(stem)) is not None:
            what = other or f"the folder {stem}"
            raise DataError(f"{place.name} and {what} would give images of the same ids, {stem}/...: perhaps one was "
                            "unpacked from the other. Name the one to take, such as by a quoted glob '*"
                            f"{place.name[len(stem) :]}', or rename one.")
        stems[stem] = place.name


def _check_text(places: Sequence[Place]) -> None:
    for place in places:
        if _text(place.url) != place.url:
            raise DataError(f"{_text(place.url)}: the name is no UTF-8 text, and lists of what was read hold text; "
                            "rename the file or folder.")


def _groups(grouped: Grouped, loose: Mapping[str, str], files: Mapping[str, _File], root: str) -> Iterator[Place]:
    for group, names in grouped.groups(list(loose)).items():
        found = [files[loose[name]] for name in names]
        columns = [[os.fsencode(loose[name]) for name in names], names, [file.size for file in found],
                   [file.stamp for file in found]]
        yield group_place(group, root, pa.table(columns, LISTED))


def _nothing(searched: str, others: Mapping[str, int]) -> str:
    seen = ", ".join(f"{suffix} {count:,}" for suffix, count in sorted(others.items())) or "none"
    hints = "".join(f" {words[0].upper()}{words[1:]}." for suffix, words in NOT_READ.items() if suffix in others)
    return (f"no images found in {searched}: looked for {' '.join(SUFFIXES)} and image files, found other files: "
            f"{seen}.{hints or ' Check the path.'}")
