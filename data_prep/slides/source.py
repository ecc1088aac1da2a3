"""The source `slides`: whole slides become tiles of tissue at one physical scale."""

from __future__ import annotations

import os
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import closing
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from sciencessl.data_prep.columns import ID_NAMES
from sciencessl.data_prep.decode import Refused
from sciencessl.data_prep.ingest import images
from sciencessl.data_prep.listing import (
    SAMPLE_SUFFIXES,
    SCANNER_SUFFIXES,
    SLIDE_SUFFIXES,
    Reader,
    absolute,
    has_suffix,
    list_sources,
)
from sciencessl.data_prep.manifest import FileKind, Manifest, read_manifest
from sciencessl.data_prep.settings import PrepareSettings
from sciencessl.data_prep.slides.opening import one_per_slide
from sciencessl.data_prep.slides.pseudonyms import Pseudonyms, read_key, scrub
from sciencessl.data_prep.slides.scan import READY, STAIN_TILES, SlideFile, SlideScan
from sciencessl.data_prep.slides.scanning import scan_slides, slides_folder, states_text
from sciencessl.data_prep.slides.settings import SlideSettings
from sciencessl.data_prep.slides.slide_tiles import SlidePart, SlideTiles
from sciencessl.data_prep.slides.tiff import is_tiff, open_tiff
from sciencessl.data_prep.source import Input, Labels, Source, refused_inputs
from sciencessl.errors import ConfigError, DataError, MissingExtraError
from sciencessl.spec import DomainSpec, FieldSpec
from sciencessl.store.format import canonical_json, digest
from sciencessl.store.writer import Refusal

NAME = "slides"
TIFF_SUFFIXES = (".tif", ".tiff")
LOOKED_INTO = 3
"""TIFF files that are opened to find out whether a folder holds slides."""
PART_BYTES, PART_TILES = 16 * 2**20, 512
"""Most bytes and tiles of a slide that one input gives: a slide with more is opened again for each part."""
BYTES_PER_PIXEL = {"jpeg": 0.5, "png": 2.5, "raw": 3.0}
"""Expected, of tissue: a row is planned half full, so these need not be exact."""
_BARCODE = re.compile(r"TCGA-\w{2}-\w{4}(?=-|$)")


def slides(
    spec: DomainSpec, sources: Sequence[str | Path], settings: PrepareSettings, options: object | None = None,
    out: Path | None = None,
) -> Source:
    """Tiles of tissue out of whole slides.

    Args:
        spec: The domain; its primary field is filled.
        sources: Folders, files or globs with slides, and a manifest among them unless `--catalogue` names one.
        settings: Columns and splits. A column `mpp` gives the scale of each slide in um/px.
        options: A `SlideSettings`; None means all defaults.
        out: The store; what is found out about slides is kept beside it.

    Raises:
        ConfigError: For columns or settings that do not fit.
        DataError: For no slides, an unusable manifest, or not one tile in any slide.
    """
    chosen = options if isinstance(options, SlideSettings) else SlideSettings()
    _check(settings, chosen)
    reader = Reader()
    manifest = _one_per_slide(read_manifest(spec, sources, settings, reader, _kind(sources)))
    names = read_key(chosen.pseudonymise) if chosen.pseudonymise else None
    files, entries = _files(manifest, names)
    if names is not None:
        names.write_map()  # before anything is written that only the map explains
    store = Path(out or "slides.zarr")
    # What a store was begun with stays, or it could not be gone on with.
    again = settings.overwrite or not store.exists()
    scans = scan_slides(files, chosen, slides_folder(store), settings.workers, again)
    field = _field(spec, chosen)
    tiles = SlideTiles(field, spec.primary, chosen.encoding, chosen.tile_quality, chosen.stain)
    parts = [part for number, scan in enumerate(scans) if scan.state == READY
             for part in _parts(files[number], scan, chosen)]
    inputs = [_input(entries[part.slide], part, chosen) for part in parts]
    refused = [Refusal(scan.slide, scan.state, scan.detail) for scan in scans if scan.state != READY]
    if not inputs:
        raise DataError(f"not one tile can be cut from {len(scans)} slides: {states_text(scans)}. The first is "
                        f"{refused[0].id}: {refused[0].detail}.")
    secret = [] if names is None else [*_paths(sources, manifest)]
    said = [*(scrub(line, secret, "SOURCE") for line in manifest.guessed), *_said(scans, parts, tiles, chosen)]
    return Source(
        name=NAME, fields={spec.primary: field}, inputs=[*_unique(inputs), *refused_inputs(refused)],
        settings={**manifest.settings, **_digested(chosen)}, read=tiles.read, fingerprint=tiles.fingerprint,
        labels=_labels(manifest, names, parts), guessed=tuple(said), close=reader.close,
    )


