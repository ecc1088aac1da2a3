"""From sources and a catalogue to the inputs of a store: identifiers, files, groups, splits and kept columns."""

from __future__ import annotations

import os
import posixpath
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sciencessl.data_prep.catalogue import Catalogue, as_text, find_catalogue, from_folders, tidy
from sciencessl.data_prep.columns import ID_NAMES, Columns, choose_columns, require_columns
from sciencessl.data_prep.labels import make_labels
from sciencessl.data_prep.listing import (
    FITS_SUFFIXES,
    SAMPLE_SUFFIXES,
    FileRef,
    Listing,
    Reader,
    file_ref,
    has_suffix,
    list_sources,
    stem,
)
from sciencessl.data_prep.settings import PrepareSettings
from sciencessl.data_prep.source import Input, Labels
from sciencessl.data_prep.split import assign_split, check_groups, given_splits, stratified_splits
from sciencessl.errors import ConfigError, DataError
from sciencessl.spec import DomainSpec

ROW_COLUMNS = ("id", "key", "split", "group", "file", "width", "height", "content_hash", "pixel_hash")
"""What every sample has; a kept catalogue column of such a name gets the prefix `catalogue_`."""

Located = tuple[str, FileRef | None]


@dataclass(frozen=True)
class Manifest:
    """All that is known before a file is opened.

    Attributes:
        inputs: One an image or stamp.
        labels: The table of labels, or None.
        settings: What of the catalogue enters the digests: where groups and splits come from, what is kept.
        guessed: Sentences for people.
    """

    inputs: tuple[Input, ...]
    labels: Labels | None
    settings: dict[str, Any]
    guessed: tuple[str, ...]


@dataclass(frozen=True)
class FileKind:
    """What is listed and how it is called.

    Attributes:
        suffixes: Of the files.
        id_names: Names of catalogue columns that hold identifiers, the likeliest first.
        group_of: Identifier -> its group, where no column says; None makes each a group of its own.
    """

    suffixes: Sequence[str] = SAMPLE_SUFFIXES
    id_names: Sequence[str] = ID_NAMES
    group_of: Callable[[str], str] | None = None


IMAGE_FILES = FileKind()


def read_manifest(
    spec: DomainSpec, sources: Sequence[str | Path], settings: PrepareSettings, reader: Reader,
    kind: FileKind = IMAGE_FILES,
) -> Manifest:
    """List the sources, read the catalogue or the folder names, and join the two.

    Raises:
        ConfigError: For columns, schemas or a catalogue that do not exist.
        DataError: For no images, no file of the catalogue found, repeated identifiers, splits that leak, bad votes.
    """
    listing = list_sources(sources, kind.suffixes)
    catalogue = find_catalogue(listing, reader, settings.catalogue)
    deeper = sorted(listing.tables) if catalogue is None else []
    catalogue = catalogue or from_folders(listing)
    columns = choose_columns(catalogue, spec, settings, id_names=kind.id_names)
    located, selected = locate(catalogue, columns, listing)
    catalogue, said = _select(catalogue, located, selected, listing)
    said += [f"{deeper[0]} lies below the source and is not used; pass --catalogue to use it"] if deeper else []
    located = [located[i] for i in selected]
    ids = identifiers(catalogue, columns, [name for name, _ in located])
    groups = given_groups(catalogue, columns, ids, kind.group_of)
    splits = sample_splits(catalogue, columns, groups, settings)
    labels, votes, vote_words = make_labels(catalogue, ids, columns.classes, spec, settings)
    kept = kept_columns(catalogue, columns, votes, spec, settings)
    inputs = _inputs(ids, located, splits, groups, columns, kept)
    return Manifest(
        tuple(inputs), labels, split_settings(columns, sorted(kept), settings), (*columns.guessed, *said, *vote_words)
    )


