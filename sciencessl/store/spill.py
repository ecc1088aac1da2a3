"""Samples on their way into other rows: files of Arrow record batches, one for each group of rows, read back whole."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from sciencessl.spec import FieldSpec
from sciencessl.store.files import flush_to_disk, write_atomic
from sciencessl.store.writer import Payload

ROW = "row"
"""Column of the row that a sample is dealt to; columns of samples and fields carry prefixes of their own."""
COLUMN, PAYLOAD = "column.", "payload."
_DONE = "dealt.json"


@dataclass(frozen=True)
class Spill:
    """A folder of files to which batches are appended, group by group.

    Attributes:
        folder: Made when the first batch comes.
        fields: Of the store.
        columns: Types of the samples' own columns.
    """

    folder: Path
    fields: Mapping[str, FieldSpec]
    columns: pa.Schema

    def append(
        self, group: int, rows: np.ndarray, table: pa.Table, payloads: Mapping[str, Sequence[Payload]]
    ) -> None:
        """Add samples to a group.

        Args:
            group: Number of the group.
            rows: (n,) row that each is dealt to.
            table: `id`, `split` and own columns, n lines; columns that it lacks are missing values.
            payloads: Field -> n payloads.

        Raises:
            OSError: As the file system says.
        """
        arrays = [pa.array(rows, pa.uint32()), table["id"], table["split"]]
        for column in self.columns:
            known = column.name in table.column_names
            arrays.append(table[column.name].cast(column.type) if known else pa.nulls(len(rows), column.type))
        for name in self.fields:
            raw = [value if isinstance(value, bytes) else value.tobytes() for value in payloads[name]]
            arrays.append(pa.array(raw, pa.large_binary()))
        flat = [part.combine_chunks() if isinstance(part, pa.ChunkedArray) else part for part in arrays]
        message = pa.record_batch(flat, schema=self._schema).serialize()
        self.folder.mkdir(parents=True, exist_ok=True)
        with self._file(group).open("ab") as stream:
            stream.write(len(message).to_bytes(8, "little"))
            stream.write(message)

    def read(self, group: int) -> pa.Table:
        """All samples of a group, as `_schema` says; none where nothing was added.

        Raises:
            OSError: As the file system says.
        """
        batches = []
        if self._file(group).exists():
            raw, at = pa.py_buffer(self._file(group).read_bytes()), 0
            while at < raw.size:
                size = int.from_bytes(raw[at : at + 8].to_pybytes(), "little")
                batches.append(pa.ipc.read_record_batch(raw.slice(at + 8, size), self._schema))
                at += 8 + size
        return pa.Table.from_batches(batches, self._schema)

    def taken(self, table: pa.Table, row: int) -> tuple[pa.Table, dict[str, list[Payload]]]:
        """The samples of one row out of a group: `id`, `split` and own columns; and field -> payloads."""
        here = table.filter(pc.equal(table[ROW], pa.scalar(row, pa.uint32())))
        own = here.select(["id", "split", *(COLUMN + column.name for column in self.columns)])
        payloads = {name: [_payload(raw.as_buffer(), spec) for raw in here[PAYLOAD + name]]
                    for name, spec in self.fields.items()}
        return own.rename_columns(["id", "split", *self.columns.names]), payloads

    def close(self, made_of: Mapping[str, Any]) -> None:
        """All batches are there, and durably so: `is_closed` says it from now on."""
        for path in self.folder.glob("*.batches"):
            flush_to_disk(path)
        write_atomic(self.folder / _DONE, json.dumps(dict(made_of)).encode())

    def groups(self, made_of: Mapping[str, Any]) -> int:
        """Number of groups of a spill that was closed over the same things, 0 where there is none."""
        try:
            found = json.loads((self.folder / _DONE).read_bytes())
            return int(found.pop("groups")) if {**found, "groups": 0} == {**made_of, "groups": 0} else 0
        except (OSError, ValueError, KeyError):
            return 0

    def drop(self, group: int) -> None:
        """Give back the space of a group."""
        self._file(group).unlink(missing_ok=True)

    def clear(self) -> None:
        """Remove the folder."""
        shutil.rmtree(self.folder, ignore_errors=True)

    @property
    def _schema(self) -> pa.Schema:
        own = [pa.field(COLUMN + column.name, column.type) for column in self.columns]
        packed = [pa.field(PAYLOAD + name, pa.large_binary()) for name in self.fields]
        return pa.schema([(ROW, pa.uint32()), ("id", pa.string()), ("split", pa.string()), *own, *packed])

    def _file(self, group: int) -> Path:
        return self.folder / f"{group:06d}.batches"


def _payload(raw: pa.Buffer, spec: FieldSpec) -> Payload:
    if spec.kind == "bytes":
        return bytes(raw)
    return np.frombuffer(raw, np.dtype(spec.dtype)).reshape(len(spec.channels), *spec.shape)
