"""What tiles of a slide cost, from the file to pixels and from native tiles to JPEG files, on one core.

    python benchmarks/tiling.py [--quick] [--json] [--slide FILE] [--rounds N] [--memory] [--work DIR]

The slide is CMU-1-Small-Region.svs of the real data ($SCIENCESSL_DATA) or --slide; without either, a synthetic SVS of
240 px JPEG tiles. Every whole tile of 240 and of 256 px is read in rows, on a slide that was just opened. Every way is
timed in turn in each round; a ratio is the median over rounds of its processor seconds divided by ours: above 1 we are
faster. OpenSlide must give the pixels that we do; how far those of peers are is told.

- `openslide`: `read_region` and `convert("RGB")`, with a cache as large as ours. `openslide_240` and `_256` are
  its ratios for each size, `openslide` the smaller one.
- `openslide_jp2k`: the same on the slide's pixels as Aperio's JPEG 2000 (compression 33005, tiles of 256 px).
- `passthrough`: native tiles as JPEG files, scan byte for byte, against decoding and encoding with quality 90.
- `dlup`, `tiatoolbox`, `histolab`: their own way to a region of level 0 as an array, at 256 px.
- selection: a grid of a million tiles, their share of tissue, and which are kept: processor seconds.
- `--memory`: the most memory of a process that prepares tiles of a slide of 100,000 x 100,000 px.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import shutil
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from sciencessl.data_prep.decode import encode
from sciencessl.data_prep.slides.grid import tile_grid
from sciencessl.data_prep.slides.mosaic import CACHE_BYTES
from sciencessl.data_prep.slides.opening import open_slide
from sciencessl.data_prep.slides.resolution import parse_target
from sciencessl.data_prep.slides.slide import Level, Mpp, SlideInfo, SlideReader
from sciencessl.data_prep.tissue import box_means

PEERS = ("dlup", "tiatoolbox", "histolab")
NATIVE_PX, JP2K_PX = 240, 256
SIDES = (240, 256)
DESCRIPTION = "Aperio Image Library v12.0\r\n{} ({}x{}) {}|AppMag = 20|MPP = 0.4990"

Places = list[tuple[int, int]]
"""x and y of the upper left corners of tiles, in pixels of level 0."""
Way = Callable[[Path, Places, int], Iterator[np.ndarray]]
"""A generator that opens a slide when it is begun, and yields a tile of a side for each place."""


def synthetic_pixels(width: int, height: int) -> np.ndarray:
    """(height, width, 3) uint8 that is like stained tissue to a codec: pink areas, dark blobs, a little noise."""
    rng = np.random.default_rng(0)
    areas = cv2.resize(rng.uniform(0, 1, (height // 60 + 2, width // 60 + 2)).astype(np.float32), (width, height),
                       interpolation=cv2.INTER_CUBIC)
    nuclei = cv2.GaussianBlur(rng.normal(size=(height, width)).astype(np.float32), (0, 0), 4) * 10
    stain = np.stack([30 + 90 * (nuclei > 1), 110 + 60 * (nuclei > 1), 60 + 10 * (nuclei > 1)], axis=-1)
    light = 245 - stain * (areas > 0.4)[..., None] + rng.normal(0, 3, (height, width, 1))
    return np.asarray(np.clip(light, 0, 255), np.uint8)


def write_svs(path: Path, pixels: np.ndarray, tile_px: int, jpeg2000: bool) -> None:
    """One level as Aperio writes it: RGB tiles of JPEG, or of JPEG 2000."""
    import tifffile

    height, width = pixels.shape[:2]
    codec = "J2K/KDU Q=70" if jpeg2000 else "JPEG/RGB Q=70"
    description = DESCRIPTION.format(f"{width}x{height}", tile_px, tile_px, codec)
    how: dict[str, Any] = {"photometric": "rgb", "tile": (tile_px, tile_px), "metadata": None,
                           "description": description}
    if not jpeg2000:
        tifffile.imwrite(path, pixels, compression="jpeg", compressionargs={"level": 70}, **how)
        return
    import imagecodecs

    padded = np.pad(pixels, ((0, -height % tile_px), (0, -width % tile_px), (0, 0)), mode="edge")
    tiles = (
        imagecodecs.jpeg2k_encode(np.ascontiguousarray(padded[y : y + tile_px, x : x + tile_px]), codecformat="j2k",
                                  mct=True, reversible=False, level=38)
        for y in range(0, height, tile_px) for x in range(0, width, tile_px)
    )  # fmt: skip
    tifffile.imwrite(path, tiles, shape=pixels.shape, dtype="uint8", compression=33005, **how)


def places_of(path: Path, side: int, most: int) -> Places:
    """Corners of all whole tiles of level 0 in rows, `most` of them at most."""
    reader = open_slide(str(path))
    level = reader.info.levels[0]
    reader.close()
    rows = range(0, level.height - side + 1, side)
    return [(x, y) for y in rows for x in range(0, level.width - side + 1, side)][:most]


def ours(path: Path, places: Places, side: int) -> Iterator[np.ndarray]:
    """What `open_slide` chooses, which must be native tiles."""
    reader = open_slide(str(path))
    if reader.info.backend != "native":
        raise AssertionError(f"{path.name} has no native tiles: {reader.info.said}")
    yield np.empty(0)
    for x, y in places:
        yield reader.read(0, x, y, side, side)
    reader.close()


def openslide(path: Path, places: Places, side: int) -> Iterator[np.ndarray]:
    """OpenSlide's regions as RGB."""
    import openslide as library

    slide = library.OpenSlide(str(path))
    slide.set_cache(library.OpenSlideCache(CACHE_BYTES))
    yield np.empty(0)
    for place in places:
        yield np.asarray(slide.read_region(place, 0, (side, side)).convert("RGB"))
    slide.close()