def locate(catalogue: Catalogue, columns: Columns, listing: Listing) -> tuple[list[Located], list[int]]:
    """Find the file of each row: relative to the catalogue's folder, else to the source; by name where only ids are.

    Returns:
        For each row its file name relative to the source and where it is (None where missing), and the rows that are
        meant: all of them, or those whose files were picked by name or glob.

    Raises:
        DataError: When not one file was found.
    """
    if columns.file:
        found = [_by_name(text or "", catalogue, listing) for text in as_text(catalogue.data, columns.file)]
    else:
        stems: dict[str, list[str]] = {}
        for name in listing.files:
            base = posixpath.basename(name)
            for called in dict.fromkeys((stem(base), base)):
                stems.setdefault(called, []).append(name)
        found = [_by_id(text or "", stems, listing) for text in as_text(catalogue.data, columns.id, catalogue.where)]
    present = [row for row, (_, ref) in enumerate(found) if ref is not None]
    if not present:
        how = f"column {columns.file!r}" if columns.file else f"identifiers of column {columns.id!r}"
        raise DataError(
            f"none of the {len(found)} files of catalogue {catalogue.where} ({how}) was found; the first is "
            f"{found[0][0]!r}. Paths are relative to the catalogue's folder or to the source ({listing.root}); name "
            "another column with --file."
        )
    return found, present if listing.partial else list(range(len(found)))


def _by_id(identifier: str, stems: dict[str, list[str]], listing: Listing) -> Located:
    matches = stems.get(identifier, [])
    return (matches[0], listing.files[matches[0]]) if len(matches) == 1 else (identifier, None)


def _by_name(text: str, catalogue: Catalogue, listing: Listing) -> Located:
    plain = posixpath.normpath(text.replace("\\", "/")) if text else ""
    for name in (_from_root(plain, catalogue, listing), plain):
        if name in listing.files:
            return name, listing.files[name]
    if not text or listing.partial:
        return plain, None
    for folder in (catalogue.folder, listing.root if listing.root.is_dir() else None):
        path = None if folder is None else folder / text
        if path is not None and path.is_file():
            return plain, file_ref(path)
    return plain, None


def _from_root(plain: str, catalogue: Catalogue, listing: Listing) -> str:
    """A path of the catalogue as the listing would name it."""
    if catalogue.folder is None or not listing.root.is_dir():
        return posixpath.normpath(catalogue.prefix + plain)
    return os.path.normpath(os.path.join(catalogue.folder, plain)).removeprefix(f"{listing.root}{os.sep}")


def _select(
    catalogue: Catalogue, located: Sequence[Located], selected: Sequence[int], listing: Listing
) -> tuple[Catalogue, list[str]]:
    said = []
    if len(selected) < len(located):
        said.append(f"{len(located) - len(selected)} rows of the catalogue name other files and are left out")
        data = catalogue.data.take(list(selected))
        catalogue = Catalogue(data, catalogue.where, catalogue.folder, catalogue.prefix, catalogue.made)
    if catalogue.where:
        unlisted = len(set(listing.files) - {name for name, ref in located if ref is not None})
        said += [f"{unlisted} image files are not in the catalogue and are left out"] if unlisted else []
    return catalogue, said


def identifiers(catalogue: Catalogue, columns: Columns, names: Sequence[str]) -> list[str]:
    """The identifier of each row: from its column, or else the file name without suffix, where that is unique.

    Args:
        catalogue: The table.
        columns: Which column is what.
        names: File name of each row; read only where no column holds identifiers.

    Raises:
        DataError: When one is empty or occurs more than once.
    """
    if not columns.id:
        stems = [stem(name) for name in names]
        ids = stems if len(set(stems)) == len(stems) else list(names)
        where = f"file column {columns.file!r}"
    else:
        ids = [text or "" for text in as_text(catalogue.data, columns.id, catalogue.where)]
        where = f"column {columns.id!r}"
    empty = ids.count("")
    if empty:
        raise DataError(f"catalogue {catalogue.where}: {empty} row(s) have an empty {where}; each needs a value.")
    repeated = [(name, count) for name, count in Counter(ids).items() if count > 1]
    if repeated:
        first = ", ".join(f"{name!r} ({count} times)" for name, count in repeated[:3])
        raise DataError(
            f"catalogue {catalogue.where}, {where}: {len(repeated)} identifiers occur more than once: {first}. Drop "
            "the extra rows, or name another column with --id."
        )
    return ids


def given_groups(
    catalogue: Catalogue, columns: Columns, ids: Sequence[str], group_of: Callable[[str], str] | None = None
) -> list[str]:
    """The group of each row as its column says; what its id says, or its own id, where there is no column or value."""
    own = list(ids) if group_of is None else [group_of(identifier) for identifier in ids]
    if not columns.group:
        return own
    values = as_text(catalogue.data, columns.group)
    return [value or group for value, group in zip(values, own, strict=True)]