def images_or_slides(
    spec: DomainSpec, sources: Sequence[str | Path], settings: PrepareSettings, options: object | None = None,
    out: Path | None = None,
) -> Source:
    """The source `slides` where there are whole slides among the files, else `images`."""
    make = slides if _are_slides(sources) else images
    return make(spec, sources, settings, options, out)


def _are_slides(sources: Sequence[str | Path]) -> bool:
    files = list_sources(sources, tuple({*SLIDE_SUFFIXES, *SAMPLE_SUFFIXES})).files
    if any(has_suffix(name, SCANNER_SUFFIXES) and not has_suffix(name, TIFF_SUFFIXES) for name in files):
        return True
    tiffs = [ref.path for name, ref in sorted(files.items()) if has_suffix(name, TIFF_SUFFIXES) and not ref.member]
    return any(_has_tiles(path) for path in tiffs[:LOOKED_INTO])


def _has_tiles(path: str) -> bool:
    """Whether a TIFF is made of tiles, as those of scanners are."""
    try:
        if not is_tiff(path):
            return False
        with closing(open_tiff(path)) as tiff:
            return bool(tiff.pages[0].is_tiled)
    except (Refused, MissingExtraError):
        return False


def _kind(sources: Sequence[str | Path]) -> FileKind:
    """Where there are files of scanners, images beside them are no slides."""
    files = list_sources(sources, SLIDE_SUFFIXES).files
    scanners = any(has_suffix(name, SCANNER_SUFFIXES) for name in files)
    return FileKind(SCANNER_SUFFIXES if scanners else SLIDE_SUFFIXES, ("slide", "slide_id", *ID_NAMES), patient_of)


def patient_of(slide: str) -> str:
    """The patient of a TCGA barcode, its first 12 characters; otherwise the slide itself."""
    found = _BARCODE.match(slide)
    return found.group() if found else slide


def _check(settings: PrepareSettings, chosen: SlideSettings) -> None:
    if chosen.masks and not Path(chosen.masks).is_dir():
        raise ConfigError(f"--masks {chosen.masks}: no such folder; expected one with a SLIDE.geojson for each edited "
                          "mask.")
    if settings.resize_px is not None:
        raise ConfigError("prepare setting resize_px shrinks image files; --tile-px and --mpp decide the size "
                          "of tiles.")


def _files(manifest: Manifest, names: Pseudonyms | None) -> tuple[list[SlideFile], dict[str, Input]]:
    """What to look at, and the manifest's entry of each slide, under the names that are stored."""
    files, entries = [], {}
    for entry in manifest.inputs:
        slide, shown = entry.id, entry
        secrets: tuple[str, ...] = ()
        ref = entry.handle
        path = "" if ref is None else ref.path
        if names is not None:
            slide = names.name("slide", entry.id)
            patient = names.name("patient", str(entry.columns["group"]))
            where = Path(path)
            secrets = (path, str(where.parent), where.name, where.stem, entry.id)
            was = entry.columns["group"]
            shown = replace(entry, id=slide, file=slide, columns={
                name: patient if value == was else value for name, value in entry.columns.items()})
        files.append(SlideFile(slide, path, entry.size, entry.stamp, _own_mpp(entry), secrets,
                               bool(ref and ref.member)))
        entries[slide] = replace(shown, columns={k: v for k, v in shown.columns.items() if k != "mpp"})
    return files, entries


