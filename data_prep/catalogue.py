"""Catalogues: CSV, Parquet, FITS and VOTable read without losing a digit of an identifier, and folder names as one."""

from __future__ import annotations

import io
import posixpath
import re
import warnings
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv as pacsv

from sciencessl.data_prep.fits_headers import astropy_fits
from sciencessl.data_prep.listing import CATALOGUE_NAMES, TABLE_SUFFIXES, Listing, Reader, absolute, has_suffix
from sciencessl.data_prep.split import SPLIT_NAMES
from sciencessl.errors import ConfigError, DataError
from sciencessl.store.files import read_parquet

_EXPECTED = ".csv, .parquet, .fits or .vot"
_LEADING_ZERO = re.compile(r"^[+-]?0[0-9]")


@dataclass(frozen=True)
class Catalogue:
    """A table of samples.

    Attributes:
        data: Columns as read; those of a CSV are all text.
        where: The file in words, or empty when the table was made from folder names.
        folder: Folder on disk that `file` is relative to, or None inside an archive.
        prefix: The same folder relative to the listing's root, with a final `/` unless empty.
        made: Column -> how it was made, for tables that were made from folder names.
    """

    data: pa.Table
    where: str
    folder: Path | None
    prefix: str
    made: dict[str, str] = field(default_factory=dict)

    @property
    def described(self) -> str:
        """The table in words, for messages."""
        return f"catalogue {self.where}" if self.where else "the folders (there is no catalogue)"


def find_catalogue(listing: Listing, reader: Reader, explicit: str) -> Catalogue | None:
    """Read the catalogue that was named, or the one that lies in the source or beside its archive.

    Raises:
        ConfigError: When the named file does not exist, or several could be meant.
        DataError: When it cannot be read, or has no rows.
    """
    if explicit:
        return _from_disk(_existing(explicit, listing), listing)
    tops = top_tables(listing)
    folders = {posixpath.dirname(name) for name in tops}
    if len(folders) > 1:
        raise ConfigError(f"several catalogues were found: {', '.join(sorted(tops))}. Choose one with --catalogue.")
    if tops:
        name = min(tops, key=_preference)
        ref = listing.tables[name]
        prefix = f"{posixpath.dirname(name)}/".lstrip("/")
        if not ref.member:
            return _from_disk(Path(ref.path), listing)
        return _catalogue(reader.read(ref), f"{ref.path}:{ref.member}", None, prefix)
    beside = _beside(listing)
    return None if beside is None else _from_disk(beside, listing)


def read_catalogue(path: str | Path) -> Catalogue:
    """Read one table that belongs to no source.

    Raises:
        ConfigError: When there is no such file, or its name does not say CSV, Parquet, FITS or VOTable.
        DataError: When it cannot be read, repeats a column name or has no rows.
    """
    whole = absolute(path)
    if not whole.is_file():
        raise ConfigError(f"table {str(path)!r} does not exist; expected a {_EXPECTED} file.")
    return _catalogue(whole, str(path), whole.parent, "")


def _preference(name: str) -> tuple[int, str]:
    base = posixpath.basename(name).lower()
    # A table that was given as a source by its own name comes before those that were merely found.
    return (CATALOGUE_NAMES.index(base) if base in CATALOGUE_NAMES else -1, name)


def top_tables(listing: Listing) -> list[str]:
    """Catalogues in a source's own folder, or in the one folder that everything lies in; deeper ones do not count."""

    def is_top(folder: str) -> bool:
        return folder in listing.tops or all(file.startswith(f"{folder}/") for file in listing.files)

    return [name for name in listing.tables if is_top(posixpath.dirname(name))]


def _existing(explicit: str, listing: Listing) -> Path:
    for path in (absolute(explicit), absolute(listing.root / explicit)):
        if path.is_file():
            return path
    raise ConfigError(
        f"catalogue {explicit!r} does not exist, neither from the current folder nor in {listing.root}; expected a "
        f"{_EXPECTED} file."
    )


def _beside(listing: Listing) -> Path | None:
    """A table next to an archive, or in the folder of files that were given one by one."""
    if listing.root.is_file():
        own = [listing.root.with_suffix(suffix) for suffix in TABLE_SUFFIXES]
        candidates = [*own, *(listing.root.parent / name for name in CATALOGUE_NAMES)]
    else:
        candidates = [listing.root / name for name in CATALOGUE_NAMES]
    return next((path for path in candidates if path.is_file()), None)


def _from_disk(path: Path, listing: Listing) -> Catalogue:
    inside = listing.root.is_dir() and path.parent.is_relative_to(listing.root)
    prefix = path.parent.relative_to(listing.root).as_posix() if inside else "."
    return _catalogue(path, str(path), path.parent, "" if prefix == "." else f"{prefix}/")


