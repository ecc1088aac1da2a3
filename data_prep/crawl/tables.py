"""Images in Parquet and Arrow tables, as img2dataset and Hugging Face datasets write them, read batch by batch."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import groupby
from typing import Any, Protocol

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from sciencessl.data_prep.crawl.forward import WINDOW, seekable
from sciencessl.data_prep.crawl.members import first_of, refused_rows, rows_of
from sciencessl.data_prep.crawl.meta import ALL, TEXTS, flattened
from sciencessl.data_prep.crawl.record import Contents, Place, Record, sample_id
from sciencessl.data_prep.decode import Refused
from sciencessl.data_prep.listing import MAX_FILE_BYTES
from sciencessl.errors import DataError, SciencesslError
from sciencessl.store.remote import is_remote
from sciencessl.store.writer import Refusal

IMAGE_COLUMNS = ("image", "jpg", "jpeg", "png", "webp", "img", "bytes", "image_bytes")
"""Names of the column with the bytes of images; any other binary column is taken where it is the only one."""
KEY_COLUMNS = ("key", "__key__", "id", "path")
"""Names of the column with keys, first of all; without any, the row's number in the table is its key."""
BATCH_BYTES, BATCH_ROWS = 8 * 2**20, 256
"""Bytes of images, and images, that are taken out of a Parquet table at once."""


class Table(Protocol):
    """A table in groups of rows.

    Attributes:
        schema: Its columns.
    """

    schema: pa.Schema

    def groups(self, image: str) -> Iterator[tuple[int, int]]:
        """For each group its rows, and the mean bytes that an image takes there, roughly."""

    def batches(
        self, columns: Sequence[str], only: Sequence[int] | None, rows: int
    ) -> Iterator[tuple[int, pa.RecordBatch]]:
        """(group, batch) of some columns, in order: of all groups, or of some; batches of at most `rows` rows where the
        file can be read so. Checked so that no value reaches out of its batch.

        Raises:
            Exception: Whatever a damaged table makes the library raise.
        """


def has_images(place: Place) -> bool:
    """Whether a table has a column of image bytes.

    Raises:
        Refused: When it cannot be read.
        DataError: When several columns might be it.
        OutOfReachError, MissingExtraError: When an object store does not answer.
    """
    with _opened(place) as table:
        return _image_column(place, table.schema) is not None


def contents(place: Place) -> Contents:
    """Its images in order: `key`, `offset` -1, `size` (mean of its group, roughly), and for us `group` and `row` in it.

    Raises:
        Refused: When it is no such table, or has no column of bytes.
        DataError: When several columns might hold the images.
        OutOfReachError, MissingExtraError: When an object store does not answer.
    """
    with _opened(place) as table, _damage():
        image = _image_column(place, table.schema)
        if image is None:
            raise Refused("unsupported", f"none of the columns {', '.join(table.schema.names)} holds bytes; addresses "
                                         "must be downloaded first, such as by img2dataset")
        sizes = list(table.groups(image))
        key = _key_column(table.schema, image)
        keys = [] if key is None else [_text(batch.column(0)) for _, batch in table.batches([key], None, 2**16)]
    rows = np.array([count for count, _ in sizes], np.int64)
    total = int(rows.sum())
    numbers = pa.array(np.arange(total)).cast(pa.string())
    listed = pa.table({
        "key": pc.coalesce(pa.chunked_array(keys, pa.string()), numbers) if key else numbers,
        "offset": np.full(total, -1), "size": np.repeat([size for _, size in sizes], rows),
        "group": np.repeat(np.arange(len(rows), dtype=np.int32), rows),
        "row": np.arange(total) - np.repeat(np.cumsum(rows) - rows, rows),
    })
    first = pa.array(first_of(listed["key"]))
    refused = (Refusal(sample_id(place, name), "duplicate-id", f"a row before it has the same {key}")
               for name in listed.filter(pc.invert(first))["key"].to_pylist())
    return Contents(listed.filter(first), tuple(refused))


