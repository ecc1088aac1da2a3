"""Tables of features that someone else computed: Parquet, what `embed` wrote, or HDF5."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from sciencessl.errors import DataError, MissingExtraError
from sciencessl.store.format import digest

ID = "id"
PARQUET = (".parquet", ".pq")
HDF5 = (".h5", ".hdf5")
SHARDS = "part-*.parquet"


@dataclass(frozen=True)
class FeatureTable:
    """Features by sample id.

    Attributes:
        path: Where they were read.
        place: Id -> row of `values`.
        values: (n, F) float32.
    """

    path: Path
    place: dict[str, int]
    values: np.ndarray

    @property
    def digest(self) -> str:
        """Of ids and values."""
        return digest("\n".join(self.place).encode(), self.values.tobytes())

    def rows(self, ids: Sequence[str]) -> np.ndarray:
        """(len(ids), F) features, in the order of `ids`.

        Raises:
            DataError: When some are not in the table: how many, and the first.
        """
        missing = [name for name in ids if name not in self.place]
        if missing:
            raise DataError(
                f"{self.path} has no features for {len(missing)} of the {len(ids)} samples that are needed, the first "
                f"being {missing[0]!r} (its own ids look like {next(iter(self.place), '')!r}). Compute them for every "
                f"sample of the store, under the store's ids."
            )
        found: np.ndarray = self.values[[self.place[name] for name in ids]]
        return found


def is_feature_table(path: Path) -> bool:
    """Whether a path is a Parquet or HDF5 file by its name, or a folder of what `embed` wrote."""
    return path.suffix.lower() in PARQUET + HDF5 or (path.is_dir() and any(path.glob(SHARDS)))


def read_feature_table(path: Path) -> FeatureTable:
    """Read features: a Parquet file or `embed` folder, or an HDF5 file.

    Parquet: the column `id`, and either one column of lists of one length or any number of columns of floating-point
    numbers. HDF5: the dataset `id` of N strings, and one other dataset of N rows and two dimensions. Whole-number
    columns are never features: they may be labels.

    Raises:
        DataError: When the file is missing, unreadable or of another layout, or an id occurs twice.
        MissingExtraError: For HDF5 without h5py.
    """
    if not path.exists():
        raise DataError(f"{path} does not exist; give a table of features, a run folder or timm:NAME@FILE.")
    ids, values = _read_hdf5(path) if path.suffix.lower() in HDF5 else _read_parquet(path)
    place = {name: row for row, name in enumerate(ids)}
    if len(place) < len(ids):
        twice = next(name for row, name in enumerate(ids) if place[name] != row)
        raise DataError(f"{path}: id {twice!r} occurs more than once; keep one row of features for each sample.")
    return FeatureTable(path, place, np.ascontiguousarray(values, dtype=np.float32))


def _read_parquet(path: Path) -> tuple[list[str], np.ndarray]:
    files = sorted(path.glob(SHARDS)) if path.is_dir() else [path]
    try:
        table = pa.concat_tables([pq.read_table(file) for file in files])
    except (pa.ArrowException, OSError) as error:
        raise DataError(f"{path} cannot be read as Parquet ({type(error).__name__}: {error}).") from error
    if ID not in table.column_names:
        raise DataError(f"{path} has no column {ID!r} of sample ids; it has {', '.join(table.column_names)}.")
    return [str(name) for name in table[ID].to_pylist()], _parquet_values(path, table)


def _parquet_values(path: Path, table: pa.Table) -> np.ndarray:
    kinds = {name: table.schema.field(name).type for name in table.column_names if name != ID}
    lists = [name for name, kind in kinds.items() if pa.types.is_list(kind) or pa.types.is_fixed_size_list(kind)]
    floats = [name for name, kind in kinds.items() if pa.types.is_floating(kind)]
    if len(lists) == 1:
        flat = table[lists[0]].combine_chunks().flatten().to_numpy(zero_copy_only=False)
        if len(table) and len(flat) % len(table) == 0:
            return np.asarray(flat.reshape(len(table), -1))
        raise DataError(f"{path}: the lists of column {lists[0]!r} differ in length or are missing in some rows.")
    if lists or not floats:
        raise DataError(
            f"{path} has {len(lists)} columns of lists and {len(floats)} of floating-point numbers beside {ID!r}; "
            "expected one column of lists, or columns of floating-point numbers."
        )
    return np.stack([table[name].to_numpy() for name in floats], axis=1)


def _read_hdf5(path: Path) -> tuple[list[str], np.ndarray]:
    try:
        import h5py
    except ImportError as error:
        raise MissingExtraError(f"{path} is HDF5, which h5py reads: pip install h5py, or save Parquet.") from error
    try:
        with h5py.File(path) as stored:
            found = {name: np.asarray(stored[name]) for name in stored if isinstance(stored[name], h5py.Dataset)}
    except OSError as error:
        raise DataError(f"{path} cannot be read as HDF5 ({error}).") from error
    ids = found.pop(ID, np.zeros(0))
    matrices = [values for values in found.values() if values.ndim == 2 and len(values) == len(ids)]
    if len(matrices) != 1 or matrices[0].dtype.kind != "f":
        raise DataError(
            f"{path} holds datasets {', '.join(sorted([ID, *found]))}; expected {ID!r} of N ids and one dataset of N "
            "rows of floating-point features."
        )
    return [name.decode() if isinstance(name, bytes) else str(name) for name in ids.tolist()], matrices[0]
