"""What bringing photos into a store costs: decode, resize to a short side of 256 px, encode with quality 90 and 4:2:0.

    python benchmarks/ingest.py [--quick] [--json] [--photos FOLDER] [--img2dataset PYTHON] [--rounds N]
                                [--wall] [--memory] [--work DIR]

Ours is the whole way of `prepare web` from a tar to a committed row: records, decoding in a process of its own, hashes,
columns, the row with its checksums. All photos go into one row, which in a large crawl takes thousands; start-up, the
list of the tar and the seal are left out.
Processor seconds of all processes; ways take turns in each round, and a ratio is the median over rounds of their time
over ours. Above 1 we are faster. Photos are those of the real data ($SCIENCESSL_DATA), of --photos, or synthetic.

- `bare`: `cv2.imdecode`, `cv2.resize` with `INTER_AREA`, `cv2.imencode` of bytes that are in memory, and nothing else.
- `bare_pillow`: `Image.open`, `resize` with `BOX`, `save`.
- `img2dataset`: its `Resizer` with keep_ratio, 256, only if bigger, jpg of quality 90, one process, by the interpreter
  that --img2dataset names.
- `--wall`: `two_processes` is the time by the clock of `prepare` with one worker over that with two, each less that of
  a `prepare` of 16 photos: start-up is taken out. Needs two idle cores.
- `tarfile`: time of `tarfile` over ours to list a tar, three members a sample. The rates of the page on a billion
  images: `listed` samples a second of one core, and `loaded` images a second, read from the store with the two views of
  BYOL at 224 px.
- `--memory`: the most memory of the preparing process and its decoder after a fifth of 100,000 small images, and after
  all: `memory_flat` is the one over the other.
"""

from __future__ import annotations

import argparse
import io
import json
import os
import platform
import shutil
import subprocess
import sys
import tarfile
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from PIL import Image, ImageOps

from sciencessl.data.loader import Decoder, ViewRandomness, apply_view
from sciencessl.data_prep.begin import begin
from sciencessl.data_prep.crawl.containers import contents
from sciencessl.data_prep.crawl.listing import list_places
from sciencessl.data_prep.crawl.source import crawl
from sciencessl.data_prep.isolated import close, isolated_map
from sciencessl.data_prep.limits import Limits
from sciencessl.data_prep.plan import Plan, make_plan
from sciencessl.data_prep.settings import PrepareSettings
from sciencessl.data_prep.source import Task
from sciencessl.data_prep.task import prepare_row
from sciencessl.domains.web import SPEC
from sciencessl.domains.web.views import WebViews, web_views
from sciencessl.store.reader import Store
from sciencessl.store.seal import seal

SHORT_PX, QUALITY = 256, 90
SMALL_PX = 64
SETTINGS = PrepareSettings(resize_px=SHORT_PX, jpeg_quality=QUALITY, test_fraction=0)

Way = Callable[[], float]
"""Bring all photos through once -> processor seconds."""


