"""The source `crawl`: images in tars, zips, tables and loose files, local or behind URLs."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from itertools import islice
from pathlib import Path
from typing import Any

from sciencessl.data_prep.crawl.indexing import CrawlIds, Listed, all_parts, crawl_folder, list_contents
from sciencessl.data_prep.crawl.kept import OWN, column_types
from sciencessl.data_prep.crawl.listing import kinds_in, list_places
from sciencessl.data_prep.crawl.reader import CrawlReader, SplitRule, sample_of
from sciencessl.data_prep.crawl.record import FILES, Part
from sciencessl.data_prep.crawl.settings import CrawlSettings
from sciencessl.data_prep.decode import Canonical
from sciencessl.data_prep.ingest import images
from sciencessl.data_prep.isolated import Limits
from sciencessl.data_prep.listing import absolute
from sciencessl.data_prep.settings import PrepareSettings
from sciencessl.data_prep.source import Input, Source, refused_inputs
from sciencessl.errors import ConfigError, DataError
from sciencessl.spec import DomainSpec
from sciencessl.store.conditions import parse_condition
from sciencessl.store.reader import Store
from sciencessl.store.remote import is_remote, local_path

NAME = "crawl"
QUALITY = 90
"""Of JPEGs that are encoded again, unless told otherwise."""
TYPED_BY = 256
"""Records whose values decide of what type a kept column is."""
CLASS = "class"
"""What a `.cls` member, or a table, says of an image: kept without being asked for."""
_UNUSED = ("catalogue", "id", "file", "votes", "votes_from", "schema", "stratify")
_PX, REFERENCE_BYTES = 256, 128
"""What stored images are thought to be when rows are planned: their side in pixels, and bytes of a reference."""


def crawl(
    spec: DomainSpec, sources: Sequence[str | Path], settings: PrepareSettings, options: object | None = None,
    out: Path | None = None,
) -> Source:
    """Images out of whatever a crawl is in, of whom nobody has looked at one.

    Args:
        spec: The domain; its primary field is filled.
        sources: Folders, files, globs or URLs with tars, zips, tables of bytes or loose images.
        settings: Groups, splits and kept columns name what comes with the images (members of JSON, columns of tables).
        options: A `CrawlSettings`; None means all defaults.
        out: The store; lists of what places hold are kept beside it.

    Raises:
        ConfigError: For settings that do not fit.
        DataError: For no images at all.
    """
    chosen = options if isinstance(options, CrawlSettings) else CrawlSettings()
    _check(settings, chosen)
    found = list_places(sources)
    listed = list_contents(found.places, crawl_folder(Path(out or "crawl.zarr")), settings.workers)
    parts = list(all_parts(listed))
    if not parts:
        raise DataError(f"no image found in {len(listed):,} places of {found.searched}: {_words(listed)}. Tars, zips, "
                        "Parquet and Arrow tables of image bytes and loose image files are read.")
    reader = CrawlReader(
        spec.fields[spec.primary], spec.primary, _canonical(settings, chosen),
        Limits(chosen.decode_seconds, chosen.decode_mb),
        SplitRule(settings.group, settings.split, settings.split_seed, settings.test_fraction, settings.val_fraction),
        _types([part for part, _ in parts], settings), chosen.index_only, _absolute(chosen.hooks),
        tuple(parse_condition(text, "--drop") for text in chosen.drop),
    )
    reader.scores.check()
    refused = [entry for each in listed for entry in each.refused]
    return Source(
        name=NAME, fields={spec.primary: reader.field},
        inputs=[*_inputs(parts, reader), *refused_inputs(refused)],
        settings=_digested(settings, chosen, reader), read=reader.read, fingerprint=reader.fingerprint,
        guessed=(*_said(listed, found.passed_over), *_columns_said(reader, settings)),
        root=found.root if chosen.index_only else "",
    )


def images_or_crawl(
    spec: DomainSpec, sources: Sequence[str | Path], settings: PrepareSettings, options: object | None = None,
    out: Path | None = None,
) -> Source:
    """The source `images` where there is nothing but loose images and zips of them, which it reads with their
    catalogue; else `crawl`."""
    in_store = any(is_remote(source) for source in sources)
    make = crawl if in_store or not kinds_in(sources) <= {FILES, "zip"} else images
    return make(spec, sources, settings, options, out)


def _check(settings: PrepareSettings, chosen: CrawlSettings) -> None:
    if chosen.index_only and settings.resize_px is not None:
        raise ConfigError("--index-only leaves images as they lie, and --resize-px makes smaller ones: give one of the "
                          "two.")
    default = PrepareSettings()
    for name in _UNUSED:
        if getattr(settings, name) != getattr(default, name):
            raise ConfigError(f"prepare setting {name} is of catalogues, which the source `crawl` does not read: what "
                              "comes with an image in its tar or table is kept with --keep, --label, --group and "
                              "--split. Labels in a file of their own are added with `sciencessl store label`.")


def _absolute(hooks: Sequence[str]) -> tuple[str, ...]:
    """Hooks as other processes find them, wherever they run."""
    return tuple(str(absolute(name)) if ".py:" in name else name for name in hooks)


def _canonical(settings: PrepareSettings, chosen: CrawlSettings) -> Canonical:
    quality = QUALITY if settings.jpeg_quality is None else settings.jpeg_quality
    return Canonical(
        settings.resize_px, quality, settings.min_px, chroma="420", describe=True, strip=not chosen.index_only,
        srgb=chosen.srgb, max_pixels=round(chosen.max_megapixels * 1e6), max_aspect=chosen.max_aspect,
        min_entropy=chosen.min_entropy, min_sharpness=chosen.min_sharpness, max_one_colour=chosen.max_one_colour,
    )


def _asked(settings: PrepareSettings) -> tuple[str, ...]:
    return tuple(dict.fromkeys([CLASS, *settings.label, *settings.keep]))


def _types(parts: Sequence[Part], settings: PrepareSettings) -> dict[str, str]:
    """The kept columns and their types, from some records of the first places."""
    seen = [meta for part in parts[: max(TYPED_BY // 32, 1)] for meta in islice(sample_of(part, 32), 32)]
    found = column_types(seen, _asked(settings))
    clash = sorted(OWN & {*settings.keep, *settings.label})
    if clash:
        raise ConfigError(f"--keep {clash[0]}: every store has a column of that name, made when images are read; what "
                          "comes with them under it cannot be kept.")
    if CLASS not in {*settings.keep, *settings.label} and not any(CLASS in meta for meta in seen):
        found.pop(CLASS, None)
    absent = [name for name in (*settings.keep, *settings.label, settings.group, settings.split)
              if name and name != "all" and not any(name in meta for meta in seen)]
    if absent and seen:
        there = ", ".join(sorted({name for meta in seen for name in meta})) or "nothing"
        raise ConfigError(f"nothing called {absent[0]!r} comes with the first {len(seen)} images; with them come: "
                          f"{there}.")
    return _as_before({name: kind for name, kind in found.items() if name not in OWN}, settings)


def _as_before(types: dict[str, str], settings: PrepareSettings) -> dict[str, str]:
    """The columns of the store that is appended to, where the same ones are kept: other images say other types."""
    if not settings.append_to:
        return types
    before: dict[str, str] = Store(local_path(settings.append_to, "--append-to")).header.settings.get("keep", {})
    same = "all" in settings.keep or {*before, CLASS} == {*_asked(settings)}
    return dict(before) if same else types


def _inputs(parts: Sequence[tuple[Part, int]], reader: CrawlReader) -> Iterator[Input]:
    for part, size in parts:
        place, count = part.place, part.stop - part.first
        # About half a byte a pixel as JPEG; a row is planned half full, so this need not be exact.
        each = REFERENCE_BYTES if reader.in_place else (reader.canonical.resize_px or _PX) ** 2 // 2
        shrunk = count * each if reader.in_place or reader.canonical.resize_px or not size else size
        yield Input(
            f"{place.name}#{part.first}", place.name, place.size, place.stamp, "train",
            {"images": [part.first, part.stop]}, part, count, min(size or shrunk, shrunk),
            CrawlIds(part),
        )


def _digested(settings: PrepareSettings, chosen: CrawlSettings, reader: CrawlReader) -> dict[str, Any]:
    """What changes pixels, ids, splits or which images stay."""
    own = {name: value for name, value in asdict(chosen).items() if name in CrawlSettings.__dataclass_fields__}
    # Limits of time and memory decide about files that no run should store; a busy machine changes nothing.
    limits = ("decode_seconds", "decode_mb")
    return {
        **{name: list(value) if isinstance(value, tuple) else value for name, value in own.items()
           if name not in limits}, "resize_px": settings.resize_px,
        "jpeg_quality": reader.canonical.jpeg_quality, "min_px": settings.min_px, "split": asdict(reader.split),
        "keep": dict(reader.columns), "hooks": reader.scores.digests,
    }


def _words(listed: Sequence[Listed]) -> str:
    counts = Counter(entry.reason for each in listed for entry in each.refused)
    first = next((entry for each in listed for entry in each.refused), None)
    said = ", ".join(f"{count:,} {reason}" for reason, count in sorted(counts.items())) or "they are empty"
    return f"{said}{f'; the first is {first.id}: {first.detail}' if first else ''}"


def _said(listed: Sequence[Listed], passed_over: str) -> Iterator[str]:
    kinds = Counter(entry.place.kind for entry in listed)
    images = sum(entry.images for entry in listed)
    told = ", ".join(f"{count:,} {kind}" for kind, count in sorted(kinds.items()))
    size = sum(entry.bytes for entry in listed)
    yield f"crawl: {images:,} images in {len(listed):,} places ({told}), {size / 2**30:.2f} GiB"
    if passed_over:
        yield f"passed over: {passed_over}"


def _columns_said(reader: CrawlReader, settings: PrepareSettings) -> Iterator[str]:
    if reader.columns:
        kept = ", ".join(f"{name} ({kind})" for name, kind in reader.columns.items())
        yield f"kept with the images: {kept}"
    if settings.split:
        yield f"splits: as {settings.split!r} of each image says"
    elif settings.group:
        yield f"splits: drawn by {settings.group!r}, so that images of one value stay together"


