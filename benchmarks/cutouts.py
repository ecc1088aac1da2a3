"""What stamps of a survey cost, from sky positions to pixels: on one core, and through the command line.

    python benchmarks/cutouts.py [--quick] [--json] [--survey] [--rounds N] [--work DIR]

One FITS tile of noise, and sources whose stamps of 65 px lie on it. Every way is timed in turn in each round; a ratio
is the median over rounds of its seconds a source divided by ours: above 1 we are faster. Seconds are of processor time
of the process, threads included. Stamps of every way are compared with ours, pixel for pixel, before anything is timed.

- from memory: one batched call from sky to pixels, the stamps, and the affine WCS of each. Alternatives: `Cutout2D`
  with a `SkyCoord` and the tile's WCS for each source (`cutout2d_skycoord`), and `Cutout2D` at pixels of one batched
  call, without a WCS for the stamp (`cutout2d_batched`); the first on tiles with SIP and TPV distortions too.
- from the file: header, WCS, positions, pixels, and the affine WCS of each stamp. Alternatives: `astrocut` (FITSCutout
  for each source, which opens the file again) and `cutana` (create_cutouts_direct with one thread, extraction only,
  which opens it once). Positions are a quarter of a pixel from pixel centres and sides are odd: there the three
  rounding rules give the same pixels.
- reprojected: stars of flux 1 on a rotated tile, onto 40 px north up, with their variance; and the largest error of
  their flux. Alternatives: `reproject_adaptive` with flux conserved and `reproject_exact`, which carry flux alone.
- `--survey`: `prepare galaxy --source survey` on 100 tiles of three bands and 100,000 sources of 64 px, with one
  worker, two, and all in one process: by the clock, the most memory of a process, and how often the latter opened a
  file. `estimated_speedup` is an estimate of what a second worker gains where nothing else runs, from processor
  seconds: those of the parent are serial, those of the workers are halved.
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
from collections.abc import Callable
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np

from sciencessl.data_prep.cutouts import cut_stamps, origins
from sciencessl.data_prep.fits_planes import Planes
from sciencessl.data_prep.fits_tiles import find_tiles
from sciencessl.data_prep.listing import list_sources
from sciencessl.data_prep.resample import Planes as Stamps
from sciencessl.data_prep.resample import north_up, reproject_stamps
from sciencessl.data_prep.sky_wcs import affine_wcs, world_to_pixel

SIDE, TILE_PX, ARCSEC = 65, 2000, 0.262
STAMP_PX, OVERLAP_PX, TARGET_PX = 64, 40, 40
ONE_BY_ONE = 200
BANDS = ("g", "r", "z")
PEERS = ("astrocut", "cutana", "reproject")

Way = tuple[Callable[[np.ndarray], np.ndarray], np.ndarray]
"""What makes stamps of sources, and the sources that it is timed on."""


def tile_header(kind: str = "TAN", shift: tuple[float, float] = (0.0, 0.0)) -> Any:
    """Cards of a tile around a place of the sky, its reference pixel shifted; SIP and TPV bend corners by pixels."""
    from astropy.io.fits import Header

    head, scale, middle = Header(), ARCSEC / 3600, TILE_PX / 2
    head.update(CTYPE1="RA---TAN", CTYPE2="DEC--TAN", CRVAL1=150.1, CRVAL2=2.2, CRPIX1=middle - shift[0],
                CRPIX2=middle - shift[1], CD1_1=-scale, CD1_2=0.0, CD2_1=0.0, CD2_2=scale, RADESYS="ICRS", FILTER="r")
    if kind == "SIP":
        head.update(CTYPE1="RA---TAN-SIP", CTYPE2="DEC--TAN-SIP", A_ORDER=3, B_ORDER=3, A_2_0=4e-6, B_0_2=4e-6,
                    A_3_0=2e-9, B_0_3=2e-9)
    if kind == "TPV":
        head.update(CTYPE1="RA---TPV", CTYPE2="DEC--TPV", PV1_0=0.0, PV1_1=1.0, PV1_2=0.0, PV1_4=0.05, PV1_7=3.0,
                    PV2_0=0.0, PV2_1=1.0, PV2_2=0.0, PV2_4=-0.05, PV2_7=-3.0)
    return head


def write_tile(path: Path, header: Any, side: int = TILE_PX, seed: int = 0) -> None:
    """A tile of noise on disk."""
    from astropy.io import fits

    noise = np.random.default_rng(seed).normal(size=(side, side)).astype(np.float32)
    fits.PrimaryHDU(noise, header).writeto(path)


def sources(wcs: Any, count: int) -> np.ndarray:
    """(count, 2) ra, dec of positions a quarter of a pixel from pixel centres, so that every rounding rule agrees."""
    places = np.random.default_rng(1).integers(SIDE, TILE_PX - SIDE, (count, 2)) + 0.25
    return np.asarray(wcs.all_pix2world(places, 0))


def from_memory(image: np.ndarray, wcs: Any, sky: np.ndarray) -> np.ndarray:
    """Our stamps of a tile in memory, with the WCS of each."""
    x, y = world_to_pixel(wcs, *sky.T).T
    affine_wcs(wcs, origins(x, y, SIDE), SIDE)
    return cut_stamps(image, x, y, SIDE, np.nan)


def cutout2d_skycoord(image: np.ndarray, wcs: Any, sky: np.ndarray) -> np.ndarray:
    """astropy's stamps, a source at a time on the full WCS."""
    from astropy.coordinates import SkyCoord
    from astropy.nddata import Cutout2D

    cuts = [Cutout2D(image, SkyCoord(ra, dec, unit="deg"), SIDE, wcs=wcs, mode="partial", fill_value=np.nan)
            for ra, dec in sky]
    return np.stack([cut.data for cut in cuts])