def dlup(path: Path, places: Places, side: int) -> Iterator[np.ndarray]:
    """dlup's regions at scaling 1, through its OpenSlide backend."""
    from dlup import SlideImage

    with SlideImage.from_file_path(path, backend="OPENSLIDE") as slide:
        yield np.empty(0)
        for place in places:
            yield np.asarray(slide.read_region(place, 1.0, (side, side)))[..., :3]


def tiatoolbox(path: Path, places: Places, side: int) -> Iterator[np.ndarray]:
    """tiatoolbox's rectangles of level 0."""
    from tiatoolbox.wsicore.wsireader import WSIReader

    slide = WSIReader.open(path)
    yield np.empty(0)
    for place in places:
        yield slide.read_rect(place, (side, side), resolution=0, units="level")


def histolab(path: Path, places: Places, side: int) -> Iterator[np.ndarray]:
    """histolab's tiles of level 0, without looking at their tissue."""
    from histolab.slide import Slide
    from histolab.types import CoordinatePair

    slide = Slide(str(path), str(path.parent))
    yield np.empty(0)
    for x, y in places:
        tile = slide.extract_tile(CoordinatePair(x, y, x + side, y + side), (side, side), level=0)
        yield np.asarray(tile.image.convert("RGB"))


def grey_levels_apart(path: Path, way: Way, places: Places, side: int) -> float:
    """Largest mean difference of a tile from ours, 0 to 255."""
    tiles = zip(ours(path, places, side), way(path, places, side), strict=True)
    next(tiles)
    return max(float(cv2.absdiff(mine, np.ascontiguousarray(theirs)).mean()) for mine, theirs in tiles)


def seconds(path: Path, ways: dict[str, Way], places: Places, side: int, rounds: int) -> dict[str, list[float]]:
    """Processor seconds of each way in every round, opening left out."""
    spent: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(rounds):
        for name, way in ways.items():
            tiles = way(path, places, side)
            next(tiles)
            began = time.process_time()
            for _tile in tiles:
                pass
            spent[name].append(time.process_time() - began)
    return spent


def timed_beside_openslide(path: Path, places: Places, side: int, rounds: int) -> dict[str, list[float]]:
    """`seconds` of ours and of OpenSlide, once both gave the same pixels."""
    apart = grey_levels_apart(path, openslide, places, side)
    if apart:
        raise AssertionError(f"OpenSlide read other pixels than ours, up to {apart:.2f} grey levels apart")
    return seconds(path, {"ours": ours, "openslide": openslide}, places, side, rounds)


def pass_on(reader: SlideReader, places: Places) -> None:
    """Native tiles as JPEG files."""
    for column, row in places:
        if reader.native_jpeg(0, column, row) is None:
            raise AssertionError(f"native tile {column}, {row} is no JPEG")


def encode_again(reader: SlideReader, places: Places) -> None:
    """Native tiles decoded, and encoded with quality 90."""
    width, height = reader.info.levels[0].tile_px or (0, 0)
    for column, row in places:
        encode(reader.read(0, column * width, row * height, width, height), True, 90)


