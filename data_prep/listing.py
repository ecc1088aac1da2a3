"""Finding files: folders, single files, globs and zip archives under one root, without opening any of them."""

from __future__ import annotations

import glob
import os
import posixpath
import stat
import zipfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from sciencessl.errors import DataError
from sciencessl.store.remote import local_path

IMAGE_SUFFIXES = (
    ".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".webp", ".avif", ".gif", ".bmp", ".tif", ".tiff", ".jp2", ".j2k",
    ".ppm", ".pgm", ".pbm", ".pnm",
)
FITS_SUFFIXES = (".fits", ".fit", ".fits.gz", ".fits.fz", ".fits.bz2")
SAMPLE_SUFFIXES = (*IMAGE_SUFFIXES, *FITS_SUFFIXES)
SCANNER_SUFFIXES = (
    ".svs", ".ndpi", ".scn", ".mrxs", ".dcm", ".bif", ".vms", ".vmu", ".svslide", ".tif", ".tiff", ".btf",
)
SLIDE_SUFFIXES = tuple(dict.fromkeys((*SCANNER_SUFFIXES, *IMAGE_SUFFIXES)))
"""How names of slides end: formats of scanners first, then plain images."""
CATALOGUE_NAMES = (
    "catalogue.csv", "catalogue.parquet", "catalogue.fits", "catalogue.vot", "catalogue.votable", "catalogue.xml",
    "manifest.csv",
)
TABLE_SUFFIXES = (".csv", ".parquet")
MAX_FILE_BYTES = 512 * 2**20
"""Larger files are refused unread: no image within the pixel budget is that large."""


@dataclass(frozen=True, slots=True)
class FileRef:
    """A file on disk, or a member of a zip archive: where it is, and what tells that it changed."""

    path: str
    member: str
    size: int
    stamp: int


@dataclass(frozen=True)
class Listing:
    """What was found under the sources.

    Attributes:
        root: Folder, or archive, that relative names start from.
        files: Relative name (with `/`) -> image or stamp.
        tables: Relative name -> catalogue-like file beside them.
        others: How many further files there were.
        tops: Relative names of the sources' own folders; empty text for the root.
        partial: Whether files were picked by name or glob, so that a catalogue may list more.
        searched: The sources in words.
    """

    root: Path
    files: dict[str, FileRef]
    tables: dict[str, FileRef]
    others: int
    tops: frozenset[str]
    partial: bool
    searched: str


def has_suffix(name: str, suffixes: Sequence[str]) -> bool:
    """Whether a file name ends in one of the suffixes, in any case."""
    return name.lower().endswith(tuple(suffixes))


def stem(name: str) -> str:
    """A name without its suffix; `.fits.gz` and the like count as one suffix."""
    for suffix in sorted((*IMAGE_SUFFIXES, *FITS_SUFFIXES, *SLIDE_SUFFIXES), key=len, reverse=True):
        if name.lower().endswith(suffix):
            return name[: -len(suffix)]
    return name


def file_ref(path: str | Path) -> FileRef:
    """A file on disk.

    Raises:
        OSError: When it is not there.
    """
    status = os.stat(path)
    return FileRef(str(path), "", status.st_size, status.st_mtime_ns)


def absolute(path: str | Path) -> Path:
    """An absolute path without `..`, so that names below it compare as text; links stay links where they can."""
    whole = Path(path).expanduser().absolute()
    return whole.resolve() if ".." in whole.parts else whole


@dataclass
class _Found:
    suffixes: Sequence[str]
    files: dict[str, FileRef] = field(default_factory=dict)
    tables: dict[str, FileRef] = field(default_factory=dict)
    others: int = 0

    def add(self, name: str, ref: FileRef) -> None:
        # Names that are no valid text come with lone surrogates, which no table can hold.
        name = name.encode("utf-8", "backslashreplace").decode()
        base = posixpath.basename(name)
        if base.lower() in CATALOGUE_NAMES:
            self.tables[name] = ref
        elif has_suffix(base, self.suffixes):
            self.files[name] = ref
        else:
            self.others += 1


def list_sources(sources: Sequence[str | Path], suffixes: Sequence[str] = SAMPLE_SUFFIXES) -> Listing:
    """List every file of some kinds under folders, files, globs and zip archives.

    A CSV or Parquet file stands for its folder. Names are relative to the one source, or to what all sources share.

    Raises:
        DataError: When a source does not exist, a glob matches nothing, or no image is found; says what was searched.
    """
    if not sources:
        raise DataError("no source was given; name a folder, a file, a glob or a .zip archive.")
    expanded = [expand(str(local_path(source, "SOURCE"))) for source in sources]
    roots = [root for root, _ in expanded]
    shared = Path(os.path.commonpath([root.parent if len(roots) > 1 and root.is_file() else root for root in roots]))
    found = _Found(suffixes)
    for _, picked in expanded:
        for path in picked:
            _walk(found, path, shared, named=len(picked) == 1)
    searched = ", ".join(str(source) for source in sources)
    tops = frozenset(_relative(root, shared) for root in roots)
    listing = Listing(shared, found.files, found.tables, found.others, tops, _is_partial(expanded), searched)
    if not listing.files:
        raise DataError(
            f"no images found in {searched}: looked for files ending in {' '.join(suffixes)} "
            f"and found {listing.others} other file(s). Check the path, or unpack archives other than .zip."
        )
    return listing


