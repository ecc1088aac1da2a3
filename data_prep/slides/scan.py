"""Looking at one slide: can it be read, how large are its pixels, where is tissue, and which tiles are kept."""

from __future__ import annotations

import io
import json
from collections.abc import Mapping, Sequence
from contextlib import closing
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any
from urllib.parse import quote

import numpy as np

from sciencessl.data.order import derive_key
from sciencessl.data_prep.annotations import read_annotations
from sciencessl.data_prep.decode import Refused, encode
from sciencessl.data_prep.outlines import outlines, write_geojson
from sciencessl.data_prep.regions import rasterise
from sciencessl.data_prep.slides.coordinates import coordinate_grid, coordinates_file, find_coordinates
from sciencessl.data_prep.slides.grid import TileGrid, tile_grid
from sciencessl.data_prep.slides.opening import open_slide
from sciencessl.data_prep.slides.pseudonyms import scrub
from sciencessl.data_prep.slides.resolution import slide_mpp
from sciencessl.data_prep.slides.settings import SlideSettings
from sciencessl.data_prep.slides.slide import Level, Mpp, SlideInfo, SlideReader
from sciencessl.data_prep.slides.thumbnail import thumbnail
from sciencessl.data_prep.slides.tiles import read_tiles
from sciencessl.data_prep.stain import fit_slide
from sciencessl.data_prep.task import Tell, silent
from sciencessl.data_prep.tissue import TissueMask, box_means, find_tissue
from sciencessl.errors import DataError
from sciencessl.store.files import write_atomic
from sciencessl.store.format import canonical_json, digest

READY = "ready"
MISSING = ("the manifest names it, but there is no such file, or there are several of this name; a column `file` tells "
           "them apart by their folders")
TISSUE_CLASS = "Tissue"
EDITED = "masks-edited"
"""Folder, beside that of masks, of edited ones that would have been written over."""
LONGEST_NAME = 200
"""Of files about a slide, without suffix: file systems allow 255 bytes, and temporary names need some of them."""
VERSION = 1
"""Of what is written here: another one is looked at again."""
STAIN_TILES = 24
"""Tiles of a slide that its stain is fitted on."""


@dataclass(frozen=True)
class SlideFile:
    """A slide to look at.

    Attributes:
        slide: Its name, or pseudonym; unique.
        path: Where it is; empty where it is missing.
        size: Bytes.
        stamp: Modification time in ns.
        mpp: What the manifest says, um/px, or None.
        secrets: Words that must not appear in what is written about it.
        member: Whether it is inside the archive at `path`.
    """

    slide: str
    path: str
    size: int
    stamp: int
    mpp: float | None = None
    secrets: tuple[str, ...] = field(default=(), repr=False)
    member: bool = False


@dataclass(frozen=True)
class SlideScan:
    """What was found out about a slide.

    Attributes:
        slide: Its name.
        key: Digest of all that it was found out from.
        state: `ready`, or the reason why there are no tiles of it.
        detail: What is wrong and what to do, for people; empty when ready.
        info: What the file says; None where it cannot be opened.
        mpp: The scale that counts, with its origin; None where there is none.
        tissue: How tissue was found: method, thresholds, scores and its share; empty where it was not looked for.
        candidates: Tiles of the grid.
        kept: Tiles with enough tissue.
        stain: Fit of the slide's stain, where asked for.
        mask: Digest of the outlines that were written; empty where none were.
        selected: (n,) indices of the tiles that are taken, in the grid of all.
        shares: (n,) their shares of tissue.
    """

    slide: str
    key: str
    state: str
    detail: str = ""
    info: SlideInfo | None = None
    mpp: Mpp | None = None
    tissue: Mapping[str, Any] = field(default_factory=dict)
    candidates: int = 0
    kept: int = 0
    stain: Mapping[str, Any] | None = None
    mask: str = ""
    selected: np.ndarray = field(default_factory=lambda: np.zeros(0, np.int64))
    shares: np.ndarray = field(default_factory=lambda: np.zeros(0, np.float32))

    def grid(self, settings: SlideSettings) -> TileGrid:
        """The tiles that are taken."""
        assert self.info is not None
        assert self.mpp is not None
        return all_tiles(self.slide, self.info, self.mpp, settings).take(self.selected)


def all_tiles(slide: str, info: SlideInfo, mpp: Mpp, settings: SlideSettings) -> TileGrid:
    """Every tile of a slide, tissue or not. Raises Refused where none fits."""
    if settings.coords:
        return coordinate_grid(info, mpp, settings.target, settings.upsample, find_coordinates(settings.coords, slide))
    return tile_grid(info, mpp, settings.target, settings.overlap, settings.edges, settings.upsample)


