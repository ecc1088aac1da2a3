"""Coordinates and features of slides in HDF5, one file a slide, as CLAM and TRIDENT lay them out.

Both have a dataset `coords` of (N, 2) whole x, y: the upper left corners of tiles in level-0 px. Files of features have
`features` of (N, F) beside it; a leading axis of one slide is read too. What tiles are stands in the attributes of
`coords`: TRIDENT's are `name`, `patch_size` (px as the encoder sees them), `patch_size_level0`, `level0_magnification`,
`target_magnification`, `overlap`; CLAM's `name`, `patch_size` (px of its level), `patch_level`, `downsample` and
`level_dim`.
"""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import quote

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from sciencessl.errors import DataError, MissingExtraError

FOLDER = "h5"
"""Where `embed --format h5` puts its files, in the folder of its shards."""
SUFFIXES = (".h5", ".hdf5")
PLACE = ("slide", "x_px", "y_px", "field_px_x", "mpp", "slide_mpp_x", "width")
"""Columns of a store of tiles that say where each lies; `embed` carries them along."""
COORDS, FEATURES = "coords", "features"
KEPT = " ()+,@"
"""What else of a slide's name stays as it is in that of its file, as in those of thumbnails and masks."""
_COORDS_ONLY = "_patches"
"""What the names of TRIDENT's files of coordinates end in, after the slide's."""


@dataclass(frozen=True)
class SlideH5:
    """What a file says of one slide.

    Attributes:
        slide: Its name: the attribute `name`, else the file's.
        coords: (n, 2) int64 x, y of upper left corners in level-0 px.
        features: (n, F) float32, or None in a file of coordinates.
        attributes: Of the coordinates.
    """

    slide: str
    coords: np.ndarray
    features: np.ndarray | None = None
    attributes: Mapping[str, Any] = field(default_factory=dict)

    @property
    def ids(self) -> list[str]:
        """`SLIDE_X_Y`: what a store of the same tiles calls them."""
        return [f"{self.slide}_{x}_{y}" for x, y in self.coords.tolist()]


def slide_files(folder: Path) -> list[Path]:
    """The HDF5 files right in a folder, by name."""
    return sorted(path for path in folder.iterdir() if path.suffix.lower() in SUFFIXES and path.is_file())


def read_slide_h5(path: Path) -> SlideH5:
    """Read a file of either tool, or one of `write_slide_files`.

    Raises:
        DataError: When it cannot be read, lacks coordinates, or has not one row of features for each of them.
        MissingExtraError: Without h5py.
    """
    h5py = hdf5(path)
    try:
        with h5py.File(path, "r") as stored:
            found = {name: np.asarray(stored[name]) for name in (COORDS, FEATURES) if name in stored}
            attributes = dict(stored[COORDS].attrs) if COORDS in stored else {}
            held = sorted(stored)
    except (OSError, RuntimeError, TypeError) as error:
        raise DataError(f"{path} cannot be read as HDF5 ({error}). Was it written to its end?") from error
    if COORDS not in found:
        raise DataError(f"{path} holds {', '.join(held) or 'nothing'}; expected a dataset {COORDS!r} of (N, 2) level-0 "
                        f"x, y, and {FEATURES!r} of (N, F) beside it.")
    coords = _without_slide_axis(found[COORDS], 2)
    if coords.ndim != 2 or coords.shape[1:] != (2,) or coords.dtype.kind not in "iuf":
        raise DataError(f"{path}: {COORDS!r} is {coords.dtype} {coords.shape}; expected numbers (N, 2): level-0 x, y.")
    features = None if FEATURES not in found else _without_slide_axis(found[FEATURES], 2)
    if features is not None and (features.ndim != 2 or len(features) != len(coords) or features.dtype.kind != "f"):
        raise DataError(f"{path}: {FEATURES!r} is {features.dtype} {features.shape} for {len(coords)} coordinates; "
                        f"expected floating-point numbers ({len(coords)}, F).")
    name = attributes.get("name", path.stem.removesuffix(_COORDS_ONLY))
    name = name.decode() if isinstance(name, bytes) else str(name)
    return SlideH5(name, np.rint(coords).astype(np.int64), None if features is None else features.astype(np.float32),
                   attributes)


def _without_slide_axis(values: np.ndarray, axes: int) -> np.ndarray:
    return values[0] if values.ndim == axes + 1 and len(values) == 1 else values


def hdf5(path: Path) -> Any:
    """The module h5py.

    Raises:
        MissingExtraError: Where it is not installed.
    """
    try:
        import h5py
    except ImportError as error:
        raise MissingExtraError(f"{path} is HDF5, which h5py reads: pip install h5py, or save Parquet.") from error
    return h5py


def write_slide_files(shards: Sequence[Path], out: Path) -> int:
    """Write `SLIDE.h5` for each slide of the shards of `embed`, with `coords` and `features`.

    Shards are read once, one in memory at a time; the folder appears when it is complete. Attributes are those that
    TRIDENT reads; magnifications are the whole numbers nearest to 10 / (um/px).

    Args:
        shards: Parquet files with `embedding` and the columns `PLACE`.
        out: Folder that is to hold the files; one that is there is replaced.

    Returns:
        The number of slides.

    Raises:
        DataError: When the shards do not say where tiles lie.
        MissingExtraError: Without h5py.
    """
    h5py = hdf5(out)
    unfinished = out.with_name(f"{out.name}.unfinished")
    for stale in (unfinished, out):
        if stale.exists():
            shutil.rmtree(stale)
    unfinished.mkdir(parents=True)
    for shard in shards:
        table = pq.read_table(shard)
        if not len(table):
            continue  # all of it was refused
        require_places(table.column_names, str(shard))
        for slide in pc.unique(table["slide"]).to_pylist():
            with h5py.File(unfinished / f"{quote(slide, safe=KEPT)}.h5", "a") as stored:
                _append(stored, table.filter(pc.equal(table["slide"], slide)))
    slides = len(slide_files(unfinished))
    unfinished.rename(out)
    return slides


def require_places(columns: Sequence[str], where: str) -> None:
    """Refuse samples of which nobody knows where they lie.

    Raises:
        DataError: Naming the columns that are lacking.
    """
    lacking = [name for name in PLACE if name not in columns]
    if lacking:
        raise DataError(f"{where} does not say where its samples lie: there is no column {', '.join(lacking)}. HDF5 "
                        "files are for tiles that `sciencessl prepare` cut from slides; use --format parquet.")


def _append(stored: Any, table: pa.Table) -> None:
    """Rows of one slide, after those that are there."""
    columns = {name: table[name].to_numpy() for name in PLACE[1:]}
    flat = table["embedding"].combine_chunks().flatten().to_numpy()
    coords = np.rint(np.stack([columns["x_px"], columns["y_px"]], axis=1)).astype(np.int64)
    for name, values in ((COORDS, coords), (FEATURES, flat.reshape(len(coords), -1).astype(np.float32))):
        if name not in stored:
            stored.create_dataset(name, data=values, maxshape=(None, values.shape[1]), chunks=True)
            continue
        first = len(stored[name])
        stored[name].resize(first + len(values), axis=0)
        stored[name][first:] = values
    if "name" not in stored[COORDS].attrs:
        stored[COORDS].attrs.update({
            "name": table["slide"][0].as_py(), "patch_size": int(columns["width"][0]),
            "patch_size_level0": round(float(columns["field_px_x"][0])),
            "level0_magnification": _magnification(columns["slide_mpp_x"][0]),
            "target_magnification": _magnification(columns["mpp"][0]),
        })


def _magnification(mpp: float) -> int:
    return max(1, round(10 / float(mpp)))
