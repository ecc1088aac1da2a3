"""Tables of features that someone else computed: Parquet, what `embed` wrote, HDF5, or HDF5 files of slides."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from sciencessl.errors import DataError
from sciencessl.evaluate.slide_h5 import SUFFIXES as HDF5
from sciencessl.evaluate.slide_h5 import hdf5, read_slide_h5, slide_files
from sciencessl.store.format import digest

ID = "id"
PARQUET = (".parquet", ".pq")
SHARDS = "part-*.parquet"


@dataclass(frozen=True)
class FeatureTable:
    """Features by sample id.

    Attributes:
        path: Where they were read.
        place: Id -> row of `values`.
        values: (n, F) float32.
        slides: Names of the slides, where it was read from files of slides; ids are then `SLIDE_X_Y`.
    """

    path: Path
    place: dict[str, int]
    values: np.ndarray
    slides: frozenset[str] = frozenset()

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
                f"being {missing[0]!r} (its own ids look like {next(iter(self.place), '')!r}). {self._hint(missing)}"
            )
        found: np.ndarray = self.values[[self.place[name] for name in ids]]
        return found

    def _hint(self, missing: Sequence[str]) -> str:
        if not self.slides:
            return "Compute them for every sample of the store, under the store's ids."
        slides = [name.rsplit("_", 2)[0] for name in missing]
        without = {*slides} - self.slides
        moved = sum(slide in self.slides for slide in slides)
        return (f"{len(without)} slides have no file, and {moved} tiles of {len({*slides} - without)} slides that have "
                "one lie at other coordinates. Cut tiles of the same size, scale and overlap on both sides.")


def is_feature_table(path: Path) -> bool:
    """Whether a path is a Parquet or HDF5 file by its name, or a folder of what `embed` wrote or of HDF5 files."""
    return path.suffix.lower() in PARQUET + HDF5 or (path.is_dir() and (any(path.glob(SHARDS)) or _has_slides(path)))


def _has_slides(path: Path) -> bool:
    return path.is_dir() and not any(path.glob(SHARDS)) and bool(slide_files(path))


def read_feature_table(path: Path) -> FeatureTable:
    """Read features: a Parquet file or `embed` folder, an HDF5 file, or a folder of HDF5 files of slides.

    Parquet: the column `id`, and either one column of lists of one length or any number of columns of floating-point
    numbers. HDF5: the dataset `id` of N strings, and one other dataset of N rows and two dimensions. Whole-number
    columns are never features: they may be labels. A folder: a file a slide, as `slide_h5.read_slide_h5` takes them;
    ids are `SLIDE_X_Y`, those of a store of the same tiles.

    Raises:
        DataError: When the file is missing, unreadable or of another layout, or an id occurs twice.
        MissingExtraError: For HDF5 without h5py.
    """
    if not path.exists():
        raise DataError(f"{path} does not exist; give a table of features, a run folder or timm:NAME@FILE.")
    slides: frozenset[str] = frozenset()
    if _has_slides(path):
        ids, values, slides = _read_slides(path)
    else:
        ids, values = _read_hdf5(path) if path.suffix.lower() in HDF5 else _read_parquet(path)
    place = {name: row for row, name in enumerate(ids)}
    if len(place) < len(ids):
        twice = next(name for row, name in enumerate(ids) if place[name] != row)
        raise DataError(f"{path}: id {twice!r} occurs more than once; keep one row of features for each sample.")
    return FeatureTable(path, place, np.ascontiguousarray(values, dtype=np.float32), slides)


def _read_slides(folder: Path) -> tuple[list[str], np.ndarray, frozenset[str]]:
    found = [(path, read_slide_h5(path)) for path in slide_files(folder)]
    bare = [path.name for path, slide in found if slide.features is None]
    if bare:
        raise DataError(f"{folder}: {len(bare)} of {len(found)} files hold coordinates and no features, such as "
                        f"{bare[0]}; give the folder of features.")
    tables = [slide.features for _, slide in found if slide.features is not None]
    widths = {values.shape[1]: path.name for (path, _), values in zip(found, tables, strict=True) if len(values)}
    if len(widths) > 1:
        told = ", ".join(f"{width} in {name}" for width, name in sorted(widths.items()))
        raise DataError(f"{folder}: features differ in width ({told}); give files of one encoder.")
    if not widths:
        raise DataError(f"{folder}: none of its {len(found)} files holds a tile.")
    ids = [name for _, slide in found for name in slide.ids]
    return ids, np.concatenate([values for values in tables if len(values)]), frozenset(s.slide for _, s in found)


def _read_parquet(path: Path) -> tuple[list[str], np.ndarray]:
    files = sorted(path.glob(SHARDS)) if path.is_dir() else [path]
    try:
        table = pa.concat_tables([pq.read_table(file) for file in files], promote_options="default")
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
    h5py = hdf5(path)
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