def cutout2d_batched(image: np.ndarray, wcs: Any, sky: np.ndarray) -> np.ndarray:
    """astropy's stamps at pixels of one call."""
    from astropy.nddata import Cutout2D

    places = wcs.all_world2pix(sky, 0)
    return np.stack([Cutout2D(image, place, SIDE, mode="partial", fill_value=np.nan).data for place in places])


def from_file(folder: Path, sky: np.ndarray) -> np.ndarray:
    """Our stamps of a tile on disk, with the WCS of each."""
    tile = find_tiles(list_sources([folder]).files).tiles[0]
    x, y = world_to_pixel(tile.wcs, *sky.T).T
    affine_wcs(tile.wcs, origins(x, y, SIDE), SIDE)
    with Planes() as planes:
        pixels = planes.windows(next(iter(tile.bands.values())).image, len(sky), SIDE)
        return cut_stamps(pixels, x, y, SIDE, np.nan)


def astrocut(folder: Path, sky: np.ndarray) -> np.ndarray:
    """astrocut's stamps, a source at a time."""
    from astrocut import FITSCutout
    from astropy.coordinates import SkyCoord

    path = str(next(folder.glob("*.fits")))
    cuts = [FITSCutout([path], SkyCoord(ra, dec, unit="deg"), SIDE) for ra, dec in sky]
    return np.stack([cut.cutouts_by_file[path][0].data for cut in cuts])


def cutana(folder: Path, sky: np.ndarray) -> np.ndarray:
    """Cutana's stamps, in this process with one thread, raw as they are in the file."""
    import pandas
    from cutana.direct_cutout import create_cutouts_direct
    from cutana.get_default_config import get_default_config
    from loguru import logger

    logger.disable("cutana")
    config = get_default_config()
    config.do_only_cutout_extraction, config.apply_flux_conversion, config.target_resolution = True, False, SIDE
    path = str(next(folder.glob("*.fits")))
    table = pandas.DataFrame({"SourceID": [f"s{i}" for i in range(len(sky))], "RA": sky[:, 0], "Dec": sky[:, 1],
                              "diameter_pixel": SIDE, "fits_file_paths": [f"['{path}']"] * len(sky)})
    batches = create_cutouts_direct(table, config, max_workers=1, log_set_progress=False)
    return np.stack([np.squeeze(cut) for batch in batches for cut in batch["cutouts"]])