def _one_per_slide(manifest: Manifest) -> Manifest:
    """Without further files of a slide that has several. Raises DataError for a file that stands for two slides."""
    slide_of: dict[str, str] = {}
    for entry in manifest.inputs:
        if entry.handle is None or entry.handle.member:
            continue
        other = slide_of.setdefault(os.path.realpath(entry.handle.path), entry.id)
        if other != entry.id:
            raise DataError(f"slides {other!r} and {entry.id!r} are one file: it would be counted twice, and could be "
                            "in two splits. Leave one out of the manifest or the folder.")
    paths = [entry.handle.path for entry in manifest.inputs if entry.handle is not None and not entry.handle.member]
    kept = {*one_per_slide(paths)}
    if len(kept) == len(paths):
        return manifest
    inputs = tuple(entry for entry in manifest.inputs if entry.handle is None or entry.handle.member
                   or entry.handle.path in kept)
    said = f"{len(paths) - len(kept)} files belong to slides of which another file is listed"
    return replace(manifest, inputs=inputs, guessed=(*manifest.guessed, said))


def _own_mpp(entry: Input) -> float | None:
    """Raises DataError for what is no number."""
    value = entry.columns.get("mpp")
    if value is None or value == "":
        return None
    try:
        number = float(value)
    except (TypeError, ValueError):
        raise DataError(f"slide {entry.id!r}: column 'mpp' of the manifest is {value!r}, expected um/px, a number such "
                        "as 0.25, or nothing.") from None
    return None if np.isnan(number) else number


def _field(spec: DomainSpec, chosen: SlideSettings) -> FieldSpec:
    field = spec.fields[spec.primary]
    if chosen.encoding != "raw":
        return field
    return replace(field, kind="array", shape=(chosen.target.tile_px,) * 2)