def _catalogue(content: Path | bytes, where: str, folder: Path | None, prefix: str) -> Catalogue:
    try:
        data = read_table(content, where)
    except (pa.ArrowException, OSError, UnicodeError) as error:
        raise DataError(f"catalogue {where} cannot be read: {str(error).splitlines()[0]}.") from error
    repeated = sorted({name for name in data.column_names if data.column_names.count(name) > 1})
    if repeated:
        raise DataError(f"catalogue {where} has more than one column named {repeated[0]!r}; rename or drop one.")
    if not data.num_rows:
        raise DataError(f"catalogue {where} has columns ({', '.join(data.column_names)}) but no rows.")
    return Catalogue(data, where, folder, prefix)


def read_table(content: Path | bytes, where: str) -> pa.Table:
    """Read a CSV (every column as text, empty cells as null), Parquet, FITS or VOTable by the suffix of `where`.

    Raises:
        ConfigError: For another suffix.
        MissingExtraError: When a FITS table or VOTable needs astropy and it is not installed.
        DataError: When a FITS file or VOTable holds no table, or a VOTable cannot be read.
        pyarrow.ArrowException: When the bytes are not what the suffix says.
    """
    if has_suffix(where, (".csv", ".tsv", ".txt")):
        return _read_csv(content if isinstance(content, bytes) else content.read_bytes())
    if has_suffix(where, (".parquet", ".pq")):
        return read_parquet(content if isinstance(content, bytes) else content.read_bytes())
    if has_suffix(where, (".fits", ".fit", ".fits.gz")):
        return _read_fits(content, where)
    if has_suffix(where, (".vot", ".votable", ".xml")):
        return _read_votable(content, where)
    raise ConfigError(f"catalogue {where}: expected a file ending in {_EXPECTED}.")


def _read_csv(raw: bytes) -> pa.Table:
    header = raw.split(b"\n", 1)[0]
    delimiter = max((",", ";", "\t"), key=lambda mark: (header.count(mark.encode()), mark == ","))
    # Quoted cells may hold line ends (comments of volunteers); without the flag such a file splits in the wrong place.
    parse = pacsv.ParseOptions(delimiter=delimiter, newlines_in_values=True)
    names = pacsv.open_csv(io.BytesIO(raw), parse_options=parse).schema.names
    convert = pacsv.ConvertOptions(
        column_types=dict.fromkeys(names, pa.string()), null_values=[""], strings_can_be_null=True,
        quoted_strings_can_be_null=True,
    )
    table = pacsv.read_csv(io.BytesIO(raw), parse_options=parse, convert_options=convert)
    return table.rename_columns([name.strip() for name in table.column_names])


def _read_fits(content: Path | bytes, where: str) -> pa.Table:
    fits = astropy_fits(f"reading the FITS table {where}")
    with fits.open(io.BytesIO(content) if isinstance(content, bytes) else content, memmap=False) as units:
        tables = [unit for unit in units if isinstance(unit, fits.BinTableHDU | fits.TableHDU)]
        tables = [unit for unit in tables if not isinstance(unit, fits.CompImageHDU)]
        if not tables:
            raise DataError(f"catalogue {where} is a FITS file without a table.")
        columns = {one.name: _column(_with_nulls(tables[0].data[one.name], one.null)) for one in tables[0].columns}
    return pa.table({name: values for name, values in columns.items() if values is not None})


def _with_nulls(values: Any, null: Any) -> Any:
    """Whole numbers of a FITS column, masked where they are the one that its header calls empty (TNULL)."""
    return np.ma.masked_equal(values, null) if isinstance(null, int) and values.dtype.kind in "iu" else values


def _column(values: Any) -> pa.Array | None:
    """One column in native byte order, masked cells and NaN, which is how FITS and VOTable write an empty cell of
    floats, as null; None for columns with more than one value a row."""
    missing = np.ma.getmaskarray(values) if isinstance(values, np.ma.MaskedArray) else None
    values = np.ma.getdata(values)
    if values.ndim != 1 or (values.dtype.kind == "O" and any(isinstance(cell, np.ndarray) for cell in values)):
        return None
    if values.dtype.kind in "SUO":
        words = [str(word).strip() for word in values.astype("U")]
        return pa.array([word or None for word in words], pa.string(), mask=missing)
    return pa.array(values.astype(values.dtype.newbyteorder("=")), mask=missing, from_pandas=True)


