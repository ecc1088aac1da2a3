"""Rows of Zooniverse's exports: CSV with JSON in its cells, and which sample of a store a subject is."""

from __future__ import annotations

import csv
import json
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sciencessl.errors import ConfigError, DataError

ID_NAMES = ("subject_id", "id", "iauname", "objid", "name")
"""Metadata that may name a sample, the first being what `select` writes."""
HIDING = "#/!%&"
"""Marks in front of the name of metadata, which decide who sees it."""
LARGEST_CELL = 2**27
SHOWN = 3


@dataclass(frozen=True)
class RefusedRow:
    """A row that gives no vote: line of the file (its last, where a row has several), reason to count by, detail."""

    line: int
    reason: str
    detail: str = ""


class RefusedError(Exception):
    """Reason and detail of a row that gives no vote."""


def parsed(row: Mapping[str, str], column: str, kind: type) -> Any:
    """The JSON value of a cell.

    Raises:
        RefusedError: When it is none, or of another kind.
    """
    try:
        value = json.loads(row[column])
    except (ValueError, RecursionError) as error:
        raise RefusedError("bad-json", f"{column}: {error}") from None
    if not isinstance(value, kind):
        raise RefusedError("bad-json", f"{column} holds a {type(value).__name__}, expected a {kind.__name__}")
    return value


def export_rows(path: Path, refused: list[RefusedRow]) -> Iterator[tuple[int, dict[str, str]]]:
    """The rows of an export, each with its line.

    Args:
        path: A CSV in UTF-8.
        refused: Receives rows of another number of cells, and what is no CSV.

    Yields:
        Line of the file (the last, where a row has several) and column -> text; first of all the header, without text.

    Raises:
        DataError: When there is no header to read.
    """
    before = csv.field_size_limit(LARGEST_CELL)
    try:
        with path.open(newline="", encoding="utf-8-sig", errors="replace") as stream:
            reader = csv.reader(stream, strict=True)
            try:
                header = [name.strip() for name in next(reader, [])]
            except csv.Error as error:
                raise DataError(f"export {path}: its first line is no header of a CSV ({error}): is the file whole, "
                                "and not packed?") from None
            yield reader.line_num, dict.fromkeys(header, "")
            while True:
                try:
                    cells = next(reader)
                except StopIteration:
                    return
                except csv.Error as error:
                    refused.append(RefusedRow(reader.line_num, "bad-csv", f"{error}: is the file whole?"))
                    continue
                if len(cells) == len(header):
                    yield reader.line_num, dict(zip(header, cells, strict=True))
                elif cells:
                    said = f"{len(cells)} cells, {len(header)} columns: is the file whole?"
                    refused.append(RefusedRow(reader.line_num, "bad-csv", said))
    finally:
        csv.field_size_limit(before)


class Names:
    """Which sample of the store a subject is."""

    def __init__(self, known: Sequence[str], column: str, subjects: Mapping[str, dict[str, Any]]) -> None:
        """Take the store's ids, the metadata column that was named, and metadata by Zooniverse's number."""
        self.known, self.column, self.subjects = {*known}, column, subjects
        self.seen: Counter[str] = Counter()
        self.given: list[str] = []

    def sample(self, number: str, metadata: Mapping[str, Any]) -> tuple[str, dict[str, str]]:
        """Which sample a subject is.

        Args:
            number: Zooniverse's.
            metadata: That the export has of it.

        Returns:
            Its id, and its metadata as text, without the marks of their names.

        Raises:
            RefusedError: When no metadata names a sample.
        """
        merged = {**self.subjects.get(number, {}), **metadata}
        plain = {name.lstrip(HIDING).strip(): str(value) for name, value in merged.items()
                 if isinstance(value, str | int | float) and str(value)}
        self.seen.update(plain.keys())  # of a mapping it would add up the values
        if self.column:
            found = plain.get(self.column.lstrip(HIDING), "")
        else:
            named = [plain[name] for name in ID_NAMES if name in plain]
            found = next((name for name in named if name in self.known), named[0] if named else "")
        if not found:
            raise RefusedError("no-id", f"subject {number} has no metadata that names a sample")
        if len(self.given) < SHOWN:
            self.given.append(found)
        return found, plain


def read_subjects(path: Path) -> dict[str, dict[str, Any]]:
    """Number of a subject -> its metadata, of the Lab's `subjects.csv`.

    Raises:
        ConfigError: When there is no such file.
        DataError: For other columns, or metadata that is no JSON, with the line.
    """
    if not path.is_file():
        raise ConfigError(f"--subjects {path}: there is no such file; expected subjects.csv of the project's exports.")
    found: dict[str, dict[str, Any]] = {}
    rows = export_rows(path, [])
    header = next(rows)[1]
    if not {"subject_id", "metadata"} <= {*header}:
        raise DataError(f"--subjects {path} has the columns {', '.join(header)}; expected subject_id and metadata.")
    for line, row in rows:
        try:
            found[row["subject_id"]] = parsed(row, "metadata", dict)
        except RefusedError as refused:
            raise DataError(f"--subjects {path}, line {line}: {refused.args[1]}.") from None
    return found