def synthetic_photos(count: int, sides: tuple[int, int] = (400, 533)) -> list[bytes]:
    """JPEGs with edges and grain."""
    rng = np.random.default_rng(0)
    made = []
    for _ in range(count):
        coarse = rng.uniform(0, 255, (sides[0] // 40 + 2, sides[1] // 40 + 2, 3)).astype(np.float32)
        smooth = cv2.resize(coarse, (sides[1], sides[0]), interpolation=cv2.INTER_CUBIC)
        grain = rng.normal(0, 6, (*sides, 1))
        made.append(bytes(cv2.imencode(".jpg", np.clip(smooth + grain, 0, 255).astype(np.uint8))[1]))
    return made


def read_photos(folder: Path | None, most: int) -> tuple[str, list[bytes]]:
    """What they are, and the files."""
    if folder is None and (data := os.environ.get("SCIENCESSL_DATA")):
        folder = Path(data) / "web" / "clothing"
    files = sorted(folder.rglob("*.jpg"))[:most] if folder is not None else []
    if folder is not None and files:
        return folder.name, [path.read_bytes() for path in files]
    return "synthetic", synthetic_photos(min(most, 400))


def write_tar(path: Path, photos: Sequence[bytes], copies: int = 1) -> Path:
    """A tar of photos as a downloader leaves it; copies have names of their own."""
    with tarfile.open(path, "w") as tar:
        for number in range(len(photos) * copies):
            member = tarfile.TarInfo(f"{number:08d}.jpg")
            raw = photos[number % len(photos)]
            member.size = len(raw)
            tar.addfile(member, io.BytesIO(raw))
    return path


def shrunk_size(width: int, height: int) -> tuple[int, int]:
    """(width, height) with the short side at `SHORT_PX`, unless it is smaller already."""
    scale = min(SHORT_PX / min(width, height), 1)
    return round(width * scale), round(height * scale)


def bare(raw: bytes) -> bytes:
    """OpenCV alone."""
    pixels = cv2.imdecode(np.frombuffer(raw, np.uint8), cv2.IMREAD_COLOR)
    if pixels is None:
        raise AssertionError("OpenCV does not read a photo")
    smaller = cv2.resize(pixels, shrunk_size(pixels.shape[1], pixels.shape[0]), interpolation=cv2.INTER_AREA)
    return bytes(cv2.imencode(".jpg", smaller, [cv2.IMWRITE_JPEG_QUALITY, QUALITY])[1])


def bare_pillow(raw: bytes) -> bytes:
    """Pillow alone."""
    with Image.open(io.BytesIO(raw)) as image:
        upright = ImageOps.exif_transpose(image.convert("RGB"))
    out = io.BytesIO()
    upright.resize(shrunk_size(*upright.size), Image.Resampling.BOX).save(out, "JPEG", quality=QUALITY, subsampling=2)
    return out.getvalue()


def timed(function: Callable[[bytes], bytes], photos: Sequence[bytes]) -> Way:
    """A way that calls a function in this process."""

    def work() -> float:
        began = time.process_time()
        for raw in photos:
            function(raw)
        return time.process_time() - began

    return work


def children_seconds() -> float:
    """Processor seconds of the living children of this process, all their threads."""
    total = 0.0
    for told in Path("/proc/self/task").glob("*/children"):
        for pid in told.read_text().split():
            total += sum(int(path.read_text().split()[0]) for path in Path(f"/proc/{pid}/task").glob("*/schedstat"))
    return total / 1e9


def in_one_row(plan: Plan) -> Plan:
    """The same inputs in a single row."""
    inputs = tuple(entry for task in plan.tasks for entry in task.inputs)
    header = replace(plan.header, rows=1, places=sum(entry.samples for entry in inputs))
    return Plan(header, [Task(0, inputs)], plan.row_bytes * len(plan.tasks))


def ours(tar: Path, work: Path) -> Way:
    """From the tar to committed rows. The decoder is started before."""
    list(isolated_map(len, [b""], Limits(1, 256)))

    def prepare_rows() -> float:
        out = work / "ours.zarr"
        source = crawl(SPEC, [tar], SETTINGS, None, out)
        plan = in_one_row(make_plan(SPEC.name, source))
        header = begin(out, plan, overwrite=True)
        began = time.process_time() + children_seconds()
        receipt = prepare_row(out, header, plan.tasks[0], source.for_tasks())
        spent = time.process_time() + children_seconds() - began
        seal(out, header)
        if receipt.refused:
            raise AssertionError(f"photos were refused: {receipt.refused}")
        return spent

    return prepare_rows


RESIZER = """
import io, sys, tarfile, time
from img2dataset.resizer import Resizer
resizer = Resizer(image_size=256, resize_mode="keep_ratio", resize_only_if_bigger=True, encode_quality=90)
with tarfile.open(sys.argv[1]) as tar:
    photos = [tar.extractfile(member).read() for member in tar]
print("ready", flush=True)
for line in sys.stdin:
    began = time.process_time()
    failed = [told for raw in photos if (told := resizer(io.BytesIO(raw))[-1])]
    print(time.process_time() - began if not failed else failed[0], flush=True)
"""


@contextmanager
def img2dataset(python: Path, tar: Path) -> Iterator[Way]:
    """Its resizer, by an interpreter that has it."""
    process = subprocess.Popen([str(python), "-W", "ignore", "-c", RESIZER, str(tar)], text=True,
                               stdin=subprocess.PIPE, stdout=subprocess.PIPE, env={**os.environ, "PYTHONPATH": ""})
    assert process.stdin is not None
    assert process.stdout is not None
    asked, answers = process.stdin, process.stdout

    def work() -> float:
        asked.write("\n")
        asked.flush()
        return float(answers.readline())

    try:
        if answers.readline() != "ready\n":
            raise ImportError(f"img2dataset does not start with {python}")
        yield work
    finally:
        asked.close()
        answers.close()
        process.kill()
        process.wait()


def take_turns(ways: dict[str, Way], rounds: int) -> dict[str, list[float]]:
    """Processor seconds of each way in every round, after one that does not count."""
    spent: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(rounds + 1):
        for name, work in ways.items():
            spent[name].append(work())
    return {name: values[1:] for name, values in spent.items()}


def measure(photos: Sequence[bytes], work: Path, rounds: int, python: Path | None = None) -> dict[str, Any]:
    """All ways: ratios, milliseconds a photo, and what is absent."""
    tar = write_tar(work / "photos.tar", photos)
    ways = {"ours": ours(tar, work), "bare": timed(bare, photos), "bare_pillow": timed(bare_pillow, photos)}
    absent = []
    try:
        if python is None:
            raise ImportError("img2dataset: no --img2dataset was given")
        with img2dataset(python, tar) as resizer:
            spent = take_turns({**ways, "img2dataset": resizer}, rounds)
    except ImportError as error:
        absent.append(str(error))
        spent = take_turns(ways, rounds)
    close()
    ratios = {name: float(np.median(np.divide(values, spent["ours"])))
              for name, values in spent.items() if name != "ours"}
    return {"ratios": ratios, "absent": absent,
            "milliseconds": {name: 1e3 * float(np.median(values)) / len(photos) for name, values in spent.items()}}


def measure_rates(photos: Sequence[bytes], work: Path, samples: int) -> dict[str, float]:
    """What one core lists and loads a second, and how `tarfile` lists."""
    path = work / "listed.tar"
    with tarfile.open(path, "w") as tar:
        for number in range(samples):
            for suffix, raw in (("jpg", photos[number % len(photos)][:4096]), ("json", b"{}"), ("txt", b"a photo")):
                member = tarfile.TarInfo(f"{number:09d}.{suffix}")
                member.size = len(raw)
                tar.addfile(member, io.BytesIO(raw))
    place = list_places([path]).places[0]
    listed = min(_seconds(lambda: contents(place)) for _ in range(3))
    theirs = min(_seconds(lambda: _members(path)) for _ in range(3))
    store = Store(work / "ours.zarr")
    train, decoder = web_views(WebViews(size=224))[0], Decoder(store, SPEC.decode)
    some = np.arange(min(len(store), 300))

    def load() -> None:
        for sample in decoder(some, train):
            apply_view(train, sample, ViewRandomness(0, 0, sample.index))

    load()
    return {"tarfile": theirs / listed, "listed": samples / listed, "loaded": len(some) / _seconds(load)}


def _members(path: Path) -> int:
    with tarfile.open(path) as tar:
        return len(tar.getmembers())


def _seconds(work: Callable[[], object]) -> float:
    began = time.process_time()
    work()
    return time.process_time() - began


def prepare_seconds(tar: Path, out: Path, workers: int) -> float:
    """By the clock, of the command line."""
    began = time.perf_counter()
    command = [sys.executable, "-m", "sciencessl", "prepare", "web", str(tar), "--out", str(out), "--overwrite",
               "--resize-px", str(SHORT_PX), "--workers", str(workers)]
    told = subprocess.run(command, capture_output=True, text=True)
    if told.returncode:
        raise AssertionError(f"prepare ended with {told.returncode}: {told.stderr[-2000:]}")
    return time.perf_counter() - began


def measure_wall(photos: Sequence[bytes], work: Path, copies: int, rounds: int) -> dict[str, float]:
    """Seconds by the clock with one worker and with two, and how many times as fast two are without start-up."""
    tars = {"all": write_tar(work / "many.tar", photos, copies), "none": write_tar(work / "few.tar", photos[:16])}
    spent: dict[str, list[float]] = {}
    for _ in range(rounds):
        for workers in (1, 2):
            for name, tar in tars.items():
                spent.setdefault(f"{name}_{workers}", []).append(prepare_seconds(tar, work / "wall.zarr", workers))
    net = {workers: np.subtract(spent[f"all_{workers}"], spent[f"none_{workers}"]) for workers in (1, 2)}
    return {"photos": len(photos) * copies, "two_processes": float(np.median(net[1] / net[2])),
            **{name: float(np.median(values)) for name, values in spent.items()}}


PEAKS = """
import json, sys
from pathlib import Path
from sciencessl.data_prep.engine import prepare
from sciencessl.data_prep.settings import PrepareSettings
from sciencessl.domains.web import SPEC
from sciencessl.domains.web.views import WebViews, web_views
from sciencessl.store.reader import Store
from sciencessl.store.seal import seal

def peak(pid):
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if "VmHWM" in line)

def peaks():
    children = [pid for path in Path("/proc/self/task").glob("*/children") for pid in path.read_text().split()]
    return [peak("self") / 1024, sum(map(peak, children)) / 1024]

found = {}
def progress(done, total):
    for share in (5, 1):
        if done >= total // share:
            found.setdefault(total // share, peaks())
prepare(SPEC, [sys.argv[1]], Path(sys.argv[2]), PrepareSettings(workers=0), progress=progress)
print(json.dumps(found))
"""


def measure_memory(work: Path, count: int) -> dict[str, Any]:
    """The most memory, in MB, of the process and of its decoder, after a fifth of small images and after all."""
    tar = write_tar(work / "small.tar", synthetic_photos(200, (SMALL_PX, SMALL_PX)), count // 200)
    told = subprocess.run([sys.executable, "-c", PEAKS, str(tar), str(work / "small.zarr")], text=True,
                          capture_output=True)
    if told.returncode:
        raise AssertionError(f"prepare ended with {told.returncode}: {told.stderr[-2000:]}")
    found: dict[str, list[float]] = json.loads(told.stdout.splitlines()[-1])
    fifth, whole = (np.array(found[str(part)]) for part in (count // 5, count))
    return {"images": count, "memory_flat": float(fifth.sum() / whole.sum()),
            **{f"{name}_mb_after_{part}": found[str(part)][i] for part in (count // 5, count)
               for i, name in enumerate(("process", "decoder"))}}


def show(found: dict[str, Any]) -> None:
    """A line for each figure."""
    for name, value in found["milliseconds"].items():
        ratio = f"{found['ratios'][name]:6.2f} times ours" if name in found["ratios"] else ""
        print(f"{name:14} {value:8.2f} ms a photo {ratio}")
    if "tarfile" in found["ratios"]:
        print(f"tarfile lists in {found['ratios']['tarfile']:.1f} times our time")
    for part in ("rates", "wall", "memory"):
        for name, value in found.get(part, {}).items():
            print(f"{part}: {name} {value:,.2f}")
    if found["absent"]:
        print("absent:", "; ".join(found["absent"]))


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--quick", action="store_true", help="fewer photos and rounds")
    parser.add_argument("--json", action="store_true", help="one JSON object")
    parser.add_argument("--photos", type=Path, help="folder of JPEG photos")
    parser.add_argument("--img2dataset", type=Path, metavar="PYTHON", help="interpreter that has img2dataset")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--wall", action="store_true", help="also prepare with one worker and with two")
    parser.add_argument("--memory", action="store_true", help="also the memory over many small images")
    parser.add_argument("--work", type=Path, help="folder for tars and stores, 1 GB")
    options = parser.parse_args()
    warnings.simplefilter("ignore")
    cv2.setNumThreads(0)
    work = Path(tempfile.mkdtemp(dir=options.work))
    rounds = 2 if options.quick else options.rounds
    try:
        named, photos = read_photos(options.photos, 60 if options.quick else 1000)
        found = measure(photos, work, rounds, options.img2dataset)
        found["rates"] = measure_rates(photos, work, 5_000 if options.quick else 50_000)
        found["ratios"]["tarfile"] = found["rates"].pop("tarfile")
        if options.wall:
            found["wall"] = measure_wall(photos, work, 3 if options.quick else 4, max(rounds // 2, 1))
            found["ratios"]["two_processes"] = found["wall"]["two_processes"]
        if options.memory:
            found["memory"] = measure_memory(work, 10_000 if options.quick else 100_000)
            found["ratios"]["memory_flat"] = found["memory"]["memory_flat"]
    finally:
        shutil.rmtree(work, ignore_errors=True)
    found["photos"] = f"{len(photos)} of {named}, {sum(map(len, photos)) / len(photos) / 1e3:.0f} kB each"
    if not options.json:
        print(found["photos"])
        show(found)
        return
    hardware = f"{platform.machine()}, {os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}"
    absolute = {name: value for name, value in found.items() if name not in ("ratios", "absent")}
    print(json.dumps({"name": "ingest", "hardware": hardware, "ratios": found["ratios"], "absolute": absolute,
                      "absent": found["absent"]}))


if __name__ == "__main__":
    main()