def _is_partial(expanded: list[tuple[Path, list[Path]]]) -> bool:
    return any(picked != [root] and not has_suffix(picked[0].name, TABLE_SUFFIXES) for root, picked in expanded)


def expand(source: str) -> tuple[Path, list[Path]]:
    """The root of a source on a disk, and the paths that it names: one folder or file, or what a glob matches.

    Raises:
        DataError: When there is nothing of that name.
    """
    path = absolute(source)
    if path.is_dir() or (path.is_file() and path.suffix.lower() == ".zip"):
        return path, [path]
    if path.is_file():
        return path.parent, [path]
    if glob.has_magic(source):
        # As it was given: the current folder's own name may hold brackets.
        pattern = Path(source).expanduser()
        matched = sorted(absolute(found) for found in glob.glob(str(pattern), recursive=True))
        if not matched:
            raise DataError(f"the glob {source!r} matches no file; quote it and check the folder it starts from.")
        return absolute(Path(*_before_magic(pattern.parts))), matched
    raise DataError(f"source {source!r} does not exist; name a folder, a file, a glob or a .zip archive.")


def _before_magic(parts: tuple[str, ...]) -> Iterator[str]:
    for part in parts[:-1]:
        if glob.has_magic(part):
            return
        yield part


def _relative(path: Path, root: Path) -> str:
    name = path.relative_to(root).as_posix()
    return "" if name == "." else name


def _walk(found: _Found, path: Path, root: Path, named: bool) -> None:
    if path.is_dir():
        # A CSV that stands for its folder and the folder itself list the same files once: names are keys.
        for file in files_below(path):
            _add_file(found, file, root)
    elif path.suffix.lower() == ".zip":
        _add_archive(found, path, "" if path == root else f"{_relative(path, root)}/")
    elif named and has_suffix(path.name, TABLE_SUFFIXES):
        found.tables[path.relative_to(root).as_posix()] = file_ref(path)
        for file in files_below(path.parent):
            if file != str(path):
                _add_file(found, file, root)
    else:
        _add_file(found, str(path), root)


def files_below(folder: Path) -> Iterator[str]:
    """Files of a folder and its sub-folders, following links once; hidden names are skipped."""
    seen: set[str] = set()
    for base, folders, files in os.walk(folder, followlinks=True, onerror=_refuse_folder):
        real = os.path.realpath(base)
        if real in seen:
            folders.clear()
            continue
        seen.add(real)
        folders[:] = sorted(name for name in folders if not is_hidden(name))
        yield from (os.path.join(base, name) for name in sorted(files) if not is_hidden(name))


def _refuse_folder(error: OSError) -> None:
    raise DataError(
        f"folder {error.filename} cannot be listed ({error.strerror}); fix its permissions or leave it out."
    )


def is_hidden(name: str) -> bool:
    """Whether files and folders of a name are passed over, as those of file browsers are."""
    return name.startswith(".") or name == "__MACOSX"


def _add_file(found: _Found, path: str, root: Path) -> None:
    # Plain text: a Path for each of a million files takes longer than looking at it.
    try:
        ref = file_ref(path)
    except OSError:
        # A dangling link: listed, so that it is refused by name when it is read.
        ref = FileRef(path, "", 0, 0)
    found.add(path[len(str(root).rstrip(os.sep)) + 1 :].replace(os.sep, "/"), ref)


def _add_archive(found: _Found, path: Path, prefix: str) -> None:
    try:
        with zipfile.ZipFile(path) as archive:
            members = archive.infolist()
    except (zipfile.BadZipFile, OSError) as error:
        raise DataError(f"{path} cannot be read as a zip archive ({error}); check the download.") from error
    for info in members:
        if not info.is_dir() and not any(is_hidden(part) for part in info.filename.split("/")):
            found.add(prefix + info.filename, FileRef(str(path), info.filename, info.file_size, info.CRC))


class Reader:
    """Reads files and archive members; an archive is opened once. Pickled, it is a reader with nothing open."""

    def __init__(self) -> None:
        self._archives: dict[str, zipfile.ZipFile] = {}

    def read(self, ref: FileRef) -> bytes:
        """The whole content.

        Raises:
            OSError: As the file system says; also for a pipe or a device, which might never end.
            Exception: Whatever an archive that is damaged, or is another by now, makes `zipfile` and its decompressors
                raise.
        """
        if not ref.member:
            if not stat.S_ISREG(os.stat(ref.path).st_mode):
                raise OSError(f"{ref.path!r} is no regular file")
            return Path(ref.path).read_bytes()
        if ref.path not in self._archives:
            self._archives[ref.path] = zipfile.ZipFile(ref.path)
        return self._archives[ref.path].read(ref.member)

    def close(self) -> None:
        """Close all archives."""
        for archive in self._archives.values():
            archive.close()
        self._archives.clear()

    def __reduce__(self) -> tuple[type[Reader], tuple[()]]:
        return Reader, ()