def _read_votable(content: Path | bytes, where: str) -> pa.Table:
    """The first table of a VOTable, of any serialisation."""
    astropy_fits(f"reading the VOTable {where}")
    from astropy.io import votable

    raw = content if isinstance(content, bytes) else content.read_bytes()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            tables = list(votable.parse(io.BytesIO(raw), verify="ignore").iter_tables())
            if not tables:
                raise DataError(f"catalogue {where} is a VOTable without a table.")
            array, names = tables[0].array, [column.name or column.ID for column in tables[0].fields]
            if len(array) < (tables[0].nrows or 0):
                raise ValueError(f"{tables[0].nrows} rows announced, {len(array)} found")
    except DataError:
        raise
    except Exception as error:  # XML that is damaged, or is something else, raises anything
        said = " ".join(str(error).split())[:160]
        raise DataError(f"catalogue {where} cannot be read as a VOTable ({said}); check the download.") from error
    columns = [(name, _column(array[key])) for name, key in zip(names, array.dtype.names or (), strict=True)]
    kept = [(name, values) for name, values in columns if values is not None]
    return pa.table([values for _, values in kept], names=[name for name, _ in kept])


def as_text(data: pa.Table, column: str, where: str = "") -> list[str | None]:
    """A column as text without losing digits; surrounding spaces go, empty cells are None.

    Raises:
        DataError: For identifiers stored as floats that no longer tell integers apart.
    """
    values = data[column]
    if values.type.num_fields:
        raise DataError(f"catalogue {where}, column {column!r} holds {values.type}; expected one value a row.")
    if pa.types.is_floating(values.type):
        values = _whole_floats(values, column, where)
    if pa.types.is_dictionary(values.type):
        values = values.cast(values.type.value_type)
    text = pc.utf8_trim_whitespace(values.cast(pa.string()))
    return [word or None for word in text.to_pylist()]


def _whole_floats(values: pa.ChunkedArray, column: str, where: str) -> pa.ChunkedArray:
    numbers = values.cast(pa.float64()).to_numpy()
    numbers = numbers[np.isfinite(numbers)]
    if numbers.size and np.all(numbers == np.floor(numbers)):
        # From here on a float cannot tell neighbouring integers apart: 2**53 in double precision.
        if np.abs(numbers).max() >= 2.0 ** (np.finfo(values.type.to_pandas_dtype()).nmant + 1):
            raise DataError(
                f"catalogue {where}, column {column!r}: whole numbers are stored as floats ({values.type}) too short "
                "for them, so their last digits are lost already. Write the column as text or 64-bit integers."
            )
        empty = pc.if_else(pc.is_finite(values), values, pa.scalar(None, values.type))
        return empty.cast(pa.int64())
    return values


def tidy(data: pa.Table, column: str) -> list[Any]:
    """A column as whole numbers, floats, booleans or text, whichever holds all of its values; empty cells are None."""
    values = data[column]
    if pa.types.is_dictionary(values.type):
        values = values.cast(values.type.value_type)
    if pa.types.is_boolean(values.type):
        return list(values.to_pylist())
    if pa.types.is_string(values.type) and any(_LEADING_ZERO.match(v) for v in values.to_pylist() if v):
        return as_text(data, column)
    for kind in (pa.int64(), pa.float64()):
        if kind == pa.int64() and pa.types.is_floating(values.type):
            continue
        if kind == pa.float64() and pa.types.is_integer(values.type):
            continue
        try:
            return list(values.cast(kind).to_pylist())
        except (pa.ArrowInvalid, pa.ArrowNotImplementedError):
            continue
    return as_text(data, column)


def from_folders(listing: Listing) -> Catalogue:
    """A table made from names: sub-folders train, val and test become `split`, the folders below them `class`.

    Without such sub-folders the first folder becomes `class`, if there are two or more and no image lies beside them.
    A folder that everything lies in is passed over, unless it is called train, val or test.
    """
    names = sorted(listing.files)
    parts = _below_shared([name.split("/") for name in names])
    columns: dict[str, list[str]] = {"file": names}
    made: dict[str, str] = {}
    if all(len(p) > 1 and p[0].lower() in SPLIT_NAMES for p in parts):
        columns["split"] = [p[0] for p in parts]
        made["split"] = f"the folders {', '.join(sorted(set(columns['split'])))}"
        parts = [p[1:] for p in parts]
        is_class = all(len(p) > 1 for p in parts)
    else:
        is_class = all(len(p) > 1 for p in parts) and len({p[0] for p in parts}) > 1
    if is_class:
        columns["class"] = [p[0] for p in parts]
        made["class"] = f"the {len(set(columns['class']))} folders that the images lie in"
    folder = listing.root if listing.root.is_dir() else None
    return Catalogue(pa.table(columns), "", folder, "", made)


def _below_shared(parts: list[list[str]]) -> list[list[str]]:
    while all(len(p) > 1 for p in parts) and len({p[0] for p in parts}) == 1 and parts[0][0].lower() not in SPLIT_NAMES:
        parts = [p[1:] for p in parts]
    return parts