def microseconds(ways: dict[str, Way], rounds: int) -> dict[str, list[float]]:
    """Processor time a source of each way in every round, once its stamps were those of the first."""
    first = next(iter(ways.values()))[0]
    for name, (work, sky) in ways.items():
        if not np.array_equal(work(sky), first(sky)):
            raise AssertionError(f"{name} cut other pixels than {next(iter(ways))}")
    spent: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(rounds):
        for name, (work, sky) in ways.items():
            began = time.process_time()
            work(sky)
            spent[name].append(1e6 * (time.process_time() - began) / len(sky))
    return spent


def stars(count: int) -> tuple[Any, np.ndarray, np.ndarray, np.ndarray]:
    """The WCS of a tile turned by 20 degrees, first pixels of windows, their pixels, and ra, dec of their stars."""
    from astropy.wcs import WCS

    head, angle = tile_header(), np.radians(20)
    head.update(CD1_1=-ARCSEC / 3600 * np.cos(angle), CD1_2=ARCSEC / 3600 * np.sin(angle),
                CD2_1=ARCSEC / 3600 * np.sin(angle), CD2_2=ARCSEC / 3600 * np.cos(angle))
    wcs = WCS(head)
    places = np.random.default_rng(3).uniform(100, TILE_PX - 100, (count, 2))
    first = origins(*places.T, SIDE)
    pixels = np.arange(SIDE)
    away = [(pixels - (places - first)[:, axis, None]) / 1.5 for axis in (0, 1)]
    light = np.exp(-0.5 * away[1][:, :, None] ** 2 - 0.5 * away[0][:, None, :] ** 2)
    return wcs, first, light / light.sum(axis=(1, 2), keepdims=True), np.asarray(wcs.all_pix2world(places, 0))


def measure_reprojection(count: int, rounds: int) -> tuple[dict[str, list[float]], dict[str, float]]:
    """Microseconds a stamp of each way, and the largest error of its stars' flux."""
    wcs, first, windows, sky = stars(count)
    target = north_up(*sky.T, ARCSEC, TARGET_PX)
    ones = np.ones((count, 1, SIDE, SIDE))
    planes = Stamps(windows[:, None], ones > 0, ones)
    ways: dict[str, Callable[[], np.ndarray]] = {
        "ours_reprojected": lambda: reproject_stamps(planes, wcs, first, target, TARGET_PX).flux[:, 0],
    }
    if find_spec("reproject"):
        import reproject

        outs = [stamp_wcs(target, i) for i in range(count)]
        moved = [wcs.slice((slice(y, None), slice(x, None))) for x, y in first.tolist()]
        ways["reproject_adaptive"] = lambda: np.stack([
            reproject.reproject_adaptive((stamp, here), out, shape_out=(TARGET_PX, TARGET_PX), conserve_flux=True)[0]
            for stamp, here, out in zip(windows, moved, outs, strict=True)])
        ways["reproject_exact"] = lambda: np.stack([
            reproject.reproject_exact((stamp, here), out, shape_out=(TARGET_PX, TARGET_PX))[0]
            for stamp, here, out in zip(windows, moved, outs, strict=True)])
    spent: dict[str, list[float]] = {name: [] for name in ways}
    errors = {name: float(np.abs(way().sum(axis=(1, 2)) - 1).max()) for name, way in ways.items()}
    for _ in range(rounds):
        for name, way in ways.items():
            began = time.process_time()
            way()
            spent[name].append(1e6 * (time.process_time() - began) / count)
    return spent, errors


