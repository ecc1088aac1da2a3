"""Synthetic slides as files of scanners: tiled JPEG pyramids in TIFF that OpenSlide opens.

Sources of the format: TIFF 6.0 and its supplements, the BigTIFF design, and OpenSlide's notes on Aperio files.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from sciencessl.data_prep.slides.refusals import tifffile_module

DOWNSAMPLES = (1.0, 2.0, 6.4)
"""Of the levels; the last is no whole number."""

_QUALITY = 88
_SMALLEST_PX = 2048  # a huge slide has levels until its longer side is below this
_STEP = 4  # from level to level of a huge slide


def write_tiff(path: Path, picture: np.ndarray, tile_px: int, mpp: float | None) -> None:
    """Write what OpenSlide calls `generic-tiff`: YCbCr JPEG tiles, chroma halved, the scale in pixels a centimetre.

    Args:
        path: The file.
        picture: (h, w, 3) uint8, level 0.
        tile_px: Side of tiles, a multiple of 16.
        mpp: um a pixel; None writes no unit, so that nobody knows the scale.
    """
    scale: dict[str, Any] = {}
    with tifffile_module().TiffWriter(path, bigtiff=False) as out:
        for level, pixels in enumerate(_pyramid(picture)):
            if mpp is not None:
                per_cm = 1e4 / mpp * pixels.shape[1] / picture.shape[1]
                scale = {"resolution": (per_cm, per_cm), "resolutionunit": "CENTIMETER"}
            _write_level(out, pixels, tile_px, "YCBCR", subfiletype=int(level > 0), **scale)


def write_svs(path: Path, picture: np.ndarray, tile_px: int, mpp: float, label: np.ndarray, said: str) -> None:
    """Write an SVS as Aperio does: RGB JPEG tiles, a thumbnail, label and macro image, the scale in the description.

    Args:
        path: The file.
        picture: (h, w, 3) uint8, level 0.
        tile_px: Side of tiles, a multiple of 16.
        mpp: um a pixel.
        label: (h, w, 3) uint8, photograph of the slide's label.
        said: What else stands in the description, fields divided by `|`.
    """
    height, width = picture.shape[:2]
    described = (f"Aperio Image Library v12.0.15 \r\n{width}x{height} [0,0 {width}x{height}] ({tile_px}x{tile_px}) "
                 f"JPEG/RGB Q={_QUALITY}|AppMag = {10 / mpp:.0f}|MPP = {mpp:.4f}|{said}")
    shared = {"software": None, "metadata": None, "photometric": "rgb"}
    macro = cv2.resize(picture, (width * label.shape[0] // height, label.shape[0]), interpolation=cv2.INTER_AREA)
    with tifffile_module().TiffWriter(path, bigtiff=False) as out:
        for level, pixels in enumerate(_pyramid(picture)):
            _write_level(out, pixels, tile_px, "RGB", description=described)
            if level == 0:
                out.write(macro, description=f"{described}|thumbnail", compression="jpeg", **shared)
        out.write(label, description=f"Aperio Image Library v12.0.15 \r\nlabel {label.shape[1]}x{label.shape[0]}",
                  subfiletype=1, compression="lzw", **shared)
        macro = np.hstack([label, macro])
        out.write(macro, description=f"Aperio Image Library v12.0.15 \r\nmacro {macro.shape[1]}x{macro.shape[0]}",
                  subfiletype=9, compression="jpeg", **shared)


def _pyramid(picture: np.ndarray) -> Iterator[np.ndarray]:
    height, width = picture.shape[:2]
    for factor in DOWNSAMPLES:
        size = (max(round(width / factor), 1), max(round(height / factor), 1))
        yield picture if factor == 1 else cv2.resize(picture, size, interpolation=cv2.INTER_AREA)


def _write_level(out: Any, pixels: np.ndarray, tile_px: int, stored_as: str, **options: Any) -> None:
    out.write(_tiles(pixels, tile_px), shape=pixels.shape, dtype=np.uint8, tile=(tile_px, tile_px), photometric="rgb",
              compression="jpeg", compressionargs={"level": _QUALITY, "outcolorspace": stored_as},
              subsampling=(1, 1) if stored_as == "RGB" else (2, 2), software=None, metadata=None, **options)


def _tiles(pixels: np.ndarray, side: int) -> Iterator[np.ndarray]:
    """Whole tiles, row by row; what lies beyond the edge repeats it, as scanners do."""
    down, across = (-length % side for length in pixels.shape[:2])
    padded = cv2.copyMakeBorder(pixels, 0, down, 0, across, cv2.BORDER_REPLICATE)
    for y in range(0, padded.shape[0], side):
        for x in range(0, padded.shape[1], side):
            yield np.ascontiguousarray(padded[y : y + side, x : x + side])


def huge_slide(path: Path, side_px: int, tissue: np.ndarray, mpp: float = 0.25) -> Path:
    """Write a slide of any size in seconds: a BigTIFF whose tiles point to the same few bytes.

    Glass, with a rectangle of tissue in the middle: about a fifth of the area where the slide is large. Each level is
    the one before shrunk by four, down to 2,048 px. At 100,000 px a side the file has about 2 MB.

    Args:
        path: The file.
        side_px: Width and height of level 0.
        tissue: (t, t, 3) uint8, the tile that all tissue is made of; t is a multiple of 16.
        mpp: um a pixel.

    Returns:
        The path.

    Source: ours (BigTIFF lets offsets of tiles be equal).
    """
    tile_px = len(tissue)
    factors = [1]
    while side_px / factors[-1] > _SMALLEST_PX:
        factors.append(factors[-1] * _STEP)
    glass = np.full_like(tissue, 244)
    with path.open("wb") as file:
        file.write(struct.pack("<2sHHHQ", b"II", 43, 8, 0, 0))
        link = 8  # where the place of the next directory is to be written
        for factor in factors:
            places = [_append(file, bytes(cv2.imencode(".jpg", tile[..., ::-1])[1])) for tile in (glass, tissue)]
            has_tissue = _tissue_tiles(side_px, factor, factors[-1], tile_px)
            link = _append_level(file, link, -(-side_px // factor), tile_px, mpp * factor, np.array(places), has_tissue)
            tissue = cv2.resize(np.tile(tissue, (_STEP, _STEP, 1)), (tile_px, tile_px), interpolation=cv2.INTER_AREA)
    return path


def _tissue_tiles(side_px: int, factor: int, coarsest: int, tile_px: int) -> np.ndarray:
    """(tiles of a level,) 0 or 1: whether each is tissue, row by row."""
    wide = math.ceil(side_px / coarsest / tile_px)
    parent = np.arange(math.ceil(-(-side_px // factor) / tile_px)) * factor // coarsest
    inside = (parent >= wide // 3) & (parent < math.ceil(2 * wide / 3))
    return np.asarray(inside[:, None] & inside[None]).astype(int).ravel()


def _append(file: Any, raw: bytes) -> tuple[int, int]:
    """Offset and length of bytes that are written."""
    return file.seek(0, 2), file.write(raw)


def _append_level(file: Any, link: int, side: int, tile_px: int, mpp: float, places: np.ndarray,
                  which: np.ndarray) -> int:
    """Write the directory of one level; returns where the place of the next belongs."""
    offsets, _ = _append(file, places[which, 0].astype("<u8").tobytes())
    counts, _ = _append(file, places[which, 1].astype("<u8").tobytes())
    per_cm = struct.pack("<II", round(1e6 / mpp), 100)
    short, long, ratio, long8 = 3, 4, 5, 16
    entries = [
        (254, long, 1, int(link != 8)), (256, long, 1, side), (257, long, 1, side), (258, short, 3, 0x800080008),
        (259, short, 1, 7), (262, short, 1, 6), (277, short, 1, 3), (282, ratio, 1, per_cm), (283, ratio, 1, per_cm),
        (284, short, 1, 1), (296, short, 1, 3), (322, long, 1, tile_px), (323, long, 1, tile_px),
        (324, long8, len(which), offsets), (325, long8, len(which), counts), (530, short, 2, 0x20002),
    ]  # fmt: skip
    packed = [struct.pack("<HHQ8s", tag, kind, n, value if isinstance(value, bytes) else struct.pack("<Q", value))
              for tag, kind, n, value in entries]
    place, _ = _append(file, struct.pack("<Q", len(entries)) + b"".join(packed) + bytes(8))
    file.seek(link)
    file.write(struct.pack("<Q", place))
    return place + 8 + 20 * len(entries)
