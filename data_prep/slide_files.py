"""Which slide of a store each annotation file is of."""

from __future__ import annotations

import re
from collections.abc import Container, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import unquote

from sciencessl.data_prep.annotations import ANNOTATION_SUFFIXES
from sciencessl.data_prep.catalogue import as_text, read_catalogue
from sciencessl.data_prep.cell_counts import MASK_SUFFIXES
from sciencessl.errors import ConfigError, DataError, did_you_mean

GENERIC = frozenset((
    "annotation", "annotations", "region", "regions", "roi", "rois", "mask", "masks", "nuclei", "nucleus", "cell",
    "cells", "ome", "svs", "tif", "tiff", "ndpi", "scn", "mrxs", "vms", "vmu", "bif", "svslide", "dcm", "jpg", "jpeg",
    "png",
))
"""Words in the name of a file that say neither which slide it is of nor who made it."""
MASK = re.compile(r"^(inst|type)(ance|ances|s)?$")
"""Word that tells a mask of instances from one of types."""
SEPARATORS = re.compile(r"[-_. ]+")
SHOWN = 3


@dataclass(frozen=True)
class SlideFile:
    """One annotation file.

    Attributes:
        path: Where it is.
        slide: The slide it is of.
        rater: Whose it is, as its name, its folder or a table says; empty where none does.
        mask: `inst` or `type` for a mask of pixels; empty for regions.
    """

    path: Path
    slide: str
    rater: str = ""
    mask: str = ""


def slide_files(
    source: Path, slides: Sequence[str], masks: bool = False, raters: bool = False, by_file: str = ""
) -> tuple[list[SlideFile], list[str]]:
    """Match annotation files with slides by their names.

    `SLIDE.geojson` is of slide SLIDE, as are `SLIDE_annotations.geojson`, `SLIDE.ome.geojson` and `SLIDE.ndpi.ndpa`.
    Any other word after the name makes a file one of another slide, as it does for `A_2` beside `A`, but with `raters`
    it is whose the file is, as in `SLIDE_ann.geojson`, or else the folder is, as in `ann/SLIDE.geojson`.

    Args:
        source: A file, or a folder that is searched through.
        slides: Names of the slides.
        masks: Whether masks are wanted too, `SLIDE_inst.png` with `SLIDE_type.png`.
        raters: Whether the same slides were annotated by several people.
        by_file: CSV with the columns `file` (relative to the folder), `slide` and, if any, `rater`, instead of names.

    Returns:
        The files in the order of slides and raters, and sentences on files that belong to no slide.

    Raises:
        ConfigError: For a source or table that is not there, or that has no annotation files.
        DataError: When not one file is of a slide.
    """
    if by_file:
        found, strange = _listed(source, Path(by_file), slides, masks)
    else:
        files = _files(source, masks)
        if not files:
            raise ConfigError(f"{source} holds no annotation file: none ends in "
                              f"{', '.join(ANNOTATION_SUFFIXES + (MASK_SUFFIXES if masks else ()))}.")
        names = frozenset(slides)
        matched = [(path, _matched(path, source, names, masks, raters)) for path in files]
        found, strange = [file for _, file in matched if file], [path.name for path, file in matched if not file]
    if not found:
        raise DataError(
            f"none of the {len(strange):,} annotation files of {source} is named after a slide of the store"
            f"{'' if raters else ' (with more behind it, if several people annotated it: --raters)'}: "
            f"{_nearest(strange, slides)}. The store has {', '.join(map(repr, slides[:SHOWN]))}. A table of file and "
            "slide says otherwise: --by-file."
        )
    said = [f"{len(strange):,} files are of no slide of the store: {_nearest(strange, slides)}"] if strange else []
    return sorted(found, key=lambda file: (file.slide, file.rater, file.path.name)), said


def _files(source: Path, masks: bool) -> list[Path]:
    if source.is_file():
        return [source]
    if not source.is_dir():
        raise ConfigError(f"{source} does not exist; expected an annotation file, or a folder with them.")
    wanted = ANNOTATION_SUFFIXES + (MASK_SUFFIXES if masks else ())
    return sorted(path for path in source.rglob("*")
                  if path.suffix.lower() in wanted and not path.name.startswith(".") and path.is_file())


def _matched(path: Path, source: Path, slides: Container[str], masks: bool, raters: bool) -> SlideFile | None:
    is_mask = path.suffix.lower() in MASK_SUFFIXES
    for slide, rest in _readings(path.stem, slides):
        words = [word for word in SEPARATORS.split(rest) if word and word.lower() not in GENERIC]
        kinds = [found[1] for word in words if is_mask and (found := MASK.match(word.lower()))]
        left = [word for word in words if not (kinds and MASK.match(word.lower()))]
        if bool(kinds and masks) != is_mask or (left and not raters):
            continue
        folder = path.parent.relative_to(source).parts[:1] if source.is_dir() else ()
        return SlideFile(path, slide, ("_".join(left) or "".join(folder)) if raters else "", "".join(kinds[:1]))
    return None


def _readings(stem: str, slides: Container[str]) -> Iterator[tuple[str, str]]:
    """Slides whose name the stem begins with, and what is left of it; the longest first."""
    for text in dict.fromkeys((stem, unquote(stem))):  # our own masks write `%2F` for a slash in the name of a slide
        for end in range(len(text), 0, -1):
            if (end == len(text) or text[end] in "-_. ") and text[:end] in slides:
                yield text[:end], text[end:]


def _listed(source: Path, table: Path, slides: Sequence[str], masks: bool) -> tuple[list[SlideFile], list[str]]:
    catalogue = read_catalogue(table)
    for name in ("file", "slide"):
        if name not in catalogue.data.column_names:
            raise ConfigError(f"--by-file {table} has the columns {', '.join(catalogue.data.column_names)}; expected "
                              "`file`, `slide` and, if any, `rater`.")
    columns = [as_text(catalogue.data, name) for name in ("file", "slide")]
    raters = as_text(catalogue.data, "rater") if "rater" in catalogue.data.column_names else [""] * len(columns[0])
    found, strange, known, folder = [], [], set(slides), source if source.is_dir() else source.parent
    for file, slide, rater in zip(*columns, raters, strict=True):
        path = folder / (file or "")
        if not file or not path.is_file():
            raise ConfigError(f"--by-file {table}: there is no file {path}.")
        words = [match[1] for word in SEPARATORS.split(path.stem.lower()) if (match := MASK.match(word))]
        mask = words[-1] if masks and words and path.suffix.lower() in MASK_SUFFIXES else ""
        if slide in known:
            found.append(SlideFile(path, slide or "", rater or "", mask))
        else:
            strange.append(file)
    return found, strange


def _nearest(names: Sequence[str], slides: Sequence[str]) -> str:
    shown = [f"{name!r}{_closest(name, slides)}" for name in names[:SHOWN]]
    left = len(names) - SHOWN
    return ", ".join(shown) + (f" and {left:,} more" if left > 0 else "")


def _closest(name: str, slides: Sequence[str]) -> str:
    begun = max((slide for slide, _ in _readings(name, slides)), key=len, default="")
    guess = f" Did you mean {begun!r}?" if begun else did_you_mean(name.partition(".")[0], slides)
    return f" ({guess.strip()})" if guess else ""