def stamp_wcs(columns: dict[str, np.ndarray], row: int) -> Any:
    """The columns of a stamp as a WCS of astropy."""
    from astropy.wcs import WCS

    wcs = WCS(naxis=2)
    wcs.wcs.ctype = ["RA---TAN", "DEC--TAN"]
    wcs.wcs.crval = [columns["wcs_crval1"][row], columns["wcs_crval2"][row]]
    wcs.wcs.crpix = [columns["wcs_crpix1"][row], columns["wcs_crpix2"][row]]
    wcs.wcs.cd = [[columns[f"wcs_cd{i}_{j}"][row] for j in (1, 2)] for i in (1, 2)]
    return wcs


def measure(count: int, rounds: int, work: Path) -> dict[str, Any]:
    """All ways on one core."""
    from astropy.io import fits
    from astropy.wcs import WCS

    times: dict[str, list[float]] = {}
    ratios: dict[str, float] = {}
    for kind in ("TAN", "SIP", "TPV"):
        folder = work / kind
        folder.mkdir()
        write_tile(folder / "tile-1-r.fits", tile_header(kind))
        image, wcs = fits.getdata(next(folder.glob("*.fits"))).astype(np.float32), WCS(tile_header(kind))
        sky = sources(wcs, count)
        few = sky[:ONE_BY_ONE]
        ways: dict[str, Way] = {"ours": (partial(from_memory, image, wcs), sky),
                                "cutout2d_skycoord": (partial(cutout2d_skycoord, image, wcs), few)}
        if kind == "TAN":
            ways["cutout2d_batched"] = (partial(cutout2d_batched, image, wcs), sky)
        suffix = "" if kind == "TAN" else f"_{kind.lower()}"
        _compare({f"{name}{suffix}": way for name, way in ways.items()}, rounds, times, ratios)
    folder, sky = work / "TAN", sources(WCS(tile_header()), count)
    peers = {"astrocut": (partial(astrocut, folder), sky[:ONE_BY_ONE]), "cutana": (partial(cutana, folder), sky)}
    there = {name: way for name, way in peers.items() if find_spec(name)}
    _compare({"ours_file": (partial(from_file, folder), sky), **there}, rounds, times, ratios)
    spent, errors = measure_reprojection(min(count, 100), rounds)
    times |= spent
    for name, values in spent.items():
        if name != "ours_reprojected":
            ratios[name] = float(np.median(np.array(values) / np.array(spent["ours_reprojected"])))
    medians = {name: float(np.median(found)) for name, found in times.items()}
    absent = [name for name in PEERS if not find_spec(name)]
    return {"ratios": ratios, "us_a_source": medians, "flux_error": errors, "absent": absent}


def _compare(ways: dict[str, Way], rounds: int, times: dict[str, list[float]], ratios: dict[str, float]) -> None:
    found = microseconds(ways, rounds)
    ours, *others = found
    times.update(found)
    for name in others:
        ratios[name] = float(np.median(np.array(found[name]) / np.array(found[ours])))


COUNTED = """
import collections, json, resource, sys
opened = collections.Counter()
def count(event, args):
    if event == "open" and isinstance(args[0], str) and args[0].endswith(".fits"):
        opened[args[0]] += 1
sys.addaudithook(count)
from sciencessl.cli import main
try:
    main(sys.argv[1:])
except SystemExit as end:
    if end.code: raise
own, others = (resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
print(json.dumps({"peak_mb": max(own.ru_maxrss, others.ru_maxrss) / 1024, "opened": max(opened.values(), default=0),
                  "own_cpu": own.ru_utime + own.ru_stime, "worker_cpu": others.ru_utime + others.ru_stime}))
"""
"""Runs the command line, and says the most memory of a process, how often this one opened a tile, and processor
seconds of this process and of its workers."""