def records(place: Place, rows: pa.Table, wanted: Sequence[str]) -> Iterator[Record]:
    """Images of consecutive rows; their other columns are what is said of them. A row without bytes is refused."""
    try:
        with _opened(place) as table:
            image = _image_column(place, table.schema)
            if image is None:
                raise Refused("unreadable", "its columns have changed since it was listed")
            columns = [image, *_said(table.schema, image, wanted)]
            for group, some in groupby(rows_of(rows), key=lambda row: int(row["group"])):
                yield from _of_group(table, columns, group, some, wanted)
    except Refused as refused:
        yield from refused_rows(rows, refused)


def _of_group(
    table: Table, columns: Sequence[str], group: int, rows: Iterator[dict[str, Any]], wanted: Sequence[str]
) -> Iterator[Record]:
    fault: Refused | None = None
    first, batch = 0, None
    batches: Iterator[tuple[int, pa.RecordBatch]] | None = None
    for row in rows:
        if batches is None:
            batches = table.batches(columns, [group], max(1, min(BATCH_ROWS, BATCH_BYTES // max(row["size"], 1))))
        try:
            with _damage():
                while fault is None and (batch is None or row["row"] >= first + len(batch)):
                    first += 0 if batch is None else len(batch)
                    batch = next(batches)[1]
        except (Refused, StopIteration) as error:
            fault = error if isinstance(error, Refused) else Refused("truncated", "the table ends before this row")
        if fault is None:
            yield _record(row["key"], batch, row["row"] - first, wanted)
        else:
            yield Record(row["key"], b"", refused=fault)


def _record(key: str, batch: pa.RecordBatch, row: int, wanted: Sequence[str]) -> Record:
    value = _value(batch, 0, row)
    raw = value.get("bytes") if isinstance(value, Mapping) else value
    if raw is None:
        return Record(key, b"", refused=Refused("missing-file", "the row has no bytes"))
    if not raw or len(raw) > MAX_FILE_BYTES:
        refused = Refused("too-large", f"{len(raw)} bytes, at most {MAX_FILE_BYTES} are read") if raw else (
            Refused("truncated", "the file is empty"))
        return Record(key, b"", refused=refused)
    said = {name: _value(batch, at, row) for at, name in enumerate(batch.schema.names) if at}
    return Record(key, raw, flattened(said, wanted))


def _value(batch: pa.RecordBatch, column: int, row: int) -> Any:
    try:
        return batch.column(column)[row].as_py()
    except (ValueError, OverflowError, pa.ArrowException):
        return None  # text that is none, a date that Python does not know


def _is_bytes(kind: pa.DataType) -> bool:
    if pa.types.is_struct(kind):
        return any(kind.field(at).name == "bytes" and _is_bytes(kind.field(at).type) for at in range(kind.num_fields))
    return bool(pa.types.is_binary(kind) or pa.types.is_large_binary(kind) or pa.types.is_binary_view(kind))


def _image_column(place: Place, schema: pa.Schema) -> str | None:
    """By name, or as the only one of bytes; None where there is none."""
    found = [field.name for field in schema if _is_bytes(field.type)]
    named = [name for name in found if name.lower() in IMAGE_COLUMNS] or found
    if len(named) > 1:
        raise DataError(f"{place.name}: columns {' and '.join(named)} hold bytes, and one must hold the images; rename "
                        "it to 'image' and the others to something else, or leave the table out.")
    return named[0] if named else None


def _key_column(schema: pa.Schema, image: str) -> str | None:
    for name in KEY_COLUMNS:
        at = schema.get_field_index(name)
        if at >= 0 and name != image and _is_name(schema.field(at).type):
            return name
    return None


def _is_name(kind: pa.DataType) -> bool:
    return bool(pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_integer(kind))


def _text(keys: pa.Array) -> pa.Array:
    text = keys.cast(pa.string())
    try:
        text.validate(full=True)
    except pa.ArrowInvalid:
        raws = text.cast(pa.binary()).to_pylist()
        return pa.array([None if raw is None else raw.decode("utf-8", "backslashreplace") for raw in raws], pa.string())
    return text


def _said(schema: pa.Schema, image: str, wanted: Sequence[str]) -> list[str]:
    """Columns that say what is wanted."""
    return [field.name for field in schema if field.name != image and not _is_bytes(field.type)
            and (tuple(wanted) == ALL or TEXTS.get(field.name, field.name) in wanted)]


@contextmanager
def _damage() -> Iterator[None]:
    """Raises Refused for whatever a damaged table makes the library raise."""
    try:
        yield
    except (Refused, SciencesslError, StopIteration):
        raise
    except Exception as error:
        # Its own words may hold addresses in memory.
        raise Refused("corrupt", f"the table is damaged ({type(error).__name__})") from error


@contextmanager
def _opened(place: Place) -> Iterator[Table]:
    with seekable(place) as stream:
        with _damage():
            table: Table = _Parquet(stream) if place.kind == "parquet" else _Arrow(place, stream)
        yield table


class _Parquet:
    def __init__(self, stream: Any) -> None:
        # Buffered, so that a row group of gigabytes is never in memory as a whole.
        self._file = pq.ParquetFile(stream, buffer_size=WINDOW, pre_buffer=False, page_checksum_verification=True)
        self.schema = self._file.schema_arrow

    def groups(self, image: str) -> Iterator[tuple[int, int]]:
        for number in range(self._file.metadata.num_row_groups):
            group = self._file.metadata.row_group(number)
            chunks = (group.column(at) for at in range(group.num_columns))
            size = sum(chunk.total_uncompressed_size for chunk in chunks
                       if chunk.path_in_schema.partition(".")[0] == image)
            yield group.num_rows, size // max(group.num_rows, 1)

    def batches(
        self, columns: Sequence[str], only: Sequence[int] | None, rows: int
    ) -> Iterator[tuple[int, pa.RecordBatch]]:
        for number in range(self._file.metadata.num_row_groups) if only is None else only:
            for batch in self._file.iter_batches(rows, [number], list(columns), use_threads=False):
                yield number, batch.select(list(columns))


class _Arrow:
    """Arrow's file format, or its stream format, in which batches are found by reading those before."""

    def __init__(self, place: Place, stream: Any) -> None:
        # Mapped, batches are looked at where they lie; behind a URL each is read as a whole.
        self._source = pa.PythonFile(stream, "r") if is_remote(place.url) else pa.memory_map(place.url)
        self._size = place.size
        self._is_file = self._source.read_at(6, 0) == b"ARROW1"
        self.schema = self._reader(None).schema

    def _reader(self, columns: Sequence[str] | None) -> Any:
        self._source.seek(0)
        fields = None if columns is None else [self.schema.get_field_index(name) for name in columns]
        options = pa.ipc.IpcReadOptions(included_fields=fields, use_threads=False)
        return (pa.ipc.open_file if self._is_file else pa.ipc.open_stream)(self._source, options=options)

    def groups(self, image: str) -> Iterator[tuple[int, int]]:
        # By any other column, so that no image is read to count rows.
        light = next((field.name for field in self.schema if field.name != image and not _is_bytes(field.type)), image)
        rows = [len(batch) for _, batch in self.batches([light], None, 0)]
        yield from ((count, self._size // max(sum(rows), 1)) for count in rows)

    def batches(
        self, columns: Sequence[str], only: Sequence[int] | None, rows: int
    ) -> Iterator[tuple[int, pa.RecordBatch]]:
        reader = self._reader(columns)
        if self._is_file:
            numbers = range(reader.num_record_batches) if only is None else only
            found: Iterator[tuple[int, pa.RecordBatch]] = ((number, reader.get_batch(number)) for number in numbers)
        else:
            found = ((at, batch) for at, batch in enumerate(reader) if only is None or at in only)
        for number, batch in found:
            batch.validate(full=True)
            yield number, batch.select(list(columns))