def scan_key(file: SlideFile, settings: SlideSettings) -> str:
    """Digest of what a scan depends on."""
    parts = [VERSION, file.size, file.stamp, file.mpp, settings.scanned, _stamp(_mask_file(file, settings))]
    if settings.coords:
        parts.append(_stamp(coordinates_file(settings.coords, file.slide)))
    return digest(canonical_json(parts))


def _stamp(path: Path | None) -> list[int] | None:
    return None if path is None else [path.stat().st_size, path.stat().st_mtime_ns]


def scan_slide(file: SlideFile, settings: SlideSettings, folder: Path, tell: Tell = silent) -> None:
    """Look at a slide and write what was found: record, thumbnail and tissue mask. Never raises for a bad slide.

    The record comes last: without it the slide was not looked at.

    Args:
        file: The slide.
        settings: Of the source.
        folder: That all slides of the store share.
        tell: Not used; the caller's processes give it.

    Raises:
        OSError: When nothing can be written.
    """
    found = SlideScan(file.slide, scan_key(file, settings), READY)
    try:
        found = _look(file, settings, folder, found)
    except Refused as refused:
        found = _stopped(found, refused.reason, refused.detail)
    except _Stopped as stopped:
        found = stopped.found
    except MemoryError:
        found = _stopped(found, "too-large", "looking at it takes more memory than there is")
    write_scan(folder, replace(found, detail=scrub(found.detail, file.secrets, file.slide)))


class _Stopped(Exception):
    """A slide was refused after something was found out about it."""

    def __init__(self, found: SlideScan, refused: Refused) -> None:
        super().__init__(refused.reason)
        self.found = _stopped(found, refused.reason, refused.detail)


def _stopped(found: SlideScan, reason: str, detail: str) -> SlideScan:
    nothing = SlideScan(found.slide, found.key, reason)
    return replace(found, state=reason, detail=detail, selected=nothing.selected, shares=nothing.shares)


def _look(file: SlideFile, settings: SlideSettings, folder: Path, found: SlideScan) -> SlideScan:
    if not file.path:
        raise Refused("missing-file", MISSING)
    if file.member:
        raise Refused("unreadable", "it is in a zip archive, where slides cannot be opened; unpack it")
    with closing(open_slide(file.path)) as reader:
        found = replace(found, info=reader.info)
        try:
            small, scale = thumbnail(reader)
            write_atomic(thumbnail_file(folder, file.slide), encode(small, False, 0))
            mpp = slide_mpp(reader.info, settings.slide_mpp, file.mpp, settings.mpp_of_vendor)
            found = replace(found, mpp=mpp)
            grid = all_tiles(file.slide, reader.info, mpp, settings)
            tissue = _tissue(file, settings, small, scale, mpp)
            found = replace(found, mask=_write_mask(folder, file, settings, tissue))
            found = _select(found, grid, tissue, settings)
            return replace(found, stain=_stain(reader, grid, found, settings))
        except Refused as refused:
            raise _Stopped(found, refused) from refused


def _tissue(
    file: SlideFile, settings: SlideSettings, small: np.ndarray, scale: tuple[float, float], mpp: Mpp
) -> TissueMask:
    edited = _mask_file(file, settings)
    if edited is not None:
        try:
            regions = read_annotations(edited)
        except DataError as error:
            words = scrub(str(error), (str(edited), edited.name), "its file")
            raise Refused("bad-mask", f"its edited mask cannot be read: {words}") from error
        return TissueMask(rasterise(regions, small.shape[:2], scale), scale, "edited", {}, {})
    if settings.tissue == "all":
        return TissueMask(np.ones(small.shape[:2], bool), scale, "all", {}, {})
    return find_tissue(small, mpp.x * scale[0], scale, settings.tissue)  # type: ignore[arg-type]


def _write_mask(folder: Path, file: SlideFile, settings: SlideSettings, tissue: TissueMask) -> str:
    """Write outlines and return their digest. What was edited is the user's: it stays where it is used, and is put
    aside where it is not."""
    path, used = mask_file(folder, file.slide), _mask_file(file, settings)
    if path.is_file():
        if used is not None and used.samefile(path):
            return ""
        earlier = recorded_scan(folder, file.slide)
        if earlier is None or earlier.mask != digest(path.read_bytes()):
            aside = folder / EDITED / path.name
            aside.parent.mkdir(exist_ok=True)
            path.replace(aside)
    write_geojson(path, outlines(tissue.mask, tissue.scale, TISSUE_CLASS))
    return digest(path.read_bytes())


def _mask_file(file: SlideFile, settings: SlideSettings) -> Path | None:
    if not settings.masks:
        return None
    path = Path(settings.masks) / f"{safe(file.slide)}.geojson"
    return path if path.is_file() else None