def write_survey(folder: Path, per_side: int, per_tile: int) -> int:
    """per_side x per_side overlapping tiles of `BANDS`, and a catalogue; returns how many sources it has."""
    from astropy.wcs import WCS

    folder.mkdir()
    side = TILE_PX // 2
    step = side - OVERLAP_PX
    for i in range(per_side**2):
        shift = ((i % per_side) * step, (i // per_side) * step)
        for number, band in enumerate(BANDS):
            header = tile_header(shift=shift)
            header["FILTER"] = band
            write_tile(folder / f"tile-{i:03d}-{band}.fits", header, side, seed=len(BANDS) * i + number)
    count = per_tile * per_side**2
    # Inside by half a stamp and a pixel, so that none is refused: their rows are not what is measured.
    inside = STAMP_PX / 2 + 1, per_side * step + OVERLAP_PX - STAMP_PX / 2 - 1
    places = np.random.default_rng(2).uniform(*inside, (count, 2))
    sky = WCS(tile_header()).all_pix2world(places, 0)
    rows = "\n".join(f"g{i},{ra:.8f},{dec:.8f}" for i, (ra, dec) in enumerate(sky))
    (folder / "catalogue.csv").write_text(f"id,ra,dec\n{rows}\n")
    return count


def prepare(folder: Path, out: Path, workers: int) -> dict[str, float]:
    """Seconds by the clock of preparing a survey by the command line, and what `COUNTED` says."""
    command = [sys.executable, "-c", COUNTED, "prepare", "galaxy", str(folder), "--source", "survey", "--out", str(out),
               "--size-px", str(STAMP_PX), "--workers", str(workers), "--group-by", "tile"]
    began = time.perf_counter()
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
    seconds = time.perf_counter() - began
    return {"seconds": seconds, **json.loads(done.stdout.splitlines()[-1])}


def measure_survey(quick: bool, work: Path) -> dict[str, Any]:
    """A survey through the command line, in one process and in two."""
    count = write_survey(work / "tiles", 2 if quick else 10, 100 if quick else 1000)
    found: dict[str, Any] = {"sources": count}
    for workers in (1, 2, 0):
        found[f"workers_{workers}"] = prepare(work / "tiles", work / "out.zarr", workers)
        print(f"workers {workers}: {found[f'workers_{workers}']}", file=sys.stderr)
        shutil.rmtree(work / "out.zarr")
    one, two = found["workers_1"], found["workers_2"]
    found["speedup_by_the_clock"] = one["seconds"] / two["seconds"]
    found["estimated_speedup"] = (one["own_cpu"] + one["worker_cpu"]) / (two["own_cpu"] + two["worker_cpu"] / 2)
    return found


def show(found: dict[str, Any]) -> None:
    """A line for each figure."""
    for name, spent in found["us_a_source"].items():
        ratio = f"{found['ratios'][name]:8.2f} times ours" if name in found["ratios"] else ""
        print(f"{name:24} {spent:9.1f} us a source {1e6 / spent:10,.0f} a second {ratio}")
    for name, error in found["flux_error"].items():
        print(f"{name:24} {100 * error:9.4f} % largest error of a star's flux")
    for name, values in found.get("survey", {}).items():
        print(f"survey: {name} {values}")
    if found["absent"]:
        print("absent:", ", ".join(found["absent"]))


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--quick", action="store_true", help="fewer sources and tiles")
    parser.add_argument("--json", action="store_true", help="one JSON object")
    parser.add_argument("--survey", action="store_true", help="also a survey through the command line")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--work", type=Path, help="folder for tiles and stores, 10 GB with --survey")
    options = parser.parse_args()
    warnings.simplefilter("ignore")
    work = Path(tempfile.mkdtemp(dir=options.work))
    try:
        found = measure(500 if options.quick else 2000, 2 if options.quick else options.rounds, work)
        if options.survey:
            found["survey"] = measure_survey(options.quick, work)
    finally:
        shutil.rmtree(work, ignore_errors=True)
    if not options.json:
        show(found)
        return
    hardware = f"{platform.machine()}, {os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}"
    absolute = {name: value for name, value in found.items() if name not in ("ratios", "absent")}
    print(json.dumps({"name": "cutouts", "hardware": hardware, "ratios": found["ratios"], "absolute": absolute,
                      "absent": found["absent"]}))


if __name__ == "__main__":
    main()