def sample_splits(
    catalogue: Catalogue, columns: Columns, groups: Sequence[str], settings: PrepareSettings
) -> list[str]:
    """The split of each row: from its column, or else drawn by its group, stratified where settings say so.

    Raises:
        ConfigError: When splits are to be stratified and are given, or there is no class.
        DataError: When a given split is none, or a group lies in two.
    """
    fractions = (settings.test_fraction, settings.val_fraction)
    if settings.stratify:
        if columns.split or not columns.classes:
            lack = f"splits are given by column {columns.split!r}" if columns.split else "there is no column of classes"
            raise ConfigError(f"--stratify draws splits with even shares of each class, but {lack} in "
                              f"{catalogue.described}; leave it out, or name columns with --split and --label.")
        classes = as_text(catalogue.data, columns.classes[0])
        return stratified_splits(groups, classes, settings.split_seed, *fractions)
    if not columns.split:
        return [assign_split(group, settings.split_seed, *fractions) for group in groups]
    splits = given_splits(as_text(catalogue.data, columns.split), columns.split)
    check_groups(groups, splits, columns.group)
    return splits


def kept_columns(
    catalogue: Catalogue, columns: Columns, votes: Sequence[str], spec: DomainSpec, settings: PrepareSettings
) -> dict[str, list[Any]]:
    """Catalogue columns that stay with the samples: column of the store -> its values.

    Raises:
        ConfigError: For a column to keep that does not exist.
    """
    # Columns that the domain declares, such as positions, travel without being asked for.
    declared = [column.name for column in spec.columns if column.role in ("position", "quality", "other")]
    if "all" in settings.keep:
        taken = {columns.id, columns.file, columns.split, columns.group, *columns.classes, *votes}
        names = [name for name in catalogue.data.column_names if name not in taken]
        names = [name for name in names if not _is_nested(catalogue, name)]
    else:
        require_columns(settings.keep, "keep", catalogue)
        names = list(dict.fromkeys([*settings.keep, *(n for n in declared if n in catalogue.data.column_names)]))
    return {_row_name(name): tidy(catalogue.data, name) for name in names}


def _is_nested(catalogue: Catalogue, name: str) -> bool:
    return bool(catalogue.data.schema.field(name).type.num_fields)


def _row_name(name: str) -> str:
    plain = name.replace(".", "_")
    return f"catalogue_{plain}" if plain in ROW_COLUMNS else plain


def _inputs(
    ids: Sequence[str], located: Sequence[Located], splits: Sequence[str], groups: Sequence[str], columns: Columns,
    kept: dict[str, list[Any]],
) -> list[Input]:
    inputs = []
    for row, (identifier, (name, ref)) in enumerate(zip(ids, located, strict=True)):
        values = {column: cells[row] for column, cells in kept.items()}
        values["group"] = groups[row]
        if columns.group not in ("", "group"):
            values[_row_name(columns.group)] = groups[row]
        size, stamp = (0, 0) if ref is None else (ref.size, ref.stamp)
        inputs.append(Input(identifier, name, size, stamp, splits[row], values, ref))
    return inputs


def split_settings(columns: Columns, kept: list[str], settings: PrepareSettings) -> dict[str, Any]:
    """What of the catalogue enters the digests of a store."""
    if columns.split:
        split: Any = {"given": columns.split}
    else:
        split = {"seed": settings.split_seed, "test": settings.test_fraction, "val": settings.val_fraction}
        split |= {"stratified": columns.classes[0]} if settings.stratify else {}
    return {"group": columns.group, "split": split, "keep": kept}


def are_stamps(inputs: Sequence[Input]) -> bool:
    """Whether the inputs are FITS stamps.

    Raises:
        DataError: When some are and some are not.
    """
    stamps = sum(has_suffix(entry.file, FITS_SUFFIXES) for entry in inputs)
    if 0 < stamps < len(inputs):
        raise DataError(
            f"the source mixes {stamps} FITS files with {len(inputs) - stamps} image files; a store holds one kind. "
            "Select one with a glob, such as 'FOLDER/*.fits'."
        )
    return bool(stamps)