def _select(found: SlideScan, grid: TileGrid, tissue: TissueMask, settings: SlideSettings) -> SlideScan:
    shares = box_means(tissue.mask, grid.boxes0, tissue.scale)
    # Whoever gave coordinates has chosen already.
    kept = np.arange(len(shares)) if settings.coords else np.flatnonzero(shares >= settings.min_tissue)
    described = {"method": tissue.method, "thresholds": dict(tissue.thresholds), "scores": dict(tissue.scores),
                 "share": float(tissue.mask.mean())}
    found = replace(found, tissue=described, candidates=len(shares), kept=len(kept))
    if not len(kept):
        raise _Stopped(found, Refused("no-tissue", _without_tissue(shares, tissue, settings)))
    few = settings.tiles_per_slide
    if few is not None and len(kept) > few:
        key = derive_key("tiles of a slide", settings.tile_seed, found.slide)
        drawn = np.random.Generator(np.random.Philox(key=key)).permutation(len(kept))[:few]
        kept = kept[np.sort(drawn)]
    return replace(found, selected=kept, shares=shares[kept])


def _without_tissue(shares: np.ndarray, tissue: TissueMask, settings: SlideSettings) -> str:
    return (f"none of {len(shares):,} tiles has {settings.min_tissue:.0%} tissue, the best has "
            f"{shares.max(initial=0):.0%}; {tissue.said}. See its thumbnail and mask; lower "
            "--min-tissue, choose another --tissue, or give an edited mask with --masks")


def _stain(
    reader: SlideReader, grid: TileGrid, found: SlideScan, settings: SlideSettings
) -> Mapping[str, Any] | None:
    """Fitted on tiles spread evenly over those that are taken."""
    if settings.stain == "none":
        return None
    at = np.unique(np.linspace(0, len(found.selected) - 1, STAIN_TILES).round().astype(int))
    tiles = read_tiles(reader, grid, found.selected[at])
    return fit_slide((pixels for _, pixels in tiles), settings.stain).to_dict()


def safe(slide: str) -> str:
    """A file name for a slide, whatever it is called; long ones end in a digest of the whole."""
    name = quote(slide, safe=" ()+,@")
    return name if len(name) <= LONGEST_NAME else f"{name[: LONGEST_NAME - 17]}~{digest(slide.encode())[:16]}"


def thumbnail_file(folder: Path, slide: str) -> Path:
    """Where a slide's thumbnail is."""
    return folder / "thumbnails" / f"{safe(slide)}.png"


def mask_file(folder: Path, slide: str) -> Path:
    """Where a slide's tissue outlines are."""
    return folder / "masks" / f"{safe(slide)}.geojson"


def scan_file(folder: Path, slide: str) -> Path:
    """Where a slide's record is."""
    return folder / "scan" / f"{safe(slide)}.json"


def write_scan(folder: Path, found: SlideScan) -> None:
    """Write a record; its arrays first."""
    arrays = io.BytesIO()
    np.savez_compressed(arrays, selected=found.selected, shares=found.shares)
    path = scan_file(folder, found.slide)
    write_atomic(path.with_suffix(".npz"), arrays.getvalue())
    plain = {**asdict(replace(found, selected=np.zeros(0), shares=np.zeros(0)))}
    for name in ("selected", "shares"):
        plain.pop(name)
    plain["arrays"] = digest(arrays.getvalue())
    write_atomic(path, json.dumps(plain, indent=1, sort_keys=True).encode())


def read_scan(folder: Path, slide: str, key: str) -> SlideScan | None:
    """The record of a slide, if it was found out from the same; None otherwise, or where it is damaged."""
    found = recorded_scan(folder, slide)
    return found if found is not None and found.key == key else None


def recorded_scan(folder: Path, slide: str) -> SlideScan | None:
    """The record of a slide, whatever it was found out from; None where there is none, or it is damaged."""
    path = scan_file(folder, slide)
    try:
        plain = json.loads(path.read_bytes())
        raw = path.with_suffix(".npz").read_bytes()
        if plain.pop("arrays") != digest(raw):
            return None
        with np.load(io.BytesIO(raw), allow_pickle=False) as arrays:
            selected, shares = arrays["selected"], arrays["shares"]
        return SlideScan(**{**plain, "info": _info(plain["info"]), "mpp": _mpp(plain["mpp"])}, selected=selected,
                         shares=shares)
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _info(plain: Mapping[str, Any] | None) -> SlideInfo | None:
    if plain is None:
        return None
    levels = tuple(
        Level(level["width"], level["height"], _pair(level["downsample"]), level["tile_px"] and _pair(level["tile_px"]))
        for level in plain["levels"]
    )
    return SlideInfo(**{**plain, "levels": levels, "mpp": _mpp(plain["mpp"])})


def _pair(values: Sequence[Any]) -> Any:
    return tuple(values)


def _mpp(plain: Mapping[str, Any] | None) -> Mpp | None:
    return None if plain is None else Mpp(**plain)
