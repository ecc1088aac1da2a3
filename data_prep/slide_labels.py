"""Annotations of slides as a table of labels of their tiles: areas and classes, counts of cells, or votes."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import groupby
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from sciencessl.data_prep.annotations import read_annotations
from sciencessl.data_prep.cell_counts import (
    CellCounts,
    Cells,
    cells_of_masks,
    cells_of_regions,
    cells_together,
    count_cells,
    read_mask,
)
from sciencessl.data_prep.label_images import BACKGROUND, image_table, region_images
from sciencessl.data_prep.region_areas import LEAST, RULES, UNCLASSIFIED, ClassAreas, class_areas
from sciencessl.data_prep.regions import Region
from sciencessl.data_prep.slide_files import SlideFile, slide_files
from sciencessl.data_prep.tile_columns import area_columns, cell_columns, vote_columns
from sciencessl.errors import ConfigError, DataError, did_you_mean, unknown_name
from sciencessl.spec import LabelSchema
from sciencessl.store.files import read_file
from sciencessl.store.format import digest

ORIGINS = ("regions", "cells")
SHOWN = 3


@dataclass(frozen=True)
class LabelSettings:
    """How annotations become labels.

    Attributes:
        rule: Of `region_areas.RULES`.
        least: Share of a tile that its class must cover; None takes that of the rule.
        classes: `NAME` or `NAME=OURS` of the classes to take, the earlier ones going before; several may become one.
            Empty takes all, those with less area before those with more.
        raters: Whether several people annotated the same slides, whose classes become votes.
        by_file: CSV that says of which slide, and whose, each file is.
        sides: (n) pixels along a side of each tile as it is stored, where regions become label images; else empty.
    """

    rule: str = "majority"
    least: float | None = None
    classes: tuple[str, ...] = ()
    raters: bool = False
    by_file: str = ""
    sides: tuple[int, ...] = ()

    @property
    def names(self) -> dict[str, str]:
        """Class of the files -> ours, in order.

        Raises:
            ConfigError: For an empty name, or one that is given twice.
        """
        found: dict[str, str] = {}
        for word in self.classes:
            theirs, equals, ours = word.partition("=")
            if not theirs or (equals and not ours) or theirs in found:
                raise ConfigError(f"--classes {word}: expected NAME or NAME=OURS, each NAME once.")
            found[theirs] = ours or theirs
        return found


@dataclass(frozen=True)
class RefusedFile:
    """A file that could not be used: its name, a reason to count by, and the error."""

    file: str
    reason: str
    detail: str


@dataclass(frozen=True)
class SlideLabels:
    """Labels as they will lie beside the pixels.

    Attributes:
        data: `id` and the columns.
        schema: Of counts and votes; None for areas.
        with_value: Rows that say something: a class, or a count above 0.
        note: Where they come from, without the names of files.
        said: Sentences on what was taken and what was left out.
        refused: Files that could not be used.
    """

    data: pa.Table
    schema: LabelSchema | None
    with_value: int
    note: str
    said: tuple[str, ...]
    refused: tuple[RefusedFile, ...]


@dataclass
class _Read:
    """What happens on the way, to be told at the end."""

    skipped: Counter[str] = field(default_factory=Counter)
    refused: list[RefusedFile] = field(default_factory=list)
    seen: Counter[str] = field(default_factory=Counter)
    raters: set[str] = field(default_factory=set)
    order: list[str] = field(default_factory=list)
    areas: int = 0
    beyond: int = 0
    digests: list[str] = field(default_factory=list)


def read_slide_labels(
    origin: str, source: Path, name: str, ids: Sequence[str], slides: Sequence[str], boxes: np.ndarray,
    options: Mapping[str, Any],
) -> SlideLabels:
    """Read annotation files of slides, and say what they mean for each tile. One slide is in memory at a time.

    Args:
        origin: `regions` gives `area_CLASS` (share of the tile, 0 to 1) and the tile's class in a column called `name`,
            or with raters the votes `NAME_CLASS`, how many say so, or with sides its label image. `cells` gives
            `NAME_CLASS`, cells with their centre in the tile.
        source: A file, or a folder with them.
        name: Of the table, its question and its columns.
        ids: (n) of tiles.
        slides: (n) slide of each.
        boxes: (n, 4) x, y, width, height of each in level-0 pixels.
        options: Of `LabelSettings`.

    Returns:
        A row for each tile of a slide that has a file, in the order of `ids`.

    Raises:
        ConfigError: For settings that make no sense, files that are not there, or a class that no file has.
        DataError: When no file is of a slide or can be read, nothing is in them, or votes are on one class.
    """
    settings = LabelSettings(**options)
    _check(origin, settings)
    known, of_slide = np.unique(np.asarray(slides, str), return_inverse=True)
    ends = np.cumsum(np.bincount(of_slide))[:-1]
    tiles = dict(zip(known.tolist(), np.split(np.argsort(of_slide, kind="stable"), ends), strict=True))
    files, strange = slide_files(source, [*tiles], origin == "cells", settings.raters, settings.by_file)
    if settings.sides:
        return _label_images(source, name, ids, tiles, boxes, settings, files, strange)
    read = _Read()
    rows: list[np.ndarray] = []
    counts: list[CellCounts] = []
    areas: list[dict[str, ClassAreas]] = []
    for slide, group in groupby(files, lambda file: file.slide):
        here = tiles[slide]
        before = len(counts) + len(areas)
        if origin == "cells":
            counts += _cells(list(group), boxes[here], settings, read)
        else:
            areas += _areas(list(group), boxes[here], settings, read)
        rows += [here] * (len(counts) + len(areas) - before)
    if not rows:
        raise DataError(f"not one of the {len(files):,} files of {source} can be used. {read.refused[0].detail}")
    ours = _ours(settings, read, source)
    if origin == "cells":
        columns, schema = cell_columns(name, counts, ours)
    elif settings.raters:
        columns, schema = vote_columns(name, areas, ours, settings.rule, settings.least)
    else:
        columns, read.order = area_columns(name, [part[""] for part in areas], ours, settings.rule, settings.least)
        schema = None
    place = np.concatenate(rows)
    data = pa.table({"id": pa.array([ids[row] for row in place], pa.string())} | columns)
    with_value = _with_value(data, name, schema)
    if origin == "regions" and not with_value:
        strange.append("no tile has a class: regions cover too little (--min-fraction; --from cells counts cells), or "
                       "their corners are not pixels of level 0")
    if outside := sum(part.outside for part in counts):
        strange.append(f"{outside:,} of {sum(part.cells for part in counts):,} cells lie in no tile")
    said = [*_said(files, [*tiles], settings, read), *strange]
    return SlideLabels(data.take(pa.array(np.argsort(place, kind="stable"))), schema, with_value,
                       _note(origin, files, settings, read), tuple(said), tuple(read.refused))


def _label_images(
    source: Path, name: str, ids: Sequence[str], tiles: Mapping[str, np.ndarray], boxes: np.ndarray,
    settings: LabelSettings, files: Sequence[SlideFile], strange: Sequence[str],
) -> SlideLabels:
    """Regions as a label image of each tile of a slide that has a file."""
    read = _Read()
    order = list(dict.fromkeys(settings.names.values()))
    rows: list[int] = []
    images: list[bytes] = []
    for slide, group in groupby(files, lambda file: file.slide):
        if drawn := _regions(list(group), False, settings, read):
            here = tiles[slide].tolist()
            rows += here
            _count(drawn[""], boxes[here], read)
            images += region_images(boxes[here], [settings.sides[row] for row in here], drawn[""], order)
    if not rows:
        raise DataError(f"not one of the {len(files):,} files of {source} can be used. {read.refused[0].detail}")
    _ours(settings, read, source)
    data = image_table(name, [ids[row] for row in rows], images, [BACKGROUND, *order])
    said = [*_said(files, [*tiles], settings, read), *strange]
    return SlideLabels(data.take(pa.array(np.argsort(rows, kind="stable"))), None, len(rows),
                       _note("label images", files, settings, read), tuple(said), tuple(read.refused))


def _with_value(data: pa.Table, name: str, schema: LabelSchema | None) -> int:
    if schema is None:
        return len(data) - int(data[name].null_count)
    return int(np.any([data[column].to_numpy() > 0 for column in schema.columns], axis=0).sum())


def _check(origin: str, settings: LabelSettings) -> None:
    if origin not in ORIGINS:
        raise ConfigError(f"--from: {unknown_name('kind of annotation', origin, ORIGINS)}")
    if settings.rule not in RULES:
        raise ConfigError(f"--rule: {unknown_name('rule', settings.rule, RULES)}")
    if settings.least is not None and not 0 <= settings.least <= 1:
        raise ConfigError(f"--min-fraction {settings.least:g}: a share of the tile is from 0 to 1.")
    if origin == "cells" and settings != LabelSettings(classes=settings.classes, by_file=settings.by_file):
        raise ConfigError("--rule, --min-fraction and --raters are for regions; cells are counted.")
    if settings.sides and (settings != LabelSettings(classes=settings.classes, by_file=settings.by_file,
                                                     sides=settings.sides) or not 0 < len(settings.names) < 255):
        raise ConfigError("--masks needs --classes, 1 to 254 of them: which become values, the earlier going before "
                          "where they overlap; --rule, --min-fraction and --raters are not for label images.")
    assert settings.names is not None  # says what is wrong with them


def _regions(files: Sequence[SlideFile], nuclei: bool, settings: LabelSettings, read: _Read) -> dict[str, list[Region]]:
    """Rater -> the regions of the classes that are wanted; all together under an empty name without raters."""
    found: dict[str, list[Region]] = {}
    for file in files:
        try:
            regions = read_annotations(file.path, nuclei=nuclei, skipped=read.skipped)
            read.digests.append(digest(read_file(file.path)))
        except DataError as error:
            read.refused.append(RefusedFile(file.path.name, "damaged", str(error)))
            continue
        found.setdefault(file.rater, [])
        for region in regions:
            name = _wanted(region.class_name, settings, read)
            rater = (region.rater or file.rater) if settings.raters else ""
            if name:
                found.setdefault(rater, []).append(replace(region, class_name=name))
    return found


def _wanted(theirs: str, settings: LabelSettings, read: _Read) -> str:
    """Our name of a class; empty where it is not wanted."""
    theirs = theirs or UNCLASSIFIED
    read.seen[theirs] += 1
    return settings.names.get(theirs, "") if settings.classes else theirs


def _areas(
    files: Sequence[SlideFile], boxes: np.ndarray, settings: LabelSettings, read: _Read
) -> list[dict[str, ClassAreas]]:
    found = _regions(files, False, settings, read)
    read.raters.update(found)
    points = sum(region.kind == "point" for regions in found.values() for region in regions)
    if points:
        read.skipped["points, which cover nothing (--from cells counts them)"] += points
    for regions in found.values():
        _count(regions, boxes, read)
    return [{rater: class_areas(boxes, regions) for rater, regions in found.items()}] if found else []


def _count(regions: Sequence[Region], boxes: np.ndarray, read: _Read) -> None:
    """Areas, and those beyond all tiles of their slide, as when their corners are not pixels of level 0."""
    spans = np.array([region.box for region in regions if region.kind == "area"]).reshape(-1, 4)
    low, high = boxes[:, :2].min(0), (boxes[:, :2] + boxes[:, 2:]).max(0)
    read.areas += len(spans)
    read.beyond += int(((spans[:, :2] >= high) | (spans[:, 2:] <= low)).any(1).sum())


def _cells(files: Sequence[SlideFile], boxes: np.ndarray, settings: LabelSettings, read: _Read) -> list[CellCounts]:
    drawn = _regions([file for file in files if not file.mask], True, settings, read)
    parts = [cells_of_regions(regions) for regions in drawn.values()]
    masks = {file.mask: file.path for file in files if file.mask}
    try:
        parts += [_masked(masks, boxes, settings, read)] if masks else []
    except DataError as error:
        read.refused.append(RefusedFile(next(iter(masks.values())).name, "damaged", str(error)))
    return [count_cells(boxes, cells_together(parts))] if parts else []


def _masked(masks: Mapping[str, Path], boxes: np.ndarray, settings: LabelSettings, read: _Read) -> Cells:
    if {*masks} != {"inst", "type"}:
        have = ", ".join(path.name for path in masks.values())
        raise DataError(f"cells of {have}: a mask of instances (SLIDE_inst.png) needs one of types (SLIDE_type.png), "
                        "and the other way round.")
    instances, types = (read_mask(masks[kind]) for kind in ("inst", "type"))
    right, lower = (boxes[:, :2] + boxes[:, 2:] / 2).max(0)
    if right > instances.shape[1] or lower > instances.shape[0]:
        raise DataError(f"mask {masks['inst']} has {instances.shape[1]} x {instances.shape[0]} pixels, and tiles of "
                        f"its slide reach to {right:.0f}, {lower:.0f}: it is to have the pixels of level 0.")
    read.digests += [digest(read_file(path)) for path in masks.values()]
    cells = cells_of_masks(instances, types)
    named = np.array([_wanted(name, settings, read) for name in cells.names], object)
    return Cells(cells.places[named != ""], named[named != ""])


def _ours(settings: LabelSettings, read: _Read, source: Path) -> list[str]:
    """Classes in the order of the settings; empty where all are taken.

    Raises:
        ConfigError: For a class that no file has.
        DataError: When the files have no region at all.
    """
    if not read.seen:
        damaged = f" {len(read.refused):,} more cannot be read: {read.refused[0].detail}" if read.refused else ""
        raise DataError(f"the {len(read.digests):,} files of {source} hold no region or cell that can be used"
                        f"{_listed(read.skipped, ': ')}.{damaged}")
    for name in settings.names:
        if name not in read.seen:
            raise ConfigError(f"--classes {name}: no file has that class.{did_you_mean(name, read.seen)} Classes: "
                              f"{', '.join(sorted(read.seen))}.")
    return list(dict.fromkeys(settings.names.values()))


def _listed(counts: Mapping[str, int], before: str = "") -> str:
    words = ", ".join(f"{count:,} {name}" for name, count in sorted(counts.items()))
    return f"{before}{words}" if words else ""


def _said(files: Sequence[SlideFile], slides: Sequence[str], settings: LabelSettings, read: _Read) -> Iterator[str]:
    done = {file.slide for file in files}
    yield f"{len(files) - len(read.refused):,} files of {len(done):,} slides: {_listed(read.seen)}"
    if settings.raters:
        yield f"{len(read.raters):,} raters: {', '.join(sorted(name or '(without a name)' for name in read.raters))}"
    else:
        several = [slide for slide, group in groupby(files, lambda file: file.slide)
                   if sum(file.mask != "type" for file in group) > 1]
        if several:
            yield (f"{len(several):,} slides have several files, such as {several[0]!r}: what is in them is taken "
                   "together (--raters makes votes of several people's)")
    if len(read.order) > 1 and not settings.classes:
        yield f"where classes overlap, the earlier goes before: {', '.join(read.order)} (--classes says otherwise)"
    if left := {name: count for name, count in read.seen.items() if settings.classes and name not in settings.names}:
        yield f"left out, as --classes does not name them: {_listed(left)}"
    if read.skipped:
        yield f"left out, as they cannot be used: {_listed(read.skipped)}"
    if read.beyond:
        yield (f"{read.beyond:,} of {read.areas:,} regions lie beyond the tiles of their slide; corners are to be "
               "pixels of level 0")
    if without := [slide for slide in slides if slide not in done]:
        yield (f"{len(without):,} slides have no file, such as {', '.join(map(repr, without[:SHOWN]))}: their tiles "
               "have no row in the table")


def _note(origin: str, files: Sequence[SlideFile], settings: LabelSettings, read: _Read) -> str:
    least = LEAST[settings.rule] if settings.least is None else settings.least
    how = {"regions": f", class by {settings.rule} of at least {least:g}", "cells": ", counted by their centres"}.get(
        origin, "")
    whose = f" by {len(read.raters):,} raters" if settings.raters else ""
    together = digest("".join(sorted(read.digests)).encode())
    return f"{origin} drawn on {len({file.slide for file in files}):,} slides{whose} (files {together[:12]}){how}"
