"""A synthetic crawl on disk, in the layout of img2dataset: tars of photos, their copies and worse, all of it known."""

from __future__ import annotations

import csv
import hashlib
import io
import json
import tarfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

from sciencessl.domains.web.synthetic import CLASSES, draw_photo
from sciencessl.domains.web.synthetic_copies import COPIES, FORMS, ORIENTATIONS, jpeg_bytes, rotated
from sciencessl.domains.web.synthetic_hostile import GPS_EXIF, hostile_files
from sciencessl.errors import ConfigError

TRUTH = "truth.csv"
CLUSTERS = tuple(reversed(CLASSES))
"""Kinds of photos, common ones first."""
COLUMNS = ("id", "key", "shard", "kind", "cluster", "duplicate_of", "expected", "reason", "filter")
"""Of `truth.csv`."""

_LONGEST_PX = (144, 400)
_COPIES_SHARE, _FAILED_SHARE = 0.25, 0.04
_SKEW = 1.5  # sizes of clusters fall as rank to the power of this
_FAILED = "HTTP Error 404: Not Found"
_SCHEMA = pa.schema([
    ("caption", pa.string()), ("url", pa.string()), ("key", pa.string()), ("status", pa.string()),
    ("error_message", pa.string()), ("width", pa.int32()), ("height", pa.int32()), ("original_width", pa.int32()),
    ("original_height", pa.int32()), ("exif", pa.string()), ("sha256", pa.string()),
])


@dataclass(slots=True, eq=False)
class _Image:
    """What is to be written. Its bytes follow from seeds, and are made when they are: none is kept in memory.

    Attributes:
        kind: As in `truth.csv`.
        cluster: One of `CLUSTERS`, or empty.
        make: Gives its bytes, the same ones each time.
        of: What it is a copy of, or the name of a leaked file.
        reason: Of a refusal with default settings; empty where it is stored.
        filter: Reason for which a filter refuses it.
        shard: Number of the shard that it goes to.
        key: Name in the tar.
    """

    kind: str
    cluster: str
    make: Callable[[], bytes]
    of: _Image | str = ""
    reason: str = ""
    filter: str = ""
    shard: int = 0
    key: str = ""

    @property
    def id(self) -> str:
        return f"{self.shard:05d}/{self.key}"