def measure_passthrough(path: Path, rounds: int) -> dict[str, list[float]]:
    """Processor seconds of `pass_on` and `encode_again` over all whole native tiles, in every round."""
    spent: dict[str, list[float]] = {"passthrough": [], "encode_again": []}
    for _ in range(rounds):
        for name, work in (("passthrough", pass_on), ("encode_again", encode_again)):
            reader = open_slide(str(path))
            level = reader.info.levels[0]
            across, down = level.tile_px or (level.width, level.height)
            places = [(x, y) for y in range(level.height // down) for x in range(level.width // across)]
            repeats = 10 if work is pass_on else 1
            began = time.process_time()
            for _repeat in range(repeats):
                work(reader, places)
            spent[name].append((time.process_time() - began) / repeats / len(places))
            reader.close()
    return spent


def measure(path: Path, jp2k: Path, rounds: int, most: int) -> dict[str, Any]:
    """All ways: ratios, tiles a second, and what is absent or failed."""
    ratios: dict[str, float] = {}
    speed: dict[str, float] = {}
    for side in SIDES:
        places = places_of(path, side, most)
        found = timed_beside_openslide(path, places, side, rounds)
        compare(found, f"_{side}", ratios, speed, len(places))
    ratios["openslide"] = min(ratios[f"openslide_{side}"] for side in SIDES)
    places = places_of(jp2k, JP2K_PX, min(most, 40))
    found = timed_beside_openslide(jp2k, places, JP2K_PX, max(rounds // 2, 1))
    compare(found, "_jp2k", ratios, speed, len(places))
    absent: list[str] = []
    apart: dict[str, float] = {}
    for name, way in (("dlup", dlup), ("tiatoolbox", tiatoolbox), ("histolab", histolab)):
        if name not in PEERS or not find_spec(name):
            absent.append(name)
            continue
        try:
            places = places_of(path, 256, most)
            apart[name] = grey_levels_apart(path, way, places, 256)
            found = seconds(path, {"ours": ours, name: way}, places, 256, rounds)
        except Exception as error:  # a peer that is there and does not work is named with its words
            absent.append(f"{name}: {type(error).__name__}: {error}"[:200])
            continue
        compare({f"ours_beside_{name}": found.pop("ours"), **found}, "", ratios, speed, len(places))
    passed = measure_passthrough(path, rounds)
    ratios["passthrough"] = float(np.median(np.array(passed["encode_again"]) / np.array(passed["passthrough"])))
    speed |= {name: 1 / float(np.median(found)) for name, found in passed.items()}
    return {"ratios": ratios, "tiles_a_second": speed, "grey_levels_apart": apart, "absent": absent}


def compare(
    found: dict[str, list[float]], suffix: str, ratios: dict[str, float], speed: dict[str, float], tiles: int
) -> None:
    """Write the ratio of each way to the first, within each round, and its tiles a second."""
    first = np.array(next(iter(found.values())))
    for name, spent in found.items():
        speed[f"{name}{suffix}"] = tiles / float(np.median(spent))
        if name != next(iter(found)):
            ratios[f"{name}{suffix}"] = float(np.median(np.array(spent) / first))


def measure_selection(side: int = 1000) -> dict[str, float]:
    """Processor seconds for side x side candidate tiles: the grid, shares of tissue, and which are kept."""
    info = SlideInfo("native", "made", (Level(256 * side, 256 * side),), Mpp(0.5, 0.5, "made"))
    mask = np.random.default_rng(0).uniform(size=(4000, 4000)) < 0.5
    scale = 256 * side / 4000
    began = time.process_time()
    grid = tile_grid(info, Mpp(0.5, 0.5, "made"), parse_target("0.5", 256))
    placed = time.process_time()
    kept = grid.take(np.flatnonzero(box_means(mask, grid.boxes0, (scale, scale)) >= 0.5))
    ended = time.process_time()
    return {"tiles": len(grid), "kept": len(kept), "grid": placed - began, "select": ended - placed,
            "seconds": ended - began}


COUNTED = """
import json, resource, sys
from sciencessl.cli import main
try:
    main(sys.argv[1:])
except SystemExit as end:
    if end.code: raise
kinds = (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)
print(json.dumps({"peak_mb": max(resource.getrusage(kind).ru_maxrss for kind in kinds) / 1024}))
"""
"""Runs the command line, and says the most memory of a process."""


def write_large(path: Path, side: int) -> None:
    """A pyramid of JPEG tiles: glass, and a square of tissue in the middle, a fifth of the side."""
    import tifffile

    glass = encode(np.full((256, 256, 3), 243, np.uint8), True, 70)
    tissue = [encode(block, True, 70) for block in np.split(synthetic_pixels(256, 2048), 8)]
    how: dict[str, Any] = {"dtype": "uint8", "tile": (256, 256), "photometric": "ycbcr", "compression": "jpeg",
                           "metadata": None, "resolution": (20_000, 20_000), "resolutionunit": 3}
    with tifffile.TiffWriter(path, bigtiff=True) as file:
        for factor in (1, 4, 16):
            across = -(-side // factor // 256)
            inside = [0.4 < (i + 0.5) / across < 0.6 for i in range(across)]
            tiles = (tissue[(column + row) % 8] if inside[row] and inside[column] else glass
                     for row in range(across) for column in range(across))
            file.write(tiles, shape=(side // factor, side // factor, 3), subfiletype=int(factor > 1), **how)


def measure_memory(work: Path, side: int, tiles: int) -> dict[str, float]:
    """Seconds by the clock and the most memory of a process for tiles of one large slide, each way that they are read.

    `passthrough` stores native tiles, `resampled` shrinks them to 0.7 um/px: one process, by the command line.
    """
    write_large(work / "large.tif", side)
    found: dict[str, float] = {"slide_mb": (work / "large.tif").stat().st_size / 2**20}
    for name, words in (("passthrough", ()), ("resampled", ("--mpp", "0.7", "--exact-mpp"))):
        command = ["prepare", "pathology", str(work / "large.tif"), "--out", str(work / f"{name}.zarr"),
                   "--workers", "0", "--tiles-per-slide", str(tiles), *words]
        began = time.perf_counter()
        told = subprocess.run([sys.executable, "-c", COUNTED, *command], capture_output=True, text=True)
        if told.returncode:
            raise AssertionError(f"prepare ended with {told.returncode}: {told.stderr[-2000:]}")
        found[f"{name}_s"] = time.perf_counter() - began
        found[f"{name}_peak_mb"] = json.loads(told.stdout.splitlines()[-1])["peak_mb"]
    return found


def show(found: dict[str, Any]) -> None:
    """A line for each figure."""
    for name, speed in found["tiles_a_second"].items():
        ratio = f"{found['ratios'][name]:8.2f} times ours" if name in found["ratios"] else ""
        print(f"{name:16} {speed:12,.0f} tiles a second {ratio}")
    print(f"passthrough is {found['ratios']['passthrough']:.0f} times faster than encoding again")
    for part in ("grey_levels_apart", "selection", "memory"):
        for name, value in found.get(part, {}).items():
            print(f"{part}: {name} {value:,.2f}")
    if found["absent"]:
        print("absent:", "; ".join(found["absent"]))


def real_slide() -> Path | None:
    """CMU-1-Small-Region.svs, where the real data is."""
    found = Path(os.environ.get("SCIENCESSL_DATA", "")) / "pathology" / "slides" / "CMU-1-Small-Region.svs"
    return found if os.environ.get("SCIENCESSL_DATA") and found.is_file() else None


def prepared_slides(slide: Path | None, work: Path) -> tuple[Path, Path]:
    """The slide that is measured, and its pixels as JPEG 2000."""
    if slide is None:
        slide = work / "synthetic.svs"
        write_svs(slide, synthetic_pixels(2220, 2967), NATIVE_PX, jpeg2000=False)
    reader = open_slide(str(slide))
    width, height = min(reader.info.levels[0].width, 2304), min(reader.info.levels[0].height, 3072)
    pixels = reader.read(0, 0, 0, width, height)
    reader.close()
    write_svs(work / "jpeg2000.svs", pixels, JP2K_PX, jpeg2000=True)
    return slide, work / "jpeg2000.svs"


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--quick", action="store_true", help="fewer tiles and rounds, a smaller slide with --memory")
    parser.add_argument("--json", action="store_true", help="one JSON object")
    parser.add_argument("--slide", type=Path, help="a tiled TIFF or SVS of JPEG instead")
    parser.add_argument("--memory", action="store_true", help="also tiles of a slide of 100,000 px a side")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--work", type=Path, help="folder for slides and stores, 1 GB with --memory")
    options = parser.parse_args()
    warnings.simplefilter("ignore")
    work = Path(tempfile.mkdtemp(dir=options.work))
    try:
        slide, jp2k = prepared_slides(options.slide or real_slide(), work)
        found = measure(slide, jp2k, 2 if options.quick else options.rounds, 40 if options.quick else 10_000)
        found["slide"] = slide.name
        found["selection"] = measure_selection()
        if options.memory:
            found["memory"] = measure_memory(work, 20_000 if options.quick else 100_000, 50 if options.quick else 400)
    finally:
        shutil.rmtree(work, ignore_errors=True)
    if not options.json:
        show(found)
        return
    hardware = f"{platform.machine()}, {os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}"
    absolute = {name: value for name, value in found.items() if name not in ("ratios", "absent")}
    print(json.dumps({"name": "tiling", "hardware": hardware, "ratios": found["ratios"], "absolute": absolute,
                      "absent": found["absent"]}))


if __name__ == "__main__":
    main()