def _parts(file: SlideFile, scan: SlideScan, chosen: SlideSettings) -> Iterator[SlidePart]:
    assert scan.info is not None
    assert scan.mpp is not None
    grid = scan.grid(chosen)
    most = max(1, min(PART_TILES, int(PART_BYTES // _tile_bytes(chosen))))
    for first in range(0, len(grid), most):
        some = np.arange(first, min(first + most, len(grid)))
        yield SlidePart(scan.slide, file.path, scan.info, scan.mpp, grid.take(some), scan.shares[some], scan.stain,
                        file.secrets)


def _tile_bytes(chosen: SlideSettings) -> float:
    return BYTES_PER_PIXEL[chosen.encoding] * chosen.target.tile_px**2


def _input(entry: Input, part: SlidePart, chosen: SlideSettings) -> Input:
    told = digest(canonical_json([part.grid, part.shares, part.mpp, part.stain]))
    n = len(part.grid)
    return replace(entry, columns={**entry.columns, "tiles": told}, handle=part, samples=n,
                   expected_bytes=round(n * _tile_bytes(chosen)), ids=part.ids)


def _unique(inputs: Sequence[Input]) -> Iterator[Input]:
    """Parts of a slide are told apart by number."""
    seen: dict[str, int] = {}
    for entry in inputs:
        number = seen[entry.id] = seen.get(entry.id, -1) + 1
        yield replace(entry, id=f"{entry.id}#{number}")


def _said(
    scans: Sequence[SlideScan], parts: Sequence[SlidePart], tiles: SlideTiles, chosen: SlideSettings
) -> Iterator[str]:
    yield f"slides: {len(scans):,} ({states_text(scans)})"
    if chosen.masks:
        edited = sum(scan.tissue.get("method") == "edited" or scan.state == "bad-mask" for scan in scans)
        yield f"masks: {edited:,} of {len(scans):,} slides have a mask in the folder of --masks"
    target = chosen.target
    scale = "native scale" if target.mpp is None else f"{target.mpp:g} um/px"
    field = "" if target.mpp is None else f" = {target.tile_px * target.mpp:.4g} um"
    taken, kept = sum(len(part.grid) for part in parts), sum(scan.kept for scan in scans)
    candidates = sum(scan.candidates for scan in scans)
    drawn = f", {taken:,} of them drawn" if taken < kept else ""
    which = (f"{kept:,} at the corners of --coords" if chosen.coords else
             f"{kept:,} of {candidates:,} have {chosen.min_tissue:.0%} tissue")
    yield f"tiles: {target.tile_px} px{field} at {scale}; {which}{drawn}"
    stored = sorted({round(float(np.mean(part.grid.mpp)), 4) for part in parts})
    if target.mpp is not None and any(abs(mpp / target.mpp - 1) > 1e-3 for mpp in stored):
        some = " to ".join(f"{mpp:g}" for mpp in dict.fromkeys((stored[0], stored[-1])))
        yield f"scale: levels within 10 % are taken as they are, {some} um/px; --exact-mpp resamples to {target.mpp:g}"
    if chosen.stain != "none":
        yield (f"stain: each slide is brought to one staining by {chosen.stain}, fitted on at most {STAIN_TILES} of "
               "its tiles; all are encoded again")
    elif chosen.encoding == "jpeg":
        passed = sum(len(part.grid) for part in parts if tiles.passes_through(part)) / max(taken, 1)
        yield f"passthrough: {passed:.0%} of tiles are native JPEG tiles and keep their bytes{_hint(parts)}"


def _hint(parts: Sequence[SlidePart]) -> str:
    """What tile side would let native tiles pass, where the scale is native and only the side is not."""
    sides = Counter(
        native for part in parts
        if part.grid.step == (1.0, 1.0) and (native := part.info.levels[part.grid.level].tile_px) is not None
        and native != (part.grid.tile_px,) * 2 and native[0] == native[1]
    )
    return f"; with --tile-px {sides.most_common(1)[0][0][0]} more would" if sides else ""


def _labels(manifest: Manifest, names: Pseudonyms | None, parts: Sequence[SlidePart]) -> Labels | None:
    """Labels of slides, given to each of their tiles."""
    if manifest.labels is None:
        return None
    data = manifest.labels.data
    slides_there = [names.name("slide", name) if names else name for name in data["id"].to_pylist()]
    row_of = {name: row for row, name in enumerate(slides_there)}
    known = [part for part in parts if part.slide in row_of]
    rows = np.repeat([row_of[part.slide] for part in known], [len(part.grid) for part in known]).astype(np.int64)
    ids = pa.array((name for part in known for name in part.ids), pa.string())
    taken = data.take(pa.array(rows))
    return replace(manifest.labels, data=taken.set_column(taken.column_names.index("id"), "id", ids))


def _paths(sources: Sequence[str | Path], manifest: Manifest) -> Iterator[str]:
    """Whole paths of the sources, since one called `.` or `id` would take words apart, and folders below them."""
    for path in map(absolute, sources):
        yield from (str(path), str(path.parent))
    for folder in {os.path.dirname(entry.file) for entry in manifest.inputs}:
        yield from folder.split("/")


def _digested(chosen: SlideSettings) -> dict[str, Any]:
    """What changes pixels or ids of all slides alike. What may be said for single slides (scale, tissue) shows in the
    tiles of each, so that a slide may be appended with what it lacked."""
    own = {name: value for name, value in asdict(chosen).items() if name in SlideSettings.__dataclass_fields__}
    each = ("slide_mpp", "vendor_mpp", "tissue", "min_tissue", "masks", "coords")
    kept = {name: value for name, value in own.items() if name not in each}
    return {**kept, "pseudonymise": bool(chosen.pseudonymise)}