def synthetic_crawl(
    folder: Path, rng: np.random.Generator, n: int, per_shard: int = 100, leaked: Sequence[Path] = (),
    extras: bool = True,
) -> Path:
    """Write a crawl of N photos, copies of them, and what else the web holds, as img2dataset leaves it.

    Photos are 72 to 400 px a side, of the kinds `CLUSTERS`, whose sizes fall as rank to the power of -1.5: six photos
    in ten are of the first. For every four photos there is a copy besides, of the kinds `synthetic_copies.COPIES`; few
    photos have most of the copies. A copy lies in another shard than its original where there are two. Files:

    - `00000.tar`, ...: of each image `KEY.jpg` (whatever its format, as img2dataset names it with
      `--disable_all_reencoding`), `KEY.json` and the caption `KEY.txt`.
    - `00000.parquet`: the metadata of the shard, images that could not be downloaded included; `00000_stats.json`.
    - `truth.csv`: `id` as `prepare` gives it (`SHARD/KEY`), `key`, `shard`, `kind`, `cluster`, `duplicate_of` (an id,
      or the name of a leaked file), `expected` with default settings (`stored` or `refused`), `reason` of a
      refusal, and `filter`: the reason for which a filter refuses it where one is asked for.

    The same generator state writes the same bytes. All numbers are ours.

    Args:
        folder: Where to write; made if missing. Give a new one: files of an earlier call would stay.
        rng: Source of all draws.
        n: Number of photos that are no copies, 4 or more. 300 take a few seconds; memory does not grow with n.
        per_shard: Images a shard, on average, 1 to 9,000.
        leaked: JPEG files of an evaluation set that the crawl holds too, smaller and encoded again (kind `leaked`).
        extras: Write images in every form of `synthetic_copies.FORMS`, one photo under each EXIF orientation
            (`rotated-K`), and the files of `synthetic_hostile.hostile_files` besides.

    Returns:
        The folder, a source for `prepare web`.

    Raises:
        ConfigError: For n below 4, or per_shard outside its range.
    """
    if n < len(CLUSTERS) or not 1 <= per_shard <= 9000:
        raise ConfigError(f"synthetic crawl: n must be {len(CLUSTERS)} or more and per_shard 1 to 9000, got {n} and "
                          f"{per_shard}.")
    folder.mkdir(parents=True, exist_ok=True)
    photos = _photos(n, rng)
    images = [*photos, *_copies(photos, rng), *_leaked(leaked, rng), *(_extras(rng) if extras else ())]
    shards = _dealt(images, -(-len(images) // per_shard), rng)
    for number, members in enumerate(shards):
        _write_shard(folder / f"{number:05d}", _with_failed(number, members, rng))
    _write_truth(folder / TRUTH, images)
    return folder


def cluster_sizes(n: int) -> tuple[int, ...]:
    """Photos of each of `CLUSTERS` among n: as rank to the power of -1.5, rounded, none without any."""
    weights = np.arange(1, len(CLUSTERS) + 1) ** -_SKEW
    rare = [max(round(n * weight), 1) for weight in weights[1:] / weights.sum()]
    return n - sum(rare), *rare


def _seeds(count: int, rng: np.random.Generator) -> list[int]:
    seeds: list[int] = rng.integers(2**62, size=count).tolist()
    return seeds


def _photo(kind: int, seed: int) -> Image.Image:
    return draw_photo(len(CLUSTERS) - 1 - kind, np.random.default_rng(seed), _LONGEST_PX)


def _photo_jpeg(kind: int, seed: int) -> bytes:
    return jpeg_bytes(_photo(kind, seed), 70 + seed % 26)


def _photos(n: int, rng: np.random.Generator) -> list[_Image]:
    # Mixed, because copies are of the first: each cluster has its share of them.
    kinds = rng.permutation(np.repeat(np.arange(len(CLUSTERS)), cluster_sizes(n))).tolist()
    return [_Image("photo", CLUSTERS[kind], partial(_photo_jpeg, kind, seed))
            for kind, seed in zip(kinds, _seeds(n, rng), strict=True)]


def _copies(photos: Sequence[_Image], rng: np.random.Generator) -> Iterator[_Image]:
    seeds = _seeds(round(_COPIES_SHARE * len(photos)), rng)
    originals = (len(photos) * rng.random(len(seeds)) ** 4).astype(int).tolist()
    for number, (original, seed) in enumerate(zip(originals, seeds, strict=True)):
        photo, kind = photos[original], list(COPIES)[number % len(COPIES)]
        yield _Image(kind, photo.cluster, partial(_copied, kind, photo.make, seed), photo)


def _copied(kind: str, make: Callable[[], bytes], seed: int) -> bytes:
    return COPIES[kind](make(), np.random.default_rng(seed))


def _leaked(paths: Sequence[Path], rng: np.random.Generator) -> Iterator[_Image]:
    for path, seed in zip(paths, _seeds(len(paths), rng), strict=True):
        cluster = path.parent.name if path.parent.name in CLUSTERS else ""
        yield _Image("leaked", cluster, partial(_copied, "near-resized", path.read_bytes, seed), path.name)


def _extras(rng: np.random.Generator) -> Iterator[_Image]:
    for number, ((kind, (_, filtered)), seed) in enumerate(zip(FORMS.items(), _seeds(len(FORMS), rng), strict=True)):
        scene = number % len(CLUSTERS)
        yield _Image(kind, CLUSTERS[scene], partial(_formed, kind, scene, seed), filter=filtered)
    (seed,) = _seeds(1, rng)
    upright = _Image("rotated-1", CLUSTERS[2], partial(_turned, 1, seed))
    yield upright
    for turned in ORIENTATIONS:
        if turned != 1:
            yield _Image(f"rotated-{turned}", CLUSTERS[2], partial(_turned, turned, seed), upright)
    for name, (raw, reason) in hostile_files(rng).items():
        yield _Image(name, "", partial(bytes, raw), reason=reason or "")


def _formed(kind: str, scene: int, seed: int) -> bytes:
    return FORMS[kind][0](_photo(scene, seed))


def _turned(orientation: int, seed: int) -> bytes:
    return rotated(_photo(2, seed), orientation)


def _dealt(images: Sequence[_Image], count: int, rng: np.random.Generator) -> list[list[_Image]]:
    """The images of each shard in a random order, copies and their originals apart."""
    shards: list[list[_Image]] = [[] for _ in range(count)]
    for rank, number in enumerate(rng.permutation(len(images)).tolist()):
        images[number].shard = rank % count
    for rank, image in enumerate(images):
        if isinstance(image.of, _Image) and count > 1:
            image.shard = (image.of.shard + 1 + rank % (count - 1)) % count
        shards[image.shard].append(image)
    return [[members[i] for i in rng.permutation(len(members))] for members in shards]


def _with_failed(shard: int, members: list[_Image], rng: np.random.Generator) -> list[tuple[str, _Image | None]]:
    """Keys and images in order; here and there a download failed, and a key has no image."""
    failed = rng.random(len(members)) < _FAILED_SHARE
    slots: list[_Image | None] = []
    for image, fails in zip(members, failed, strict=True):
        slots += [None, image] if fails else [image]
    keys = [f"{shard:05d}{index:04d}" for index in range(len(slots))]
    for key, slot in zip(keys, slots, strict=True):
        if slot is not None:
            slot.key = key
    return list(zip(keys, slots, strict=True))


def _write_shard(place: Path, slots: Sequence[tuple[str, _Image | None]]) -> None:
    rows = []
    with tarfile.open(place.with_suffix(".tar"), "w", format=tarfile.USTAR_FORMAT) as tar:
        for key, image in slots:
            raw = b"" if image is None else image.make()
            rows.append(_metadata(key, image, raw))
            if image is not None:
                for suffix, content in (("jpg", raw), ("json", json.dumps(rows[-1], indent=4).encode()),
                                        ("txt", rows[-1]["caption"].encode())):
                    member = tarfile.TarInfo(f"{key}.{suffix}")
                    member.size, member.mode = len(content), 0o444
                    tar.addfile(member, io.BytesIO(content))
    pq.write_table(pa.Table.from_pylist(rows, _SCHEMA), place.with_suffix(".parquet"))
    good = sum(image is not None for _, image in slots)
    stats = {"count": len(slots), "successes": good, "failed_to_download": len(slots) - good, "failed_to_resize": 0,
             "duration": 1.0, "start_time": 0.0, "end_time": 1.0,
             "status_dict": {"success": good, **({_FAILED: len(slots) - good} if good < len(slots) else {})}}
    place.with_name(f"{place.name}_stats.json").write_text(json.dumps(stats, indent=4), encoding="utf-8")


def _metadata(key: str, image: _Image | None, raw: bytes) -> dict[str, Any]:
    """A row as img2dataset writes it when it keeps files as they are: it does not look at their sizes then."""
    known = dict.fromkeys(_SCHEMA.names) | {"url": f"https://photos.example/{key}.jpg", "key": key}
    if image is None:
        return known | {"caption": "", "status": "failed_to_download", "error_message": _FAILED}
    return known | {
        "caption": f"a picture of {image.cluster}" if image.cluster else "", "status": "success",
        "exif": json.dumps(GPS_EXIF if image.kind == "gps.jpg" else {}), "sha256": hashlib.sha256(raw).hexdigest(),
    }


def _write_truth(path: Path, images: Sequence[_Image]) -> None:
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(COLUMNS)
        for image in sorted(images, key=lambda image: image.id):
            of = image.of.id if isinstance(image.of, _Image) else image.of
            expected = "refused" if image.reason else "stored"
            writer.writerow([image.id, image.key, f"{image.shard:05d}", image.kind, image.cluster, of, expected,
                             image.reason, image.filter])
