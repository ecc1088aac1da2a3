"""The source `images`, offered by every image domain: image files or FITS stamps, a catalogue or class folders."""

from __future__ import annotations

import posixpath
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np

from sciencessl.data_prep.crawl.settings import CrawlSettings
from sciencessl.data_prep.decode import Canonical, Encoded, Refused, canonicalise, hash_bytes, hash_pixels
from sciencessl.data_prep.isolated import HERE, Limits, isolated_map
from sciencessl.data_prep.listing import MAX_FILE_BYTES, Reader
from sciencessl.data_prep.manifest import are_stamps, read_manifest
from sciencessl.data_prep.settings import PrepareSettings
from sciencessl.data_prep.source import Input, Item, Source, Task
from sciencessl.data_prep.stamps import Shape, read_stamp, stamp_field
from sciencessl.errors import ConfigError
from sciencessl.spec import DomainSpec, FieldSpec
from sciencessl.store.format import sample_key
from sciencessl.store.writer import PreparedSample, Refusal

NAME = "images"
QUALITY = 95
"""Of JPEGs that are encoded again, unless told otherwise."""
SHAPE_SAMPLE = 256
"""Stamps looked at to learn the shape of most."""
# Lossy and palette formats grow when they become PNG; a row is planned half full, so these need not be exact.
EXPANSION = {".jpg": 1, ".jpeg": 1, ".jpe": 1, ".jfif": 1, ".png": 2, ".bmp": 1, ".ppm": 1, ".pgm": 1}
OTHER_EXPANSION = 8


def images(
    spec: DomainSpec, sources: Sequence[str | Path], settings: PrepareSettings, options: object | None = None,
    out: Path | None = None,
) -> Source:
    """Image files in folders, globs or zip archives, one sample a file.

    Args:
        spec: The domain; its primary field is filled, and narrowed to a float32 array where the files are FITS stamps.
        sources: Folders, files, globs, `.zip` archives.
        settings: Columns, splits, resizing.
        options: Of the domain; those of crawls limit the time and memory of decoding a file.
        out: The store; nothing is kept beside it.

    Raises:
        ConfigError: For columns or settings that do not fit.
        DataError: For no images, unusable catalogues, or FITS and image files in one source.
    """
    reader = Reader()
    manifest = read_manifest(spec, sources, settings, reader)
    stamps = are_stamps(manifest.inputs)
    field = spec.fields[spec.primary]
    if stamps:
        if settings.resize_px is not None:
            raise ConfigError("prepare setting resize_px shrinks image files; FITS stamps are stored as they are.")
        field = stamp_field(_some_shapes(manifest.inputs, reader), field)
    quality = QUALITY if settings.jpeg_quality is None else settings.jpeg_quality
    pixels = {"resize_px": settings.resize_px, "jpeg_quality": quality, "min_px": settings.min_px}
    if stamps:
        pixels = {"min_px": settings.min_px}
    canonical = Canonical(settings.resize_px, quality, settings.min_px)
    limits = Limits(options.decode_seconds, options.decode_mb) if isinstance(options, CrawlSettings) else HERE
    ingest = Ingest(field, spec.primary, canonical, reader, limits)
    inputs = [replace(entry, expected_bytes=_expected_bytes(entry, field)) for entry in manifest.inputs]
    return Source(
        name=NAME, fields={spec.primary: field}, inputs=inputs, settings={**manifest.settings, **pixels},
        read=ingest.read, fingerprint=ingest.fingerprint, labels=manifest.labels, guessed=manifest.guessed,
        close=reader.close,
    )


def _expected_bytes(entry: Input, field: FieldSpec) -> int:
    if field.kind == "array":
        return len(field.channels) * int(np.prod(field.shape)) * np.dtype(field.dtype).itemsize
    return entry.size * EXPANSION.get(posixpath.splitext(entry.file)[1].lower(), OTHER_EXPANSION)


