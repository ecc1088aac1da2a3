"""What a packed store costs: bytes, batches with decoding and cropping, and float cutouts, on one core.

    python benchmarks/store.py [--quick] [--json] [--images N] [--rounds N] [--work DIR]

Synthetic photographs with the short side of 256 px that ingest leaves (quality 90, about 30 kB each) are written as a
store, as tar files, as loose files and, where they are installed, for webdataset and litdata. The process keeps to one
core; every alternative is measured in turn in each round, and a ratio is the median over rounds of their seconds
divided by ours: above 1 we are faster. Seconds are of processor time of the whole process, threads included: files come
from the page cache, and a neighbour on the machine must not count.

- bytes: every image of the data set as bytes, in stored order, checksums verified. Alternatives: `tarfile`, one read of
  each row with its CRC32C and slicing (`plain_read_crc`), one file an image (`loose_files`).
- loader: a shuffled epoch of decoded images, each cropped to 224 px and flipped (the same function for all), in
  batches. Alternatives: decode and crop of bytes in memory, without batches (`bare_decode`); `webdataset` with a
  shuffle buffer of 1000 and `litdata` with shuffle and chunks of 64 MB, as their documentation uses them, so each with
  its own decoder; and both handing bytes to our decoder (`*_our_decoder`), which leaves only what a loader adds to it.
- cutouts: 5 x 64 x 64 float32 in batches of 64, in stored order and in a shuffled epoch.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import shutil
import tarfile
import tempfile
import time
from collections.abc import Callable, Iterator
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import cv2
import google_crc32c
import numpy as np
import torch

from sciencessl.data.loader import BatchStream, Decoder
from sciencessl.data.order import Order
from sciencessl.data.runs import longest_run
from sciencessl.samples import Sample
from sciencessl.spec import FieldSpec, View, ViewRandom
from sciencessl.store.format import StoreHeader
from sciencessl.store.reader import Store
from sciencessl.store.seal import seal
from sciencessl.store.writer import PreparedSample, create_store, write_row

BATCH, CROP_PX, SHORT_PX, LONG_PX = 64, 224, 256, 341
ROW_IMAGES, TAR_IMAGES, CRC_BYTES = 8192, 1000, 4 * 2**20
WINDOW_BYTES, SHUFFLE_BUFFER = 8 * 2**20, 1000
CUTOUT, CUTOUTS, CUTOUT_BATCH = (5, 64, 64), 4096, 64
PEERS = ("webdataset", "litdata")


def photographs(count: int) -> Iterator[bytes]:
    """JPEG files of `LONG_PX` x `SHORT_PX` px with the spectrum of photographs (amplitude 1/f) and some edges."""
    rng = np.random.default_rng(0)
    side = 1024
    f = np.hypot(*np.meshgrid(np.fft.fftfreq(side), np.fft.rfftfreq(side), indexing="ij"))
    f[0, 0] = 1.0
    fields = [np.fft.irfft2(np.exp(2j * np.pi * rng.random(f.shape)) / f**1.4) for _ in range(4)]
    fields = [(field - field.mean()) / field.std() for field in fields]
    for _ in range(count):
        light, colour, second, edge = (field[_window(rng, side)] for field in fields)
        base = light + 0.8 * np.sign(edge)
        planes = np.stack([base + 0.3 * colour, base + 0.3 * second, base - 0.3 * colour], axis=-1)
        image = np.clip(128 + 42 * planes, 0, 255).astype(np.uint8)
        yield bytes(cv2.imencode(".jpg", image, [cv2.IMWRITE_JPEG_QUALITY, 90])[1])


def _window(rng: np.random.Generator, side: int) -> tuple[slice, slice]:
    top, left = int(rng.integers(side - SHORT_PX)), int(rng.integers(side - LONG_PX))
    return slice(top, top + SHORT_PX), slice(left, left + LONG_PX)


def write_store(path: Path, payloads: list[bytes]) -> Store:
    """The images as a sealed store of at least 16 rows."""
    each = min(ROW_IMAGES, -(-len(payloads) // 16))
    rows = -(-len(payloads) // each)
    header = StoreHeader("web", "images", {"image": FieldSpec("bytes", ("r", "g", "b"))}, rows, each, {}, "", "")
    create_store(path, header, each * len(payloads[0]))
    for row in range(rows):
        numbers = range(row * each, min((row + 1) * each, len(payloads)))
        samples = [PreparedSample(str(i), "train", {"image": payloads[i]}) for i in numbers]
        write_row(path, header, row, samples, [], "")
    seal(path, header)
    return Store(path)


def write_cutouts(path: Path) -> Store:
    """Float cutouts as a sealed store of 16 rows."""
    each = CUTOUTS // 16
    spec = FieldSpec("array", tuple("grizy"), "float32", shape=CUTOUT[1:])
    header = StoreHeader("galaxy", "images", {"image": spec}, 16, each, {}, "", "")
    create_store(path, header, 1)
    rng = np.random.default_rng(0)
    for row in range(16):
        pixels = rng.standard_normal((each, *CUTOUT), dtype=np.float32)
        samples = [PreparedSample(f"{row}-{i}", "train", {"image": pixels[i]}) for i in range(each)]
        write_row(path, header, row, samples, [], "")
    seal(path, header)
    return Store(path)


def crop(image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """A random resized crop of `CROP_PX`, flipped half of the time."""
    height, width = image.shape[:2]
    side = int(np.sqrt(rng.uniform(0.2, 1.0)) * min(height, width))
    top, left = int(rng.integers(height - side + 1)), int(rng.integers(width - side + 1))
    out = cv2.resize(image[top : top + side, left : left + side], (CROP_PX, CROP_PX), interpolation=cv2.INTER_LINEAR)
    return cv2.flip(out, 1) if rng.random() < 0.5 else out


def decode(raw: bytes) -> np.ndarray:
    """A colour image, as every alternative decodes it."""
    return cv2.imdecode(np.frombuffer(raw, np.uint8), cv2.IMREAD_COLOR_RGB)


def crop_view(sample: Sample, random: ViewRandom) -> list[Sample]:
    """`crop` as a training view."""
    return [Sample(fields={"image": crop(sample.fields["image"], random(0))}, index=sample.index)]


def crop_views(settings: Any) -> tuple[View, View]:
    """(training view, evaluation view)."""
    return crop_view, crop_view


class Photographs:
    """The data set in every form that is measured.

    Args:
        work: Folder for the files.
        count: Images.
    """

    def __init__(self, work: Path, count: int) -> None:
        self.work = work
        self.payloads = list(photographs(count))
        self.store = write_store(work / "photographs.zarr", self.payloads)
        self._write_files()
        self.peers = [name for name in PEERS if find_spec(name)]
        if "litdata" in self.peers:
            self._write_litdata()

    def _write_files(self) -> None:
        loose = self.work / "loose"
        loose.mkdir()
        for start in range(0, len(self.payloads), TAR_IMAGES):
            numbers = range(start, min(start + TAR_IMAGES, len(self.payloads)))
            for i in numbers:
                (loose / f"{i:07d}.jpg").write_bytes(self.payloads[i])
            with tarfile.open(self.work / f"part-{start // TAR_IMAGES:04d}.tar", "w") as archive:
                for i in numbers:
                    archive.add(loose / f"{i:07d}.jpg", arcname=f"{i:07d}.jpg")
            (self.work / f"part-{start // TAR_IMAGES:04d}.bin").write_bytes(b"".join(self.payloads[i] for i in numbers))

    def _write_litdata(self) -> None:
        from litdata import optimize

        files = [str(path) for path in sorted((self.work / "loose").iterdir())]
        for name, function in (("litdata", _read_image), ("litdata_our_decoder", _read_file)):
            optimize(fn=function, inputs=files, output_dir=str(self.work / name), chunk_bytes="64MB", num_workers=1)

    def store_bytes(self) -> int:
        """Ours: windows of 8 MiB through the reader that training uses."""
        store, count = Store(self.store.path), 0
        step = max(1, WINDOW_BYTES // len(self.payloads[0]))
        for first in range(0, len(store), step):
            count += len(store.consecutive("image", first, min(first + step, len(store))))
        return count

    def tarfile(self) -> int:
        """Streamed tar archives."""
        count = 0
        for path in sorted(self.work.glob("*.tar")):
            with tarfile.open(path, "r|") as archive:
                for member in archive:
                    stream = archive.extractfile(member)
                    assert stream is not None
                    count += bool(stream.read())
        return count

    def plain_read_crc(self) -> int:
        """One read of each file of packed images, CRC32C of every 4 MiB, and a slice an image."""
        count = 0
        for path in sorted(self.work.glob("*.bin")):
            raw = path.read_bytes()
            whole = memoryview(raw)
            for lo in range(0, len(raw), CRC_BYTES):
                google_crc32c.value(bytes(whole[lo : lo + CRC_BYTES]))
            place = 0
            for size in map(len, self.payloads[count : count + TAR_IMAGES]):
                place += len(raw[place : place + size])
            count += min(TAR_IMAGES, len(self.payloads) - count)
        return count

    def loose_files(self) -> int:
        """One file an image."""
        return sum(bool(path.read_bytes()) for path in sorted((self.work / "loose").iterdir()))

    def loader(self) -> int:
        """Ours: one shuffled epoch in batches."""
        store = Store(self.store.path)
        split = store.split("train")
        order = Order(len(split), 0, BATCH, longest_run(store, BATCH))
        decoder = Decoder(store, "sciencessl.data.decode:decode")
        stream = BatchStream(decoder, order, split, crop_views, None, {}, ["image"])
        return sum(len(stream.batch(step)) for step in range(len(split) // BATCH))

    def bare_decode(self) -> int:
        """Decode and crop of bytes that lie in memory."""
        rng = np.random.default_rng(0)
        count = len(self.payloads) // BATCH * BATCH
        for i in rng.permutation(len(self.payloads))[:count]:
            crop(decode(self.payloads[i]), rng)
        return count

    def webdataset(self) -> int:
        """A shuffled epoch of its default pipeline."""
        rng = np.random.default_rng(0)
        return self._batches(crop(image, rng) for (image,) in self._webdataset().decode("rgb8").to_tuple("jpg"))

    def webdataset_our_decoder(self) -> int:
        """The same without its decoder."""
        rng = np.random.default_rng(0)
        return self._batches(crop(decode(raw), rng) for (raw,) in self._webdataset().to_tuple("jpg"))

    def _webdataset(self) -> Any:
        import webdataset

        shards = [str(path) for path in sorted(self.work.glob("*.tar"))]
        return webdataset.WebDataset(shards, shardshuffle=len(shards)).shuffle(SHUFFLE_BUFFER)

    def litdata(self) -> int:
        """A shuffled epoch of its streaming data set, which decodes images as (3, H, W) tensors."""
        rng = np.random.default_rng(0)
        return self._batches(crop(np.ascontiguousarray(entry["image"].permute(1, 2, 0)), rng)
                             for entry in self._litdata("litdata"))

    def litdata_our_decoder(self) -> int:
        """The same with images stored as bytes."""
        rng = np.random.default_rng(0)
        return self._batches(crop(decode(entry["image"]), rng) for entry in self._litdata("litdata_our_decoder"))

    def _litdata(self, name: str) -> Any:
        from litdata import StreamingDataset

        return StreamingDataset(str(self.work / name), shuffle=True)

    def _batches(self, images: Iterator[np.ndarray]) -> int:
        """Collated as ours are: each image is copied into its place, channels last."""
        count = len(self.payloads) // BATCH
        for _ in range(count):
            batch = np.empty((BATCH, CROP_PX, CROP_PX, 3), np.uint8)
            for row in range(BATCH):
                batch[row] = next(images)
            torch.from_numpy(batch).permute(0, 3, 1, 2)
        return count * BATCH


def _read_file(path: str) -> dict[str, bytes]:
    return {"image": Path(path).read_bytes()}


def _read_image(path: str) -> dict[str, Any]:
    from PIL import Image

    return {"image": Image.open(path)}


def cutouts_in_order(store: Store) -> int:
    """Batches of consecutive cutouts as one array each."""
    for first in range(0, CUTOUTS, CUTOUT_BATCH):
        np.stack(store.consecutive("image", first, first + CUTOUT_BATCH))
    return CUTOUTS


def cutouts_shuffled(store: Store) -> int:
    """A shuffled epoch of batches, as the loader reads them."""
    from sciencessl.data.runs import RunCache

    split = store.split("train")
    order, runs = Order(CUTOUTS, 0, CUTOUT_BATCH, longest_run(store, CUTOUT_BATCH)), RunCache(store, split)
    for step in range(CUTOUTS // CUTOUT_BATCH):
        positions = order.positions(step)
        np.stack(runs(positions, *order.run_of(positions)).payloads["image"])
    return CUTOUTS


def rates(work: dict[str, Callable[[], int]], rounds: int) -> dict[str, list[float]]:
    """Name -> seconds for each thing counted, one a round; alternatives take turns."""
    for function in work.values():
        function()
    found: dict[str, list[float]] = {name: [] for name in work}
    for _ in range(rounds):
        for name, function in work.items():
            began = time.process_time()
            count = function()
            found[name].append((time.process_time() - began) / count)
    return found


def compared(found: dict[str, list[float]], ours: str) -> dict[str, float]:
    """Median over rounds of their seconds over ours."""
    return {name: float(np.median(np.divide(seconds, found[ours])))
            for name, seconds in found.items() if name != ours}


def measure(work: Path, images: int, rounds: int) -> dict[str, Any]:
    """Everything, in one process on one core."""
    data = Photographs(work, images)
    total = sum(map(len, data.payloads))
    read = rates({name: getattr(data, name) for name in ("store_bytes", "tarfile", "plain_read_crc", "loose_files")},
                 rounds)
    peers = [f"{name}{decoder}" for name in data.peers for decoder in ("", "_our_decoder")]
    loaded = rates({name: getattr(data, name) for name in ("loader", "bare_decode", *peers)}, rounds)
    cutouts = write_cutouts(work / "cutouts.zarr")
    read_cutouts = {"in_order": partial(cutouts_in_order, cutouts), "shuffled": partial(cutouts_shuffled, cutouts)}
    stamps = rates(read_cutouts, rounds)
    return {
        "name": "store",
        "hardware": f"{platform.processor() or platform.machine()}, one of {os.cpu_count()} cores, load "
                    f"{os.getloadavg()[0]:.1f}",
        "ratios": {**compared(read, "store_bytes"), **compared(loaded, "loader")},
        "absolute": {
            "images": images, "bytes_per_image": total // images,
            "bytes_images_per_s": {name: 1 / float(np.median(s)) for name, s in read.items()},
            "loader_images_per_s": {name: 1 / float(np.median(s)) for name, s in loaded.items()},
            "cutouts_per_s": {name: 1 / float(np.median(s)) for name, s in stamps.items()},
        },
        "absent": [name for name in PEERS if name not in data.peers],
    }


def show(found: dict[str, Any]) -> None:
    """The same for people."""
    absolute = found["absolute"]
    print(f"{absolute['images']:,} images of {absolute['bytes_per_image'] / 1000:.1f} kB; {found['hardware']}")
    for name in ("bytes_images_per_s", "loader_images_per_s", "cutouts_per_s"):
        print(f"{name:20}", ", ".join(f"{key} {value:,.0f}" for key, value in absolute[name].items()))
    print("times as fast as", ", ".join(f"{name} {value:.2f}" for name, value in found["ratios"].items()))
    print("absent:", ", ".join(found["absent"]) or "none")


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--quick", action="store_true", help="1,024 images and 3 rounds")
    parser.add_argument("--json", action="store_true", help="one JSON object")
    parser.add_argument("--images", type=int, default=8192, help="photographs (default: 8192)")
    parser.add_argument("--rounds", type=int, default=5, help="rounds (default: 5)")
    parser.add_argument("--work", type=Path, help="where the folder is made that is removed at the end")
    options = parser.parse_args()
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, {max(os.sched_getaffinity(0))})
    cv2.setNumThreads(0)
    torch.set_num_threads(1)
    images, rounds = (1024, 3) if options.quick else (options.images, options.rounds)
    work = Path(tempfile.mkdtemp(dir=options.work))
    try:
        found = measure(work, images, rounds)
    finally:
        shutil.rmtree(work, ignore_errors=True)
    if options.json:
        print(json.dumps(found))
    else:
        show(found)


if __name__ == "__main__":
    main()