def _some_shapes(inputs: Sequence[Input], reader: Reader) -> Iterator[Shape]:
    """Shapes of up to `SHAPE_SAMPLE` stamps drawn by key: the same ones wherever and whenever it runs."""
    drawn = sorted(inputs, key=lambda entry: sample_key(NAME, entry.id))
    looked = 0
    for entry in drawn:
        if entry.handle is None or looked == SHAPE_SAMPLE:
            continue
        looked += 1
        try:
            yield read_stamp(_content(entry, reader)).shape
        except Refused:
            continue


def _content(entry: Input, reader: Reader) -> bytes:
    if entry.handle is None:
        raise Refused("missing-file", f"{entry.file!r} was not found")
    if entry.size > MAX_FILE_BYTES:
        raise Refused("too-large", f"{entry.size} bytes, at most {MAX_FILE_BYTES} are read")
    try:
        return reader.read(entry.handle)
    except OSError as error:
        raise Refused("missing-file", str(error)) from error
    except (RuntimeError, NotImplementedError) as error:
        raise Refused("unsupported", str(error)) from error
    except MemoryError as error:
        raise Refused("too-large", f"{entry.size} bytes do not fit in memory") from error
    except Exception as error:  # hostile archives raise anything from KeyError to zlib.error
        raise Refused("corrupt", f"{type(error).__name__}: {error}"[:200]) from error


@dataclass(frozen=True)
class Ingest:
    """Reads the inputs of a task one after the other.

    Attributes:
        field: The field as stored.
        name: Its name.
        canonical: How images are brought into one form.
        reader: Opens files and archive members.
        limits: Of decoding one file, in another process.
    """

    field: FieldSpec
    name: str
    canonical: Canonical
    reader: Reader
    limits: Limits = HERE

    def read(self, task: Task) -> Iterator[Item]:
        """One sample or one refusal for each input, in order; see `isolated_map` for how many are read ahead."""
        to_come: deque[tuple[Input, str]] = deque()
        for found in isolated_map(self._decoder(), self._contents(task, to_come), self.limits):
            entry, content_hash = to_come.popleft()
            if isinstance(found, Refused):
                yield Refusal(entry.id, found.reason, found.detail)
            else:
                yield self._sample(entry, content_hash, found)

    def fingerprint(self, entry: Input) -> str:
        """The `content_hash` of an input as it is now; empty when it cannot be read."""
        try:
            return hash_bytes(_content(entry, self.reader))
        except Refused:
            return ""

    def _contents(self, task: Task, to_come: deque[tuple[Input, str]]) -> Iterator[bytes | Refused]:
        for entry in task.inputs:
            try:
                raw = _content(entry, self.reader)
            except Refused as refused:
                to_come.append((entry, ""))
                yield refused
            else:
                to_come.append((entry, hash_bytes(raw)))
                yield raw

    def _decoder(self) -> Callable[[bytes], Encoded | np.ndarray]:
        # Of modules that import little: the process that calls it starts sooner, and is small.
        if self.field.kind == "array":
            return partial(_stamp, field=self.field, min_px=self.canonical.min_px)
        return partial(canonicalise, field=self.field, options=self.canonical)

    def _sample(self, entry: Input, content_hash: str, found: Encoded | np.ndarray) -> PreparedSample:
        if isinstance(found, Encoded):
            payload: bytes | np.ndarray = found.payload
            columns = {"width": found.width, "height": found.height, "pixel_hash": found.pixel_hash, **found.columns}
        else:
            payload = found
            columns = {"width": found.shape[2], "height": found.shape[1], "pixel_hash": hash_pixels(found)}
        known = {"file": entry.file, "content_hash": content_hash}
        return PreparedSample(entry.id, entry.split, {self.name: payload}, {**entry.columns, **columns, **known})


def _stamp(raw: bytes, field: FieldSpec, min_px: int) -> np.ndarray:
    stamp = read_stamp(raw, min_px)
    expected = (len(field.channels), *field.shape)
    if stamp.shape != expected:
        raise Refused("shape", f"{stamp.shape}, most stamps are {expected}")
    return stamp
